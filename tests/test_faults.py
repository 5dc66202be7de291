"""A short run of `scripts/faults`, and that its check would find something."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.faulting.check import Await, Evidence, awaits, findings, late
from tests.faulting.plan import Fault, plan
from tests.faulting.run import run
from tests.helpers import figure

SMALL = {"plane": 1, "bridge": 1, "worker": 2, "listener": 1, "hand": 1, "sender": 1, "caller": 1}
"""So that a short run has time for faults on a machine with two processors."""


def each_once(*whom: str, gap: float = 1.0) -> Iterator[Fault]:
    """So many kills, at moments that are the machine's own."""
    return (Fault(after=gap, what="kill", whom=each, which=0.0, seconds=0.0) for each in whom)


@pytest.mark.timeout(150)  # half a minute where nobody else has the processors
async def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path) -> None:
    faults = plan(17)
    report = await run(tmp_path, faults, seconds=12, most=100, settle=6, cast=SMALL)
    figure(f"{report.as_dict()}")
    assert [str(each) for each in report.found] == []
    assert report.faults
    assert report.done["messages acknowledged"] > 50
    assert report.done["effects"] > 50


async def test_a_worker_that_acknowledges_before_its_effect_is_found_out(tmp_path: Path) -> None:
    report = await run(
        tmp_path, each_once("worker", "worker"), seconds=10, most=2, settle=1, cast={**SMALL, "worker": 1, "caller": 0}, worker="cheat"
    )
    assert report.faults == {"kill worker": 2}
    assert [each.kind for each in report.found] == ["message: acknowledged and lost"]


def test_the_same_seed_makes_the_same_plan() -> None:
    first, again, other = (list(islice(plan(seed), 50)) for seed in (1, 1, 2))
    assert first == again != other
    assert {fault.what for fault in islice(plan(3, ("kill",)), 50)} == {"kill"}


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"effects": Counter(["b"])}, "message: acknowledged and lost"),
        ({"effects": Counter(["b"]), "waiting": {"a"}}, "waits, and nobody is at it"),
        ({"effects": Counter(["a", "a", "b"])}, "effects twice"),
        ({"effects": Counter(["b"]), "dead": Counter(["a", "a"])}, "dead letters twice"),
        ({"acked": {"answer": {"a"}}, "effects": Counter(), "dead": Counter(["a"])}, "answer: acknowledged and lost"),
        ({"limbo": ("MESSAGES_LOW holds 2 messages, 1 of them to be delivered",)}, "in limbo"),
        ({"acked": {"job": {"a", "b"}}, "jobs": {"a": "done", "b": "failed"}}, "jobs whose state is not what became of them"),
        (
            {"acked": {"job": {"a", "b"}}, "jobs": {"a": "done", "b": "done"}, "dead": Counter(["b"])},
            "jobs whose state is not what became of them",
        ),
        ({"acked": {"job": {"a", "b"}}, "jobs": {"a": "done"}}, "jobs whose state is not what became of them"),
        ({"stuck": ("caller-0",)}, "did not end when asked to"),
        ({"awaits": [Await("p", 1, "call", 0.0, 1.0, 3.1, "ok", 3.1, False)]}, "awaits that outlived their deadline"),
    ],
)
def test_what_is_wrong_is_found(wrong: dict[str, Any], kind: str) -> None:
    fine: dict[str, Any] = {"acked": {"message": {"a", "b"}}, "effects": Counter(["a", "b"])}
    assert findings(Evidence(**fine), settled=True) == []
    [found] = findings(Evidence(**{**fine, **wrong}), settled=True)
    assert found.kind == kind
    assert found.count == 1


def test_what_may_wait_is_no_finding() -> None:
    evidence = Evidence(acked={"message": {"a", "b", "c"}}, effects=Counter(["a"]), dead=Counter(["b"]), waiting={"c"})
    assert findings(evidence, settled=False) == []


def test_an_await_is_late_only_by_what_its_process_could_run() -> None:
    def found(**said: Any) -> int:
        return len(list(late(Evidence(awaits=[Await("p", 1, "call", 10.0, 1.0, 15.0, "ok", 15.0, False)], **said))))

    assert found() == 1
    assert found(pauses=[("p", 11.0, 14.0)]) == 0
    assert found(pauses=[("other", 11.0, 14.0)]) == 1
    assert found(pauses=[("p", 0.0, 10.5)]) == 1
    assert found(starved=[(1, 11.0, 14.0, 2.5)]) == 0
    assert found(starved=[(2, 11.0, 14.0, 2.5)]) == 1


def test_an_await_that_never_ended_is_late_unless_its_process_was_killed() -> None:
    def note(at: float, what: str, **said: Any) -> dict[str, Any]:
        return {"at": at, "what": what, "part": "p", "pid": 1, **said}

    begun = note(0.0, "begin", number=1, kind="call", limit=1.0)
    assert list(late(Evidence(awaits=list(awaits([begun, note(9.0, "begin", number=2, kind="call", limit=1.0)]))))) == []
    left = list(awaits([begun, note(9.0, "left")]))
    assert len(list(late(Evidence(awaits=left)))) == 1
    ended = list(awaits([begun, note(0.5, "end", number=1, kind="call", outcome="ok"), note(9.0, "left")]))
    assert [each.end for each in ended] == [0.5]
    assert list(late(Evidence(awaits=ended))) == []
