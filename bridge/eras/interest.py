"""`resources/subscribe` of one URI at a handshake server, for all of the modern era who listen to it. Pure.

Someone wants it or nobody does, and that may change while the server has not yet answered the last request; then it is asked
again once it has.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    OFF = auto()
    SUBSCRIBING = auto()
    SUBSCRIBING_IN_VAIN = auto()
    """Nobody wants it any more."""
    ON = auto()
    UNSUBSCRIBING = auto()
    UNSUBSCRIBING_IN_VAIN = auto()
    """Someone wants it again."""


class Event(Enum):
    WANTED = auto()
    """The first one wants it."""
    UNWANTED = auto()
    """The last one has left."""
    DONE = auto()
    FAILED = auto()


class Do(Enum):
    SUBSCRIBE = auto()
    UNSUBSCRIBE = auto()
    HONOUR = auto()
    """Tell those who wait that they have it."""
    DENY = auto()
    """Tell those who wait that they will not have it."""
    NOTHING = auto()


TABLE: Final[Mapping[State, Mapping[Event, tuple[State, Do]]]] = {
    State.OFF: {Event.WANTED: (State.SUBSCRIBING, Do.SUBSCRIBE)},
    State.SUBSCRIBING: {
        Event.UNWANTED: (State.SUBSCRIBING_IN_VAIN, Do.NOTHING),
        Event.DONE: (State.ON, Do.HONOUR),
        Event.FAILED: (State.OFF, Do.DENY),
    },
    State.SUBSCRIBING_IN_VAIN: {
        Event.WANTED: (State.SUBSCRIBING, Do.NOTHING),
        Event.DONE: (State.UNSUBSCRIBING, Do.UNSUBSCRIBE),
        Event.FAILED: (State.OFF, Do.NOTHING),
    },
    State.ON: {Event.UNWANTED: (State.UNSUBSCRIBING, Do.UNSUBSCRIBE)},
    State.UNSUBSCRIBING: {
        Event.WANTED: (State.UNSUBSCRIBING_IN_VAIN, Do.NOTHING),
        Event.DONE: (State.OFF, Do.NOTHING),
        Event.FAILED: (State.OFF, Do.NOTHING),
    },
    State.UNSUBSCRIBING_IN_VAIN: {
        Event.UNWANTED: (State.UNSUBSCRIBING, Do.NOTHING),
        Event.DONE: (State.SUBSCRIBING, Do.SUBSCRIBE),
        Event.FAILED: (State.SUBSCRIBING, Do.SUBSCRIBE),
    },
}
