"""Which call runs next: so many at once, the others wait, callers take turns, and at the bound a call is refused. Pure.

A caller that sends a thousand calls waits behind itself: whoever sends one is served after at most one call of each other caller.
"""

from collections import OrderedDict, deque
from enum import Enum
from typing import Final, Generic, TypeVar

AT_ONCE: Final = 256
"""Calls that run at once, where the agent's entry does not say it."""

MOST_WAITING: Final = 1_000
"""Calls that wait behind them."""

T = TypeVar("T")


class Verdict(Enum):
    """What becomes of a call that arrives."""

    RUN = "run"
    WAIT = "wait"
    REFUSE = "refuse"


class Admission(Generic[T]):
    """Tell it of each call that arrives and of each that ends; it says what runs."""

    def __init__(self, at_once: int = AT_ONCE, most_waiting: int = MOST_WAITING) -> None:
        self.at_once = at_once
        self._most_waiting = most_waiting
        self._running: set[T] = set()
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def held(self) -> int:
        """Calls that run or wait. Those that last are not among them."""
        return len(self._running) + self._waiting

    def arrive(self, caller: str, call: T) -> Verdict:
        if len(self._running) < self.at_once:
            self._running.add(call)
            return Verdict.RUN
        if self._waiting >= self._most_waiting:
            return Verdict.REFUSE
        self._queues.setdefault(caller, deque()).append(call)
        self._waiting += 1
        return Verdict.WAIT

    def end(self, caller: str, call: T) -> T | None:
        """A call ended, running or waiting. Returns the one that runs now in its place."""
        if call not in self._running:
            queue = self._queues.get(caller)
            if queue is not None and call in queue:
                queue.remove(call)
                self._waiting -= 1
                if not queue:
                    del self._queues[caller]
            return None
        self._running.discard(call)
        if not self._queues:
            return None
        turn, queue = self._queues.popitem(last=False)
        following = queue.popleft()
        self._waiting -= 1
        if queue:
            self._queues[turn] = queue  # at the end: the others come first
        self._running.add(following)
        return following
