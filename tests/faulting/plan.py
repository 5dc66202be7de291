"""Which faults come when. Pure: the same seed makes the same plan; what a fault hits in that moment is left to the machine."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

What = Literal["kill", "pause", "cut"]

WHAT: Final[Mapping[What, int]] = {"kill": 7, "pause": 2, "cut": 1}
"""How often each: `SIGKILL`; `SIGSTOP`, and `SIGCONT` a while later; all connections reset."""

WHOM: Final[Mapping[str, int]] = {"broker": 1, "plane": 1, "bridge": 2, "worker": 4, "listener": 2, "hand": 2, "sender": 2, "caller": 2}

MEAN_GAP: Final = 0.7
"""Seconds between two faults, on average."""

LONGEST_PAUSE: Final = 8.0
"""Seconds: more than a heartbeat counts for, and than a ping of the broker waits."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`which` is in [0, 1): of several of that kind, which one."""

    after: float
    what: What
    whom: str
    which: float
    seconds: float
    """Of a pause."""

    def __str__(self) -> str:
        return f"{self.what} {self.whom}" + (f" for {self.seconds:.1f} s" if self.what == "pause" else "")


def plan(seed: int, kinds: Sequence[What] = tuple(WHAT), whom: Sequence[str] = tuple(WHOM)) -> Iterator[Fault]:
    """Without end."""
    chance = random.Random(f"faults/{seed}")
    while True:
        yield Fault(
            after=min(5.0, chance.expovariate(1 / MEAN_GAP)),
            what=chance.choices(kinds, [WHAT[each] for each in kinds])[0],
            whom=chance.choices(whom, [WHOM[each] for each in whom])[0],
            which=chance.random(),
            seconds=chance.uniform(0.2, 1.0) if chance.random() < 0.6 else chance.uniform(1.0, LONGEST_PAUSE),
        )
