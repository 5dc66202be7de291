"""Work beside what runs: whose it is, how it ends, and who is told that it failed."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh.background import Background, end_tasks
from mesh.errors import BrokerUnavailable

pytestmark = pytest.mark.timeout(30)


class Work:
    """Goes on until it is let, and tells how it ended."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.end = ""

    async def run(self) -> None:
        try:
            await self.let.wait()
            self.end = "done"
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # who does not wait for it sees no end
            self.end = "cancelled"
            raise


async def _begun() -> None:
    """Until what was just started runs."""
    await asyncio.sleep(0)


async def test_what_is_left_at_the_end_of_the_block_is_cancelled_and_awaited() -> None:
    work = Work()
    async with Background() as background:
        background.start(work.run(), "one that stays")
        await _begun()
        assert len(background) == 1
    assert work.end == "cancelled"
    assert not len(background)


async def test_what_ends_in_time_is_not_cancelled_nor_what_it_starts_as_its_last_deed() -> None:
    background, last = Background(), Work()

    async def first() -> None:
        await asyncio.sleep(0)
        background.start(last.run(), "last")
        asyncio.get_running_loop().call_soon(last.let.set)

    background.start(first(), "first")
    await background.end(10)
    assert last.end == "done"


async def test_what_a_cancelled_task_starts_does_not_outlive_its_owner() -> None:
    background, last = Background(), Work()

    async def first() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            background.start(last.run(), "last")

    background.start(first(), "first")
    await _begun()
    await background.end()
    assert not len(background)


async def test_what_could_go_on_gets_its_turn_before_it_is_cancelled() -> None:
    """A pull loop has taken what came for it, and can say that it will not handle it."""
    background, work = Background(), Work()
    background.start(work.run(), "one")
    await _begun()
    work.let.set()
    await background.end()
    assert work.end == "done"


async def test_patience_has_an_end() -> None:
    background, work = Background(), Work()
    background.start(work.run(), "slow")
    assert await background.wait(0.01) == ["slow"]
    await background.end(0.01)
    assert work.end == "cancelled"


async def test_a_task_that_ends_its_owner_is_not_its_own_victim() -> None:
    background, other = Background(), Work()
    ended = asyncio.Event()

    async def closes() -> None:
        background.cancel()
        await background.end(10)
        ended.set()

    background.start(other.run(), "other")
    await _begun()
    background.start(closes(), "closes")
    async with asyncio.timeout(5):
        await ended.wait()
        await background.wait()
    assert other.end == "cancelled"


async def test_cancel_waits_for_none() -> None:
    background, work = Background(), Work()
    background.start(work.run(), "one")
    await _begun()
    background.cancel()
    assert len(background) == 1
    await background.wait()
    assert work.end == "cancelled"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BrokerUnavailable("away"), {"log_level": "warning", "why": "away"}),
        (ValueError("a mistake"), {"log_level": "error"}),
    ],
)
async def test_a_failure_is_told_once_with_the_name_of_the_task(error: Exception, told: dict[str, Any]) -> None:
    async def fails() -> None:
        raise error

    background = Background()
    with capture_logs() as logs:
        background.start(fails(), "what fails")
        await background.wait()
        await background.end()
    assert len(logs) == 1
    assert told.items() <= logs[0].items()
    assert logs[0]["task"] == "what fails"
    assert told["log_level"] == "warning" or logs[0]["exc_info"] is error


async def test_a_cancelled_task_is_no_failure() -> None:
    background, work = Background(), Work()
    with capture_logs() as logs:
        background.start(work.run(), "one")
        await _begun()
        await background.end()
    assert logs == []


async def test_end_tasks_waits_for_those_that_are_there_and_raises_nothing() -> None:
    async def fails() -> None:
        raise ValueError("for who has the task")

    work, failed = Work(), asyncio.create_task(fails())
    running = asyncio.create_task(work.run())
    await asyncio.sleep(0)
    await end_tasks(running, None, failed)
    assert work.end == "cancelled"
    assert isinstance(failed.exception(), ValueError)
