"""A state machine as a table: `{state: {event: (next state, what to do)}}`. What the table has not is a mistake of ours, and says so."""

from collections.abc import Mapping
from typing import Generic, TypeVar

S = TypeVar("S")
E = TypeVar("E")
A = TypeVar("A")


class Impossible(Exception):
    """An event that cannot come in this state."""


class Machine(Generic[S, E, A]):
    """Where it stands, and `on` to move it."""

    __slots__ = ("_table", "state")

    def __init__(self, table: Mapping[S, Mapping[E, tuple[S, A]]], state: S) -> None:
        self._table = table
        self.state = state

    def on(self, event: E) -> A:
        """Take the edge of `event`, and say what is to be done. Raises Impossible where there is none; the state stays."""
        edge = self._table[self.state].get(event)
        if edge is None:
            raise Impossible(f"{event} in {self.state}")
        self.state, action = edge
        return action
