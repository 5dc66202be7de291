"""Replay: events that the stream still holds, told again in the order in which they were stored.

As fast as it goes, or with `speed` in the rhythm in which they were stored, times a factor. Memory is bounded either way: lists of messages
are pulled in a pipeline (`mesh.link.reader`), and a slow taker is asked for no more. A taker that pauses for so long that its consumer
expires, and a broker that restarts, cost a new consumer behind the last event.

It ends with the last event that was there when it began; what comes meanwhile is nobody's replay. What is no event (an answer of the
broker's own, a forged source) is left out and counted.

Into an agent the events go as messages of one lane, stored in the order of the events. Whether they are handled in it is the agent's to
say: one worker keeps it, and several (an agent whose tools run at once) begin each event as one of them is free.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import structlog

from mesh import clock
from mesh.clock import monotonic
from mesh.delivery import Reject
from mesh.errors import ConfigError, InvalidEvent, MailboxFull, MalformedMessage, MeshError, Refused
from mesh.events.reading import ONLY, EventReader, Filter, Transform
from mesh.link.connection import Connection
from mesh.link.reader import Made, MakeConsumer, read_stream
from mesh.policy.lines import worth_a_line
from mesh.topology import EVENTS
from mesh.wire.event import Event, check, parse_time, split
from mesh.wire.message import AgentMessage

REPLAYED: Final = "event.replayed"
"""The type of the messages by which events are told to an agent again."""

WINDOW: Final = 64
"""Messages of a replay into an agent that are on their way at once."""

PATIENCE: Final = 30.0
"""Seconds without the broker after which a replay fails; and, into an agent, without room there for the next event."""

FIRST_DELAY: Final = 0.05
LONGEST_DELAY: Final = 1.0
"""Seconds until it is tried again to send an event to an agent that has no room."""

SLACK: Final = 0.002
"""Seconds by which an event may be told early: a timer for each of thousands that were stored within a second would cost more."""

Submit = Callable[..., Awaitable["asyncio.Future[str]"]]
"""`MessageBroker.submit_message`, but for whom and what kind."""

_log: Final = structlog.get_logger("mesh.events")


class Replay:
    """`async for event in replay`, once. Leave it early through `contextlib.aclosing`, which ends it at once.

    While it runs: `total` events lie on the topic from its beginning on, as far as its end is not known by time; `read` of them were looked
    at, `told` were handed on, `broken` were none; `at_ns` is when the last one was stored.
    """

    def __init__(
        self,
        connection: Connection,
        reader: EventReader,
        make: MakeConsumer,
        events: str,
        from_ns: int,
        to_ns: int | None = None,
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
        admit: Transform | None = None,
        filter: Filter | None = None,
        speed: float | None = None,
    ) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise ConfigError(
                f"a replay has no speed {speed}", hint="1 is the original rhythm, 2 twice as fast; leave it out for no rhythm"
            )
        if not 0 <= from_ns < 2**63:
            raise ConfigError("a replay begins after 1970 and before 2262", hint="0 is the first event that there is")
        if to_ns is not None and to_ns < from_ns:
            raise ConfigError("a replay ends after it begins", hint="look at the two times, and at their zones")
        self.from_ns = from_ns
        self.to_ns = to_ns
        self.total = 0
        self.read = 0
        self.told = 0
        self.broken = 0
        self.at_ns = from_ns
        self._connection = connection
        self._reader = reader
        self._make = make
        self._subject = events
        self._prepare = prepare
        self._choice = admit, filter
        self._speed = speed
        self._events = self._run()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events

    async def aclose(self) -> None:
        await self._events.aclose()

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        by_count = self.read / self.total if self.total else 1.0
        if self.to_ns is None:
            return min(1.0, by_count)
        by_time = (self.at_ns - self.from_ns) / max(1, self.to_ns - self.from_ns)
        return min(1.0, max(by_count, by_time))

    async def _run(self) -> AsyncGenerator[Event, None]:
        (admit, filter), to_ns = self._choice, self.to_ns
        if self._prepare is not None:
            await self._prepare()
        pace = None if self._speed is None else _Pace(self._speed)
        lists = read_stream(
            self._connection,
            EVENTS,
            subjects=(self._subject,),
            start_time_ns=self.from_ns,
            patience=PATIENCE,
            make=self._make,
            on_begin=self._begin,
        )
        read = self._reader.read
        async with aclosing(lists):
            async for stored in lists:
                for subject, body, headers, seq, time_ns in stored:
                    self.read += 1
                    self.at_ns = time_ns
                    if to_ns is not None and time_ns > to_ns:
                        self.read = self.total
                        return
                    if headers is not None and ONLY in headers:
                        continue  # the same once more, for somebody who could not handle it
                    try:
                        event = read(subject, body, headers, seq, time_ns)
                        if event is None:
                            continue
                        if admit is not None:
                            event = admit(event)
                        if filter is not None and not filter(event):
                            continue
                    except (Refused, MalformedMessage, InvalidEvent, Reject) as problem:
                        self._leave_out(subject, problem)
                        continue
                    if pace is not None:
                        await pace.wait(time_ns)
                    self.told += 1
                    yield event

    def _begin(self, made: Made) -> None:
        self.total = self.read + made.waiting

    def _leave_out(self, subject: str, problem: Exception) -> None:
        self.broken += 1
        if worth_a_line(self.broken):
            _log.warning("what is no event is left out of a replay", subject=subject, why=str(problem), count=self.broken)


class _Pace:
    """The rhythm of the past, times a factor. Who takes slowly is told at once what is late."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first: tuple[int, float] | None = None

    async def wait(self, stored_ns: int) -> None:
        if self._first is None:
            self._first = stored_ns, monotonic()
        first_ns, began = self._first
        left = began + (stored_ns - first_ns) / 1e9 / self._speed - monotonic()
        if left > SLACK:
            await asyncio.sleep(left)


async def tell_again(replay: Replay, submit: Submit, id: str) -> int:
    """Hand each event of a replay to `submit(content, id=…)`, in their order, and return how many were stored, once all are.

    Where the agent has no room it waits, `PATIENCE` seconds for each event: then MailboxFull. What fails says in `details["stored"]` how
    many were stored before it."""
    sending = _InOrder(submit)
    try:
        async with aclosing(replay):
            async for event in replay:
                told = {
                    "publisher": event.publisher,
                    "topic": event.topic,
                    "stored": clock.iso(event.stored_ns),
                    "event": event.as_dict(),
                }
                await sending.put(told, f"{id}-{event.number}")
        await sending.settle()
    except MeshError as problem:
        problem.details["stored"] = sending.stored
        raise
    finally:
        sending.leave()
    return sending.stored


class _InOrder:
    """Sends in order, `WINDOW` at once. Where the agent has no room it reads more slowly than we replay: what was refused is sent again in
    its turn, and from then on each waits until the one before it is stored. Behind the first that was refused some may be stored already,
    as many as were on their way."""

    def __init__(self, submit: Submit) -> None:
        self.stored = 0
        self._submit = submit
        self._window = WINDOW
        self._on_their_way: deque[tuple[dict[str, Any], str, asyncio.Future[str]]] = deque()

    async def put(self, content: dict[str, Any], id: str) -> None:
        while len(self._on_their_way) >= self._window:
            await self._settle_one()
        self._on_their_way.append((content, id, await self._submit(content, id=id)))

    async def settle(self) -> None:
        """Until all are stored."""
        while self._on_their_way:
            await self._settle_one()

    def leave(self) -> None:
        """Nobody asks any more what becomes of those that are on their way."""
        for _, _, stored in self._on_their_way:
            if not stored.cancel():
                stored.exception()

    async def _settle_one(self) -> None:
        content, id, stored = self._on_their_way.popleft()
        try:
            await stored
        except MailboxFull:
            self._window = 1
            await self._send_again(content, id)
        self.stored += 1

    async def _send_again(self, content: dict[str, Any], id: str) -> None:
        delay, began = FIRST_DELAY, monotonic()
        while True:
            await asyncio.sleep(delay)
            try:
                await (await self._submit(content, id=id))
            except MailboxFull:
                if monotonic() - began > PATIENCE:
                    raise
            else:
                return
            delay = min(LONGEST_DELAY, delay * 2)


def replayed(message: AgentMessage) -> Event | None:
    """The event that a message tells again (`EventBridge.replay_into`); None for any other message. That it was, and who published it, is
    the word of who tells it: `replayed_by`, the message's sender. Raises MalformedMessage."""
    if message.type != REPLAYED:
        return None
    said = message.content
    texts = [said.get(key) for key in ("publisher", "topic", "stored")] if isinstance(said, dict) else []
    if not texts or not all(isinstance(each, str) for each in texts) or not isinstance(said.get("event"), dict):
        raise MalformedMessage("a replayed event names its publisher, its topic and when it was stored")
    publisher, topic, stored = map(str, texts)
    attributes, data = split(said["event"])
    check(attributes, publisher)
    return Event(attributes, data, publisher, topic, message.priority, 0, parse_time(stored), message.delivery, message.sender)
