"""A modern client's call on a handshake server, which may ask something back before it answers. Pure.

                 ready          asked                 retried
    STARTING ──────────▶ RUNNING ─────▶ WAITING ──────────────▶ RUNNING … answered ▶ OVER
                                        │ answered (the server went on without)
                                        ▼            retried
                                       DONE ────────────────────▶ OVER

The server's question ends the client's exchange, with a result that says "input required". The call itself waits on its child. The
client's retry, a new exchange, brings the answers and takes its place. Questions that come while the call waits are asked in the next
round; answers that a retry leaves out are asked for again.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from bridge.eras.machine import Machine
from mesh.wire.jsonrpc import Frame


class State(Enum):
    STARTING = auto()
    """Its child is being made ready."""
    RUNNING = auto()
    """The server works, and an exchange of the client's waits for it."""
    WAITING = auto()
    """The server waits for answers; the client has no exchange open."""
    DONE = auto()
    """The server has answered while nobody waited."""
    OVER = auto()


class Event(Enum):
    READY = auto()
    ASKED = auto()
    ANSWERED = auto()
    RETRIED = auto()
    """A retry that answers all that was asked."""
    MORE = auto()
    """A retry after which something is still to be asked."""
    CANCELLED = auto()
    EXPIRED = auto()
    DIED = auto()


class Do(Enum):
    SEND = auto()
    """The request to the server."""
    ASK = auto()
    """End the exchange with the open questions."""
    QUEUE = auto()
    """Keep the question for the next round."""
    FINISH = auto()
    """End the exchange with the server's answer; the child is free."""
    KEEP = auto()
    """Keep the server's answer for the retry; the child is free."""
    ANSWER = auto()
    """The answers to the server."""
    ANSWER_AND_ASK = auto()
    """The answers to the server, and end the exchange with what is still open."""
    DELIVER = auto()
    """End the exchange with the answer that was kept."""
    STOP = auto()
    """Cancel at the server, and end the child."""
    FAIL = auto()
    """End the exchange with an error."""
    FORGET = auto()
    NOTHING = auto()


TABLE: Final[Mapping[State, Mapping[Event, tuple[State, Do]]]] = {
    State.STARTING: {
        Event.READY: (State.RUNNING, Do.SEND),
        Event.CANCELLED: (State.OVER, Do.FORGET),
        Event.DIED: (State.OVER, Do.FAIL),
    },
    State.RUNNING: {
        Event.ASKED: (State.WAITING, Do.ASK),
        Event.ANSWERED: (State.OVER, Do.FINISH),
        Event.CANCELLED: (State.OVER, Do.STOP),
        Event.DIED: (State.OVER, Do.FAIL),
    },
    State.WAITING: {
        Event.ASKED: (State.WAITING, Do.QUEUE),
        Event.ANSWERED: (State.DONE, Do.KEEP),
        Event.RETRIED: (State.RUNNING, Do.ANSWER),
        Event.MORE: (State.WAITING, Do.ANSWER_AND_ASK),
        Event.EXPIRED: (State.OVER, Do.STOP),
        Event.DIED: (State.OVER, Do.FORGET),
    },
    State.DONE: {
        Event.RETRIED: (State.OVER, Do.DELIVER),
        Event.MORE: (State.OVER, Do.DELIVER),
        Event.EXPIRED: (State.OVER, Do.FORGET),
        Event.DIED: (State.DONE, Do.NOTHING),
    },
    State.OVER: {},
}


class Conversation:
    """One call, from its first request to its end. `open` are the questions that the client has, by the key that it knows them by."""

    def __init__(self) -> None:
        self._machine: Machine[State, Event, Do] = Machine(TABLE, State.STARTING)
        self.open: dict[str, Frame] = {}
        self.round = 0
        """How often the client was asked: the state of one round is good for that round."""
        self._queued: list[Frame] = []
        self._asked = 0

    @property
    def state(self) -> State:
        return self._machine.state

    @property
    def over(self) -> bool:
        return self._machine.state is State.OVER

    def on(self, event: Event) -> Do:
        """Everything but questions and retries. Raises Impossible."""
        return self._machine.on(event)

    def asked(self, question: Frame) -> Do:
        """The server asks. Raises Impossible where it cannot."""
        do = self._machine.on(Event.ASKED)
        self._queued.append(question)
        if do is Do.ASK:
            self._next_round()
        return do

    def withdrawn(self, id: str | int | None) -> None:
        """The server no longer wants to know."""
        self.open = {key: frame for key, frame in self.open.items() if frame.id != id}
        self._queued = [frame for frame in self._queued if frame.id != id]

    def retried(self, answers: Mapping[str, bytes]) -> tuple[Do, list[tuple[Frame, bytes]]]:
        """The client has retried with these answers, by key: what is to be done, and each answered question with its answer.

        Keys that nobody asked for are passed over (MCP 2026-07-28, basic/patterns/mrtr). Raises Impossible.
        """
        answered = [(frame, answers[key]) for key, frame in self.open.items() if key in answers]
        left = {key: frame for key, frame in self.open.items() if key not in answers}
        do = self._machine.on(Event.MORE if left or self._queued else Event.RETRIED)
        self.open = left
        if do is Do.ANSWER_AND_ASK:
            self._next_round()
        return do, answered

    def _next_round(self) -> None:
        self.round += 1
        for frame in self._queued:
            self._asked += 1
            self.open[f"question-{self._asked}"] = frame
        self._queued = []
