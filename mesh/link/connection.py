"""One supervised connection to the broker. Everything else in `mesh.link` stands on it.

Traps of nats-py that this file answers (each was seen to happen):

- A late PONG, or any exception in the parser, ends the reading task while `is_connected` stays True. So the task itself is watched.
- Any `-ERR` but two kinds closes the client for good, and only `closed_cb` tells. So a closed client is replaced by a new one, and every
  subscription is made again on it.
- Subscription callbacks run one after another, each through a queue and a task switch, and a full queue drops messages in silence. So
  messages are handed over where they are read (mesh.link.client). Handlers are therefore plain functions, quick, and in the order of the
  socket.
- Payload plus headers over `max_payload` passes nats-py's check, and the server then closes the connection. So the encoded size is
  checked here.
- Requests in flight do not fail when the connection drops. Here they do, at once.
- Messages published while the connection is down are kept and sent whenever it comes back. A call must not run minutes later, so here
  publishing fails at once when the connection is down.
- The server's idle ping finds a dead peer after minutes. Here it takes ten seconds.

This module is long because a connection that comes back is one thing: every method here must hold in each of its states.
"""

import asyncio
import contextlib
import itertools
import json
import random
import re
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import nats.errors
import structlog

from mesh import clock
from mesh.background import end_tasks
from mesh.crypto.creds import read_credentials
from mesh.errors import BrokerError, BrokerUnavailable, CallTimeout, ConfigError, NoResponders, NotAdmitted, TooLarge
from mesh.link.address import is_secure, without_userinfo
from mesh.link.client import FastClient, NotSecure
from mesh.link.denial import refused_by_broker
from mesh.link.server_program import check_server_info
from mesh.link.tls import ClientTls
from mesh.policy.lines import worth_a_line
from mesh.policy.rights import Permissions
from mesh.subjects import USER_INFO, client_name, escape, unescape

PING_SECONDS: Final = 5
"""How often the client pings. Two unanswered pings end the connection, so a dead broker is noticed within 15 s."""

LONGEST_PENDING: Final = 64 * 1024 * 1024
"""Bytes that may wait for the socket. Over it, sending fails: the broker is not taking what we send."""

LONGEST_LINE: Final = 4_000
"""Characters of subject, reply subject and queue together. The broker takes a line of 4,096 bytes and cuts off who sends a longer one; a
subscription like that would be made again after each reconnection."""

HIGH_WATER: Final = 1024 * 1024
"""Bytes waiting for the socket above which `publish` waits for them to go out."""

RETURN_SECONDS: Final = 0.5
"""For how long after a loss what is new waits for the connection to come back. After a break, or with renewed credentials, it is back in
some 20 ms; after a restart of the broker in a second or two."""

LOOK_SECONDS: Final = 0.1
"""Between two looks at the file of credentials while the broker does not take them."""

DRAIN_SECONDS: Final = 1.0

RIGHTS_SECONDS: Final = 1.0
"""How long to wait for the broker's word on our rights."""

_NOT_ADMITTED: Final = re.compile(r"authorization violation|authentication (expired|revoked|timeout)", re.IGNORECASE)
_PUBLISH_REFUSED: Final = re.compile(r'permissions violation for publish to "([^"]*)"', re.IGNORECASE)
_SUBSCRIBE_REFUSED: Final = re.compile(r'permissions violation for subscription to "([^"]*)"', re.IGNORECASE)

FIRST_WAIT: Final = 0.01
LAST_WAIT: Final = (0.1, 0.3)
"""Seconds between two attempts to reconnect: they double, up to a time between these two that each connection draws for itself. The first
are near each other, since for a caller that is not back within 0.14 nobody goes on working (mesh.registry.gone)."""

_log = structlog.get_logger("mesh.link")
_HEADER_LINE: Final = b"NATS/1.0\r\n"


@dataclass(slots=True)
class Message:
    """One message from the broker. `reply` is empty where the sender wants no answer."""

    subject: str
    reply: str
    body: bytes
    headers: dict[str, str] | None


Handler = Callable[[Message], None]


class Subscription:
    """A subscription that lives until `unsubscribe`, over every reconnection."""

    def __init__(self, connection: "Connection", subject: str, queue: str, handler: Handler, *, pulled: bool) -> None:
        self.subject = subject
        self.queue = queue
        self.handler = handler
        self.start = "" if pulled else _literal(subject)
        """What the subject of each message begins with."""
        self._connection = connection

    async def unsubscribe(self, *, drain: bool = False) -> None:
        """`drain`: what is on its way is still handed over, as far as it comes within `DRAIN_SECONDS`."""
        await self._connection._unsubscribe(self, drain)


class Connection:
    """A connection that comes back. Open it with `Connection.open`, close it with `close` (idempotent), or use `async with`."""

    def __init__(self, url: str, name: str, options: dict[str, Any]) -> None:
        self.url = url
        self.name = name
        self.token = secrets.token_hex(5)
        """This connection's token in subjects: ours, not the broker's, so it stays over reconnections."""
        self._options = {**options, "name": client_name(name, self.token)}
        self._client = self._new_client()
        self._handlers: dict[int, Subscription] = {}
        self.foreign = 0
        """Messages that came under a subject that was not subscribed to; they are dropped."""
        self.failures = 0
        """Messages whose handler raised."""
        self._subscriptions: dict[Subscription, int] = {}
        self._up: list[Callable[[], None]] = []
        self._down: list[Callable[[], None]] = []
        self._denied: list[Callable[[str], None]] = []
        self._renewed: list[Callable[[], None]] = []
        self.rights: Permissions | None = None
        """What the broker lets this connection do, by its own word. None where it did not say: then only it knows."""
        self._asking: asyncio.Task[None] | None = None
        self._is_up = False
        self._lost_at = 0.0
        self._back = asyncio.Event()
        self._turned_away = False
        """Whether the broker has said, since we were last connected, that it does not know us."""
        self._deaf = False
        """Whether the broker does not let us hear what is sent to our inbox: we are not who we say."""
        self._tls_problem = ""
        """Why no TLS came about, while we first connected."""
        self._closing = False
        self._last_wait = random.uniform(*LAST_WAIT)
        self._wake = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._inbox_prefix: str = options["inbox_prefix"]
        self._inbox = f"{self._inbox_prefix}.{random.getrandbits(96):x}"
        self._inbox_count = itertools.count(1)
        self._requests: dict[str, asyncio.Future[Message]] = {}
        self._requested: dict[str, str] = {}
        """What each of them asked on."""

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str,
        connect_timeout: float = 5.0,
        user_credentials: Path | None = None,
        tls: ClientTls | None = None,
    ) -> Self:
        """Connect as `name`, and check that the broker can do what the mesh needs. At a tls:// or wss:// address nothing is sent without
        TLS; `tls` says whom to trust there.

        Raises BrokerUnavailable where nothing answers within `connect_timeout` seconds, NotAdmitted where the broker does not take the
        credentials, BrokerUnsuitable where it is too old or has no JetStream, ConfigError where the file is none of credentials.
        """
        options: dict[str, Any] = {
            "inbox_prefix": f"_INBOX.{escape(name)}",
            "connect_timeout": connect_timeout,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": FIRST_WAIT,
            "ping_interval": PING_SECONDS,
            "max_outstanding_pings": 2,
            "pending_size": LONGEST_PENDING,
        }
        if user_credentials is not None:
            read_credentials(user_credentials)  # nats-py calls one that it cannot read "no servers available"
            options["user_credentials"] = str(user_credentials)
        if tls is not None or is_secure(url):
            options["tls"] = (tls or ClientTls()).context()
        self = cls(url, name, options)
        task = asyncio.current_task()
        cancellations = task.cancelling() if task is not None else 0
        try:
            async with asyncio.timeout(connect_timeout):
                await self._connect(self._client, allow_reconnect=False)
            # Before Python 3.12 `wait_for`, which nats-py connects with, forgets a cancellation that comes in the same turn as its result.
            if task is not None and task.cancelling() > cancellations:
                raise asyncio.CancelledError
        except asyncio.CancelledError:
            await _discard(self._client)
            raise
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await _discard(self._client)
            where = without_userinfo(url)
            if self._turned_away:
                why = ", which brings no credentials" if user_credentials is None else ": its credentials have expired" * self._expired()
                raise NotAdmitted(
                    f"the broker at {where} does not admit {name!r}{why}",
                    hint=f"on the state directory of its mesh `mesh auth list` shows whom it knows, and `mesh auth issue {name}` "
                    "makes credentials",
                ) from None
            if "CERTIFICATE_REQUIRED" in self._tls_problem or (self._client.server.get("tls_verify") and not (tls and tls.cert)):
                raise BrokerUnavailable(
                    f"the broker at {where} wants to see a certificate of ours",
                    hint="MESH_CLIENT_CERT names the file of one, which `mesh auth tls --client NAME` makes on its machine",
                ) from None
            if self._tls_problem:
                hint = "MESH_CA names the file of the authority that signed its certificate: ca.pem of `mesh auth tls`"
                if "not valid for" in self._tls_problem:
                    hint = "reach it by a name of its certificate, or make one with this name too, over there: `mesh auth tls --host NAME`"
                raise BrokerUnavailable(f"no TLS with the broker at {where}: {self._tls_problem}", hint=hint) from None
            raise BrokerUnavailable(
                f"no broker answers at {where}: {str(error) or type(error).__name__}",
                hint="start one with `mesh up`, or say where it is with --broker URL or --state-dir DIR",
            ) from None
        try:
            check_server_info(self._client.server)
            self._client.take_lane()
            await self.subscribe(self._inbox + ".*", self._on_answer)
        except BaseException:
            await _discard(self._client)
            raise
        self._is_up = True
        self._back.set()
        await self._ask_rights()
        if self._deaf:
            await self.close()
            whose = unescape(read_credentials(user_credentials).name) if user_credentials is not None else "somebody else"
            raise ConfigError(
                f"the broker takes us for {whose!r}, and not for {name!r}: it lets us hear no answers",
                hint="use the credentials of that name, or leave the name out: --name, MESH_NAME",
            )
        self._supervisor = asyncio.create_task(self._supervise(), name=f"connection {name}")
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        return self._is_up and self._client.is_connected

    @property
    def turned_away(self) -> bool:
        """Whether it is down because the broker does not admit us any more. It is tried again all the same: credentials can be renewed."""
        return self._turned_away and not self._is_up

    @property
    def client_id(self) -> int:
        """The broker's number for this connection; new after each reconnection."""
        return self._client.client_id or 0

    @property
    def server_id(self) -> str:
        return str(self._client.server.get("server_id", ""))

    @property
    def server_version(self) -> str:
        return str(self._client.server.get("version", ""))

    @property
    def max_payload(self) -> int:
        return self._client.max_payload

    @property
    def secure(self) -> bool:
        """Whether it goes over TLS."""
        return self._client.secure

    def on_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each reconnection, when the subscriptions are in place again. What is returned takes it off again."""
        self._up.append(callback)
        return lambda: self._up.remove(callback)

    def on_down(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` as soon as a loss of the connection is noticed. What is returned takes it off again."""
        self._down.append(callback)
        return lambda: self._down.remove(callback)

    def on_denied(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback(subject)`, in lower case, for each message that the broker refused to take from us. What is returned takes it off
        again."""
        self._denied.append(callback)
        return lambda: self._denied.remove(callback)

    def on_renewed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when `rights` are others than before. What is returned takes it off again."""
        self._renewed.append(callback)
        return lambda: self._renewed.remove(callback)

    @property
    def congested(self) -> bool:
        """Whether much is waiting for the socket. Who sends much with `send` then awaits `flush`, as `publish` does."""
        return self._client.waiting > HIGH_WATER

    def new_inbox(self) -> str:
        """A subject that nobody else uses, below this connection's own inbox prefix."""
        return f"{self._inbox_prefix}.{random.getrandbits(96):x}"

    def send(self, subject: str, body: bytes, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Send without waiting; for handlers that stand in the read loop. Order is kept with `publish`.

        Raises TooLarge (nothing was sent) and BrokerUnavailable (not connected, or the broker takes nothing any more).
        """
        client = self._client
        if not (self._is_up and client.is_connected):
            raise self.why_down()
        if client.waiting > LONGEST_PENDING:
            raise BrokerUnavailable("the broker does not take what is sent to it", hint="look at its log and its load")
        if len(subject) + len(reply) > LONGEST_LINE:
            raise TooLarge("a subject is too long: a name in it has too many characters", limit=LONGEST_LINE)
        size = len(body)
        if headers:
            head = _encode_headers(headers)
            size += len(head)
            line = f"HPUB {subject} {reply} {len(head)} {size}\r\n".encode() + head + body + b"\r\n"
        else:
            line = f"PUB {subject} {reply} {size}\r\n".encode() + body + b"\r\n"
        if size > client.max_payload:
            raise TooLarge(f"the message has {size} bytes with its headers", limit=client.max_payload)
        client.post(line)

    async def publish(self, subject: str, body: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Send, and wait while much is waiting for the socket. Errors as `send`."""
        self.send(subject, body, reply, headers)
        if self.congested:
            await self.flush()

    async def subscribe(self, subject: str, on_message: Handler, *, queue: str = "", pulled: bool = False) -> Subscription:
        """Call `on_message` for each message, in the read loop: it must be quick. What it raises is logged.

        `pulled`: it is for what a consumer delivers, which comes under the subjects it is stored under. Anybody who may pull can name any
        subject for that, so everybody else is shown only what came under a subject of their own. Raises TooLarge, BrokerUnavailable.
        """
        if len(subject) + len(queue) > LONGEST_LINE:
            raise TooLarge("a subject is too long: a name in it has too many characters", limit=LONGEST_LINE)
        subscription = Subscription(self, subject, queue, on_message, pulled=pulled)
        try:
            await self._attach(self._client, subscription)
        except nats.errors.Error as error:
            raise BrokerUnavailable(f"cannot subscribe to {subject}: {error}") from None
        return subscription

    async def request(self, subject: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None) -> Message:
        """A core request and its first answer.

        Raises NoResponders, CallTimeout after `timeout` seconds, and at once Denied where the broker does not take it from us, and
        BrokerUnavailable when the connection drops.
        """
        try:
            answer = await self._await_inbox(timeout, subject, lambda inbox: self.send(subject, body, inbox, headers))
        except TimeoutError:
            raise CallTimeout(f"no answer on {subject} within {timeout:g} s") from None
        if answer.headers and answer.headers.get("Status") == "503":
            raise NoResponders(f"nobody listens on {subject}")
        return answer

    async def returned(self) -> None:
        """Wait for a connection that was lost a moment ago. Raises BrokerUnavailable where it does not come back, and NotAdmitted."""
        if not self.connected:
            self._lose()  # nats-py knows it a moment before it tells
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._lost_at + RETURN_SECONDS - clock.monotonic())):
                await self._back.wait()
        if not self.connected:
            raise self.why_down()

    def why_down(self) -> BrokerUnavailable:
        """What to tell whoever needs the connection while it is not there."""
        if not self.turned_away:
            return BrokerUnavailable("the connection to the broker is down", hint="it is being rebuilt; try again in a moment")
        return NotAdmitted(
            f"the broker does not admit {self.name!r} any more: its credentials {'have expired' if self._expired() else 'were revoked'}",
            hint=f"`mesh auth issue {self.name}` makes new ones; it comes back by itself when they are in its file",
        )

    async def flush(self, timeout: float = 5.0) -> None:
        """Wait until the broker has taken what was sent so far: a message to ourselves comes back. Raises BrokerUnavailable."""
        try:
            await self._await_inbox(timeout, self._inbox, lambda inbox: self.send(inbox, b""))
        except TimeoutError:
            raise BrokerUnavailable(f"the broker did not confirm within {timeout:g} s") from None

    async def _await_inbox(self, timeout: float, subject: str, send: Callable[[str], None]) -> Message:
        token = str(next(self._inbox_count))
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._requests[token] = future
        self._requested[token] = subject
        try:
            send(f"{self._inbox}.{token}")
            async with asyncio.timeout(timeout):
                return await future
        finally:
            del self._requests[token], self._requested[token]

    async def close(self) -> None:
        """Send what is waiting, then leave. Safe to call twice, and from `finally`."""
        if self._closing:
            return
        self._closing = True
        await end_tasks(self._supervisor, self._asking)
        self._fail_requests()
        await _discard(self._client)

    # what nats-py calls

    def _deliver(self, sid: int, subject: str, reply: str, body: bytes, headers: dict[str, str] | None) -> None:
        subscription = self._handlers.get(sid)
        if subscription is None:
            return
        if not subject.startswith(subscription.start):
            self.foreign += 1
            if worth_a_line(self.foreign):
                _log.warning(
                    "a message under another subject", connection=self.name, asked=subscription.subject, subject=subject, count=self.foreign
                )
            return
        try:
            subscription.handler(Message(subject, reply, body, headers))
        except Exception:
            self.failures += 1
            if worth_a_line(self.failures):
                _log.exception("a message handler failed", subject=subject, count=self.failures)

    async def _on_error(self, error: Exception) -> None:
        refused = _PUBLISH_REFUSED.search(str(error))
        told = refused is not None and self._refused(refused[1].lower())
        # Who asked is told what is refused. While it is down there is one for each attempt, several a second.
        say = _log.warning if self._is_up and not told else _log.debug
        say("broker", error=str(error), connection=self.name)
        if not self._is_up:
            self._wait(2 * self._client.options["reconnect_time_wait"])
            if isinstance(error, (ssl.SSLError, NotSecure)):
                self._tls_problem = getattr(error, "verify_message", "") or getattr(error, "reason", None) or str(error)
            # Who was revoked on this machine has no file any more.
            no_file = isinstance(error, FileNotFoundError) and error.filename == self._options.get("user_credentials")
            if not self._turned_away and (no_file or _NOT_ADMITTED.search(str(error))):
                self._turned_away = True
                if self._supervisor is not None:  # it was opened, and nobody awaits anything of it now
                    _log.warning(self.why_down().message, connection=self.name, hint=self.why_down().hint)
        if (deaf := _SUBSCRIBE_REFUSED.search(str(error))) and deaf[1].lower() == f"{self._inbox}.*".lower():
            self._deaf = True
            self._fail_requests()

    def _refused(self, subject: str) -> bool:
        """The broker does not take what we sent to `subject`, which nats-py gives in lower case. Returns whether a request is told so."""
        told = False
        for token, asked in self._requested.items():
            future = self._requests[token]
            if asked.lower() == subject and not future.done():
                told = True
                future.set_exception(refused_by_broker(asked, self.name))
        for callback in list(self._denied):
            callback(subject)
        return told

    def _wait(self, seconds: float) -> None:
        self._client.options["reconnect_time_wait"] = min(seconds, self._last_wait)

    async def _on_disconnected(self) -> None:
        self._wait(FIRST_WAIT)
        self._lose()

    async def _on_reconnected(self) -> None:
        self._regain()

    async def _on_closed(self) -> None:
        self._lose()
        self._wake.set()

    # supervision

    def _new_client(self) -> FastClient:
        return FastClient(self._deliver, secure=is_secure(self.url))

    async def _connect(self, client: FastClient, *, allow_reconnect: bool) -> None:
        await client.connect(
            servers=self.url.split(","),
            allow_reconnect=True,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
            **(self._options if allow_reconnect else {**self._options, "max_reconnect_attempts": 1}),
        )
        client.options["max_reconnect_attempts"] = -1

    async def _supervise(self) -> None:
        """Replace a client that is closed for good, or that no longer does what it says: reading, or reconnecting."""
        while not self._closing:  # `wait_for`, inside of nats-py, may have swallowed the cancellation
            try:
                async with asyncio.timeout(0.25):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            client = self._client
            if client.is_closed or client.stuck or (client.is_connected and not client.reading):
                await self._replace()

    async def _replace(self) -> None:
        self._lose()
        _log.warning("the connection to the broker is rebuilt", connection=self.name, last_error=str(self._client.last_error))
        await _discard(self._client)
        delay = 0.1
        while not self._closing:
            client = self._new_client()
            try:
                async with asyncio.timeout(self._options["connect_timeout"]):
                    await self._connect(client, allow_reconnect=False)
                self._client = client
                client.take_lane()
                self._handlers.clear()
                for subscription in list(self._subscriptions):
                    await self._attach(client, subscription)
                break
            except Exception as error:  # whatever answers there may say anything, and nats-py raises anything
                _log.info("the broker is not there yet", connection=self.name, error=repr(error))
                await _discard(client)
            await self._pause(delay * (0.5 + random.random()))
            delay = min(2.0, delay * 2)
        self._regain()

    async def _pause(self, seconds: float) -> None:
        """Until the next attempt: at once when the broker turned us away and our credentials were renewed."""
        until, found = clock.monotonic() + seconds, self._credentials_mark()
        while (left := until - clock.monotonic()) > 0:
            if self._turned_away and self._credentials_mark() != found:
                return
            await asyncio.sleep(min(left, LOOK_SECONDS))

    def _credentials_mark(self) -> tuple[int, int] | None:
        """Which content our file of credentials has."""
        try:
            said = Path(self._options["user_credentials"]).stat()
        except (OSError, KeyError):
            return None
        return said.st_ino, said.st_mtime_ns

    def _expired(self) -> bool:
        try:
            expires = read_credentials(Path(self._options["user_credentials"])).expires
        except (ConfigError, KeyError):
            return False
        return expires is not None and expires * 1_000_000_000 <= clock.wall_ns()

    def _lose(self) -> None:
        if not self._is_up:
            return
        self._is_up = False
        self._back.clear()
        self._lost_at = clock.monotonic()
        if not self._closing:
            _log.warning("the connection to the broker is lost", connection=self.name)
        self._client.leave_lane()
        self._fail_requests()
        self._tell(self._down)

    def _regain(self) -> None:
        if self._is_up or self._closing:
            return
        self._client.take_lane()
        self._is_up = True
        self._turned_away = False
        self._back.set()
        _log.info("the connection to the broker is there again", connection=self.name)
        self._asking = asyncio.create_task(self._ask_rights(), name=f"rights of {self.name}")
        self._tell(self._up)

    async def _ask_rights(self) -> None:
        """A broker of another operator may not answer this. Then nothing is known beforehand, and the broker's refusal tells."""
        try:
            answer = await self.request(USER_INFO, b"", timeout=RIGHTS_SECONDS)
            said = json.loads(answer.body)["data"].get("permissions")
        except (BrokerError, CallTimeout, ValueError, KeyError) as problem:
            _log.info("the broker does not say what this connection may do", connection=self.name, why=str(problem))
            return
        # Sorted: the broker lists the same rights in another order each time.
        allowed = [tuple(sorted(((said or {}).get(what) or {}).get("allow") or ())) for what in ("publish", "subscribe")]
        rights = None if said is None else Permissions(*allowed)
        if rights != self.rights:
            self.rights = rights
            self._tell(self._renewed)

    def _tell(self, callbacks: list[Callable[[], None]]) -> None:
        for callback in list(callbacks):
            try:
                callback()
            except Exception:
                _log.exception("a connection callback failed")

    def _fail_requests(self) -> None:
        for future in self._requests.values():
            if not future.done():
                future.set_exception(BrokerUnavailable("the connection to the broker was lost"))

    def _on_answer(self, message: Message) -> None:
        future = self._requests.get(message.subject[len(self._inbox) + 1 :])
        if future is not None and not future.done():
            future.set_result(message)

    async def _attach(self, client: FastClient, subscription: Subscription) -> None:
        # Without a callback nats-py would queue the message for `next_msg`; `_deliver` has taken it before that.
        made = await client.subscribe(subscription.subject, queue=subscription.queue)
        self._handlers[made._id] = subscription
        self._subscriptions[subscription] = made._id

    async def _unsubscribe(self, subscription: Subscription, drain: bool) -> None:
        sid = self._subscriptions.pop(subscription, None)
        if sid is None:
            return
        made = self._client._subs.get(sid)
        try:
            if made is not None and not self._client.is_closed:
                await made.unsubscribe()
                if drain:
                    with contextlib.suppress(BrokerUnavailable):
                        await self.flush(DRAIN_SECONDS)
        finally:
            if self._handlers.get(sid) is subscription:  # another client counts anew
                del self._handlers[sid]


def _literal(subject: str) -> str:
    """What a filter says before its first wildcard."""
    return subject.partition("*")[0].partition(">")[0]


def _encode_headers(headers: Mapping[str, str]) -> bytes:
    parts = [_HEADER_LINE]
    for key, value in headers.items():
        if "\r" in value or "\n" in value or "\r" in key or "\n" in key or ":" in key:
            raise BrokerError(f"the header {key!r} holds a character that ends a header")
        parts.append(f"{key}: {value}\r\n".encode())
    parts.append(b"\r\n")
    return b"".join(parts)


async def _discard(client: FastClient) -> None:
    try:
        async with asyncio.timeout(2.0):
            await client.close()
    except (TimeoutError, OSError, nats.errors.Error, AttributeError) as error:
        _log.debug("closing an old client", error=str(error))
    finally:
        client.discard()
