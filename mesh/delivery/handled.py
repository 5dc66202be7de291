"""What a receiver has done: so that what comes again is not done again.

It comes again when its acknowledgement was lost, and also, as a new one, when the sender's was: a broker that was killed knows the ids of
what it holds, and not of what is done already.

`Handled` is asked before the handler and told after it. Between effect and record a process may die: where that matters the handler writes
both in one transaction of its own, and gives the subscription a `Handled` that reads there (`mesh.delivery.handled_sqlite`). Where several
instances share the work, or one is to know after a restart, the record lies at the broker (`mesh.delivery.handled_bucket`).
"""

from collections.abc import Awaitable
from typing import Final, Protocol

MOST: Final = 10_000
"""What `Recently` remembers. A redelivery comes within `ACK_WAIT` of a lost acknowledgement, mostly at once."""

Key = tuple[str, str, str]
"""Who has it to do, who sent it, and its id: each sender chooses its own ids."""


class Handled(Protocol):
    """Where it is remembered what was done."""

    def seen(self, key: Key) -> "bool | Awaitable[bool]":
        """Whether it was done. Asked at each delivery, also the first."""

    def record(self, key: Key) -> Awaitable[object] | None:
        """It was done. None, or what is awaited before the broker is told that it is done; others are handled meanwhile. What records
        several is the same object for each of them, and awaited once. Where that fails the broker is told all the same: it was done."""


class Recently:
    """In memory, for this process. The oldest are forgotten."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._keys: dict[Key, None] = {}

    def seen(self, key: Key) -> bool:
        return key in self._keys

    def record(self, key: Key) -> None:
        self._keys[key] = None
        if len(self._keys) > self._most:
            del self._keys[next(iter(self._keys))]
