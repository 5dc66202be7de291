"""What handlers do to those who run them: they fail in odd ways, return odd things, and are slow."""

import asyncio
from typing import Any

from mesh.broker import AgentMessage
from tests.message_world import Inbox, joined, letters, receiving


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
