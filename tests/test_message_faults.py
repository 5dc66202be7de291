"""Durable messages while the broker is killed: what was acknowledged is handled, and by one receiver once."""

import asyncio
from collections import Counter
from functools import partial

import pytest

from mesh import Mesh
from mesh.broker import AgentMessage
from mesh.errors import MeshError
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Signals, control_plane, up

pytestmark = CUT_WARNINGS


def _at_least(handled: Counter[int], enough: int) -> bool:
    return len(handled) >= enough


@pytest.mark.timeout(90)
async def test_a_broker_killed_in_the_middle_loses_nothing_that_it_acknowledged(broker: Broker) -> None:
    acknowledged: set[int] = set()
    handled: Counter[int] = Counter()
    signals = Signals()

    async def handler(message: AgentMessage) -> None:
        handled[message.content] += 1
        signals.tell()

    async def send(mesh: Mesh, numbers: range) -> None:
        for number in numbers:
            try:
                await mesh.messages.publish_message("worker", "t", number, id=str(number))
            except MeshError:
                continue
            acknowledged.add(number)

    async with (
        control_plane(broker.url),
        Mesh(name="worker", broker=broker.url) as worker,
        Mesh(name="sender", broker=broker.url) as mesh,
        worker.messages.subscribe_to_messages(handler, workers=4),
    ):
        sending = [asyncio.create_task(send(mesh, range(n * 1000, n * 1000 + 300))) for n in range(4)]
        for enough in (200, 600):
            await signals.until(partial(_at_least, handled, enough), 20)
            broker.kill()
            await asyncio.to_thread(broker.wait_ready)
            await up(worker.connection)
        async with asyncio.timeout(40):
            await asyncio.gather(*sending)
        await signals.until(lambda: acknowledged <= handled.keys(), 40)
    assert len(acknowledged) == 1200
    assert {number: times for number, times in handled.items() if times > 1} == {}
