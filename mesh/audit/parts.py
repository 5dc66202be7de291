"""One stored message, checked and read: what part of which exchange it is. Pure, and bounded in what it remembers.

The checks are those of the receivers (`mesh.link.responder`, `mesh.link.exchanges`): the subject's family, no header of the broker's own,
a JSON-RPC body whose method and name are those of the subject, ids that begin with the caller in the subject. Whoever may publish into
any stream can name a subject of the mesh as reply, and the broker's ack is then stored there; so nothing here is believed for being
there.

What the journal no longer knows is the reply subject. A request is placed by its id, a final frame by its id, a progress frame by its
token, the mesh's own frames by `params.exchange`, a cancellation by `params.requestId`, every other frame by its `Mesh-Exchange` header.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from mesh.errors import MalformedMessage, Refused
from mesh.link.reader import Stored
from mesh.subjects import ANSWER, ANY, Call, FoldedReply, Note, Record, Subjects, escape, tail
from mesh.wire import control
from mesh.wire.bodies import End, read_cancellation, read_end, read_record, read_trace
from mesh.wire.jsonrpc import Frame, Kind, scan

MOST_SUBJECTS: Final = 20_000
"""Subjects whose reading is remembered. The same few come again and again; a caller that invents tool names pays for it itself."""

_place: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)").fullmatch
_answer: Final = tail(ANSWER, None)


class What(Enum):
    """What a message is in its exchange."""

    CALL = "call"
    FINAL = "final"
    WORKING = "working"
    UNKNOWN = "unknown"
    PROGRESS = "progress"
    FRAME = "frame"
    """Another notification of the server, or a request of it."""
    MESSAGE = "message"
    """A notification, or an answer, from the caller to the instance."""
    CANCEL = "cancel"
    RESUME = "resume"
    RECORD = "record"


BACK: Final = frozenset({What.FINAL, What.WORKING, What.UNKNOWN, What.PROGRESS, What.FRAME})
"""What travels from the target to the caller."""


@dataclass(slots=True, eq=False)
class Part:
    """One message, without its body."""

    what: What
    exchange: str
    """The exchange's id; empty where the message names none."""
    caller: str
    target: str
    seq: int
    time_ns: int
    size: int
    subject: str = ""
    digest: int = 0
    instance: str = ""
    agent: str = ""
    method: str = ""
    name: str | None = None
    end: End | None = None
    trace: str | None = None
    duration_ms: float = 0.0
    bytes_out: int = 0
    exchanges: tuple[str, ...] = ()
    """What a `resume` asks for."""


class Place(NamedTuple):
    """Where an exchange stands: caller and connection as tokens, the session that it belongs to (the token of the exchange that opened
    it, or empty), and its number there. 0: it is not counted, since it is quiet (`q17`), or another bridge's way of naming."""

    caller: str
    connection: str
    series: str
    number: int


def place(exchange: str) -> Place:
    """Read an id that `PartReader` has passed."""
    caller, connection, token = exchange.split(".")
    series, _, number = token.rpartition("-")
    return Place(caller, connection, series, int(number) if number.isascii() and number.isdigit() and len(number) <= 18 else 0)


class _Subject(NamedTuple):
    """What a subject says, read once. `prefix` is how ids of its caller begin, `said` its tokens for method and name."""

    family: type
    caller: str
    target: str
    instance: str
    said: str
    prefix: str


class PartReader:
    """Reads the messages of one mesh's journal."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._known: dict[str, _Subject] = {}

    def read(self, message: Stored) -> Part:
        """Raises Refused, MalformedMessage or TooLarge for what no receiver would have taken."""
        said = self._known.get(message.subject) or self._read_subject(message.subject)
        if message.headers and any(key.startswith("Nats-") for key in message.headers):
            raise Refused("a header of the broker's")
        if said.family is FoldedReply:
            return _read_frame(said, message)
        if said.family is Record:
            return _read_record(said, message)
        frame = scan(message.body)
        if frame.method is None:
            if said.said != _answer:
                raise Refused("an answer on the subject of a request")
        elif tail(frame.method, frame.name) != said.said:
            raise Refused("the body's method is not the one in the subject")
        if frame.kind is Kind.NOTIFICATION:
            return _read_notification(said, message, frame)
        if said.family is Note:
            raise Refused("a notice that is no notification")
        if frame.kind is Kind.REQUEST:
            return _read_call(said, message, frame)
        return _part(What.MESSAGE, _header(said, message), said, message)

    def claimed(self, message: Stored) -> tuple[str, str]:
        """Id and target of a request that was refused here, as far as they can be guessed; empty if not. Its answer is then no riddle.

        With a header of the broker's it may be a stored message of anybody's, sent here by a direct get: that is worth no guess.
        """
        try:
            said = self._known.get(message.subject) or self._read_subject(message.subject)
        except Refused:
            return "", ""
        if said.family is not Call or (message.headers and any(key.startswith("Nats-") for key in message.headers)):
            return "", ""
        match = re.search(b'"(' + re.escape(said.prefix).encode() + rb'[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)"', message.body)
        return (match.group(1).decode(), said.target) if match else ("", "")

    def _read_subject(self, text: str) -> _Subject:
        subject = self._subjects.parse(text)
        match subject:
            case Call(target, instance, caller) if not subject.quiet:
                said = text.split(".", 6)[6]
            case Note(target, caller):
                instance, said = ANY, text.split(".", 5)[5]
            case FoldedReply(caller, target) | Record(target, caller):
                instance = said = ""
            case _:
                raise Refused("a subject that the journal does not take", subject=text)
        if len(self._known) >= MOST_SUBJECTS:
            self._known.clear()
        found = self._known[text] = _Subject(type(subject), caller, target, "" if instance == ANY else instance, said, escape(caller) + ".")
        return found


def _read_call(said: _Subject, message: Stored, frame: Frame) -> Part:
    part = _part(What.CALL, _own(said, frame.id), said, message)
    part.subject, part.digest = message.subject, hash(message.body)
    part.method, part.name = frame.method or "", frame.name
    part.trace = read_trace(message.body)
    return part


def _read_notification(said: _Subject, message: Stored, frame: Frame) -> Part:
    if frame.method == "notifications/cancelled":
        part = _part(What.CANCEL, _own(said, frame.cancels), said, message)
        part.end = read_cancellation(message.body)
        return part
    if frame.method == control.RESUME:
        part = _part(What.RESUME, "", said, message)
        part.exchanges = tuple(_own(said, each) for each in control.read_resume(message.body))
        return part
    return _part(What.MESSAGE, _header(said, message), said, message)


def _read_frame(said: _Subject, message: Stored) -> Part:
    frame = scan(message.body)
    if frame.final:
        part = _part(What.FINAL, _own(said, frame.id), said, message)
        part.end = read_end(frame)
        return part
    method = frame.method or ""
    if method == "notifications/progress":
        return _part(What.PROGRESS, _own(said, frame.token), said, message)
    if not method.startswith(control.OWN):
        return _part(What.FRAME, _header(said, message, needed=True), said, message)
    try:
        holder = control.read_holder(message.body)
    except (ValueError, RecursionError):
        raise MalformedMessage("a frame of the mesh that cannot be read") from None
    part = _part(_OWN.get(method, What.FRAME), _own(said, holder.exchange), said, message)
    part.agent, part.instance = holder.agent, holder.instance
    return part


_OWN: Final = {control.WORKING: What.WORKING, control.UNKNOWN: What.UNKNOWN}


def _read_record(said: _Subject, message: Stored) -> Part:
    record = read_record(message.body)
    if record.caller != said.caller or record.target != said.target:
        raise Refused("a record of other names than those in its subject")
    part = _part(What.RECORD, _own(said, record.id), said, message)
    part.time_ns -= round(record.duration_ms * 1e6)
    part.instance, part.method, part.name = record.instance, record.method, record.name
    part.end = End(record.outcome, record.code)
    part.duration_ms, part.size, part.bytes_out = record.duration_ms, record.bytes_in, record.bytes_out
    return part


def _part(what: What, exchange: str, said: _Subject, message: Stored) -> Part:
    return Part(what, exchange, said.caller, said.target, message.seq, message.time_ns, len(message.body), instance=said.instance)


def _own(said: _Subject, id: str | int | None) -> str:
    """`id`, if it is one that the caller in the subject may use."""
    if not isinstance(id, str) or not id.startswith(said.prefix) or not _place(id, len(said.prefix)):
        raise Refused("an id that is not one of the caller in the subject")
    return id


def _header(said: _Subject, message: Stored, *, needed: bool = False) -> str:
    """The exchange that the header names. Messages from a caller may lack it."""
    named = message.headers.get(control.EXCHANGE_HEADER) if message.headers else None
    if named is None and not needed:
        return ""
    if named is None:
        raise Refused(f"a frame that names no exchange ({control.EXCHANGE_HEADER})")
    return _own(said, named)
