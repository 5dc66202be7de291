"""What must be true at the end. Pure: evidence in, findings out."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

GRACE: Final = 2.0
"""Seconds by which an await may outlive its deadline."""

SHOWN: Final = 5

DONE: Final = frozenset({"answer", "collection"})
"""Families whose acknowledgement says that it was done: an answer, and a job that somebody else of one name collected."""


@dataclass(frozen=True, slots=True)
class Await:
    """One that was begun. `end` is None where it did not end, `last` when its process was last heard of; `killed`: it did not end in good
    order."""

    part: str
    pid: int
    kind: str
    begin: float
    limit: float
    end: float | None
    outcome: str
    last: float
    killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known at the end. Work is named by `{target} {sender} {id}`."""

    acked: Mapping[str, set[str]] = field(default_factory=dict)
    """By family (`message`, `answer` …): what somebody was told is stored, or done."""
    effects: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    waiting: set[str] = field(default_factory=set)
    """What the broker still holds, to be delivered."""
    jobs: Mapping[str, str] = field(default_factory=dict)
    """The state of each, as the control plane tells it."""
    limbo: Sequence[str] = ()
    """What the broker holds and delivers to nobody, in words."""
    awaits: Sequence[Await] = ()
    pauses: Sequence[tuple[str, float, float]] = ()
    starved: Sequence[tuple[int, float, float, float]] = ()
    """Process, from, to, and for how many seconds of that it waited for a processor."""
    stuck: Sequence[str] = ()
    """Processes that did not end when they were asked to."""


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    count: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}: {self.count}, such as {'; '.join(self.examples)}"


def findings(evidence: Evidence, *, settled: bool) -> list[Finding]:
    """All that is wrong. `settled`: everything had the time to be done."""
    known = evidence.effects.keys() | evidence.dead.keys() | evidence.waiting
    found: dict[str, list[str]] = defaultdict(list)
    for family, keys in evidence.acked.items():
        there = evidence.effects.keys() if family in DONE else known
        found[f"{family}: acknowledged and lost"] += sorted(keys - there)
    found["effects twice"] += [f"{key} {count} times" for key, count in sorted(evidence.effects.items()) if count > 1]
    found["dead letters twice"] += [f"{key} {count} times" for key, count in sorted(evidence.dead.items()) if count > 1]
    found["jobs whose state is not what became of them"] += sorted(_contradictions(evidence))
    found["in limbo"] += evidence.limbo
    if settled:
        found["waits, and nobody is at it"] += sorted(evidence.waiting)
    found["awaits that outlived their deadline"] += late(evidence)
    found["did not end when asked to"] += evidence.stuck
    return [Finding(kind, len(each), tuple(each[:SHOWN])) for kind, each in found.items() if each]


def _contradictions(evidence: Evidence) -> Iterator[str]:
    """A job that is done has had its effect, and one that is not tried again is a dead letter, and nothing else is one."""
    for key, state in evidence.jobs.items():
        if state == "done" and key not in evidence.effects:
            yield f"{key} is done and had no effect"
        if (key in evidence.dead) != (state in ("failed", "expired")):
            yield f"{key} is {state} with {evidence.dead[key]} dead letters"
    for key in evidence.acked.get("job", set()) - evidence.jobs.keys():
        yield f"{key} is known to nobody"


def late(evidence: Evidence) -> Iterator[str]:
    """Awaits that took too long, though their process could run."""
    starved: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for pid, begin, end, seconds in evidence.starved:
        starved[pid].append((begin, end, seconds))
    for each in starved.values():
        each.sort()
    for await_ in evidence.awaits:
        if await_.end is None and await_.killed:
            continue
        end = await_.last if await_.end is None else await_.end
        over = end - await_.begin - await_.limit
        if over <= GRACE:
            continue
        over -= sum(_overlap(await_.begin, end, since, until) for part, since, until in evidence.pauses if part == await_.part)
        series = starved[await_.pid]
        for begin, until, seconds in series[max(0, bisect_left(series, (await_.begin, 0.0, 0.0)) - 1) :]:
            over -= seconds if _overlap(await_.begin, end, begin, until) > 0 else 0.0
        if over > GRACE:
            yield f"{await_.kind} of {await_.part} by {over:.1f} s over {await_.limit:.1f} s, {await_.outcome}"


def _overlap(begin: float, end: float, since: float, until: float) -> float:
    return max(0.0, min(end, until) - max(begin, since))


def awaits(notes: Iterable[Mapping[str, Any]]) -> Iterator[Await]:
    """Out of the notes, each process's in its order."""
    begun: dict[tuple[int, int], Mapping[str, Any]] = {}
    last: dict[int, float] = {}
    left: set[int] = set()
    for said in notes:
        pid = said["pid"]
        last[pid] = said["at"]
        if said["what"] == "begin":
            begun[pid, said["number"]] = said
        elif said["what"] == "left":
            left.add(pid)
        elif said["what"] == "end" and (first := begun.pop((pid, said["number"]), None)) is not None:
            yield _await(first, said["at"], said["outcome"], said["at"], killed=False)
    for (pid, _), first in begun.items():
        yield _await(first, None, "never ended", last[pid], killed=pid not in left)


def _await(first: Mapping[str, Any], end: float | None, outcome: str, last: float, *, killed: bool) -> Await:
    return Await(first["part"], first["pid"], first["kind"], first["at"], first["limit"], end, outcome, last, killed)
