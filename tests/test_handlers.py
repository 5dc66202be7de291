"""What handlers do to those who run them: they fail in odd ways, return odd things, and are slow."""

import asyncio
from typing import Any

import pytest

from mesh.broker import AgentMessage, Retry
from mesh.errors import RemoteError
from tests.message_world import Inbox, joined, letters, receiving, until, until_gone


async def test_a_handler_whose_own_work_is_cancelled_has_failed(plane: str) -> None:
    """And its worker goes on."""
    inbox = Inbox(asyncio.CancelledError())
    async with receiving(plane, "cancels", inbox), joined(plane) as sender:
        for number in range(2):
            await sender.messages.publish_message("cancels", "t", number)
        await inbox.holds(3)
    assert sorted(inbox.contents) == [0, 0, 1]


async def test_a_timeout_of_the_handlers_own_is_told_as_such(plane: str) -> None:
    async def handle(_: AgentMessage) -> Any:
        raise TimeoutError

    async with receiving(plane, "impatient", handle), joined(plane) as sender:
        await sender.messages.publish_message("impatient", "t")
        [letter] = await letters(plane, "impatient")
    assert {each.error for each in letter.letter.attempts} == {"TimeoutError()"}


@pytest.mark.parametrize("after", [60.0, 1e10, 1e300, float("inf")])
async def test_what_is_to_come_again_late_comes_before_its_stream_drops_it(
    plane: str, monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    monkeypatch.setattr("mesh.delivery.handling.LATEST", 0.5)
    inbox = Inbox(Retry(after=after))
    async with receiving(plane, "patient", inbox), joined(plane) as sender:
        await sender.messages.publish_message("patient", "t")
        await inbox.holds(2)
        await until_gone(plane, "patient")


@pytest.mark.parametrize("result", [object(), "x" * 2_000_000, {1, 2}], ids=["no JSON", "too large", "a set"])
async def test_what_cannot_be_answered_is_told_and_was_done_once(plane: str, result: object) -> None:
    inbox = Inbox(result)
    async with receiving(plane, "speechless", inbox), joined(plane) as sender:
        with pytest.raises(RemoteError, match="did it, and cannot answer") as told:
            await sender.messages.send_message("speechless", "t", timeout=10)
        await until_gone(plane, "speechless")
    assert (told.value.data["mesh"], len(inbox.messages)) == ("unanswerable", 1)


async def test_a_slow_handler_leaves_the_work_to_others(plane: str) -> None:
    """Also to one that comes later, when all was stored already."""
    done: list[str] = []

    def slow(name: str) -> Any:
        async def handle(_: AgentMessage) -> None:
            await asyncio.sleep(0.1)
            done.append(name)

        return handle

    async with joined(plane) as sender:
        await sender.messages.publish_messages([("shop", "t", number) for number in range(30)])
        async with receiving(plane, "shop", slow("first")):
            await until(lambda: done)
            async with receiving(plane, "shop", slow("second")):
                await until(lambda: len(done) == 30)
    assert done.count("second") >= 6


async def test_what_a_slow_handler_has_not_begun_does_not_end_with_its_receivers(plane: str) -> None:
    """Each delivery counts as an attempt, and what is in hand when a receiver leaves was delivered."""
    inbox = Inbox()
    async with joined(plane) as sender:
        await sender.messages.publish_messages([("hasty", "t", number) for number in range(12)])
        for number in range(8):

            async def handle(message: AgentMessage) -> None:
                await inbox(message)
                await asyncio.sleep(0.2)

            async with receiving(plane, "hasty", handle):
                await inbox.holds(number + 1)
        async with receiving(plane, "hasty", inbox):
            await until(lambda: len(set(inbox.contents)) == 12)
