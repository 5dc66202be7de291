"""Subscriptions: who hears which events, and from when on.

A *durable* one has a name. It begins where it was made, and goes on where it stood, in this process or another one of the same participant;
several processes that have it open at once share its events. What it has not acknowledged stays in the stream. Its events come through
`mesh.delivery`: in weighted shares of the priorities, tried again, kept as dead letters.

Each of its priorities has a consumer of its own, made by the control plane when first used (`mesh.events.subscriptions`). Which ones there
are, and how they are called, only the control plane says, and only to who may hear the topic.

An *ephemeral* one begins now, ends with its block, and hears its events in the order of the stream, one at a time. While its handler works
nothing is lost: the stream keeps what comes. What its handler raises is logged, and nothing is tried again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, Unpack

import structlog

from mesh.background import end_tasks
from mesh.delivery import Handler, Lane, Receiver, ReceiverOptions, Reject
from mesh.errors import InvalidEvent, MalformedMessage, MeshError, Refused
from mesh.events.asking import when_there
from mesh.events.reading import ONLY, EventFamily, EventReader, Filter, Transform, check_fresh, choose
from mesh.link.connection import Connection
from mesh.link.jetstream import JetStream
from mesh.link.reader import MakeConsumer, read_stream
from mesh.policy.lines import worth_a_line
from mesh.subjects import PRIORITIES, Subjects, escape
from mesh.topology import EVENTS, ConsumerSpec
from mesh.wire.event import Event

Ask = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Asks the control plane a method with params. Raises CallError."""

_log: Final = structlog.get_logger("mesh.events")


def only(agent: str, name: str) -> str:
    """What names one subscription of one participant, on the wire and in what is remembered."""
    return f"{escape(agent)} {escape(name)}"


class Subscribed:
    """The lanes of one durable subscription. `about` is what the control plane is asked: `{"name", "topic" | "roles"}`."""

    def __init__(self, ask: Ask, agent: str, about: Mapping[str, Any], notices: Mapping[str, str]) -> None:
        self._ask = ask
        self._agent = agent
        self._about = about
        self._notices = notices
        self._known: dict[str, Lane] = {}

    @property
    def notices(self) -> Mapping[str, Hashable]:
        return self._notices

    async def find(self, noticed: Collection[Hashable]) -> tuple[Collection[Lane], bool]:
        wanted = {"normal", *self._known, *(str(each) for each in noticed)}
        said = await self._ask("mesh/subscribe", {**self._about, "wanted": sorted(wanted)})
        name = str(self._about["name"])
        before, self._known = (
            self._known,
            {priority: Lane(self._agent, priority, EVENTS, str(each), name) for priority, each in said["consumers"].items()},
        )
        if any(lane != before.get(priority, lane) for priority, lane in self._known.items()):
            _log.warning("a subscription was deleted while it was open, and begins anew; what came in between it has not heard", name=name)
        return self._known.values(), True


class DurableSubscription:
    """`async with` it: while it lasts, `handler` gets the events."""

    def __init__(
        self,
        js: JetStream,
        subjects: Subjects,
        family: EventFamily,
        source: Subscribed,
        handler: Handler[Event],
        prepare: Callable[[], Awaitable[None]] | None = None,
        **options: Unpack[ReceiverOptions],
    ) -> None:
        self._source = source
        self._prepare = prepare
        self.receiver: Receiver[Event] = Receiver(js, subjects, family, source, handler, **options)

    async def __aenter__(self) -> Self:
        """Raises Denied where we may not hear it, ConfigError where the name is another subscription's, BrokerUnavailable."""
        if self._prepare is not None:
            await self._prepare()
        await self._source.find(())  # the receiver would ask again and again
        await self.receiver.__aenter__()
        return self

    async def __aexit__(self, *about: object) -> None:
        await self.receiver.__aexit__(*about)


class EphemeralSubscription:
    """`async with` it: while it lasts, `handler` gets the events that come from its beginning on."""

    def __init__(
        self,
        connection: Connection,
        make: MakeConsumer,
        reader: EventReader,
        filters: tuple[str, ...],
        handler: Handler[Event],
        admit: Transform | None,
        filter: Filter | None,
        transform: Transform | None,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._connection = connection
        self._make = make
        self._reader = reader
        self._filters = filters
        self._handler = handler
        self._choice = admit, filter, transform
        self._prepare = prepare
        self._task: asyncio.Task[None] | None = None
        self.broken = 0
        """What could not be read, or what its handler failed on."""

    async def __aenter__(self) -> Self:
        """Raises Denied, BrokerUnavailable."""
        if self._prepare is not None:
            await self._prepare()
        made = await when_there(
            partial(self._make, ConsumerSpec(stream=EVENTS, name="now", filters=self._filters, durable=False, ack="none"))
        )
        self._task = asyncio.create_task(self._follow(made.last_seq + 1), name="events as they come")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await end_tasks(self._task)

    async def _follow(self, start_seq: int) -> None:
        reading = read_stream(
            self._connection, EVENTS, subjects=self._filters, start_seq=start_seq, follow=True, patience=None, make=self._make
        )
        try:
            async with aclosing(reading) as lists:
                async for stored in lists:
                    for each in stored:
                        with contextlib.suppress(_NotWanted):
                            await self._handle(self._event(each.subject, each.body, each.headers, each.seq, each.time_ns))
        except MeshError as problem:
            _log.error("a subscription has ended", filters=self._filters, why=str(problem))

    def _event(self, subject: str, body: bytes, headers: dict[str, str] | None, seq: int, time_ns: int) -> Event:
        try:
            event = None if headers and ONLY in headers else self._reader.read(subject, body, headers, seq, time_ns)
            if event is not None:
                check_fresh(event, headers)
                event = choose(event, *self._choice)
        except (Refused, MalformedMessage, InvalidEvent, Reject) as problem:
            self._note("what is no event is passed over", subject, problem)
            raise _NotWanted from None
        except Exception as problem:
            self._note("a filter or a transformation failed", subject, problem)
            raise _NotWanted from None
        if event is None:
            raise _NotWanted
        return event

    async def _handle(self, event: Event) -> None:
        try:
            await self._handler(event)
        except asyncio.CancelledError as problem:
            if self._task is None or self._task.cancelling():
                raise
            self._note("what a handler waited for was cancelled", event.topic, problem)
        except Exception as problem:
            self._note("a handler failed", event.topic, problem)

    def _note(self, what: str, where: str, problem: BaseException) -> None:
        self.broken += 1
        if worth_a_line(self.broken):
            _log.warning(what, where=where, why=str(problem) or repr(problem), count=self.broken)


class _NotWanted(Exception):
    """An event that this subscription passes over."""


def notices_of(subjects: Subjects, topic: str | None, roles: Collection[str]) -> dict[str, str]:
    """Subjects that show that a priority is used, each with the priority."""
    found: dict[str, str] = {}
    for priority in PRIORITIES:
        if priority != "normal":  # that one is always there
            found |= dict.fromkeys(filters_of(subjects, topic, roles, priority), priority)
    return found


def filters_of(subjects: Subjects, topic: str | None, roles: Collection[str], priority: str | None = None) -> tuple[str, ...]:
    """What a subscription takes of the stream: the events of a topic, or the broadcasts to these roles."""
    if topic is not None:
        return (subjects.events(topic, priority=priority),)
    return tuple(subjects.casts(role, priority) for role in roles)
