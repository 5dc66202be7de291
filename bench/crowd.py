"""Very many participants, some to a process, each with credentials of its own: those who join, those who call meanwhile, and who greets
the ones that have joined."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from bench import wire
from mesh import Mesh
from mesh.link.call import Call, Handler
from mesh.link.heart import Heart
from mesh.wire.jsonrpc import Frame

AT_ONCE: Final = 16
"""How many join at once in one process, and how many are greeted at once."""

PACE: Final = 0.1
"""Seconds from one call of a caller to its next, at least."""

TOOL: Final = {"name": "echo", "inputSchema": {"type": "object"}}


class Actor:
    """Who does what it is ordered to: the figures of `act` are the answer to an order."""

    def __init__(self, act: Callable[..., Awaitable[dict[str, Any]]]) -> None:
        self.act = act


class Echo(Handler):
    """A handler of the mesh: bytes in, bytes out."""

    def on_call(self, call: Call) -> None:
        call.finish(wire.answer(call.id))

    def on_cancel(self, call: Call, reason: str) -> None:
        return

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        return


def member(number: int) -> str:
    return f"member-{number}"


def other(number: int) -> str:
    return f"other-{number}"


async def each(numbers: range, work: Callable[[int], Awaitable[None]]) -> None:
    """Do it for all numbers, `AT_ONCE` at a time."""
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


@asynccontextmanager
async def crowd(broker: str) -> AsyncIterator[Actor]:
    """Agents of one process that share a heart. An order names the first and how many: `{"first", "count"}`."""
    heart = Heart()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(heart.close)

        async def join(number: int) -> None:
            mesh = await stack.enter_async_context(Mesh(name=member(number), broker=broker, heart=heart))
            await stack.enter_async_context(mesh.present(Echo(), entry={"tools": (TOOL,)}))

        async def act(*, first: int, count: int) -> dict[str, Any]:
            begun = time.perf_counter()
            await each(range(first, first + count), join)
            return {"joined": count, "seconds": time.perf_counter() - begun}

        yield Actor(act)


@asynccontextmanager
async def greeter(broker: str) -> AsyncIterator[Actor]:
    """Calls each agent of a crowd once."""
    async with Mesh(name="greeter", broker=broker) as mesh:

        async def greet(number: int) -> None:
            wire.check(await mesh.call(member(number), "echo", wire.ARGUMENTS))

        async def act(*, first: int, count: int) -> dict[str, Any]:
            await each(range(first, first + count), greet)
            return {"answered": count}

        yield Actor(act)


@asynccontextmanager
async def others(broker: str, agent: str, count: str) -> AsyncIterator[Actor]:
    """So many callers, each with its own connection, that go on calling. Any order is answered with what came of it since the last one:
    `{"calls", "failed", "why", "p50", "p99" (ms)}`."""
    times: list[float] = []
    failed: list[str] = []

    async def call_on(mesh: Mesh) -> None:
        for _ in itertools.count():
            begun = time.perf_counter()
            try:
                wire.check(await mesh.call(agent, "echo", wire.ARGUMENTS))
            except Exception as error:  # whatever it is, the call failed
                failed.append(repr(error))
            took = time.perf_counter() - begun
            times.append(took)
            await asyncio.sleep(max(0.0, PACE - took))

    async def act() -> dict[str, Any]:
        cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
        said = {"calls": len(times), "failed": len(failed), "why": failed[:3], "p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}
        times.clear()
        failed.clear()
        return said

    async with AsyncExitStack() as stack:
        meshes = [await stack.enter_async_context(Mesh(name=other(number), broker=broker)) for number in range(int(count))]
        tasks = [asyncio.create_task(call_on(mesh)) for mesh in meshes]
        try:
            yield Actor(act)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
