"""One run: a world, its faults, a while to settle, and the look at what became of its work."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mesh import Mesh
from mesh.clock import monotonic
from tests.faulting.check import Evidence, Finding, findings
from tests.faulting.evidence import collect, drained, find_limbo
from tests.faulting.plan import Fault
from tests.faulting.world import CAST, World, world

SETTLED: Final = 60.0
"""Seconds of calm after which everything must be done: what a worker that was killed held comes again after 30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was done, and what was found."""

    seconds: float
    faults: Mapping[str, int]
    starts: int
    done: Mapping[str, int]
    outcomes: Mapping[str, int]
    found: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "faults": dict(self.faults),
            "starts": self.starts,
            "done": dict(self.done),
            "awaits": dict(self.outcomes),
            "findings": [{"kind": each.kind, "count": each.count, "examples": each.examples} for each in self.found],
        }


async def run(
    directory: Path,
    faults: Iterator[Fault],
    *,
    seconds: float,
    most: int,
    settle: float = SETTLED,
    cast: Mapping[str, int] = CAST,
    worker: str = "worker",
    on_fault: Callable[[Fault], None] = lambda _: None,
) -> Report:
    """Disturb a world for so many seconds or with so many faults, whichever ends first; then let it settle for up to `settle` seconds, and
    look."""
    begun = monotonic()
    async with world(directory, cast=cast, worker=worker) as it:
        hit = await _disturb(it, faults, seconds, most, on_fault)
        await it.calm()
        await it.leave("sender", "caller")
        async with Mesh(name="mesh", broker=it.server.url) as mesh, Mesh(name="operator", broker=it.server.url) as operator:
            await drained(mesh, settle)
            await it.leave("worker", "listener", "hand", "bridge")
            limbo = await find_limbo(mesh)
            evidence = await collect(mesh, operator, directory, limbo, it.pauses, [part.name for part in it.parts if part.stuck])
            await it.leave("plane")
    return Report(
        seconds=monotonic() - begun,
        faults=hit,
        starts=sum(part.starts for part in it.parts) + it.server.restarts + 1,
        done=_counts(evidence),
        outcomes=Counter(f"{each.kind} {each.outcome}" for each in evidence.awaits if not each.killed),
        found=tuple(findings(evidence, settled=settle >= SETTLED)),
    )


async def _disturb(it: World, faults: Iterator[Fault], seconds: float, most: int, on_fault: Callable[[Fault], None]) -> Counter[str]:
    hit: Counter[str] = Counter()
    end = monotonic() + seconds
    while sum(hit.values()) < most:
        fault = next(faults, None)
        if fault is None or monotonic() + fault.after >= end:
            await asyncio.sleep(max(0.0, end - monotonic()))
            break
        await asyncio.sleep(fault.after)
        if it.do(fault):
            hit[f"{fault.what} {fault.whom}"] += 1
            on_fault(fault)
    return hit


def _counts(evidence: Evidence) -> dict[str, int]:
    return {
        **{f"{family}s acknowledged": len(keys) for family, keys in sorted(evidence.acked.items())},
        "effects": sum(evidence.effects.values()),
        "dead letters": sum(evidence.dead.values()),
        "still waiting": len(evidence.waiting),
    }
