"""What reading the journal gives: calls, one exchange in full, what is suspect, what is missing. Frozen; rendering is somebody else's.

Times are the broker's, when it stored a message: nanoseconds since 1970, UTC. Sizes are bytes of bodies, without headers.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from mesh.clock import iso
from mesh.wire.bodies import Outcome

OUTCOMES: Final[tuple[Outcome, ...]] = ("ok", "tool_error", "error", "cancelled", "open")

NEAR: Final = 0.8
"""A stream that is this full will soon begin to drop its oldest messages, or does already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalCall:
    """One call: a request and what came of it."""

    correlation_id: str
    """The exchange's id, `{caller}.{connection}.{exchange}` with each part as a token of a subject: unique on the mesh."""
    time_ns: int
    """When the request was stored. Of a call that is recorded without bodies: when its record was stored, less the duration."""
    caller: str
    target: str
    """The name that was called: an agent or a role."""
    agent: str = ""
    """Who took it, where a `working` frame said so. With a role this is the agent behind it."""
    instance: str = ""
    """The instance that it was addressed to, or that a `working` frame named. Empty for a quick call to any instance."""
    method: str
    name: str | None = None
    outcome: Outcome
    duration_ms: float | None = None
    """From the request's storing to the end's. None while it is open."""
    code: int | None = None
    """Of a JSON-RPC error."""
    message: str = ""
    """Of a JSON-RPC error, or the reason of a cancellation."""
    mesh_code: str = ""
    """Where the mesh itself answered with an error: the stable code of `mesh.errors`. Without `code` the caller was told so by its own end,
    as `instance_lost`: nobody was left who could answer."""
    trace: str | None = None
    """The W3C traceparent in the request's `_meta`."""
    frames: int = 0
    """Messages that came back, the final one among them."""
    bytes_in: int = 0
    """The request, and what the caller sent after it that can be placed."""
    bytes_out: int = 0
    """All frames."""
    seqs: tuple[int, ...] = ()
    """Where in the stream its messages are, the request first: the first thousand."""
    metadata: bool = False
    """The journal holds a record of it without bodies."""

    @property
    def time(self) -> str:
        """ISO 8601, UTC, microseconds."""
        return iso(self.time_ns)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`. The order of the keys is the order of the columns."""
        return {
            "time": self.time,
            "caller": self.caller,
            "target": self.target,
            "method": self.method,
            "name": self.name,
            "outcome": self.outcome,
            "duration_ms": self.duration_ms,
            "correlation_id": self.correlation_id,
            "instance": self.instance,
            "agent": self.agent,
            "code": self.code,
            "message": self.message,
            "mesh_code": self.mesh_code,
            "trace": self.trace,
            "frames": self.frames,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "metadata": self.metadata,
        }


class JournalMessage(NamedTuple):
    """One message of an exchange, as the stream holds it. `what` is a value of `parts.What`."""

    seq: int
    time_ns: int
    what: str
    subject: str
    headers: dict[str, str]
    body: bytes

    def as_dict(self) -> dict[str, Any]:
        """The body as text; bytes that are no UTF-8 are shown as replaced."""
        return {
            "seq": self.seq,
            "time": iso(self.time_ns),
            "what": self.what,
            "subject": self.subject,
            "headers": self.headers,
            "body": self.body.decode("utf-8", "replace"),
        }


@dataclass(frozen=True, slots=True)
class JournalExchange:
    """One call in full. `messages` are in the order of the stream; a final frame that was sent twice is there twice."""

    call: JournalCall
    messages: tuple[JournalMessage, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"call": self.call.as_dict(), "messages": [message.as_dict() for message in self.messages]}


class Suspect(NamedTuple):
    """A message that no receiver of the mesh would have taken for what its subject says. It is not paired with anything."""

    reason: str
    seq: int
    subject: str = ""
    time_ns: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {"seq": self.seq, "time": iso(self.time_ns), "subject": self.subject, "reason": self.reason}


@dataclass(frozen=True, slots=True, order=True)
class Missing:
    """Calls `first` to `last` of one connection of a caller, which the journal does not hold though it holds later ones, or their
    answers."""

    caller: str
    connection: str
    first: int
    last: int
    count: int
    series: str = ""
    """The session whose calls these are: the token of the exchange that opened it. Empty: calls outside of sessions."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """What a reading of the whole journal found."""

    messages: int
    """That were read."""
    calls: int
    open: int
    outcomes: dict[Outcome, int]
    suspects: int
    suspect: tuple[Suspect, ...]
    """The first hundred of them."""
    missing: tuple[Missing, ...]
    """Ranges of calls, each caller's in order."""
    duplicates: int
    """Final frames that came again, after a reconnection."""
    resent: int
    """Requests that were sent again under the same id, after proof that they were lost on the way."""
    late: int
    """Frames of exchanges that had ended: a result that came after the cancellation, and the like."""
    unpaired: int
    """Frames whose call the journal does not hold. What the bounds discarded explains those at its beginning."""
    unplaced: int
    """Messages from a caller to an instance that name no exchange."""
    skipped: int
    """Messages that were deleted, or discarded while this was read."""
    first_ns: int
    last_ns: int
    """The first and the last message; 0 where there is none."""
    first_seq: int
    last_seq: int
    discarded: int
    """Messages that were there before the first one that is kept."""
    stored: int
    stored_bytes: int
    max_msgs: int
    max_bytes: int
    max_age: float
    """Seconds. The bounds of the stream; 0 or -1 is none."""

    @property
    def missing_calls(self) -> int:
        return sum(gap.count for gap in self.missing)

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing or suspect. What was dropped at the very end of a connection nobody can know."""
        return not (self.missing or self.suspects or self.skipped)

    @property
    def fullness(self) -> float:
        """From 0 to 1: the nearest of the bounds of count and size."""
        shares = [
            self.stored / self.max_msgs if self.max_msgs > 0 else 0.0,
            self.stored_bytes / self.max_bytes if self.max_bytes > 0 else 0.0,
        ]
        return max(shares)

    @property
    def near_bounds(self) -> bool:
        return self.fullness >= NEAR

    def as_dict(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "messages": self.messages,
            "calls": self.calls,
            "open": self.open,
            "outcomes": dict(self.outcomes),
            "missing_calls": self.missing_calls,
            "missing": [gap.as_dict() for gap in self.missing],
            "suspects": self.suspects,
            "suspect": [each.as_dict() for each in self.suspect],
            "duplicates": self.duplicates,
            "resent": self.resent,
            "late": self.late,
            "unpaired": self.unpaired,
            "unplaced": self.unplaced,
            "skipped": self.skipped,
            "first": iso(self.first_ns) if self.first_ns else None,
            "last": iso(self.last_ns) if self.last_ns else None,
            "stream": {
                "first_seq": self.first_seq,
                "last_seq": self.last_seq,
                "discarded": self.discarded,
                "messages": self.stored,
                "bytes": self.stored_bytes,
                "max_msgs": self.max_msgs,
                "max_bytes": self.max_bytes,
                "max_age": self.max_age,
                "fullness": round(self.fullness, 4),
                "near_bounds": self.near_bounds,
            },
        }
