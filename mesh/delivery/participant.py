"""What every door of a participant stands on."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mesh.delivery.storing import Store
from mesh.link.connection import Connection
from mesh.subjects import Subjects

Ask = Callable[..., Awaitable[dict[str, Any]]]
"""`mesh.link.caller.Caller.request`."""


@dataclass(frozen=True, slots=True)
class Participant:
    """Who takes part, and how it reaches the others. `secret` is what it makes deduplication ids with (`secret_of`)."""

    connection: Connection
    subjects: Subjects
    name: str
    secret: bytes
    ask: Ask

    def store(self) -> Store:
        """A store of its own for each door: what fills one holds up no other."""
        return Store(self.connection, self.name, self.secret)
