"""A calls B, and B calls C to answer: what A gives up, or has no time left for, ends at C too."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from bridge import serve
from bridge.connect import Connected
from mesh import Mesh
from mesh.errors import CallTimeout
from mesh.link.call import BEHIND, Call
from mesh.wire.jsonrpc import dumps
from tests.helpers import ROOT, Recorder, arguments_of, finish, hold, serving

CALLS = """
import asyncio, sys
from mesh import Mesh

async def main():
    async with Mesh(name="a", broker=sys.argv[1]) as mesh:
        await mesh.call("b", "ask", {})

asyncio.run(main())
"""


class World:
    """B is a server of the SDK in this process; C notes what comes."""

    def __init__(self, mesh: Mesh, plane: str) -> None:
        self.a = mesh
        self.plane = plane
        self.c = Recorder(hold)
        self.b = MCPServer("b")
        self.ended: list[str] = []
        self.left: set[asyncio.Task[Any]] = set()

    async def asked(self) -> Call:
        await self.c.signals.until(lambda: self.c.calls)
        return self.c.calls[-1]


@asynccontextmanager
async def world(plane: str) -> AsyncIterator[World]:
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        made = World(await stack.enter_async_context(Mesh(name="a", broker=plane)), plane)
        inner = await stack.enter_async_context(Mesh(name="b", broker=plane))

        @made.b.tool()
        async def ask(timeout: float | None = None) -> str:
            try:
                return str(await inner.call("c", "work", {}, timeout=timeout))
            except BaseException as problem:
                made.ended.append(type(problem).__name__)
                raise

        @made.b.tool()
        async def leave() -> str:
            """Starts what goes on after its answer."""
            answered = asyncio.Event()

            async def later() -> Any:
                await answered.wait()
                return await inner.call("c", "work", {})

            task = asyncio.create_task(later())
            made.left.add(task)
            asyncio.get_running_loop().call_later(0.05, answered.set)
            return "left"

        await stack.enter_async_context(serving(plane, "c", made.c))
        await stack.enter_async_context(serve(made.b, name="b", mesh=inner))
        yield made


async def test_the_time_that_is_left_goes_with_the_call(plane: str) -> None:
    async with world(plane) as made:
        running = asyncio.create_task(made.a.call("b", "ask", {}, timeout=1.0))
        call = await made.asked()
        assert call.timeout is not None
        assert 0.5 < call.timeout < 1.0 + BEHIND
        with pytest.raises(CallTimeout, match=r"^b did not finish within 1 s"):
            await running
        await made.c.signals.until(lambda: made.c.cancelled == [call.id])


async def test_a_shorter_timeout_of_its_own_holds(plane: str) -> None:
    async with world(plane) as made:
        result = await made.a.call("b", "ask", {"timeout": 0.2}, timeout=10.0)
        assert result["isError"]
        assert made.ended == ["CallTimeout"]
        assert made.c.calls[0].timeout == pytest.approx(0.2)


async def test_a_cancellation_goes_through(plane: str) -> None:
    async with world(plane) as made:
        running = asyncio.create_task(made.a.call("b", "ask", {}))
        call = await made.asked()
        running.cancel()
        await made.c.signals.until(lambda: made.c.cancelled == [call.id])
        assert made.ended == ["CancelledError"]


class Host:
    """A host of the handshake era in a session with B."""

    def __init__(self, made: World, timeout: float) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.link = Connected(made.a, "b", self.heard.put_nowait, timeout=timeout)

    async def begin(self) -> None:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}
        self.say({"id": 0, "method": "initialize", "params": params})
        assert "result" in json.loads(await self.heard.get())
        self.say({"method": "notifications/initialized"})
        self.say({"id": 1, "method": "tools/call", "params": {"name": "ask", "arguments": {}}})

    def say(self, message: dict[str, Any]) -> None:
        self.link.receive(dumps({"jsonrpc": "2.0", **message}))


async def test_the_time_that_is_left_goes_with_a_call_in_a_session(plane: str) -> None:
    async with world(plane) as made:
        host = Host(made, timeout=1.0)
        await host.begin()
        call = await made.asked()
        assert call.timeout is not None
        assert 0.5 < call.timeout < 1.0 + BEHIND
        said = json.loads(await host.heard.get())
        assert (said["id"], said["error"]["data"]["mesh"]) == (1, "timeout")
        await made.c.signals.until(lambda: made.c.cancelled == [call.id])
        await host.link.close()


async def test_a_cancellation_in_a_session_goes_through(plane: str) -> None:
    async with world(plane) as made:
        host = Host(made, timeout=60.0)
        await host.begin()
        call = await made.asked()
        host.say({"method": "notifications/cancelled", "params": {"requestId": 1}})
        await made.c.signals.until(lambda: made.c.cancelled == [call.id])
        assert made.ended == ["CancelledError"]
        await host.link.close()


async def test_a_killed_caller_ends_the_work_at_both(plane: str) -> None:
    async with world(plane) as made:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", CALLS, plane, cwd=ROOT)
        call = await made.asked()
        process.kill()
        await process.wait()
        await made.c.signals.until(lambda: made.c.cancelled == [call.id], timeout=5)
        assert made.ended == ["CancelledError"]


async def test_progress_may_put_the_deadline_off_so_it_is_no_bound(plane: str) -> None:
    async with world(plane) as made:
        running = asyncio.create_task(made.a.call("b", "ask", {}, timeout=2.0, progress=lambda *_: None))
        call = await made.asked()
        assert call.timeout == 60.0
        finish(call, {"echo": arguments_of(call)})
        await running


async def test_what_goes_on_after_a_call_is_not_bound_by_it(plane: str) -> None:
    async with world(plane) as made:
        await made.a.call("b", "leave", {}, timeout=1.0)
        call = await made.asked()
        assert call.timeout == 60.0
        finish(call, {})
        await asyncio.gather(*made.left)
