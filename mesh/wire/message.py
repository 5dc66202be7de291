"""A durable message and a dead letter, as they travel.

A message is JSON: `{"id", "type", "content", "sent", "deadline"?, "correlation_id"?, "answer_to"?, "metadata"?}`, times as ISO 8601 in UTC.
Sender, target and priority are the subject's, which the broker holds the sender to; a body that names them says nothing.

A dead letter is the message's body as it was, byte for byte, and in the header `Mesh-Dead` why it lies there, as JSON: `{"subject", "code",
"reason", "deliveries", "attempts": [{"at", "error"}], "stored", "cut"?}`. So what fitted into a message fits into its dead letter.

Trap answered: whoever may ask the broker anything can have it write its answer into a stream, under any sender (`mesh.subjects`). None of
its answers has an `id`, so what has none is nobody's message (`is_brokers`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from mesh import clock
from mesh.errors import MalformedMessage
from mesh.subjects import Msg
from mesh.wire.jsonrpc import dumps

DEAD_HEADER: Final = "Mesh-Dead"

ROOM: Final = 4096
"""Bytes of the broker's `max_payload` that a message leaves: for its headers, and for those of its dead letter."""

LONGEST_REASON: Final = 300
MOST_ATTEMPTS: Final = 6
"""Of those that a dead letter tells, the last ones: all of it must fit into `ROOM`."""

_MEMBERS: Final = frozenset({"id", "type", "content", "sent", "deadline", "correlation_id", "answer_to", "metadata"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMessage:
    """One message. Times are nanoseconds since 1970, UTC. Who receives it finds `sender`, `target` (its own name or its role) and
    `priority` here; `extra` holds members that this version does not know."""

    type: str
    content: Any
    id: str
    sent_ns: int
    deadline_ns: int | None = None
    correlation_id: str | None = None
    answer_to: str | None = None
    """The subject on which the sender waits for an answer."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sender: str = ""
    target: str = ""
    priority: str = "normal"
    extra: Mapping[str, Any] = field(default_factory=dict)
    delivery: int = 1
    """Which delivery of it this is, from 1."""

    def encode(self) -> bytes:
        said: dict[str, Any] = {"id": self.id, "type": self.type, "sent": clock.iso(self.sent_ns)}
        if self.deadline_ns is not None:
            said["deadline"] = clock.iso(self.deadline_ns)
        if self.correlation_id is not None:
            said["correlation_id"] = self.correlation_id
        if self.answer_to is not None:
            said["answer_to"] = self.answer_to
        if self.metadata:
            said["metadata"] = self.metadata
        return dumps({**said, **self.extra, "content": self.content})


def read_message(subject: Msg, body: bytes, delivery: int = 1) -> AgentMessage:
    """The message that lies under a subject. Raises MalformedMessage."""
    said = _object(body)
    extra = {} if said.keys() <= _MEMBERS else {key: value for key, value in said.items() if key not in _MEMBERS}
    deadline, metadata = said.get("deadline"), said.get("metadata", {})
    if "content" not in said or not isinstance(metadata, dict):
        raise MalformedMessage("a message has content, and its metadata is an object", starts=body[:80])
    return AgentMessage(
        type=_text(said, "type", body),
        content=said["content"],
        id=_text(said, "id", body),
        sent_ns=_time(said.get("sent"), body),
        deadline_ns=None if deadline is None else _time(deadline, body),
        correlation_id=None if said.get("correlation_id") is None else _text(said, "correlation_id", body),
        answer_to=None if said.get("answer_to") is None else _text(said, "answer_to", body),
        metadata=metadata,
        sender=subject.sender,
        target=subject.target,
        priority=subject.priority,
        extra=extra,
        delivery=delivery,
    )


def is_brokers(body: bytes) -> bool:
    """Whether this is an answer of the broker's own, which somebody sent to the subject of a message."""
    try:
        return "id" not in _object(body)
    except MalformedMessage:
        return not body.strip()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One that failed: when it ended, and how."""

    at_ns: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Why a message is not tried again, and the message. `attempts` are those that the writer knows of: the last ones of its own process;
    `deliveries` counts all. `cut`: the body was too large to keep whole."""

    subject: str
    body: bytes
    code: str
    """`rejected`, `failed`, `expired`, `malformed`, or `undelivered` where the receiver ended each time."""
    reason: str
    deliveries: int
    stored_ns: int
    attempts: tuple[Attempt, ...] = ()
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
        if self.cut:
            said["cut"] = True
        text = json.dumps(said)
        if len(text) > ROOM - 512:  # six bytes for each character that is not ASCII
            said["attempts"], said["reason"] = [], self.reason[:LONGEST_REASON].encode("ascii", "replace").decode()
            text = json.dumps(said)
        return text


def read_letter(headers: Mapping[str, str] | None, body: bytes) -> DeadLetter:
    """Raises MalformedMessage for what is none."""
    said = _object((headers or {}).get(DEAD_HEADER, "").encode())
    attempts = said.get("attempts")
    if not isinstance(attempts, list) or not all(isinstance(each, dict) for each in attempts):
        raise MalformedMessage("a dead letter lacks its attempts", starts=body[:80])
    deliveries = said.get("deliveries")
    return DeadLetter(
        subject=_text(said, "subject", body),
        body=body,
        code=_text(said, "code", body),
        reason=_text(said, "reason", body),
        deliveries=deliveries if isinstance(deliveries, int) else 0,
        stored_ns=_time(said.get("stored"), body),
        attempts=tuple(Attempt(_time(each.get("at"), body), str(each.get("error"))) for each in attempts),
        cut=said.get("cut") is True,
    )


def read_headers(raw: bytes) -> dict[str, str]:
    """The headers of a stored message, as the broker's API gives them."""
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    return {key: value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise MalformedMessage(f"a message is no JSON: {problem}", starts=body[:80]) from None
    if not isinstance(said, dict):
        raise MalformedMessage("a message is no JSON object", starts=body[:80])
    return said


def _text(said: Mapping[str, Any], key: str, body: bytes) -> str:
    value = said.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedMessage(f"a message's {key} is a text", starts=body[:80])
    return value


def _time(value: object, body: bytes) -> int:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise MalformedMessage("a message's times are ISO 8601, with their zone", starts=body[:80])
    return round(at.timestamp() * 1e6) * 1000
