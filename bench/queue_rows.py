"""What durable messages cost, and what their lanes keep: rows about publishing, consuming, priorities, and very many who listen."""

import asyncio
import time
from functools import partial
from typing import Final, Literal

from bench.compare import Contender, ratios, versus
from bench.crowd import member
from bench.mesh_rows import memory
from bench.peers import FASTSTREAM, command_of
from bench.queues import AT_ONCE
from bench.stage import BenchError, Participant, Stage, stage
from bench.table import Measure, Measured, OnRound, Pace, Side
from mesh.policy.lanes import SHARES
from mesh.subjects import Subjects
from mesh.topology import LANES

FILL: Final = 10_000
"""Messages that one sender can leave for one name: each participant that fills a queue has a name of its own."""

BEHIND: Final = 50_000
URGENT: Final = 200
"""Critical messages that are timed."""

GAP: Final = 0.01

REPLAYED: Final = 100_000

PROCESSES: Final = 4


async def publish_durable(pace: Pace, on_round: OnRound) -> Measured:
    """`publish_message` against nats-py's `js.publish`, both with a window of 256: the same bytes into the same stream. Ours has a
    deduplication id besides, and is sent again until it is acknowledged."""
    async with stage() as it:
        it.authority.issue_all(("sender",), ("host",))
        this = Contender("publish_message", await it.participant("mesh-publisher", it.broker, "sender"), lambda: _purge(it))
        that = Contender("nats-py", await it.participant("raw-publisher", it.broker, "sender"), lambda: _purge(it))
        sides = await versus(pace, on_round, this, that, "rate", at_once=AT_ONCE)
    return Measured(ratios(*sides), sides)


async def consume(pace: Pace, on_round: OnRound) -> Measured:
    """What waits is taken, handled by an empty handler, and acknowledged: `subscribe_to_messages` without a record of what was handled,
    against FastStream's pull subscriber with batches of the same size, on the same stream. Without identities: its inbox is one that
    nobody has a right to here."""
    command = command_of(FASTSTREAM)
    subjects, stream = Subjects(), LANES["normal"]
    async with stage(bare=True) as it:
        fillers = [await it.participant("filler", it.broker, name) for name in ("one", "two", "three")]
        await _make_lane(it, fillers[0], "theirs")
        where = (it.broker, stream, subjects.lane("theirs", "normal"), "theirs", str(AT_ONCE))
        sides = {
            "ours": await it.participant("mesh-consumer", it.broker, "ours"),
            "theirs": await it.foreign("faststream", *(part for each in command for part in (where if each == "{where}" else (each,)))),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        share = _part(FILL, pace)
        for number in range(-1, pace.rounds):  # the first one warms up
            for name in sorted(sides, reverse=number % 2 == 0):
                await asyncio.gather(*(each.ask(to=name, count=share) for each in fillers))
                rate = (await sides[name].ask(count=share * len(fillers)))["rate"]
                if number >= 0:
                    rates[name].append(rate)
            on_round()
    ours, theirs = Side("mesh", "/s", tuple(rates["ours"])), Side("FastStream", "/s", tuple(rates["theirs"]))
    return Measured(ratios(ours, theirs), (ours, theirs))


async def consume_kv(pace: Pace, on_round: OnRound) -> Measured:
    """Messages a second that are taken, handled, recorded in a bucket of the broker's, and acknowledged."""
    async with stage() as it:
        it.authority.issue_all(("one",), ("host",))
        filler = await it.participant("filler", it.broker, "one")
        consumer = await it.participant("mesh-consumer", it.broker, "ours", "record")
        rates = []
        for number in range(-1, pace.rounds):
            await filler.ask(to="ours", count=_part(FILL, pace))
            rate = (await consumer.ask(count=_part(FILL, pace)))["rate"]
            if number >= 0:
                rates.append(rate)
            on_round()
    return Measured(tuple(rates), (Side("mesh", "/s", tuple(rates)),))


async def replay(pace: Pace, on_round: OnRound) -> Measured:
    """Events of a kibibyte a second, through `replay_events`."""
    count = _part(REPLAYED, pace)
    async with stage() as it:
        it.authority.issue_all(("teller", "replayer"), ("host",))
        teller = await it.participant("event-filler", it.broker, "teller")
        await teller.ask(count=count)
        await teller.end()
        replayer = await it.participant("replayer", it.broker, "replayer")
        rates = []
        for _ in range(max(2, pace.rounds // 4)):
            said = await replayer.ask()
            if said["events"] != count:
                raise BenchError(f"{said['events']:,} events were replayed, not {count:,}")
            rates.append(said["rate"])
            on_round()
    return Measured(tuple(rates), (Side("replay_events", "/s", tuple(rates)),), {"events": count})


async def critical(pace: Pace, on_round: OnRound) -> Measured:
    """Milliseconds from `publish_message` to the handler for a critical message, while so many normal ones wait for the one worker, who
    takes a millisecond for each."""
    async with stage() as it:
        behind, urgent = _part(BEHIND, pace), _part(URGENT, pace)
        await _fill(it, "slow", behind)
        worker = await it.participant("slow-worker", it.broker, "slow", "1", "0.001")
        it.authority.issue_all(("urgent",), ("host",))
        sender = await it.participant("filler", it.broker, "urgent")
        await sender.ask(to="slow", count=1, priority="critical")  # makes the lane
        await asyncio.sleep(1.0)
        await worker.ask()
        took: list[float] = []
        for _ in range(urgent):
            await sender.ask(to="slow", count=1, priority="critical")
            await asyncio.sleep(GAP)
        on_round()
        await asyncio.sleep(0.5)
        said = await worker.ask()
        took, normal = said["took"], said["counts"].get("normal", 0)
    return Measured((sorted(took)[len(took) // 2],), (Side("p50", "ms", tuple(took)),), {"critical": len(took), "normal meanwhile": normal})


async def lane_share(pace: Pace, on_round: OnRound) -> Measured:
    """By how much the share of the normal lane differs from what is configured, under a flood of critical messages that does not end."""
    wanted = SHARES["normal"] / (SHARES["normal"] + SHARES["critical"])
    async with stage() as it:
        await _fill(it, "flooded", 2 * FILL)
        it.authority.issue_all(("flood",), ("host",))
        flood = await it.participant("filler", it.broker, "flood")
        await flood.ask(to="flooded", priority="critical", flood=True)
        worker = await it.participant("slow-worker", it.broker, "flooded", "4", "0.001")
        await asyncio.sleep(1.0)
        found = []
        await worker.ask()
        for _ in range(max(2, pace.rounds // 2)):
            await asyncio.sleep(pace.seconds)
            counts = (await worker.ask())["counts"]
            found.append(counts.get("normal", 0) / max(1, counts.get("normal", 0) + counts.get("critical", 0)))
            on_round()
        await flood.ask()
    share = Side("share of normal", "", tuple(found))
    return Measured(tuple(abs(each / wanted - 1) * 100 for each in found), (share,), {"configured": wanted})


def listening(figure: Literal["memory", "stop"]) -> Measure:
    """One of the two figures of a crowd that listens."""
    return partial(_listening, figure=figure)


async def _listening(pace: Pace, on_round: OnRound, figure: Literal["memory", "stop"]) -> Measured:
    """So many agents that listen for messages: what the broker holds in memory, and how long it takes to stop."""
    async with stage() as it:
        it.authority.issue_all(map(member, range(pace.crowd)), ("agent",))
        share = pace.crowd // PROCESSES

        async def listen(first: int) -> None:
            process = await it.participant("listeners", it.broker)
            async with asyncio.timeout(300):
                await process.ask(first=first, count=share)
            on_round()

        async with asyncio.TaskGroup() as group:
            for number in range(PROCESSES):
                group.create_task(listen(number * share))
        full = memory(it.server.pid or 0)
        begun = time.perf_counter()
        await it.server.stop()
        took = time.perf_counter() - begun
    detail = {"agents": share * PROCESSES, "broker": full, "stop": took}
    return Measured(
        (full["rss"] if figure == "memory" else took,), (Side("memory", "MB", (full["rss"],)), Side("stop", "s", (took,))), detail
    )


def _part(whole: int, pace: Pace) -> int:
    """Of a number: all of it at the full pace."""
    return max(10, round(whole * min(1.0, pace.seconds * 2)))


async def _purge(it: Stage) -> None:
    await it.js.api(f"STREAM.PURGE.{LANES['normal']}")


async def _make_lane(it: Stage, filler: Participant, name: str) -> None:
    """So that somebody finds its consumer there, with the settings that ours has."""
    await filler.ask(to=name, count=10)
    some = await it.participant("mesh-consumer", it.broker, name)
    await some.ask(count=10)
    await some.end()


async def _fill(it: Stage, to: str, count: int) -> None:
    """Leave so many normal messages for a name."""
    names = [f"filler-{number}" for number in range(-(-count // FILL))]
    it.authority.issue_all(names, ("host",))
    fillers: list[Participant] = [await it.participant("filler", it.broker, name) for name in names]
    for each in fillers:
        await each.ask(to=to, count=min(FILL, count))
        count -= FILL
        await each.end()
