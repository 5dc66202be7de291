"""How often somebody may do something: token buckets, one a key. Pure: time is handed in.

A bucket holds as many tokens as a `Rate` counts and fills evenly; so many may come at once, and then one at a time as it fills. What is
kept of a bucket is one number, the time at which it is full again (the virtual scheduling of ITU-T I.371, also known as GCRA): a look
costs the same whatever went before.

So many keys are remembered; the one that was used longest ago makes room, and begins anew with a full bucket.
"""

import re
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeVar

from mesh.errors import ConfigError

UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}

MOST_KEYS: Final = 10_000

_rate: Final = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)").fullmatch

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` in `seconds`, all of them at once if need be."""

    count: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """`100/s`, `5/min`, `20/h`. Raises ConfigError."""
        found = _rate(text)
        if found is None:
            raise ConfigError(f"{text!r} is no rate", hint="write it as 100/s, 5/min or 20/h")
        return cls(int(found[1]), UNITS[found[2]])

    def __str__(self) -> str:
        unit = next((name for name, seconds in UNITS.items() if seconds == self.seconds), f"{self.seconds:g}s")
        return f"{self.count}/{unit}"


class Limiter(Generic[K]):
    """A bucket for each key."""

    def __init__(self, rate: Rate, most_keys: int = MOST_KEYS) -> None:
        self.rate = rate
        self._most_keys = most_keys
        self._one = rate.seconds / rate.count
        self._full_at: OrderedDict[K, float] = OrderedDict()

    def take(self, key: K, now: float) -> float:
        """Take a token and return 0.0; or leave it, and return the seconds until one is there."""
        full_at = max(self._full_at.get(key, now), now) + self._one
        if (wait := full_at - now - self.rate.seconds) > 1e-9:
            return wait
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._most_keys:
            self._full_at.popitem(last=False)
        return 0.0

    def left(self, key: K, now: float) -> tuple[int, float]:
        """The tokens that are there, and the seconds until the bucket is full."""
        missing = max(self._full_at.get(key, now) - now, 0.0)
        return int((self.rate.seconds - missing) / self._one + 1e-9), missing
