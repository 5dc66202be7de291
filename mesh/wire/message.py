"""A durable message, as it travels.

A message is JSON: `{"id", "type", "content", "sent", "deadline"?, "correlation_id"?, "answer_to"?, "metadata"?}`, times as ISO 8601 in UTC.
Sender, target and priority are the subject's, which the broker holds the sender to; a body that names them says nothing. But what the
control plane sends for somebody else (`mesh.broker.schedules`) has its `sender` in the body; from anybody else that says nothing either.

Trap answered: whoever may ask the broker anything can have it write its answer into a stream, under any sender (`mesh.subjects`). None of
its answers has an `id`, so what has none is nobody's message (`mesh.wire.reading.is_brokers`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mesh import clock
from mesh.errors import MalformedMessage
from mesh.subjects import CONTROL_PLANE, Msg
from mesh.wire.jsonrpc import dumps
from mesh.wire.reading import read_object, read_text, read_time

_MEMBERS: Final = frozenset({"id", "type", "content", "sent", "deadline", "correlation_id", "answer_to", "metadata", "sender"})


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
    heard_by: str = ""
    """Of one on a topic, or a broadcast: the subscription that brought it."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is remembered by (`mesh.delivery.Key`): each sender chooses its own ids."""
        return f"{self.heard_by} {self.target}" if self.heard_by else self.target, self.sender, self.id

    @property
    def trace(self) -> str:
        """W3C `traceparent` from its metadata, or nothing."""
        said = self.metadata.get("traceparent")
        return said if isinstance(said, str) else ""

    def encode(self, *, for_sender: bool = False) -> bytes:
        """`for_sender`: with the sender in it. Only the control plane may say so."""
        said: dict[str, Any] = {"id": self.id, "type": self.type, "sent": clock.iso(self.sent_ns)}
        if for_sender:
            said["sender"] = self.sender
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
    said = read_object(body)
    extra = {} if said.keys() <= _MEMBERS else {key: value for key, value in said.items() if key not in _MEMBERS}
    deadline, metadata = said.get("deadline"), said.get("metadata", {})
    if "content" not in said or not isinstance(metadata, dict):
        raise MalformedMessage("a message has content, and its metadata is an object", starts=body[:80])
    return AgentMessage(
        type=read_text(said, "type", body),
        content=said["content"],
        id=read_text(said, "id", body),
        sent_ns=read_time(said.get("sent"), body),
        deadline_ns=None if deadline is None else read_time(deadline, body),
        correlation_id=None if said.get("correlation_id") is None else read_text(said, "correlation_id", body),
        answer_to=None if said.get("answer_to") is None else read_text(said, "answer_to", body),
        metadata=metadata,
        sender=read_text(said, "sender", body) if subject.sender == CONTROL_PLANE and "sender" in said else subject.sender,
        target=subject.target,
        priority=subject.priority,
        extra=extra,
        delivery=delivery,
    )
