"""What a receiver has done: so that a message that comes again is not done again.

It comes again when its acknowledgement was lost, and also, as a new one, when the sender's was: a broker that was killed knows the ids of
what it holds, and not of what is done already.

`Handled` is asked before the handler and told after it. Between effect and record a process may die: where that matters the handler writes
both in one transaction of its own, and gives the subscription a `Handled` that reads there.
"""

from typing import Final, Protocol

MOST: Final = 10_000
"""Messages that `Recently` remembers. A redelivery comes within `ACK_WAIT` of a lost acknowledgement, mostly at once."""

Key = tuple[str, str, str]
"""Target, sender and id: each sender chooses its own ids."""


class Handled(Protocol):
    async def seen(self, key: Key) -> bool: ...

    async def record(self, key: Key) -> None: ...


class Recently:
    """In memory, for this process. The oldest are forgotten."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._keys: dict[Key, None] = {}

    async def seen(self, key: Key) -> bool:
        return key in self._keys

    async def record(self, key: Key) -> None:
        self._keys[key] = None
        if len(self._keys) > self._most:
            del self._keys[next(iter(self._keys))]
