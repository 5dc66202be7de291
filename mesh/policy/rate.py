"""How often somebody may do something: token buckets, one a key. Pure: time is handed in.

A bucket holds as many tokens as a `Rate` counts and fills evenly; so many may come at once, and then one at a time as it fills. What is
kept of a bucket is one number, the time at which it is full again (the virtual scheduling of ITU-T I.371, also known as GCRA): a look
costs the same whatever went before.

So many keys are remembered; the one that was used longest ago makes room, and begins anew with a full bucket.
"""

import re
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, Self, TypeVar

from mesh.errors import ConfigError

UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}

MOST_KEYS: Final = 10_000

EPSILON: Final = 1e-9
"""What sums of many small times may be off by."""

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

    def wait(self, key: K, now: float) -> float:
        """The seconds until a token is there; 0.0 where one is."""
        missing = max(self._full_at.get(key, now) - now, 0.0)
        wait = missing + self._one - self.rate.seconds
        return wait if wait > EPSILON else 0.0

    def take(self, key: K, now: float) -> float:
        """Take a token and return 0.0; or leave it, and return the seconds until one is there."""
        if wait := self.wait(key, now):
            return wait
        self._full_at[key] = max(self._full_at.get(key, now), now) + self._one
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._most_keys:
            self._full_at.popitem(last=False)
        return 0.0

    def left(self, key: K, now: float) -> tuple[int, float]:
        """The tokens that are there, and the seconds until the bucket is full."""
        missing = max(self._full_at.get(key, now) - now, 0.0)
        return int((self.rate.seconds - missing) / self._one + EPSILON), missing


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may ask of an instance: of all of it (None: as often as it likes), and of single tools."""

    each: Rate | None = None
    tools: Mapping[str, Rate] = field(default_factory=dict)


class CallLimiter:
    """The buckets of an instance. A call that one of them refuses takes a token from none."""

    def __init__(self, limits: Limits) -> None:
        self._each: Limiter[str] | None = None if limits.each is None else Limiter(limits.each)
        self._tools: dict[str, Limiter[str]] = {tool: Limiter(rate) for tool, rate in limits.tools.items()}

    def take(self, caller: str, tool: str | None, now: float) -> tuple[Rate, float] | None:
        """None, or the rate that the call is over and the seconds until it is not."""
        mine = [each for each in (self._each, self._tools.get(tool) if tool is not None else None) if each is not None]
        for limiter in mine:
            if wait := limiter.wait(caller, now):
                return limiter.rate, wait
        for limiter in mine:
            limiter.take(caller, now)
        return None
