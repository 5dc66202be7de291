"""Hosts of the handshake era on modern servers of the SDK, over the mesh."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
import pytest
from mcp import MCPError

from bridge import sessions
from bridge.ports.local import LocalServer
from tests.one_era import ModernOnly
from tests.translation_peers import MODERN, NAMES, Peers, exposed, said

pytestmark = [
    # The SDK says of half of what is tested here that it will go.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
]


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    async with asyncio.timeout(30):
        yield Peers()


@asynccontextmanager
async def new(peers: Peers, broker: str) -> AsyncIterator[str]:
    agent = next(NAMES)
    async with exposed(broker, agent, ModernOnly(peers.new_server())):
        yield agent


async def test_a_handshake_host_finds_a_handshake_server(peers: Peers, plane: str) -> None:
    server = ModernOnly(peers.new_server())
    agent = next(NAMES)
    async with exposed(plane, agent, server):
        for times in (3, 4):  # the shared one, one that refuses `initialize`, one for the session; the second session needs no refusal
            async with peers.client(plane, agent, "legacy") as client:
                assert client.protocol_version == "2025-11-25"
                assert client.server_info is not None
                assert (client.instructions, client.server_info.name) == ("of late", "new")
                assert "add" in [tool.name for tool in (await client.list_tools()).tools]
                assert said(await client.call_tool("add", {"a": 1, "b": 2})) == "3"
                assert (await client.read_resource("memo://1")).contents
                await client.send_ping()
            assert server.started == times


async def test_input_required_becomes_questions_to_the_host(peers: Peers, plane: str) -> None:
    async with new(peers, plane) as agent, peers.client(plane, agent, "legacy") as client:
        assert said(await client.call_tool("ask", {})) == "{'name': 'Ada'} file:///r a poem secret"
        assert sorted(peers.asked) == ["elicitation: who?", "roots", "sampling"]
        assert said(await client.call_tool("again", {})) == "done"
        with pytest.raises(MCPError, match="more than 10 times"):
            await client.call_tool("endless", {})


async def test_a_host_that_refuses_a_question_gets_its_own_error(peers: Peers, plane: str) -> None:
    async def refuse(*_: Any) -> types.ErrorData:
        return types.ErrorData(code=-1, message="the user said no", data={"why": 1})

    async with new(peers, plane) as agent, peers.client(plane, agent, "legacy", elicitation_callback=refuse) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("ask", {})
        assert (caught.value.error.code, caught.value.error.message, caught.value.error.data) == (-1, "the user said no", {"why": 1})
        assert said(await client.call_tool("add", {"a": 1, "b": 2})) == "3"


async def test_the_log_level_of_a_session_goes_with_each_request(peers: Peers, plane: str) -> None:
    async with new(peers, plane) as agent, peers.client(plane, agent, "legacy") as client:
        await client.call_tool("chat", {})
        assert peers.log == []
        await client.set_logging_level("warning")
        await client.call_tool("chat", {})
        await peers.until(lambda: peers.log == [("warning", "loud")])
        await client.set_logging_level("debug")
        await client.call_tool("chat", {})
        await peers.until(lambda: peers.log[1:] == [("debug", "quiet"), ("warning", "loud")])


async def test_subscriptions_and_list_changes_come_from_a_listen(peers: Peers, plane: str) -> None:
    async with new(peers, plane) as agent, peers.client(plane, agent, "legacy") as client:
        await client.subscribe_resource("memo://1")
        await client.call_tool("change", {})
        await peers.until(lambda: len(peers.changes) == 2)
        assert peers.changes == ["notifications/tools/list_changed", "notifications/resources/updated"]
        await client.subscribe_resource("memo://2")
        await client.unsubscribe_resource("memo://1")
        peers.heard.clear()
        await client.call_tool("change", {})
        await peers.until(lambda: len(peers.changes) == 2)
        (updated,) = [message for message in peers.heard if isinstance(message, types.ResourceUpdatedNotification)]
        assert str(updated.params.uri) == "memo://2"


async def test_cancelling_reaches_a_modern_server(peers: Peers, plane: str) -> None:
    async with new(peers, plane) as agent, peers.client(plane, agent, "legacy") as client:
        seen = asyncio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            seen.set()

        call = asyncio.create_task(client.call_tool("slow", {}, progress_callback=on_progress))
        await seen.wait()
        call.cancel()
        await asyncio.wait([call])
        await peers.cancelled.wait()
        assert said(await client.call_tool("add", {"a": 1, "b": 2})) == "3"


async def test_a_server_of_both_eras_keeps_its_own_handshake(peers: Peers, plane: str) -> None:
    agent = next(NAMES)
    async with exposed(plane, agent, LocalServer(peers.old_server())), peers.client(plane, agent, "legacy") as client:
        assert said(await client.call_tool("ask", {"question": "who?"})) == "accept Ada"
        async with peers.client(plane, agent, MODERN) as modern:
            assert said(await modern.call_tool("add", {"a": 1, "b": 2})) == "3"


async def test_a_session_limit_holds_for_translated_ones(peers: Peers, plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_SESSIONS", 1)
    async with new(peers, plane) as agent, peers.client(plane, agent, "legacy"):
        with pytest.RaisesGroup(pytest.RaisesExc(MCPError, match="takes no more"), flatten_subgroups=True):
            async with peers.client(plane, agent, "legacy", name="second"):
                pass
