"""What identity and permissions cost: rows about credentials, the broker's checks, and very many participants."""

import asyncio
import time
from typing import Final

from bench.compare import Contender, Figure, ratios, versus
from bench.crowd import member, other
from bench.mesh_rows import memory
from bench.stage import BenchError, stage
from bench.table import Measured, OnRound, Pace, Side

PROCESSES: Final = 4
OTHERS: Final = 100


async def identity(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    """A call at a broker that holds everybody to their rights, against the same call at one that lets everybody do everything."""
    async with stage() as held, stage(bare=True) as free:
        for it in (held, free):
            await it.participant("mesh-echo", it.broker, "echo")
        this = Contender("with rights", await held.participant("mesh-caller", held.broker, "echo"))
        that = Contender("without", await free.participant("mesh-caller", free.broker, "echo"))
        sides = await versus(pace, on_round, this, that, figure)
    return Measured(ratios(*sides), sides)


async def crowd(pace: Pace, on_round: OnRound) -> Measured:
    """Seconds until all members, in a few processes, are issued credentials, connected, registered, and have answered a call. Meanwhile
    others keep calling, and none of their calls may fail."""
    async with stage() as it:
        it.authority.issue_all(map(other, range(OTHERS)), ("host",))
        it.authority.issue_all(["greeter"], ("host",))
        await it.participant("mesh-echo", it.broker, "echo")
        calling = await it.participant("others", it.broker, "echo", str(OTHERS))
        greeter = await it.participant("greeter", it.broker)
        alone = memory(it.server.pid or 0)
        await asyncio.sleep(pace.seconds * 4)
        before = await calling.ask()

        begun = time.perf_counter()
        it.authority.issue_all(map(member, range(pace.crowd)), ("agent",))
        share = pace.crowd // PROCESSES

        async def join(first: int) -> None:
            process = await it.participant("crowd", it.broker)
            await process.ask(first=first, count=share)
            joined.append(time.perf_counter() - begun)
            async with greeting:
                await greeter.ask(first=first, count=share)
            on_round()

        joined: list[float] = []
        greeting = asyncio.Lock()
        async with asyncio.TaskGroup() as group:
            for number in range(PROCESSES):
                group.create_task(join(number * share))
        took = time.perf_counter() - begun
        meanwhile = await calling.ask()
        full = memory(it.server.pid or 0)
    if meanwhile["failed"]:
        raise BenchError(f"{meanwhile['failed']} of {meanwhile['calls']} calls of the others failed: {meanwhile['why']}")
    detail = {
        "joined": joined,
        "others": {"before": before, "meanwhile": meanwhile},
        "broker": {"before": alone, "after": full, "unit": "MB"},
    }
    sides = (Side(f"{share * PROCESSES:,} agents; the others' p99", "ms", (meanwhile["p99"],)), Side("broker", "MB", (full["rss"],)))
    return Measured((took,), sides, detail)
