"""Durable messages: sent, received in their lanes, tried again, and kept as dead letters. `MessageBroker` is the door."""

from mesh.broker.broker import MessageBroker
from mesh.broker.receiving import MessageSubscription
from mesh.broker.sending import MessageOptions
from mesh.delivery import AlreadyHandled, HandledInBucket, HandledInSqlite, Reject, Retry
from mesh.wire.message import AgentMessage

__all__ = [
    "AgentMessage", "AlreadyHandled", "HandledInBucket", "HandledInSqlite", "MessageBroker", "MessageOptions", "MessageSubscription",
    "Reject", "Retry",
]  # fmt: skip
