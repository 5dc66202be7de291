"""A short run of `scripts/fuzz`, and that it would find something."""

from tests.conftest import Broker
from tests.fuzzing import live
from tests.fuzzing.parsers import fuzz
from tests.fuzzing.targets import TARGETS, Target


def test_no_input_crashes_or_hangs_a_parser() -> None:
    assert [str(each) for each in fuzz(20_000, 1)] == []


def test_good_inputs_are_read() -> None:
    """Inputs are made out of these: where a parser refuses them all, nothing behind its first check is tested."""
    for target in TARGETS:
        for good in target.good[:1]:
            target.feed(good)


def test_a_crash_is_found() -> None:
    def bad(raw: bytes) -> None:
        if b"\xff" in raw:
            raise RuntimeError("boom")

    [first, *_] = fuzz(500, 1, targets=(Target("bad", bad, (), (b"good",)),))
    assert "RuntimeError" in first.problem


async def test_nonsense_disturbs_nobody(broker: Broker, plane: str) -> None:
    assert await live.fuzz(plane, 3_000, 1) == []
