"""Modern clients of the SDK on servers of the handshake era, over the mesh."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import MCPError

from bridge.connect import Connected
from bridge.eras.state import instance_in
from bridge.translation import modern
from mesh import Mesh
from mesh.errors import RemoteError
from mesh.rpc import CLIENT_CAPABILITIES, PROTOCOL_VERSION
from mesh.wire.jsonrpc import dumps
from tests.one_era import HandshakeOnly, ModernOnly
from tests.translation_peers import MODERN, NAMES, Peers, exposed, said

pytestmark = [
    # The SDK says of half of what is tested here that it will go.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
]

ROOTS: dict[str, Any] = {"_meta": {CLIENT_CAPABILITIES: {"roots": {}, "elicitation": {}}}}


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    async with asyncio.timeout(30):
        yield Peers()


@asynccontextmanager
async def old(peers: Peers, broker: str) -> AsyncIterator[str]:
    agent = next(NAMES)
    async with exposed(broker, agent, HandshakeOnly(peers.old_server())):
        yield agent


# ---- a modern client, a handshake server


@pytest.mark.parametrize("mode", ["auto", MODERN])
async def test_a_modern_client_finds_a_modern_server(peers: Peers, plane: str, mode: str) -> None:
    async with old(peers, plane) as agent, peers.client(plane, agent, mode) as client:
        assert client.protocol_version == MODERN
        tools = await client.list_tools()
        assert "add" in [tool.name for tool in tools.tools]
        assert (tools.ttl_ms, tools.cache_scope) == (0, "private")
        assert said(await client.call_tool("add", {"a": 1, "b": 2})) == "3"
        assert (await client.read_resource("memo://1")).contents
        if mode == "auto":
            assert client.instructions == "of old"
            assert client.server_info is not None
            assert client.server_info.name == "old"


async def test_the_entry_says_both_eras(peers: Peers, plane: str) -> None:
    for server in (HandshakeOnly(peers.old_server()), ModernOnly(peers.new_server())):
        async with exposed(plane, next(NAMES), server) as presence:
            assert presence.entry.protocol_versions == (MODERN, "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")


@pytest.mark.parametrize(
    ("tool", "arguments", "answer", "asked"),
    [
        ("ask", {"question": "who?"}, "accept Ada", ["elicitation: who?"]),
        ("sample", {}, "a poem", ["sampling"]),
        ("roots", {}, "file:///r", ["roots"]),
        ("ask_thrice", {}, "Ada Ada Ada Ada", [f"elicitation: {what}" for what in ("question 0", "question 1", "left", "right")]),
    ],
)
async def test_a_question_in_the_middle_of_a_call(peers: Peers, plane: str, tool: str, arguments, answer: str, asked) -> None:
    async with old(peers, plane) as agent, peers.client(plane, agent, MODERN) as client:
        assert said(await client.call_tool(tool, arguments)) == answer
        assert peers.asked == asked


async def test_a_client_that_cannot_be_asked_is_not(peers: Peers, plane: str) -> None:
    async with old(peers, plane) as agent, peers.client(plane, agent, MODERN, asks=False) as client:
        with pytest.raises(MCPError, match="Missing required client capability: roots"):
            await client.call_tool("roots", {})
        assert peers.asked == []


async def test_questions_of_many_calls_at_once_find_their_callers(peers: Peers, plane: str) -> None:
    async with old(peers, plane) as agent:

        async def one(number: int) -> None:
            own = Peers()
            async with own.client(plane, agent, MODERN, name=f"host{number}") as client:
                assert said(await client.call_tool("ask", {"question": f"of {number}"})) == "accept Ada"
                assert own.asked == [f"elicitation: of {number}"]

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(one(number))


async def test_log_messages_are_for_the_call_that_wants_them(peers: Peers, plane: str) -> None:
    async with old(peers, plane) as agent:
        async with peers.client(plane, agent, MODERN, log_level="warning") as client:
            await client.call_tool("chat", {})
            assert peers.log == [("warning", "loud")]
            assert peers.levels == ["warning"]
        peers.log.clear()
        async with peers.client(plane, agent, MODERN) as client:
            await client.call_tool("chat", {})
        assert peers.log == []


async def test_changes_reach_those_who_listen(peers: Peers, plane: str) -> None:
    async with old(peers, plane) as agent, peers.client(plane, agent, MODERN, asks=False) as client:
        wanted: dict[str, Any] = {
            "tools_list_changed": True,
            "prompts_list_changed": True,
            "resource_subscriptions": ["memo://1", "memo://none"],
        }
        async with client.listen(**wanted) as first, client.listen(resource_subscriptions=["memo://1"]) as second:
            assert first.honored.tools_list_changed
            assert not first.honored.prompts_list_changed, "the server has not said that it tells of them"
            assert first.honored.resource_subscriptions == ["memo://1"]
            await client.call_tool("change", {})
            assert [type(await anext(first)).__name__ for _ in range(2)] == ["ToolsListChanged", "ResourceUpdated"]
            assert type(await anext(second)).__name__ == "ResourceUpdated"
        await peers.until(lambda: peers.subscribed == ["+memo://1", "-memo://1"])


async def test_what_an_owned_child_tells_reaches_its_callers_listeners(peers: Peers, plane: str) -> None:
    async with (
        old(peers, plane) as agent,
        peers.client(plane, agent, MODERN) as client,
        client.listen(tools_list_changed=True) as listen,
    ):
        await client.call_tool("change", {})
        assert type(await anext(listen)).__name__ == "ToolsListChanged"


async def test_what_the_modern_era_has_not_is_not_found(peers: Peers, plane: str) -> None:
    async with old(peers, plane) as agent, Mesh(name="host", broker=plane) as mesh:
        for method in ("ping", "logging/setLevel", "resources/subscribe"):
            with pytest.raises(RemoteError) as caught:
                await mesh.request(agent, method, {"level": "info", "uri": "memo://1"})
            assert caught.value.rpc_code == -32601


async def test_another_revision_of_the_modern_era_is_told_which_one_there_is(peers: Peers, plane: str) -> None:
    async with old(peers, plane) as agent, Mesh(name="host", broker=plane) as mesh:
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        link = Connected(mesh, agent, heard.put_nowait)
        link.receive(dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {PROTOCOL_VERSION: "2099-01-01"}}}))
        said = json.loads(await heard.get())["error"]
        assert (said["code"], said["data"]) == (-32022, {"supported": [MODERN], "requested": "2099-01-01"})
        await link.close()


@pytest.mark.parametrize("asks", [True, False])
async def test_cancelling_reaches_a_handshake_server(peers: Peers, plane: str, asks: bool) -> None:
    async with old(peers, plane) as agent, peers.client(plane, agent, MODERN, asks=asks) as client:
        seen = asyncio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            assert (progress, total, message) == (1, 2, "begun")
            seen.set()

        call = asyncio.create_task(client.call_tool("slow", {}, progress_callback=on_progress))
        await seen.wait()
        call.cancel()
        await asyncio.wait([call])
        await peers.cancelled.wait()
        assert said(await client.call_tool("add", {"a": 1, "b": 2})) == "3"


# ---- request state


async def ask(mesh: Mesh, agent: str, more: dict[str, Any] | None = None, name: str = "roots") -> dict[str, Any]:
    return await mesh.request(agent, "tools/call", {"name": name, "arguments": {}, **ROOTS, **(more or {})})


def answers(first: dict[str, Any]) -> dict[str, Any]:
    (key,) = first["inputRequests"]
    return {"inputResponses": {key: {"roots": [{"uri": "file:///r"}]}}, "requestState": first["requestState"]}


async def test_a_state_is_good_once_for_its_caller_and_its_call(peers: Peers, plane: str) -> None:
    async with old(peers, plane) as agent, Mesh(name="host", broker=plane) as mesh, Mesh(name="thief", broker=plane) as thief:
        first = await ask(mesh, agent)
        assert first["resultType"] == "input_required"
        assert next(iter(first["inputRequests"].values()))["method"] == "roots/list"
        state = first["requestState"]
        assert instance_in(state)
        head, _, sealed = state.rpartition(".")
        forged = {**answers(first), "requestState": f"{head}.{sealed[:-8]}AAAAAAAA"}
        for attempt in (ask(thief, agent, answers(first)), ask(mesh, agent, answers(first), "add"), ask(mesh, agent, forged)):
            await refused(attempt)
        found = await ask(mesh, agent, answers(first))
        assert found["content"][0]["text"] == "file:///r"
        assert found["resultType"] == "complete"
        await refused(ask(mesh, agent, answers(first)))


async def refused(attempt: Any) -> None:
    with pytest.raises(RemoteError) as caught:
        await attempt
    assert caught.value.rpc_code == -32602
    assert caught.value.data == {"reason": "invalid_request_state"}


async def test_a_call_that_nobody_comes_back_for_ends(peers: Peers, plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modern, "WAIT_SECONDS", 0.1)
    ended = asyncio.Event()
    server = HandshakeOnly(peers.old_server())
    whole = server.serve

    async def serve(read: Any, write: Any) -> None:
        try:
            await whole(read, write)
        finally:
            if server.started == 2:
                ended.set()

    server.serve = serve  # type: ignore[method-assign]
    agent = next(NAMES)
    async with exposed(plane, agent, server), Mesh(name="host", broker=plane) as mesh:
        first = await ask(mesh, agent)
        await ended.wait()
        await refused(ask(mesh, agent, answers(first)))


async def test_a_retry_that_leaves_out_an_answer_is_asked_again(peers: Peers, plane: str) -> None:
    async with old(peers, plane) as agent, Mesh(name="host", broker=plane) as mesh:
        first = await ask(mesh, agent)
        again = await ask(mesh, agent, {"requestState": first["requestState"], "inputResponses": {}})
        assert again["resultType"] == "input_required"
        assert again["inputRequests"] == first["inputRequests"]
        assert again["requestState"] != first["requestState"]
        assert (await ask(mesh, agent, answers(again)))["content"][0]["text"] == "file:///r"


async def test_children_are_used_again_and_limited(peers: Peers, plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modern, "MOST_CHILDREN", 2)
    server = HandshakeOnly(peers.old_server())
    agent = next(NAMES)
    async with exposed(plane, agent, server), Mesh(name="host", broker=plane) as mesh, Mesh(name="other", broker=plane) as other:
        for _ in range(3):
            assert (await ask(mesh, agent, answers(await ask(mesh, agent))))["resultType"] == "complete"
        assert server.started == 2, "the shared one, and one that was used again"
        waiting = [await ask(mesh, agent), await ask(other, agent)]
        assert server.started == 3
        with pytest.raises(Exception, match="takes no more") as caught:
            await ask(mesh, agent)
        assert getattr(caught.value, "code", "") == "busy"
        await ask(mesh, agent, answers(waiting[0]))
        await ask(other, agent, answers(waiting[1]))
        assert (await ask(other, agent))["resultType"] == "input_required", "an idle one of another caller made room"
