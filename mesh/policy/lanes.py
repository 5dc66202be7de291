"""Which of several lanes is served next: each gets its weighted share while it has something, and nobody waits for an empty one. Pure.

Smooth weighted round robin: at each turn every lane that has something gains its weight, the one with most is served, and pays the sum of
the weights that were gained. So shares are exact over a short time, and something urgent that comes to an empty lane is served at once.

Source: nginx, `ngx_http_upstream_get_peer`; its shares are tested here for any arrival.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SHARES: Final[Mapping[str, int]] = {"critical": 8, "high": 4, "normal": 2, "low": 1}
"""Of critical messages in a flood of all kinds eight are served while one low one is."""


class Lanes(Generic[T]):
    """First in, first out in each lane. Who puts bounds them: nothing is put that was not asked for."""

    def __init__(self, shares: Mapping[str, int] = SHARES) -> None:
        if not shares or min(shares.values()) < 1:
            raise ValueError("every lane has a share of at least 1")
        self._shares = dict(shares)
        self._waiting: dict[str, deque[T]] = {lane: deque() for lane in shares}
        self._gained = dict.fromkeys(shares, 0)
        self._busy: list[str] = []
        """Lanes that have something."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, lane: str, item: T) -> None:
        waiting = self._waiting[lane]
        if not waiting:
            self._busy.append(lane)
        waiting.append(item)

    def take(self) -> T | None:
        """The next one, or None where nothing waits."""
        busy = self._busy
        if not busy:
            return None
        lane = busy[0] if len(busy) == 1 else self._turn()
        waiting = self._waiting[lane]
        item = waiting.popleft()
        if not waiting:
            busy.remove(lane)
            self._gained[lane] = 0  # a lane that was empty has saved nothing up
        return item

    def drain(self) -> Iterator[T]:
        """All that waits."""
        for waiting in self._waiting.values():
            while waiting:
                yield waiting.popleft()
        self._busy.clear()
        self._gained = dict.fromkeys(self._shares, 0)

    def _turn(self) -> str:
        gained, sum_ = self._gained, 0
        for lane in self._busy:
            gained[lane] += self._shares[lane]
            sum_ += self._shares[lane]
        served = max(self._busy, key=lambda lane: (gained[lane], self._shares[lane]))
        gained[served] -= sum_
        return served
