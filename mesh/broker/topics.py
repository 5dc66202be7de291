"""Messages on topics, and broadcasts: events and casts, as the handler of messages gets them.

Such a message is an event (`mesh.events`): its content is the event's data, its type the event's, and correlation id and metadata travel as
the extensions `correlationid` and `metadata` (JSON).
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from mesh.events import Event, EventOptions
from mesh.subjects import ANY
from mesh.wire.message import AgentMessage

ALL: Final = "all"
"""To whom a broadcast goes that goes to everybody."""

_CORRELATION: Final = "correlationid"
_METADATA: Final = "metadata"


def role_of(to: str) -> str:
    return ANY if to == ALL else to


def event_options(
    type: str, priority: str, id: str | None, correlation_id: str | None, metadata: Mapping[str, Any], expires: float | None
) -> EventOptions:
    """What makes an event of a message. `expires` in seconds; then it is gone, also for who has not heard it."""
    extensions: dict[str, str | int | bool] = {}
    if correlation_id is not None:
        extensions[_CORRELATION] = correlation_id
    if metadata:
        extensions[_METADATA] = json.dumps(metadata)
    if isinstance(trace := metadata.get("traceparent"), str):
        extensions["traceparent"] = trace
    said = EventOptions(type=type, priority=priority, id=id, extensions=extensions)
    if expires is not None:
        said["ttl"] = max(1, round(expires))
    return said


def as_message(event: Event) -> AgentMessage:
    """`target` is the topic, or of a broadcast the role (`any`: everybody)."""
    metadata: Any = None
    with suppress(TypeError, ValueError):
        metadata = json.loads(event.attributes.get(_METADATA, "{}"))
    correlation = event.attributes.get(_CORRELATION)
    return AgentMessage(
        type=event.type,
        content=event.data,
        id=event.id,
        sent_ns=event.stored_ns,
        correlation_id=None if correlation is None else str(correlation),
        metadata=metadata if isinstance(metadata, dict) else {},
        sender=event.publisher,
        target=event.topic or event.to,
        priority=event.priority,
        delivery=event.delivery,
        heard_by=event.heard_by,
    )
