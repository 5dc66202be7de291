"""How two sides are compared.

How it is measured
------------------
Absolute times differ from machine to machine and from minute to minute, so almost every figure is a ratio of two sides that were measured
in turn: a round is this side, then that side (the next round the other way about, so that neither always comes first), half a second each.
The figure of a round is the ratio of its two sides, and the row's figure is the median of its rounds. Each side has a process for each of
its participants, uvloop in all of them, and is warm when the first round begins.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Literal, NamedTuple

from bench.stage import Participant
from bench.table import Measure, Measured, OnRound, Pace, Side

AT_ONCE: Final = 64

WARM_UP: Final = 200
"""Calls before the first round: connections, caches, and whatever a server does once."""

Figure = Literal["p50", "rate"]
UNITS: Final = {"p50": "µs", "rate": "/s"}


class Contender(NamedTuple):
    """One side: a name, who calls, and what must be so while it does."""

    name: str
    caller: Participant
    before: Callable[[], Awaitable[None]] | None = None


async def versus(
    pace: Pace, on_round: OnRound, this: Contender, that: Contender, figure: Figure, *, at_once: int = AT_ONCE
) -> tuple[Side, Side]:
    """Both sides in turn, `pace.rounds` times: one call at a time for `p50`, `at_once` for `rate`."""
    width = at_once if figure == "rate" else 1
    found: dict[str, list[float]] = {this.name: [], that.name: []}
    for side in (this, that):
        await side.caller.ask(width=width, calls=WARM_UP)
    for number in range(pace.rounds):
        for side in (this, that) if number % 2 == 0 else (that, this):
            if side.before is not None:
                await side.before()
            found[side.name].append((await side.caller.ask(width=width, seconds=pace.seconds))[figure])
        on_round()
    here, there = (Side(side.name, UNITS[figure], tuple(found[side.name])) for side in (this, that))
    return here, there


def ratios(this: Side, that: Side) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(this.rounds, that.rounds, strict=True))


def by(figure: Figure, measure: Callable[[Pace, OnRound, Figure], Awaitable[Measured]]) -> Measure:
    """One of the two figures of a comparison, as a row's measurement."""
    return lambda pace, on_round: measure(pace, on_round, figure)
