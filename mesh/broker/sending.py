"""Storing a message for its target, once."""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any, Final, TypedDict

from mesh import clock
from mesh.broker.mailboxes import Over
from mesh.delivery import Store, what_is_full
from mesh.errors import ApiError, ConfigError, MailboxFull
from mesh.link.jetstream import PubAck
from mesh.subjects import PRIORITIES, Subjects
from mesh.topology import MOST_WAITING
from mesh.wire.message import AgentMessage

MOST_SECONDS: Final = 1e9
"""Some thirty years: a time that every receiver can read."""


class MessageOptions(TypedDict, total=False):
    """What a message may say besides what it is."""

    priority: str
    """critical, high, normal (default), low."""
    id: str
    """Sent twice with the same id to the same target, it is stored once (for ten minutes) and handled once. Default: a new one."""
    correlation_id: str | None
    metadata: Mapping[str, Any]
    over: Over
    """Where more messages wait for the target, from all its senders, than is good for it (`mesh.broker.mailboxes`): `slow` (default) sends
    few a second, `refuse` raises MailboxFull, `ignore` never asks how many wait."""


def build(
    sender: str, to: str, type: str, content: Any, expires: float | None, answer_to: str | None, options: MessageOptions
) -> AgentMessage:
    """Raises ConfigError for what no receiver would take for a message."""
    priority, now = options.get("priority", "normal"), clock.wall_ns()
    id, correlation, metadata = options.get("id"), options.get("correlation_id"), options.get("metadata", {})
    if not to or not type or priority not in PRIORITIES:
        raise ConfigError(
            f"a message has a target, a type and a priority, not {priority!r}", hint=f"the priorities are {', '.join(PRIORITIES)}"
        )
    if not all(isinstance(each, str) for each in (to, type, id or "", correlation or "")) or not isinstance(metadata, dict):
        raise ConfigError("target, type, id and correlation id of a message are texts, and its metadata is a dict")
    if expires is not None and not abs(expires) < MOST_SECONDS:
        raise ConfigError(f"a message expires some seconds from now, not {expires}")
    return AgentMessage(
        type=type,
        content=content,
        id=id or secrets.token_hex(8),
        sent_ns=now,
        deadline_ns=None if expires is None else now + round(expires * 1e9),
        correlation_id=correlation or None,
        answer_to=answer_to,
        metadata=metadata,
        sender=sender,
        target=to,
        priority=priority,
    )


async def send(store: Store, subjects: Subjects, message: AgentMessage) -> PubAck:
    """Raises Denied, MailboxFull, TooLarge, BrokerUnavailable: it may be stored or not; sent again with the same id, it is stored once."""
    try:
        return await (await submit(store, subjects, message))
    except ApiError as error:
        raise told(error, message) from None


async def submit(store: Store, subjects: Subjects, message: AgentMessage) -> asyncio.Future[PubAck]:
    """As `send`; returns when there is room to send it. What the future raises, `told` puts in a sender's words."""
    subject = subjects.message(message.target, message.sender, message.priority)
    return await store.submit(subject, message.encode(), id=message.id, action=f"send {message.target}")


def told(error: BaseException, message: AgentMessage) -> BaseException:
    """What a sender is told."""
    hint = "send it again later; `mesh listen` and the agents that answer to the name make room"
    match what_is_full(error):
        case "subject":
            waiting = f"{message.target!r} has {MOST_WAITING:,} {message.priority} messages of this sender waiting"
            return MailboxFull(waiting, hint=hint, limit=MOST_WAITING)
        case "stream":
            return MailboxFull(f"the stream of {message.priority} messages is full: {error}", hint=hint)
        case None:
            return error
