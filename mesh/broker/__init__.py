"""Durable messages: sent, received in their lanes, tried again, and kept as dead letters. `MessageBroker` is the door."""

from mesh.broker.broker import MessageBroker
from mesh.delivery import Reject, Retry
from mesh.wire.message import AgentMessage

__all__ = ["AgentMessage", "MessageBroker", "Reject", "Retry"]
