"""The figures: each a comparison of the mesh with doing without it, or a bound.

How it is measured
------------------
Absolute times differ from machine to machine and from minute to minute, so almost every figure is a ratio of two sides that were measured
in turn: a round is this side, then that side (the next round the other way about, so that neither always comes first), half a second each.
The figure of a round is the ratio of its two sides, and the row's figure is the median of its rounds. Each side has a process for each of
its participants, uvloop in all of them, and is warm when the first round begins.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final, Literal, NamedTuple

from bench.stage import STDIO_SERVER, BenchError, Participant, Stage, stage
from bench.table import Measure, Measured, OnRound, Pace, Row, Side
from mesh.audit.journal import Journal
from mesh.link.reader import read_stream
from mesh.topology import JOURNAL

AT_ONCE: Final = 64

CALLERS: Final = 4
"""Processes that share the calls of the journal's row, each with a connection and a name of its own."""

WARM_UP: Final = 200
"""Calls before the first round: connections, caches, and whatever a server does once."""

SETTLE: Final = 2.0
"""Seconds without a new message after which the journal holds all that it will."""

Figure = Literal["p50", "rate"]
UNITS: Final = {"p50": "µs", "rate": "/s"}


class Contender(NamedTuple):
    """One side: a name, who calls, and what must be so while it does."""

    name: str
    caller: Participant
    before: Callable[[], Awaitable[None]] | None = None


async def versus(pace: Pace, on_round: OnRound, this: Contender, that: Contender, figure: Figure) -> tuple[Side, Side]:
    """Both sides in turn, `pace.rounds` times: one call at a time for `p50`, 64 at once for `rate`."""
    width = AT_ONCE if figure == "rate" else 1
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


# the rows


async def call(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    """A call of the mesh against a request of nats-py: same bytes, same broker, both recorded."""
    async with stage() as it:
        await it.participant("mesh-echo", it.broker, "echo")
        await it.participant("raw-echo", it.broker)
        this = Contender("mesh.call", await it.participant("mesh-caller", it.broker, "echo"))
        that = Contender("nats-py", await it.participant("raw-caller", it.broker))
        sides = await versus(pace, on_round, this, that, figure)
    return Measured(ratios(*sides), sides)


async def stdio(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    """A stdio server on the mesh against the same server as a child of its caller."""
    async with stage() as it:
        await it.bridge("child", *STDIO_SERVER)
        this = Contender("mesh", await it.participant("mesh-caller", it.broker, "child"))
        that = Contender("direct", await it.participant("direct-caller", *STDIO_SERVER))
        sides = await versus(pace, on_round, this, that, figure)
    return Measured(ratios(*sides), sides)


async def journal_whole(pace: Pace, on_round: OnRound) -> Measured:
    """Every call and every answer is in the journal once. Counted here by id, and by the journal's own check; what either finds counts."""
    async with stage() as it:
        await it.participant("mesh-echo", it.broker, "echo")
        callers = [await it.participant("mesh-caller", it.broker, "echo", f"caller-{number}") for number in range(CALLERS)]
        share = pace.journal_calls // CALLERS
        ran = await asyncio.gather(*(each.ask(width=AT_ONCE // CALLERS, calls=share) for each in callers))
        made = share * CALLERS
        await _settled(it)
        on_round()
        lost, doubled = await _count(it, made)
        checked = await Journal(it.mesh.connection, it.mesh.subjects).check()
        own = {
            "missing": sum(each.count for each in checked.missing),
            **{name: getattr(checked, name) for name in ("open", "duplicates", "resent", "suspects", "late", "unpaired", "skipped")},
        }
    rate = sum(each["rate"] for each in ran)
    detail = {"calls": made, "lost": lost, "doubled": doubled, "rate": rate, "check": own}
    side = Side(f"{made:,} calls, at", "/s", (rate,))
    return Measured((lost + doubled + sum(own.values()),), (side,), detail)


async def journal_cost(pace: Pace, on_round: OnRound) -> Measured:
    """What recording takes from the rate. The stream is deleted and made again between the sides, and nothing else changes: the same
    processes, connections and subjects. (Tools whose calls are not recorded travel on other subjects, so they would compare more.)"""
    async with stage() as it:
        await it.participant("mesh-echo", it.broker, "echo")
        caller = await it.participant("mesh-caller", it.broker, "echo")
        this = Contender("recorded", caller, lambda: it.with_journal(True))
        that = Contender("not recorded", caller, lambda: it.with_journal(False))
        recorded, unrecorded = sides = await versus(pace, on_round, this, that, "rate")
    return Measured(tuple((1 - ratio) * 100 for ratio in ratios(recorded, unrecorded)), sides)


async def bridge_memory(pace: Pace, on_round: OnRound) -> Measured:
    """Resident memory of `mesh-bridge serve` without its child: the larger of idle and after many calls."""
    async with stage() as it:
        bridge = await it.bridge("child", *STDIO_SERVER)
        caller = await it.participant("mesh-caller", it.broker, "child")
        await caller.ask(width=1, calls=1)
        idle = memory(bridge.pid)
        on_round()
        await caller.ask(width=AT_ONCE, calls=pace.memory_calls)
        after = memory(bridge.pid)
        on_round()
    detail = {"idle": idle, "after": after, "calls": pace.memory_calls, "unit": "MB"}
    sides = (Side("idle", "MB", (idle["rss"],)), Side(f"after {pace.memory_calls:,} calls", "MB", (after["rss"],)))
    return Measured((max(idle["rss"], after["rss"]),), sides, detail)


def memory(pid: int) -> dict[str, float]:
    """`{"rss", "pss"}` of a process in MB (10^6 bytes). Raises BenchError where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError as error:
        raise BenchError(f"the memory of a process cannot be read here: {error}") from None
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"rss": sizes["Rss"] * 1024 / 1e6, "pss": sizes["Pss"] * 1024 / 1e6}


async def _settled(it: Stage) -> None:
    """The broker records in the background: wait until nothing more comes."""
    stored, last = -1, 0
    while stored != last:
        stored = last
        await asyncio.sleep(SETTLE if stored else 0)
        last = int((await it.js.api(f"STREAM.INFO.{JOURNAL}"))["state"]["last_seq"])


async def _count(it: Stage, made: int) -> tuple[int, int]:
    """How many of the calls lack their request or their answer, and how many messages stand there more than once."""
    requests: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    async with aclosing(read_stream(it.mesh.connection, JOURNAL)) as batches:
        async for batch in batches:
            for message in batch:
                body = json.loads(message.body)
                if str(body.get("id", "")).startswith("caller-"):
                    (requests if "method" in body else answers)[body["id"]] += 1
    lost = made - len(requests.keys() & answers.keys())
    return lost, sum(count - 1 for counted in (requests, answers) for count in counted.values())


def _of(measure: Callable[[Pace, OnRound, Figure], Awaitable[Measured]], figure: Figure) -> Measure:
    return lambda pace, on_round: measure(pace, on_round, figure)


ROWS: Final = (
    Row("call-p50", "a call to an echo agent, one at a time, against a nats-py request", "x", "at most", 1.3, _of(call, "p50")),
    Row("call-rate", "the same, 64 at once", "x", "at least", 0.65, _of(call, "rate")),
    Row("stdio-p50", "a stdio server on the mesh, one at a time, against direct stdio", "x", "at most", 1.7, _of(stdio, "p50")),
    Row("stdio-rate", "the same, 64 at once", "x", "at least", 0.95, _of(stdio, "rate")),
    Row("journal-whole", "calls lost or doubled in the journal", "calls", "at most", 0, journal_whole),
    Row("journal-cost", "what the journal takes from the rate, 64 at once", "%", "at most", 20, journal_cost),
    Row("bridge-memory", "mesh-bridge serve with a stdio child, the child apart", "MB", "at most", 90, bridge_memory),
)
"""In the order of the table."""
