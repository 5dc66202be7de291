"""A handshake host's call on a modern server, which may answer "input required". Pure.

              asked                 answered, the last of them
    SENT ─────────────▶ ASKING ─────────────────────────────────▶ SENT … complete ▶ OVER
      ╰─ stateful ────▶ PAUSING ── again ───────────────────────▶ SENT

What the server wants to know becomes requests to the host, as frames of its exchange; the retry with the answers is the bridge's own. The
server may ask for nothing and only want to be asked again: then the retry comes after a pause.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from bridge.eras.machine import Machine

MOST_ROUNDS: Final = 10
"""How often a call is retried. Precedent: the client SDKs for Python, TypeScript, C# and Go."""

FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 0.25
"""Seconds before a retry that brings no answers; doubled each time. Precedent: the client SDKs."""


class State(Enum):
    SENT = auto()
    """The request is at the server."""
    ASKING = auto()
    """The host has questions to answer."""
    PAUSING = auto()
    OVER = auto()


class Event(Enum):
    COMPLETE = auto()
    """A final result, or an error."""
    ASKED = auto()
    STATEFUL = auto()
    """Input required, but none asked for."""
    TOO_OFTEN = auto()
    ANSWERED = auto()
    LAST_ANSWERED = auto()
    REFUSED = auto()
    """The host answered with an error."""
    AGAIN = auto()
    ENDED = auto()
    """Cancelled, too late, or the server is gone."""


class Do(Enum):
    FINISH = auto()
    ASK = auto()
    PAUSE = auto()
    GIVE_UP = auto()
    """End the exchange: the server asks without end."""
    RETRY = auto()
    REFUSE = auto()
    """Withdraw what is still asked, and end the exchange with the host's error."""
    STOP = auto()
    """Cancel at the server."""
    WITHDRAW = auto()
    """Tell the host that nobody waits for its answers."""
    NOTHING = auto()


TABLE: Final[Mapping[State, Mapping[Event, tuple[State, Do]]]] = {
    State.SENT: {
        Event.COMPLETE: (State.OVER, Do.FINISH),
        Event.ASKED: (State.ASKING, Do.ASK),
        Event.STATEFUL: (State.PAUSING, Do.PAUSE),
        Event.TOO_OFTEN: (State.OVER, Do.GIVE_UP),
        Event.ENDED: (State.OVER, Do.STOP),
    },
    State.ASKING: {
        Event.ANSWERED: (State.ASKING, Do.NOTHING),
        Event.LAST_ANSWERED: (State.SENT, Do.RETRY),
        Event.REFUSED: (State.OVER, Do.REFUSE),
        Event.ENDED: (State.OVER, Do.WITHDRAW),
    },
    State.PAUSING: {
        Event.AGAIN: (State.SENT, Do.RETRY),
        Event.ENDED: (State.OVER, Do.NOTHING),
    },
    State.OVER: {},
}


class Rounds:
    """One call. `open` maps the id that the host knows a question by to the server's key for it."""

    def __init__(self) -> None:
        self._machine: Machine[State, Event, Do] = Machine(TABLE, State.SENT)
        self.open: dict[str, str] = {}
        self.answers: dict[str, bytes] = {}
        self.round = 0
        self._pause = FIRST_PAUSE

    @property
    def state(self) -> State:
        return self._machine.state

    @property
    def pause(self) -> float:
        """Seconds until the next retry without answers; longer each time that it is read."""
        pause, self._pause = self._pause, min(LAST_PAUSE, self._pause * 2)
        return pause

    def on(self, event: Event) -> Do:
        """Everything but questions and answers. Raises Impossible."""
        return self._machine.on(event)

    def asked(self, keys: Mapping[str, str]) -> Do:
        """The server wants input: its keys, by the ids that the host gets to see. Raises Impossible."""
        self.round += 1
        self.answers = {}
        if self.round > MOST_ROUNDS:
            return self._machine.on(Event.TOO_OFTEN)
        if not keys:
            return self._machine.on(Event.STATEFUL)
        do = self._machine.on(Event.ASKED)
        self.open = dict(keys)
        self._pause = FIRST_PAUSE
        return do

    def answered(self, id: str, result: bytes | None) -> Do:
        """The host has answered the question `id`; None where with an error. Raises Impossible, KeyError for one that is not open."""
        key = self.open[id]
        event = Event.REFUSED if result is None else Event.ANSWERED if len(self.open) > 1 else Event.LAST_ANSWERED
        do = self._machine.on(event)
        del self.open[id]
        if result is not None:
            self.answers[key] = result
        return do
