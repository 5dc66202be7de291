"""Both ends of a stream: the mesh's, and a flow with credits written by hand on nats-py, as bare as it can be."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench import wire
from bench.crowd import Actor
from mesh import Mesh
from mesh.identity.finding import find_credentials
from mesh.settings import make_settings
from mesh.streams import Stream
from mesh.subjects import client_name

BODY: Final = bytes(1024)
WINDOW: Final = 256

RAW_DATA: Final = f"_INBOX.{wire.CALLER}.data"
RAW_GRANT: Final = f"_INBOX.{wire.CALLER}.grant"


def _figures(messages: int, began: float) -> dict[str, float]:
    return {"rate": messages / (time.perf_counter() - began), "rss": _resident()}


def _resident() -> float:
    """Megabytes now; where there is no /proc, the most there were."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


@asynccontextmanager
async def stream_sink(broker: str, agent: str) -> AsyncIterator[None]:
    """Reads what comes, checks that nothing is missing, and says at the end how much memory it has."""

    async def sink(stream: Stream) -> None:
        count = 0
        async for _ in stream:
            count += 1
        await stream.send({"count": count, "rss": _resident()})

    async with Mesh(name=agent, broker=broker) as mesh, mesh.streams.serve({"sink": sink}):
        yield None


@asynccontextmanager
async def stream_source(broker: str, agent: str) -> AsyncIterator[Actor]:
    """One stream a round, of so many messages."""
    async with Mesh(name=wire.CALLER, broker=broker) as mesh:

        async def act(messages: int) -> dict[str, Any]:
            async with await mesh.create_stream(agent, "sink", window=WINDOW) as stream:
                began = time.perf_counter()
                for _ in range(messages):
                    await stream.send(BODY)
                stream.end()
                said = await stream.receive()
                if said["count"] != messages:
                    raise ValueError(f"{said['count']} of {messages} messages")
                return {**_figures(messages, began), "sink": said["rss"]}

        yield Actor(act)


@asynccontextmanager
async def raw_sink(broker: str) -> AsyncIterator[None]:
    """nats-py: a queue that is read, and a cumulative grant for each quarter of the window."""
    client = await _raw(broker)
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_message(message: Msg) -> None:
        queue.put_nowait(message.data)

    async def read() -> None:
        taken = 0
        while True:
            await queue.get()
            taken += 1
            if taken % (WINDOW // 4) == 0:
                await client.publish(RAW_GRANT, taken.to_bytes(8, "big"))

    await client.subscribe(RAW_DATA, cb=on_message)
    await client.flush()
    reading = asyncio.create_task(read())
    try:
        yield None
    finally:
        reading.cancel()
        await client.close()


@asynccontextmanager
async def raw_source(broker: str) -> AsyncIterator[Actor]:
    client = await _raw(broker)
    sent = granted = 0
    more = asyncio.Event()

    async def on_grant(message: Msg) -> None:
        nonlocal granted
        granted = int.from_bytes(message.data, "big")
        more.set()

    async def wait(until: int) -> None:
        while granted < until:
            more.clear()
            await more.wait()

    async def act(messages: int) -> dict[str, Any]:
        nonlocal sent
        began = time.perf_counter()
        for _ in range(messages):
            if sent - granted >= WINDOW:
                await wait(sent - WINDOW + 1)
            await client.publish(RAW_DATA, sent.to_bytes(8, "big") + BODY)
            sent += 1
        await wait(sent // (WINDOW // 4) * (WINDOW // 4))
        return _figures(messages, began)

    await client.subscribe(RAW_GRANT, cb=on_grant)
    await client.flush()
    try:
        yield Actor(act)
    finally:
        await client.close()


async def _raw(broker: str) -> Client:
    credentials = await find_credentials(make_settings(name=wire.CALLER).state_dir, wire.CALLER, broker)
    return await nats.connect(broker, name=client_name(wire.CALLER, "raw"), user_credentials=str(credentials))
