"""The in-process port in the modern era, whose requests it hands to the SDK without a stream between. What all ports do: test_ports.py."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import pytest_asyncio
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import CallToolResult, RequestParams, TextContent

from bridge.ports.local import LocalServer
from mesh.wire.jsonrpc import Kind, scan
from tests.http_peers import META, Heard

LOG_LEVEL = "io.modelcontextprotocol/logLevel"


class World:
    """A server with tools that say what happened to them."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.told = asyncio.Event()
        self.unwound: list[str] = []
        self.server = MCPServer("local")
        self.server.tool()(self.count)
        self.server.tool()(self.hang)
        low: Server[Any] = self.server._lowlevel_server
        low.add_request_handler("vendor/raw", RequestParams, self.raw)
        low.add_request_handler("vendor/unwind", RequestParams, self.unwind)
        low.add_notification_handler("notifications/vendor", RequestParams, self.on_vendor)

    async def count(self, to: int, ctx: Context[Any]) -> str:
        for number in range(1, to + 1):
            await ctx.report_progress(number, to)
            await ctx.info(f"at {number}")
        return "counted"

    async def hang(self) -> CallToolResult:
        self.began.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            self.ended.set()
            raise
        return CallToolResult(content=[TextContent(type="text", text="never")])

    async def raw(self, _: Any, params: Any) -> dict[str, Any]:
        kind = params.meta.get("give")
        return {"inf": math.inf, "none": None, "big": 10**30} if kind == "odd" else {"what": object()}

    async def unwind(self, ctx: Any, _: Any) -> dict[str, Any]:
        ctx.session._connection.exit_stack.callback(lambda: self.unwound.append("yes"))
        return {}

    async def on_vendor(self, *_: Any) -> None:
        self.told.set()


@pytest_asyncio.fixture
async def world() -> World:
    return World()


@pytest_asyncio.fixture
async def heard(world: World) -> AsyncIterator[Heard]:
    async with LocalServer(world.server).entered() as local:
        heard = Heard(local.port())
        await heard.port.open(heard.on_frame, heard.on_end)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(heard.port.close)
            yield heard


async def answer(heard: Heard, id: str) -> Any:
    frame = await heard.until(lambda: next((frame for frame, _ in heard.frames if frame.final and frame.id == id), None))
    return json.loads(frame.raw)


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
async def test_progress_and_logs_come_on_their_request_in_order(heard: Heard) -> None:
    """Of requests that run side by side, each says whose it is."""
    for id in ("a", "b"):
        asked = {"name": "count", "arguments": {"to": 5}, "_meta": {"progressToken": id, LOG_LEVEL: "info"}}
        heard.ask(id, "tools/call", asked, modern=True)
    for id in ("a", "b"):
        assert (await answer(heard, id))["result"]["content"][0]["text"] == "counted"
        own = [json.loads(frame.raw) for frame, origin in heard.frames if origin == id]
        assert [each["params"]["progress"] for each in own if each.get("method") == "notifications/progress"] == [1, 2, 3, 4, 5]
        assert [each["params"]["data"] for each in own if each.get("method") == "notifications/message"] == [f"at {n}" for n in range(1, 6)]
        assert {each["params"]["progressToken"] for each in own if "progressToken" in each.get("params", {})} == {id}
        assert "result" in own[-1]
    assert all(origin in ("a", "b") for _, origin in heard.frames)


async def test_a_cancelled_request_is_stopped_and_not_answered(heard: Heard, world: World) -> None:
    heard.ask("1", "tools/call", {"name": "hang", "arguments": {}}, modern=True)
    async with asyncio.timeout(5):
        await world.began.wait()
        heard.tell("notifications/cancelled", {"requestId": "1"})
        await world.ended.wait()
    heard.ask("2", "tools/list", modern=True)
    await answer(heard, "2")
    assert not [frame for frame, _ in heard.frames if frame.id == "1"]


async def test_closing_stops_what_runs_and_nothing_is_heard_any_more(heard: Heard, world: World) -> None:
    heard.ask("1", "tools/call", {"name": "hang", "arguments": {}}, modern=True)
    async with asyncio.timeout(5):
        await world.began.wait()
        await heard.port.close()
        await world.ended.wait()
    assert not heard.frames


async def test_a_notification_reaches_the_server(heard: Heard, world: World) -> None:
    heard.tell("notifications/vendor", {"a": 1})
    async with asyncio.timeout(5):
        await world.told.wait()


async def test_results_are_written_as_the_sdk_writes_them(heard: Heard) -> None:
    heard.ask("1", "vendor/raw", {"_meta": {"give": "odd"}}, modern=True)
    said = (await answer(heard, "1"))["result"]
    assert {key: said[key] for key in ("inf", "none", "big")} == {"inf": None, "none": None, "big": 10**30}
    heard.ask("2", "vendor/raw", {"_meta": {"give": "nonsense"}}, modern=True)
    assert (await answer(heard, "2"))["error"] == {"code": -32603, "message": "Internal server error"}


async def test_what_a_request_leaves_to_be_done_is_done(heard: Heard, world: World) -> None:
    heard.ask("1", "vendor/unwind", modern=True)
    await answer(heard, "1")
    assert world.unwound == ["yes"]


@pytest.mark.parametrize("modern", [True, False])
async def test_what_cannot_be_read_here_is_answered(heard: Heard, modern: bool) -> None:
    """A number with more digits than Python takes, or half of a surrogate pair: the request has an error, and the port goes on."""
    odd = b"1" * 5_000 if modern else b'"\\ud83d"'
    meta = json.dumps(META if modern else {}).encode()
    heard.port.send(scan(b'{"jsonrpc":"2.0","id":"1","method":"tools/list","params":{"odd":' + odd + b',"_meta":' + meta + b"}}"))
    said = await answer(heard, "1")
    assert said["error"]["code"] == -32700
    heard.ask("2", "server/discover" if modern else "ping", modern=modern)
    await answer(heard, "2")


async def test_an_envelope_that_lacks_something_is_refused(heard: Heard) -> None:
    version = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    heard.ask("1", "tools/list", {"_meta": version})
    assert (await answer(heard, "1"))["error"]["code"] == -32602
    heard.ask("2", "tools/list", {"_meta": META | {"io.modelcontextprotocol/protocolVersion": "2030-01-01"}})
    assert (await answer(heard, "2"))["error"]["code"] == -32022
    assert all(frame.kind is Kind.ERROR for frame, _ in heard.frames)
