"""What the processes of a server use: those that were started for it, and what these have started, as Linux tells it. Elsewhere nothing is
known.

Source: proc(5): /proc/[pid]/stat, statm, task/[tid]/children.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

MOST: Final = 64
"""Processes that are looked at: a server that starts more is known by these."""


class Use(NamedTuple):
    """Of one process."""

    seconds: float
    """Of a processor, since it began."""
    resident: int
    """Bytes."""


def use_of(pids: Collection[int]) -> dict[int, Use]:
    """Of these processes and their descendants, as far as they live."""
    found: dict[int, Use] = {}
    waiting = list(pids)
    while waiting and len(found) < MOST:
        pid = waiting.pop()
        if pid in found:
            continue
        here = Path("/proc", str(pid))
        try:
            times = (here / "stat").read_text().rpartition(")")[2].split()
            pages = int((here / "statm").read_text().split()[1])
            found[pid] = Use((int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))
            waiting += map(int, (here / "task" / str(pid) / "children").read_text().split())
        except (OSError, ValueError, IndexError):
            continue  # it has ended, or this is no Linux
    return found


def spent(now: dict[int, Use], before: dict[int, Use]) -> float:
    """Seconds of a processor between two looks, of what lives now."""
    return sum(max(0.0, use.seconds - (before[pid].seconds if pid in before else 0.0)) for pid, use in now.items())
