"""The HTTP port against the SDK's own server, in both eras, with JSON and with event streams as answers."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridge.errors import ServerUnreachable
from bridge.ports.http import HttpServer
from tests.http_peers import SECONDS, Heard, opened, served
from tests.http_tools import Store, Tools


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[Tools, HttpServer]]:
    tools = Tools()
    async with served(tools.server.streamable_http_app(**options)) as root, HttpServer("tools", root + "/mcp") as http:
        yield tools, http


def text(result: Any) -> str:
    assert not result.get("isError"), result
    found: str = result["content"][0]["text"]
    return found


def call(heard: Heard, id: str, name: str, arguments: dict[str, Any] | None = None, *, modern: bool, **params: Any) -> None:
    heard.ask(id, "tools/call", {"name": name, "arguments": arguments or {}, **params}, modern=modern)


both_forms = pytest.mark.parametrize("json_response", [True, False])


@both_forms
async def test_modern_calls(json_response: bool) -> None:
    async with running(json_response=json_response) as (_, http), opened(http) as heard:
        heard.ask("1", "server/discover", modern=True)
        assert "2026-07-28" in (await heard.result("1"))["supportedVersions"]
        call(heard, "2", "echo", {"text": "ü\u2028 "}, modern=True)
        assert text(await heard.result("2")) == "ü\u2028 "
        heard.ask(3, "resources/read", {"uri": "x://ünknown"}, modern=True)  # its Mcp-Name needs the encoding
        assert (await heard.error(3))["code"] != -32020
        heard.ask("4", "vendor/thing", modern=True)
        assert (await heard.error("4"))["code"] == -32601
    assert heard.ends == []


@both_forms
async def test_handshake_session(json_response: bool) -> None:
    async with running(json_response=json_response) as (_, http):
        async with opened(http) as heard:
            assert (await heard.handshake())["protocolVersion"] == "2025-11-25"
            session = heard.port.session
            assert session.id is not None
            call(heard, "2", "echo", {"text": "a"}, modern=False)
            assert text(await heard.result("2")) == "a"
            heard.ask("3", "ping")
            assert await heard.result("3") == {}
            heard.ask("4", "logging/setLevel", {"level": "info"})
            await heard.answer("4")
        async with opened(http) as heard:  # the session was ended with DELETE
            heard.port.session = session
            heard.ask("5", "ping")
            assert (await heard.error("5"))["message"]
            await heard.until(lambda: heard.ends)
            heard.ask("6", "ping")
        assert len(heard.ends) == len(heard.frames) == 1


@pytest.mark.parametrize("modern", [True, False])
async def test_progress_comes_in_order_and_names_its_request(modern: bool) -> None:
    async with running() as (_, http), opened(http) as heard:
        if not modern:
            await heard.handshake()
        for id in ("a", "b"):
            call(heard, id, "count", {"to": 20}, modern=modern, _meta={"progressToken": id})
        await asyncio.gather(heard.result("a"), heard.result("b"))
        for id in ("a", "b"):
            frames = [frame for frame, request in heard.frames if request == id]
            assert [frame.token for frame in frames] == [id] * 20 + [None]


async def test_modern_cancellation_is_the_end_of_the_stream() -> None:
    """With JSON answers the SDK's server does not notice that nobody waits any more; so it is only tried with streams."""
    async with running() as (tools, http), opened(http) as heard:
        call(heard, "1", "hang", modern=True)
        async with asyncio.timeout(SECONDS):
            await tools.began.wait()
            heard.tell("notifications/cancelled", {"requestId": "1"})
            await tools.cancelled.wait()
        call(heard, "2", "echo", {"text": "on"}, modern=True)
        await heard.result("2")
        assert len(heard.frames) == 1  # a cancelled request gets no answer


async def test_handshake_cancellation_is_a_message() -> None:
    async with running() as (tools, http), opened(http) as heard:
        await heard.handshake()
        call(heard, "1", "hang", modern=False)
        async with asyncio.timeout(SECONDS):
            await tools.began.wait()
            heard.tell("notifications/cancelled", {"requestId": "1", "reason": "enough"})
            await tools.cancelled.wait()
        call(heard, "2", "echo", {"text": "on"}, modern=False)
        await heard.result("2")


async def test_server_requests_in_the_middle_of_a_call() -> None:
    async with running() as (_, http), opened(http) as heard:
        await heard.handshake({"elicitation": {}, "sampling": {}})
        call(heard, "1", "greet", modern=False)
        call(heard, "2", "write", modern=False)
        asked, request = await heard.message("elicitation/create")
        assert request == "1"
        heard.reply(asked, {"action": "accept", "content": {"name": "Ada"}})
        asked, request = await heard.message("sampling/createMessage")
        assert request == "2"
        heard.reply(asked, {"role": "assistant", "content": {"type": "text", "text": "roses"}, "model": "m"})
        assert text(await heard.result("1")) == "hello Ada"
        assert text(await heard.result("2")) == "roses"


async def test_what_the_server_says_outside_of_any_call() -> None:
    async with running() as (tools, http), opened(http) as heard:
        await heard.handshake()
        call(heard, "1", "remember", modern=False)
        await heard.result("1")
        await asyncio.sleep(0)
        for _ in range(50):  # until the session's stream is open; before that the SDK's server drops what it says
            await tools.sessions[0].send_tool_list_changed()
            if any(frame.method for frame, _ in heard.frames):
                break
            await asyncio.sleep(0.05)
        _, request = await heard.message("notifications/tools/list_changed")
        assert request is None


async def test_a_listen_stream() -> None:
    async with running() as (_, http), opened(http) as heard:
        heard.ask("l", "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, modern=True)
        _, request = await heard.message("notifications/subscriptions/acknowledged")
        assert request == "l"
        call(heard, "1", "change", modern=True)
        frame, request = await heard.message("notifications/tools/list_changed")
        assert (request, frame.subscription) == ("l", "l")
        heard.tell("notifications/cancelled", {"requestId": "l"})
        await heard.result("1")


async def test_arguments_that_go_into_headers() -> None:
    async with running() as (_, http), opened(http) as heard:
        call(heard, "1", "regional", {"region": "Zürich"}, modern=True)  # the port has seen no list: it is refused, learns, and asks again
        assert text(await heard.result("1")) == "Zürich"
        heard.ask("2", "tools/list", modern=True)
        await heard.result("2")
        call(heard, "3", "regional", {"region": " x"}, modern=True)
        assert text(await heard.result("3")) == " x"


async def test_a_stream_that_the_server_closes_is_taken_up_again() -> None:
    async with running(event_store=Store(), retry_interval=50) as (tools, http), opened(http) as heard:
        await heard.handshake()
        call(heard, "1", "later", modern=False)
        asyncio.get_running_loop().call_later(0.3, tools.go.set)
        assert text(await heard.result("1")) == "after all"


@pytest.mark.parametrize("modern", [True, False])
@both_forms
async def test_large_bodies(json_response: bool, modern: bool) -> None:
    async with running(json_response=json_response, max_request_body_size=64 << 20) as (_, http), opened(http) as heard:
        if not modern:
            await heard.handshake()
        large = "x" * (8 << 20)
        call(heard, "1", "echo", {"text": large}, modern=modern)
        assert text(await heard.result("1")) == large


async def test_many_at_once() -> None:
    async with running() as (_, http), opened(http) as heard:
        for number in range(200):
            call(heard, f"c{number}", "echo", {"text": str(number)}, modern=True)
        results = await asyncio.gather(*(heard.result(f"c{number}") for number in range(200)))
        assert [text(each) for each in results] == [str(number) for number in range(200)]


async def test_a_server_that_is_not_there_and_comes_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"
    async with HttpServer("tools", url) as http:
        with pytest.raises(ServerUnreachable, match=r"tools: cannot connect to 127\.0\.0\.1:\d+: "):
            await http.port().open(lambda *_: None, lambda _: None)
        tools = Tools()
        async with served(tools.server.streamable_http_app(), port), opened(http) as heard:
            call(heard, "1", "echo", {"text": "a"}, modern=True)
            await heard.result("1")
        async with served(Tools().server.streamable_http_app(), port):
            port_again = opened(http)
            heard = await port_again.__aenter__()
        call(heard, "2", "echo", {"text": "a"}, modern=True)
        error = await heard.error("2")
        assert (error["code"], error["data"]["mesh"]) == (-32070, "server_unreachable")
        async with served(Tools().server.streamable_http_app(), port):
            call(heard, "3", "echo", {"text": "b"}, modern=True)  # the same port: nothing has ended
            assert text(await heard.result("3")) == "b"
            await port_again.__aexit__(None, None, None)
        assert heard.ends == []


async def test_a_server_that_forgot_the_session_ends_the_port() -> None:
    tools = Tools()
    async with served(tools.server.streamable_http_app()) as root:
        http = HttpServer("tools", root + "/mcp")
        before = opened(http)
        heard = await before.__aenter__()
        await heard.handshake()
        call(heard, "1", "echo", {"text": "a"}, modern=False)
        await heard.result("1")
    async with served(Tools().server.streamable_http_app(), int(root.rpartition(":")[2])):
        call(heard, "2", "echo", {"text": "a"}, modern=False)
        await heard.until(lambda: heard.ends)
        await before.__aexit__(None, None, None)
        await http.close()
    assert len(heard.ends) == 1


CHILD = """
import asyncio, sys
from mcp.server.mcpserver import MCPServer
server = MCPServer("child")
@server.tool()
async def hang(ctx: __import__("mcp.server.mcpserver").server.mcpserver.Context) -> str:
    await ctx.report_progress(1)
    await asyncio.Event().wait()
    return ""
server.run("streamable-http", port=int(sys.argv[1]))
"""


async def test_a_server_that_is_killed_in_the_middle_of_a_call() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, str(port), stderr=asyncio.subprocess.DEVNULL)
    try:
        async with HttpServer("child", f"http://127.0.0.1:{port}/mcp") as http, asyncio.timeout(20):
            while True:
                try:
                    await http._client.reach()
                    break
                except ServerUnreachable:
                    await asyncio.sleep(0.05)
            async with opened(http) as heard:
                call(heard, "1", "hang", modern=True, _meta={"progressToken": "1"})
                await heard.message("notifications/progress")
                os.kill(child.pid, signal.SIGKILL)
                error = await heard.error("1")
                assert error["data"]["mesh"] == "server_died"
                await child.wait()  # its listening socket may be the last to go
                call(heard, "2", "hang", modern=True)
                assert (await heard.error("2"))["data"]["mesh"] == "server_unreachable"
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
