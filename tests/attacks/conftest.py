"""A broker with everybody's credentials and a bystander a module; after each attack the bystander must be as well as before."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.attacks.world import FLOOR, Bystander, World, issue_all, standing_by
from tests.conftest import Broker
from tests.helpers import Background


@pytest.fixture(scope="module")
def bystander(broker: Broker) -> Iterator[Bystander]:
    asyncio.run(issue_all(broker))
    with Background(lambda: standing_by(broker.url)) as background:
        yield background.value


@pytest.fixture
async def world(broker: Broker, bystander: Bystander) -> AsyncIterator[World]:
    """What a test opens in it is closed at its end, and the bystander was not disturbed by what it did."""
    first = len(bystander.took)
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        yield World(broker, stack)
        while len(bystander.took) < first + 3:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    assert bystander.failures == []
    assert max(bystander.took[first:]) < max(FLOOR, 5 * bystander.usual)
