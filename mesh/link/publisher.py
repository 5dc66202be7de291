"""Durable publishing with a window: many messages in flight, each of them ends as an ack or as an error, and none is forgotten.

Theory of operation
-------------------
All messages share one reply inbox; the last token says which one an ack is for. A message is either *in flight* (sent, its ack is
due by a deadline) or *parked* (waiting to be sent again). Sending needs no coroutine, so everything after the first sending happens
in callbacks: of acks, of the connection, and of one timer that ticks while there is anything to watch.

A message with a `msg_id` is sent again under the same id: the broker stores it once (within the stream's `duplicate_window`) and
answers the second time with the first one's sequence. Without a `msg_id` nothing is sent twice, and a lost ack is
`outcome_unknown`.

Traps answered:

- nats-py's `publish_async` never resolves the future of an error ack, nor any that is in flight when the server dies, and each
  takes a slot of its semaphore away for good. Here each message has a deadline, and its slot is given back however it ends.
- A core publish over a restart may be lost. Here it is sent again until it is acknowledged, for `retry_for` seconds. A leader
  change in a cluster of three stalled publishers for 5 to 8 seconds, so less than 15 is too short.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Final, Self

from mesh.clock import monotonic
from mesh.errors import ApiError, BrokerError, BrokerUnavailable, MeshError, NoResponders, OutcomeUnknown
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.denial import refused_by_broker
from mesh.link.jetstream import PASSING, PubAck, parse_ack

MSG_ID: Final = "Nats-Msg-Id"

_TICK: Final = 0.1
"""Seconds between two looks at deadlines. One timer for all, as timers a message would cost more than the message."""

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0
"""Between two attempts that the broker answered with "not now". Attempts that it did not answer are `ack_timeout` apart anyway."""


class _Entry:
    """One message, from its acceptance to its end. `attempts` counts sendings."""

    __slots__ = ("attempts", "body", "due", "future", "give_up", "headers", "msg_id", "subject", "token")

    def __init__(self, token: str, subject: str, body: bytes, headers: dict[str, str] | None, msg_id: str | None, give_up: float) -> None:
        self.token = token
        self.subject = subject
        self.body = body
        self.headers = headers
        self.msg_id = msg_id
        self.give_up = give_up
        self.due = 0.0
        """In flight: when the ack must be there. Parked: when to send again."""
        self.attempts = 0
        self.future: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()


class WindowedPublisher:
    """Use as `async with`. Leaving it waits until all that was accepted has ended; leaving it by an exception fails the rest at once.

    `window` is how many messages may be unacknowledged; more wait for room. `ack_timeout` and `retry_for` are seconds.
    """

    def __init__(self, connection: Connection, *, window: int = 256, ack_timeout: float = 5.0, retry_for: float = 20.0) -> None:
        self._connection = connection
        self._ack_timeout = ack_timeout
        self._retry_for = retry_for
        self._room = asyncio.Semaphore(window)
        self._inbox = connection.new_inbox()
        self._tokens = itertools.count(1)
        self._in_flight: dict[str, _Entry] = {}  # in the order of sending, so the oldest deadline comes first
        self._parked: dict[str, _Entry] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._subscription: Subscription | None = None
        self._detach: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.subscribe(self._inbox + ".*", self._on_ack)
        self._detach = [
            self._connection.on_down(self._on_down),
            self._connection.on_up(self._on_up),
            self._connection.on_denied(self._on_denied),
        ]
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                await self._idle.wait()  # bounded: each entry has a deadline
        finally:
            for detach in self._detach:
                detach()
            if self._timer is not None:
                self._timer.cancel()
            for entry in [*self._in_flight.values(), *self._parked.values()]:
                self._end(
                    entry, OutcomeUnknown("the publisher was closed before the broker answered", hint="publish with a msg_id, and again")
                )
            subscription, self._subscription = self._subscription, None
            if subscription is not None:
                await subscription.unsubscribe()

    @property
    def unacknowledged(self) -> int:
        """How many messages were accepted and have not ended."""
        return len(self._in_flight) + len(self._parked)

    async def publish(self, subject: str, body: bytes, *, headers: Mapping[str, str] | None = None, msg_id: str | None = None) -> PubAck:
        """Publish and wait for the ack.

        Raises TooLarge; Denied where the broker does not let us publish there; ApiError where the stream refuses it (full, a wrong
        expectation); NoResponders where no stream takes the subject;
        OutcomeUnknown where the ack was lost and there is no `msg_id`; BrokerUnavailable where the broker was away for `retry_for` seconds.
        """
        return await (await self.submit(subject, body, headers=headers, msg_id=msg_id))

    async def submit(
        self, subject: str, body: bytes, *, headers: Mapping[str, str] | None = None, msg_id: str | None = None
    ) -> asyncio.Future[PubAck]:
        """Wait for room and send. The future ends as `publish` does: so one task can keep the whole window full."""
        await self._room.acquire()
        if self._subscription is None:
            self._room.release()
            raise BrokerError("the publisher is closed; it works inside its `async with`")
        all_headers = dict(headers) if headers else None
        if msg_id is not None:
            all_headers = {**(all_headers or {}), MSG_ID: msg_id}
        entry = _Entry(str(next(self._tokens)), subject, body, all_headers, msg_id, monotonic() + self._retry_for)
        self._idle.clear()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)
        self._send(entry)
        if self._connection.congested:
            with contextlib.suppress(BrokerUnavailable):  # the entry's own deadline tells
                await self._connection.flush()
        return entry.future

    def _send(self, entry: _Entry) -> None:
        self._parked.pop(entry.token, None)
        entry.attempts += 1
        entry.due = monotonic() + self._ack_timeout
        self._in_flight[entry.token] = entry
        try:
            self._connection.send(entry.subject, entry.body, f"{self._inbox}.{entry.token}", entry.headers)
        except BrokerUnavailable as error:
            self._again(entry, error, entry.give_up)  # `_on_up` sends it before that
        except MeshError as error:
            self._end(entry, error)

    def _again(self, entry: _Entry, error: MeshError, due: float) -> None:
        """Park it until `due`, or end it with `error` where another attempt is not safe or comes too late."""
        if entry.msg_id is None or due > entry.give_up or entry.future.done():
            self._end(entry, error)
            return
        self._in_flight.pop(entry.token, None)
        entry.due = due
        self._parked[entry.token] = entry

    def _end(self, entry: _Entry, result: PubAck | MeshError) -> None:
        self._in_flight.pop(entry.token, None)
        self._parked.pop(entry.token, None)
        self._room.release()
        if not self._in_flight and not self._parked:
            self._idle.set()
        if entry.future.done():  # its caller was cancelled
            return
        if isinstance(result, PubAck):
            entry.future.set_result(result)
        else:
            entry.future.set_exception(result)

    def _on_ack(self, message: Message) -> None:
        token = message.subject[len(self._inbox) + 1 :]
        entry = self._in_flight.get(token) or self._parked.get(token)
        if entry is None:
            return  # the ack of an attempt before the one that was acknowledged
        try:
            self._end(entry, parse_ack(message))
        except ApiError as error:
            if error.err_code in PASSING:
                self._again(entry, error, self._next(entry))
            else:
                self._end(entry, error)
        except NoResponders as error:
            # After a restart also a stream that is there answers so for a moment.
            self._again(entry, error, self._next(entry))
        except BrokerError as error:
            self._end(entry, error)

    def _next(self, entry: _Entry) -> float:
        """When to try again what was answered with "not now"."""
        return monotonic() + float(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (entry.attempts - 1)))

    def _on_down(self) -> None:
        for entry in list(self._in_flight.values()):
            self._silent(entry, "the connection was lost before the broker acknowledged the message", entry.give_up)

    def _on_denied(self, subject: str) -> None:
        for entry in [each for each in self._in_flight.values() if each.subject.lower() == subject]:
            self._end(entry, refused_by_broker(entry.subject, self._connection.name))

    def _on_up(self) -> None:
        for entry in list(self._parked.values()):
            self._send(entry)

    def _tick(self) -> None:
        now = monotonic()
        for entry in list(itertools.takewhile(lambda entry: entry.due <= now, self._in_flight.values())):
            self._silent(entry, f"no ack within {self._ack_timeout:g} s", now)
        for entry in list(self._parked.values()):
            if entry.future.done() or entry.give_up <= now:
                self._end(entry, BrokerUnavailable(f"the broker did not take the message within {self._retry_for:g} s"))
            elif entry.due <= now and self._connection.connected:
                self._send(entry)
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick) if self._in_flight or self._parked else None

    def _silent(self, entry: _Entry, why: str, due: float) -> None:
        """No word came: the broker may have it or not."""
        if entry.msg_id is None:
            self._end(entry, OutcomeUnknown(f"{why}; it may be stored or not", hint="with a msg_id it would have been sent again"))
        else:
            self._again(entry, BrokerUnavailable(f"{why}, for {self._retry_for:g} s"), due)
