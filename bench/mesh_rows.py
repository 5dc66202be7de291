"""What a call and the journal cost, and what a bridge takes: rows about the mesh itself."""

import asyncio
import json
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Final

from bench.compare import AT_ONCE, Contender, Figure, ratios, versus
from bench.stage import STDIO_SERVER, BenchError, Stage, stage
from bench.table import Measured, OnRound, Pace, Side
from mesh.audit.journal import Journal
from mesh.link.reader import read_stream
from mesh.topology import JOURNAL

CALLERS: Final = 4
"""Processes that share the calls of the journal's row, each with a connection and a name of its own."""

SETTLE: Final = 2.0
"""Seconds without a new message after which the journal holds all that it will."""


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
