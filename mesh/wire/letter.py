"""A dead letter, as it travels: what is not tried again, as it was, byte for byte, and why.

Body and headers are those of what was sent. The header `Mesh-Dead` says as JSON why it lies there: `{"subject", "code", "reason",
"deliveries", "attempts": [{"at", "error"}], "stored", "subscription"?, "trace"?, "cut"?}`. So what fitted into a message fits into its dead
letter.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mesh import clock
from mesh.errors import MalformedMessage
from mesh.wire.reading import read_object, read_text, read_time

DEAD_HEADER: Final = "Mesh-Dead"

ROOM: Final = 4096
"""Bytes of the broker's `max_payload` that whatever is delivered leaves: for its headers, and for those of its dead letter."""

LONGEST_REASON: Final = 300
MOST_ATTEMPTS: Final = 6
"""Of those that a dead letter tells, the last ones: all of it must fit into `ROOM`."""

LONGEST_TRACE: Final = 128

_A: Final = "a dead letter"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that failed: when it ended, and how."""

    at_ns: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Why something is not tried again, and what it was. `attempts` are those that the writer knows of: the last ones of its own process;
    `deliveries` counts all. `cut`: it was too large to keep whole."""

    subject: str
    body: bytes
    code: str
    """`rejected`, `failed`, `expired`, `malformed`, `undelivered` where the receiver ended each time, `unread` where nobody came for it,
    `invalid` (no schema allows it, or a transformation failed), `denied` (its sender might not send it when it was due)."""
    reason: str
    deliveries: int
    stored_ns: int
    attempts: tuple[Attempt, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Its own, less those that are the broker's."""
    subscription: str = ""
    """Which subscription of the target's could not do it, where others get the same."""
    trace: str = ""
    """W3C `traceparent`, where its sender gave one."""
    cut: bool = False

    def header(self) -> str:
        """The value of `Mesh-Dead`: ASCII, one line, less than `ROOM`."""
        said: dict[str, Any] = {
            "subject": self.subject,
            "code": self.code,
            "reason": self.reason[:LONGEST_REASON],
            "deliveries": self.deliveries,
            "attempts": [{"at": clock.iso(each.at_ns), "error": each.error[:LONGEST_REASON]} for each in self.attempts[-MOST_ATTEMPTS:]],
            "stored": clock.iso(self.stored_ns),
        }
        if self.subscription:
            said["subscription"] = self.subscription
        if self.trace:
            said["trace"] = self.trace[:LONGEST_TRACE]
        if self.cut:
            said["cut"] = True
        text = json.dumps(said)
        if len(text) > ROOM - 512:  # six bytes for each character that is not ASCII
            said["attempts"], said["reason"] = [], self.reason[:LONGEST_REASON].encode("ascii", "replace").decode()
            said.pop("trace", None)
            text = json.dumps(said)
        return text


def read_letter(headers: Mapping[str, str] | None, body: bytes) -> DeadLetter:
    """Raises MalformedMessage for what is none."""
    headers = headers or {}
    said = read_object(headers.get(DEAD_HEADER, "").encode(), _A)
    attempts = said.get("attempts")
    if not isinstance(attempts, list) or not all(isinstance(each, dict) for each in attempts):
        raise MalformedMessage("a dead letter lacks its attempts", starts=body[:80])
    deliveries = said.get("deliveries")
    return DeadLetter(
        subject=read_text(said, "subject", body, _A),
        body=body,
        code=read_text(said, "code", body, _A),
        reason=read_text(said, "reason", body, _A),
        deliveries=deliveries if isinstance(deliveries, int) else 0,
        stored_ns=read_time(said.get("stored"), body, _A),
        attempts=tuple(Attempt(read_time(each.get("at"), body, _A), str(each.get("error"))) for each in attempts),
        headers=own_headers(headers),
        subscription=str(said.get("subscription", "")),
        trace=str(said.get("trace", "")),
        cut=said.get("cut") is True,
    )


def own_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Those that whoever sent it wrote: not the broker's, and not a dead letter's."""
    return {} if not headers else {key: value for key, value in headers.items() if not key.startswith("Nats-") and key != DEAD_HEADER}
