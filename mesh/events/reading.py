"""What the broker hands over, as events: a subject and a body that agree, or a refusal.

| it is                                                | it becomes                                              |
|------------------------------------------------------|---------------------------------------------------------|
| an event or a broadcast whose parts agree            | an `Event`                                              |
| an answer of the broker's own                        | nothing: acknowledged, counted                          |
| sent again for another subscription (`ONLY`)         | nothing                                                 |
| no CloudEvent, or one that claims another source     | a dead letter `malformed`; left out of a replay         |
| said long before it was stored (`check_fresh`)       | a dead letter `malformed`; a replay has it twice        |
| not what its topic's schema says                     | a dead letter `invalid`; left out of a replay           |
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import structlog

from mesh.delivery import Family, Key, Lane, Reject
from mesh.delivery.storing import DIGEST_LENGTH
from mesh.errors import InvalidEvent, MalformedMessage, Refused
from mesh.link.connection import Message
from mesh.link.jetstream import Delivery
from mesh.link.publisher import MSG_ID
from mesh.policy.lines import worth_a_line
from mesh.subjects import Cast, Subjects
from mesh.subjects import Event as EventSubject
from mesh.wire.event import Event, is_brokers, read_event

Filter = Callable[[Event], bool]
"""Whether an event is wanted. It may raise Reject: the event becomes a dead letter. Anything else counts as a handler that failed."""

Transform = Callable[[Event], Event]
"""What becomes of an event before its handler sees it. It may raise Reject, or InvalidEvent: a dead letter `invalid`; else as `Filter`."""

WINDOW: Final = 600
"""Seconds for which the stream of events knows the ids that it has (`mesh.topology`)."""

ONLY: Final = "Mesh-Only"
"""Header of an event that an operator sent again: `{agent} {subscription}`, as tokens. Nobody else gets it."""

_log: Final = structlog.get_logger("mesh.events")


class EventReader:
    """Of one participant: it remembers the subjects that it has seen."""

    def __init__(self, subjects: Subjects) -> None:
        self._place = lru_cache(maxsize=4096)(subjects.parse)
        self.foreign = 0
        """Answers of the broker's own."""

    def read(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None, number: int = 0, stored_ns: int = 0, delivery: int = 1
    ) -> Event | None:
        """None for an answer of the broker's own. Raises Refused, MalformedMessage."""
        place = self._place(subject)
        try:
            if isinstance(place, EventSubject):
                return read_event(place.publisher, place.topic, place.priority, body, headers, number, stored_ns, delivery)
            if isinstance(place, Cast):
                event = read_event(place.sender, "", place.priority, body, headers, number, stored_ns, delivery)
                event.to = place.role
                return event
        except MalformedMessage:
            if not is_brokers(body, headers):
                raise
            self.foreign += 1
            if worth_a_line(self.foreign):
                _log.warning("an answer of the broker's among the events", subject=subject, count=self.foreign)
            return None
        raise Refused("no event's subject", subject=subject)


class EventFamily(Family[Event]):
    """Of one durable subscription. `admit` is the schema registry's: it brings an event up to date, or raises Reject."""

    def __init__(
        self,
        reader: EventReader,
        only: str,
        admit: Transform | None = None,
        filter: Filter | None = None,
        transform: Transform | None = None,
    ) -> None:
        self._reader = reader
        self._only = only
        self._admit = admit
        self._filter = filter
        self._transform = transform

    def read(self, raw: Message, delivery: Delivery, lane: Lane) -> Event | None:
        if raw.headers is not None and raw.headers.get(ONLY, self._only) != self._only:
            return None
        event = self._reader.read(raw.subject, raw.body, raw.headers, delivery.seq, delivery.time_ns, delivery.deliveries)
        if event is None:
            return None
        check_fresh(event, raw.headers)
        try:
            event = choose(event, self._admit, self._filter, self._transform)
        except InvalidEvent as problem:
            raise Reject(problem.message, code="invalid") from None
        if event is not None:
            event.heard_by = self._only
        return event

    def key(self, item: Event) -> Key:
        return item.key

    def trace(self, item: Event) -> str:
        said = item.attributes.get("traceparent")
        return said if isinstance(said, str) else ""


def check_fresh(event: Event, headers: Mapping[str, str] | None) -> None:
    """Raises Refused for an event that was stored again. Whoever pulls one chooses where the broker delivers it, and where that is a
    subject of EVENTS the broker stores it anew, in its publisher's name. Its deduplication id prevents that for as long as the stream knows
    it. After that its time tells, which we say when we publish: so only events with an id of ours (`mesh.delivery.Store`) are looked at, as
    others may tell of what happened long ago. What an operator sent again is as old as it is."""
    if not headers or len(headers.get(MSG_ID, "")) != DIGEST_LENGTH or ONLY in headers or (said_ns := event.time_ns) is None:
        return
    late = (event.stored_ns - said_ns) // 10**9
    if late > WINDOW:
        raise Refused(f"it was said {late} s before it was stored: somebody had it stored again, or a clock is wrong")


def choose(event: Event, admit: Transform | None, filter: Filter | None, transform: Transform | None) -> Event | None:
    """None where it is not wanted. Raises what these raise."""
    if admit is not None:
        event = admit(event)
    if filter is not None and not filter(event):
        return None
    return event if transform is None else transform(event)
