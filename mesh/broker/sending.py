"""Storing a message for its target, once."""

from mesh.delivery import NO_ROOM, PER_SUBJECT, Store
from mesh.errors import ApiError, MailboxFull
from mesh.link.jetstream import PubAck
from mesh.subjects import Subjects
from mesh.topology import MOST_WAITING
from mesh.wire.message import AgentMessage


async def send(store: Store, subjects: Subjects, message: AgentMessage) -> PubAck:
    """Raises Denied, MailboxFull, TooLarge, BrokerUnavailable: it may be stored or not; sent again with the same id, it is stored once."""
    subject = subjects.message(message.target, message.sender, message.priority)
    try:
        return await store.put(subject, message.encode(), id=message.id, action=f"send {message.target}")
    except ApiError as error:
        raise full(error, message.target, message.priority) from None


def full(error: ApiError, target: str, priority: str) -> ApiError | MailboxFull:
    """What a sender is told."""
    if error.err_code != NO_ROOM:
        return error
    hint = "send it again later; `mesh listen` and the agents that answer to the name make room"
    if PER_SUBJECT in error.description:
        return MailboxFull(f"{target!r} has {MOST_WAITING:,} {priority} messages of this sender waiting", hint=hint, limit=MOST_WAITING)
    return MailboxFull(f"the stream of {priority} messages is full: {error.description}", hint=hint)
