"""The `subscriptions/listen` that a bridge holds at a modern server for a handshake host. Pure.

A listen cannot be changed: who wants more opens a new one, and closes the old one when the new one is acknowledged, so that nothing is
missed between the two.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    IDLE = auto()
    OPENING = auto()
    OPENING_STALE = auto()
    """More is wanted than what was just asked for."""
    LISTENING = auto()
    LOST = auto()
    """The server ended it; it is opened again soon."""


class Event(Enum):
    WANTED = auto()
    """The host wants something that no listen has asked for."""
    ACKNOWLEDGED = auto()
    ENDED = auto()
    """The only listen has ended, with a result or an error."""
    REFUSED = auto()
    """The newest listen has ended before it was acknowledged; an older one goes on."""
    AGAIN = auto()
    """The pause is over."""


class Do(Enum):
    OPEN = auto()
    """Open a listen for all that is wanted."""
    SETTLE = auto()
    """Tell those who wait that they have it, and close the older listen."""
    SETTLE_AND_OPEN = auto()
    REFUSE = auto()
    """Tell those who wait that they will not have it."""
    REFUSE_AND_OPEN = auto()
    PAUSE = auto()
    NOTHING = auto()


TABLE: Final[Mapping[State, Mapping[Event, tuple[State, Do]]]] = {
    State.IDLE: {Event.WANTED: (State.OPENING, Do.OPEN)},
    State.OPENING: {
        Event.WANTED: (State.OPENING_STALE, Do.NOTHING),
        Event.ACKNOWLEDGED: (State.LISTENING, Do.SETTLE),
        Event.ENDED: (State.IDLE, Do.REFUSE),
        Event.REFUSED: (State.LISTENING, Do.REFUSE),
    },
    State.OPENING_STALE: {
        Event.WANTED: (State.OPENING_STALE, Do.NOTHING),
        Event.ACKNOWLEDGED: (State.OPENING, Do.SETTLE_AND_OPEN),
        Event.ENDED: (State.OPENING, Do.REFUSE_AND_OPEN),
        Event.REFUSED: (State.OPENING, Do.REFUSE_AND_OPEN),
    },
    State.LISTENING: {
        Event.WANTED: (State.OPENING, Do.OPEN),
        Event.ENDED: (State.LOST, Do.PAUSE),
    },
    State.LOST: {
        Event.WANTED: (State.OPENING, Do.OPEN),
        Event.AGAIN: (State.OPENING, Do.OPEN),
    },
}
