"""Who sends and who receives durable messages: the mesh's side, and nats-py's for comparison."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import nats

from bench.crowd import Actor
from mesh import Mesh
from mesh.broker import AgentMessage
from mesh.delivery import Handled
from mesh.errors import MailboxFull
from mesh.identity.finding import find_credentials
from mesh.settings import make_settings
from mesh.subjects import Subjects, client_name
from mesh.wire.message import AgentMessage as Sent

Call = Callable[[], Awaitable[None]]

CONTENT: Final = {"text": "x" * 200, "n": 1}
"""Of a message of the usual size: a third of a kilobyte, all in all."""

TARGETS: Final = tuple(f"target-{number}" for number in range(8))
"""No queue may be full before a round is over: 10,000 messages a sender and target."""

AT_ONCE: Final = 256

TOPICS: Final = 10


@asynccontextmanager
async def mesh_publisher(broker: str, name: str) -> AsyncIterator[Call]:
    """`publish_message`, as any Python program does."""
    targets = itertools.cycle(TARGETS)
    async with Mesh(name=name, broker=broker) as mesh:

        async def call() -> None:
            await mesh.messages.publish_message(next(targets), "work", CONTENT)

        yield call


@asynccontextmanager
async def raw_publisher(broker: str, name: str) -> AsyncIterator[Call]:
    """nats-py's own publishing with acknowledgement: the same bytes, into the same stream, without a header."""
    body = Sent(type="work", content=CONTENT, id="0123456789abcdef", sent_ns=time.time_ns()).encode()
    subjects = itertools.cycle([Subjects("mesh").message(target, name, "normal") for target in TARGETS])
    credentials = await find_credentials(make_settings(name=name).state_dir, name, broker)
    client = await nats.connect(
        broker, name=client_name(name, "raw"), user_credentials=str(credentials), inbox_prefix=f"_INBOX.{name}".encode()
    )
    js = client.jetstream()

    async def call() -> None:
        await js.publish(next(subjects), body)

    try:
        yield call
    finally:
        await client.close()


@asynccontextmanager
async def filler(broker: str, name: str) -> AsyncIterator[Actor]:
    """Sends so many messages to one name, as fast as it can: `{"to", "count", "priority"}`; with `flood` it goes on until the next
    order."""
    flooding: list[asyncio.Task[None]] = []
    async with Mesh(name=name, broker=broker) as mesh:

        async def act(*, to: str = "", count: int = 0, priority: str = "normal", flood: bool = False) -> dict[str, Any]:
            for task in flooding:
                task.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
            flooding.clear()
            left = iter(range(count))

            async def send() -> None:
                for _ in left:
                    await mesh.messages.publish_message(to, "work", {**CONTENT, "at": time.monotonic()}, priority=priority)

            async def flood_on() -> None:
                while True:
                    try:
                        await mesh.messages.publish_message(to, "work", CONTENT, priority=priority)
                    except MailboxFull:
                        await asyncio.sleep(0.005)

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(send())
            if flood:
                flooding.extend(asyncio.create_task(flood_on()) for _ in range(AT_ONCE))
            return {"sent": count}

        yield Actor(act)


@asynccontextmanager
async def event_filler(broker: str, name: str) -> AsyncIterator[Actor]:
    """Publishes so many events of a kibibyte, on some topics: `{"count"}`."""
    async with Mesh(name=name, broker=broker) as mesh:

        async def act(*, count: int) -> dict[str, Any]:
            on_the_way = [await mesh.events.submit(f"bench.{number % TOPICS}", {"text": "x" * 800}) for number in range(count)]
            await asyncio.gather(*on_the_way)
            return {"published": count}

        yield Actor(act)


@asynccontextmanager
async def replayer(broker: str, name: str) -> AsyncIterator[Actor]:
    """Replays all of them."""
    async with Mesh(name=name, broker=broker) as mesh:

        async def act() -> dict[str, Any]:
            count, begun = 0, time.perf_counter()
            async for _ in mesh.events.replay_events("bench.>", 0):
                count += 1
            return {"events": count, "rate": count / (time.perf_counter() - begun)}

        yield Actor(act)


class Nothing:
    """Remembers nothing: the pipeline without the record of what was handled."""

    def seen(self, key: object) -> bool:
        return False

    def record(self, key: object) -> None:
        """Forgotten at once."""


class Meter:
    """When the first and the last of so many came."""

    def __init__(self, count: int) -> None:
        self._left = self._count = count
        self._done = asyncio.Event()
        self._first = self._last = 0.0

    def tick(self) -> None:
        if self._left == self._count:
            self._first = time.perf_counter()
        self._left -= 1
        if self._left == 0:
            self._last = time.perf_counter()
            self._done.set()

    async def rate(self) -> float:
        """A second, from the first to the last."""
        async with asyncio.timeout(60):
            await self._done.wait()
        return (self._count - 1) / (self._last - self._first)


@asynccontextmanager
async def mesh_consumer(broker: str, name: str, record: str = "") -> AsyncIterator[Actor]:
    """Handles what waits for it, with an empty handler: `{"count"}`. With `record` what was handled is recorded at the broker."""
    async with contextlib.AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh(name=name, broker=broker))
        handled: Handled = await stack.enter_async_context(mesh.messages.handled_in_bucket()) if record else Nothing()

        async def act(*, count: int) -> dict[str, Any]:
            meter = Meter(count)

            async def handle(_: AgentMessage) -> None:
                meter.tick()

            async with mesh.messages.subscribe_to_messages(handle, handled=handled):
                return {"rate": await meter.rate()}

        yield Actor(act)


@asynccontextmanager
async def slow_worker(broker: str, name: str, workers: str, seconds: str) -> AsyncIterator[Actor]:
    """Works on each message for a while. Any order is answered with how many of each priority came since the last one, and how long the
    critical ones took to come to a worker (ms)."""
    counts: Counter[str] = Counter()
    took: list[float] = []

    async def handle(message: AgentMessage) -> None:
        counts[message.priority] += 1
        if message.priority == "critical" and (at := message.content.get("at")):
            took.append((time.monotonic() - at) * 1e3)
        await asyncio.sleep(float(seconds))

    async def act() -> dict[str, Any]:
        said = {"counts": dict(counts), "took": list(took)}
        counts.clear()
        took.clear()
        return said

    async with (
        Mesh(name=name, broker=broker) as mesh,
        mesh.messages.subscribe_to_messages(handle, workers=int(workers)),
    ):
        yield Actor(act)


@asynccontextmanager
async def listeners(broker: str) -> AsyncIterator[Actor]:
    """Agents of one process that listen for messages: `{"first", "count"}`."""
    from bench.crowd import each, member

    async with contextlib.AsyncExitStack() as stack:

        async def listen(number: int) -> None:
            mesh = await stack.enter_async_context(Mesh(name=member(number), broker=broker))
            await stack.enter_async_context(mesh.messages.subscribe_to_messages(_ignore))

        async def act(*, first: int, count: int) -> dict[str, Any]:
            await each(range(first, first + count), listen)
            return {"listening": count}

        yield Actor(act)


async def _ignore(_: AgentMessage) -> None:
    """Nothing to do."""
