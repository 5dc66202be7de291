"""The handshake session of one HTTP port: its id, the messages that go out in order, and the stream of what the server says outside of
any call.

Source: MCP 2025-11-25 basic/transports, streamable HTTP: session management, listening for messages from the server.
"""

import asyncio
import contextlib
import random
from typing import Final, Protocol

import httpx2
import structlog

from bridge.lines import beginning
from bridge.ports import http_errors as errors
from bridge.ports.http_client import MOST_STREAMS, HttpClient
from bridge.ports.http_headers import BOTH, EVENTS, JSON, SESSION_ID, VERSION
from bridge.ports.http_wire import LARGEST_BODY, MOST_DELAY, Body, chunks, content_type, drain, resume_delay, resume_headers
from bridge.sse import Event, EventStream
from mesh import clock
from mesh.errors import Busy, MalformedMessage, MeshError, TooLarge
from mesh.wire.jsonrpc import Frame, scan

MOST_NOTICES: Final = 1_000
"""Notifications and answers of one port that wait for their turn. One more is refused as busy."""

NOTICE_SECONDS: Final = 10.0
"""For the server to take one: it has nothing to do but say 202."""

TRIES: Final = (0.0, 0.2, 1.0)
"""Seconds before each attempt to connect. Only a message of which nothing was sent is sent again."""

MOST_GARBAGE: Final = 256 * 1024
"""Bytes of events that are no messages for which a stream is read on."""

FIRST_DELAY: Final = 1.0
STEADY: Final = 5.0
"""Seconds until the stream is opened again, twice as many after each failure; and how long it must last to count as a success."""

_log = structlog.get_logger("bridge.http")


class Session:
    """The handshake era's state of one port. `begun` once `initialize` was answered with a result."""

    def __init__(self) -> None:
        self.begun = False
        self.id: str | None = None
        self.version: str | None = None

    def headers(self) -> dict[str, str]:
        return {**({SESSION_ID: self.id} if self.id else {}), **({VERSION: self.version} if self.version else {})}


class Owner(Protocol):
    """The port, as its requests, its notices and its stream see it."""

    client: HttpClient
    session: Session

    def headers(self, frame: Frame) -> dict[str, str]:
        """What `frame` says in headers beside its body."""

    def deliver(self, frame: Frame, request: str | None) -> None:
        """Hand a message of the server's over."""

    def listen(self) -> None:
        """The handshake is complete: the session's own stream can be opened."""

    def lose(self, reason: str) -> None:
        """The session is over."""


class Notices:
    """Notifications, and answers to the server's requests: one after the other, so that they arrive in order."""

    def __init__(self, owner: Owner) -> None:
        self.last: asyncio.Event | None = None
        """Set when the latest of them is through. None when nothing waits."""
        self._owner = owner
        self._waiting: asyncio.Queue[tuple[Frame, asyncio.Event | None, asyncio.Event]] = asyncio.Queue(MOST_NOTICES)

    def put(self, frame: Frame, after: asyncio.Event | None = None) -> None:
        """Send `frame` once `after` is set. Raises Busy."""
        if len(frame.raw) > LARGEST_BODY:
            raise TooLarge(f"{self._owner.client.name}: the message is over the size limit", limit=LARGEST_BODY)
        if self._waiting.full():
            raise Busy(f"{self._owner.client.name} does not take what is sent to it", retry_after=1.0)
        self._owner.client.take(len(frame.raw))
        through = asyncio.Event()
        self._waiting.put_nowait((frame, after, through))
        self.last = through

    async def run(self) -> None:
        """Until cancelled by the port."""
        client = self._owner.client
        try:
            while True:
                frame, after, through = await self._waiting.get()
                try:
                    if after is not None:
                        await after.wait()
                    await self._post(frame)
                finally:
                    client.bytes -= len(frame.raw)
                    through.set()
                    if self.last is through:
                        self.last = None
        finally:
            while not self._waiting.empty():
                frame, _, through = self._waiting.get_nowait()
                client.bytes -= len(frame.raw)
                through.set()

    async def _post(self, frame: Frame) -> None:
        owner, status = self._owner, 0
        client = owner.client
        for delay in TRIES:
            await asyncio.sleep(delay)
            try:
                async with asyncio.timeout(NOTICE_SECONDS):
                    headers = owner.headers(frame) | {"Content-Type": JSON, "Accept": BOTH, "Content-Length": str(len(frame.raw))}
                    async with client.stream("POST", headers, Body(frame.raw)) as response:
                        status = response.status_code
                        await drain(chunks(response))
                break
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as problem:
                why = str(errors.of_transport(client.name, client.where, problem))
            except (httpx2.HTTPError, MeshError) as problem:
                why = str(problem)
                break
            except TimeoutError:
                why = f"not taken within {NOTICE_SECONDS:.0f} s"
                break
        if status == 404 and owner.session.id is not None:
            owner.lose("the server does not know this session any more")
        elif 200 <= status < 300:
            if frame.method == "notifications/initialized" and owner.session.id is not None:
                owner.listen()
        else:
            why = f"HTTP {status}" if status else why
            _log.warning("the server did not take a message", agent=client.name, method=frame.method, id=frame.id, why=why)


class Listener:
    """What the server says outside of any call. Opened again as long as the session lives; what was said meanwhile follows where events
    have ids.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._client = owner.client
        self._events = EventStream()
        self._heard = False
        self._garbage = 0

    async def run(self) -> None:
        """Until the server offers no stream, or the port cancels it."""
        if self._client.streams >= MOST_STREAMS:
            _log.warning("no stream for what the server says outside of calls: too many are open", agent=self._client.name)
            return
        self._client.streams += 1
        try:
            failures = 0
            while True:
                since, self._heard = clock.monotonic(), False
                try:
                    if not await self._open():
                        return
                except (httpx2.HTTPError, MeshError) as problem:
                    _log.info("the session's stream broke", agent=self._client.name, why=str(problem))
                failures = 0 if self._heard or clock.monotonic() - since > STEADY else failures + 1
                await asyncio.sleep(resume_delay(self._events, min(MOST_DELAY, FIRST_DELAY * 2**failures)) * random.uniform(0.75, 1.0))
        finally:
            self._client.streams -= 1

    async def _open(self) -> bool:
        """One connection, to its end. False: another one makes no sense."""
        headers = self._owner.session.headers() | resume_headers(self._events)
        async with self._client.stream("GET", headers) as response:
            status = response.status_code
            if status == 404:
                self._owner.lose("the server does not know this session any more")
                return False
            if status == 200 and content_type(response) == EVENTS:
                self._events, self._garbage = self._events.next(), 0
                async with contextlib.aclosing(chunks(response)) as parts:
                    async for part in parts:
                        for event in self._events.feed(part):
                            self._on_event(event)
                return True
        if status == 405:
            return False  # this server has nothing to say outside of calls
        again = status >= 500 or status in (408, 409, 429)  # 409: it has not noticed the end of the last one yet
        _log.info("the session's stream is refused", agent=self._client.name, status=status, again=again)
        return again

    def _on_event(self, event: Event) -> None:
        self._heard = True
        if event.type != b"message" or not event.data:
            return
        try:
            frame = scan(event.data)
            if frame.final:
                raise MalformedMessage("an answer on the session's stream, where none may be", starts=event.data[:40])
        except MalformedMessage as problem:
            self._garbage += len(event.data)
            _log.warning("not a message for this session", agent=self._client.name, why=str(problem), starts=beginning(event.data))
            if self._garbage > MOST_GARBAGE:
                raise
            return
        self._owner.deliver(frame, None)
