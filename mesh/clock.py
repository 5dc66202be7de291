"""The only reader of time. Policy takes times as arguments; rooms that must know the time ask here, so that a test can hand in its own."""

import time
from functools import lru_cache

monotonic = time.monotonic
"""Seconds that never go back: for deadlines and intervals."""

wall_ns = time.time_ns
"""Nanoseconds since 1970, UTC: for what people and other machines read."""


def wall_s() -> int:
    """Whole seconds since 1970, UTC: as tokens and credentials tell time."""
    return wall_ns() // 1_000_000_000


def iso(ns: int) -> str:
    """`2026-01-31T12:00:00.123456Z`: a wall time in nanoseconds, to the microsecond."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    """Most of the times that a process writes are of the same few seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
