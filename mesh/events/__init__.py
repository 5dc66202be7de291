"""Events: published once, heard by whom they concern, replayed. `EventBridge` is the door (`mesh.events` on a node)."""

from mesh.delivery import Reject, Retry
from mesh.events.bridge import EventBridge
from mesh.events.letters import EventLetters
from mesh.events.publishing import EventOptions
from mesh.events.reading import Filter, Transform
from mesh.events.replay import Replay, replayed
from mesh.events.retention import keep_room
from mesh.events.subscribing import DurableSubscription, EphemeralSubscription
from mesh.events.subscriptions import Subscriptions
from mesh.wire.event import Event

__all__ = [
    "DurableSubscription", "EphemeralSubscription", "Event", "EventBridge", "EventLetters", "EventOptions", "Filter", "Reject", "Replay",
    "Retry", "Subscriptions", "Transform", "keep_room", "replayed",
]  # fmt: skip
