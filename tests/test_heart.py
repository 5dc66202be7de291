"""What heartbeats cost the loop that they speak for."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from mesh.errors import BrokerUnavailable
from mesh.link.connection import Connection
from mesh.link.heart import Heart


async def nowhere() -> Connection:
    raise BrokerUnavailable("no broker here")


async def test_hearts_take_no_thread_of_the_loop() -> None:
    """Name look-ups and files need those, and there are six on two cores: many participants of one loop would wait for ever."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    hearts = [Heart(), Heart()]
    for number, heart in enumerate(hearts):
        heart.add(str(number), lambda: None, nowhere)
    try:
        async with asyncio.timeout(5):
            await asyncio.to_thread(lambda: None)
    finally:
        async with asyncio.timeout(5):
            await asyncio.gather(*(heart.close() for heart in hearts))
