"""What a subject says, as data: one class a family, and how each is read. `mesh.subjects.grammar` builds them.

This module is long because there are many families, and each is a few lines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from mesh.subjects.tokens import PRIORITIES, read_tail, read_topic, unescape


@dataclass(frozen=True, slots=True)
class Call:
    """A call, or a quiet call, or a notification or answer to one instance. `exchange` is None: it is in the reply subject."""

    target: str
    instance: str
    caller: str
    method: str
    name: str | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    target: str
    instance: str
    caller: str


@dataclass(frozen=True, slots=True)
class Note:
    target: str
    caller: str
    method: str


@dataclass(frozen=True, slots=True)
class Reply:
    caller: str
    target: str
    connection: str
    exchange: str
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class FoldedReply:
    """A reply as the journal stores it: connection and exchange are in the body."""

    caller: str
    target: str


@dataclass(frozen=True, slots=True)
class Part:
    """`end` is the instance or connection of `to`; caller, connection and exchange name the exchange."""

    to: str
    end: str
    sender: str
    caller: str
    connection: str
    exchange: str


@dataclass(frozen=True, slots=True)
class Record:
    target: str
    caller: str


@dataclass(frozen=True, slots=True)
class Msg:
    """A durable message. The sender is the one whom the broker held to its name."""

    target: str
    sender: str
    priority: str


@dataclass(frozen=True, slots=True)
class Event:
    """To whom it concerns. The publisher is the one whom the broker held to its name."""

    publisher: str
    priority: str
    topic: str


@dataclass(frozen=True, slots=True)
class Cast:
    """A broadcast, to all who answer to a role; `ANY` in its place: to all."""

    sender: str
    priority: str
    role: str


@dataclass(frozen=True, slots=True)
class Job:
    """A durable call."""

    target: str
    caller: str
    method: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class JobState:
    """The broker's copy of what a worker says of a job."""

    target: str
    caller: str
    id: str


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """One frame of a stream. `end` is a connection of `to`."""

    to: str
    end: str
    sender: str
    stream: str


@dataclass(frozen=True, slots=True)
class Flow:
    """One message of a durable stream."""

    to: str
    sender: str
    stream: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is to be sent later, for `sender`."""

    sender: str
    id: str


@dataclass(frozen=True, slots=True)
class Due:
    """What a schedule brought forth."""

    sender: str
    id: str


@dataclass(frozen=True, slots=True)
class HandledMark:
    """The broker's copy of a receiver's word of what it has done."""

    owner: str
    batch: str


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """The broker's copy of one version of a topic's schema."""

    topic: str
    version: str


@dataclass(frozen=True, slots=True)
class Dead:
    """A message to `target` that is not tried again. `number` names one message of `stream`: its sequence and the time of its storing, in
    nanoseconds (`7-1700000000000000000`). A sequence alone can be guessed, and comes again in a stream that was made anew."""

    target: str
    stream: str
    number: str


@dataclass(frozen=True, slots=True)
class Health:
    agent: str
    instance: str


@dataclass(frozen=True, slots=True)
class Registry:
    agent: str
    instance: str


@dataclass(frozen=True, slots=True)
class Mark:
    to: str
    sender: str
    stream: str


@dataclass(frozen=True, slots=True)
class Gone:
    agent: str
    connection: str


Subject = (
    Call
    | Probe
    | Note
    | Reply
    | FoldedReply
    | Part
    | Record
    | Msg
    | Event
    | Cast
    | Job
    | JobState
    | StreamFrame
    | Flow
    | Mark
    | Schedule
    | Due
    | HandledMark
    | SchemaVersion
    | Dead
    | Health
    | Registry
    | Gone
)


def _read_call(tokens: list[str], *, quiet: bool = False) -> Subject | None:
    if len(tokens) < 4:
        return None
    target, instance, caller = map(unescape, tokens[:3])
    method, name = read_tail(tokens[3:])
    return Call(target, instance, caller, method, name, quiet)


def _read_hush(tokens: list[str]) -> Subject | None:
    if len(tokens) != 4:
        return None
    caller, target, connection, exchange = map(unescape, tokens)
    return Reply(caller, target, connection, exchange, quiet=True)


def _read_reply(tokens: list[str]) -> Subject | None:
    if len(tokens) == 4:
        caller, target, connection, exchange = map(unescape, tokens)
        return Reply(caller, target, connection, exchange)
    return FoldedReply(*map(unescape, tokens)) if len(tokens) == 2 else None


def _read_event(tokens: list[str]) -> Subject | None:
    if len(tokens) < 3 or tokens[1] not in PRIORITIES:
        return None
    return Event(unescape(tokens[0]), tokens[1], read_topic(tokens[2:]))


def _read_cast(tokens: list[str]) -> Subject | None:
    return Cast(unescape(tokens[0]), tokens[1], unescape(tokens[2])) if len(tokens) == 3 and tokens[1] in PRIORITIES else None


def _read_job(tokens: list[str]) -> Subject | None:
    if len(tokens) < 3:
        return None
    method, name = read_tail(tokens[2:])
    return Job(unescape(tokens[0]), unescape(tokens[1]), method, name)


def _read_note(tokens: list[str]) -> Subject | None:
    return Note(unescape(tokens[0]), unescape(tokens[1]), read_tail(tokens[2:])[0]) if len(tokens) > 2 else None


def _read_message(tokens: list[str]) -> Subject | None:
    return Msg(unescape(tokens[0]), unescape(tokens[1]), tokens[2]) if len(tokens) == 3 and tokens[2] in PRIORITIES else None


def _read_schema(tokens: list[str]) -> Subject | None:
    return SchemaVersion(read_topic(tokens[:-1]), unescape(tokens[-1])) if len(tokens) > 1 else None


def _of(kind: Callable[..., Subject], length: int) -> Callable[[list[str]], Subject | None]:
    """A family of `length` names."""
    return lambda tokens: kind(*map(unescape, tokens)) if len(tokens) == length else None


PARSERS: Final[dict[str, Callable[[list[str]], Subject | None]]] = {
    "call": _read_call,
    "quiet": partial(_read_call, quiet=True),
    "probe": _of(Probe, 3),
    "note": _read_note,
    "reply": _read_reply,
    "hush": _read_hush,
    "part": _of(Part, 6),
    "record": _of(Record, 2),
    "msg": _read_message,
    "event": _read_event,
    "cast": _read_cast,
    "job": _read_job,
    "jobs": _of(JobState, 3),
    "stream": _of(StreamFrame, 4),
    "flow": _of(Flow, 3),
    "mark": _of(Mark, 3),
    "schedule": _of(Schedule, 2),
    "due": _of(Due, 2),
    "handled": _of(HandledMark, 2),
    "schemas": _read_schema,
    "dead": _of(Dead, 3),
    "health": _of(Health, 2),
    "registry": _of(Registry, 2),
    "gone": _of(Gone, 2),
}
"""How each family is read; None, or Refused, for what is never built."""
