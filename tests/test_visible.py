"""A caller sees the tools that it may call and no others, over each way in and in both eras; and what it is told that calls another one."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from bridge import mesh_transport, serve
from bridge.connect import Connected
from bridge.mesh_tools.tools import TOOLS
from bridge.visible import LISTS, without
from mesh import Mesh
from mesh.errors import Denied
from mesh.identity.push import push
from mesh.policy.rights import Policy, Role, parse_rule
from mesh.wire.jsonrpc import dumps
from tests.cli_helpers import mesh as command
from tests.conftest import Broker
from tests.gather_world import BIN, MODERN, hosted, studio, text
from tests.helpers import ROOT, Signals, bridges
from tests.web_world import agent, front

ERAS = ("legacy", "auto")
RULES = {
    "clock": ("time/get_current_time",),
    "painter": ("knocker/heard", "studio/work", "studio/prompt:nobody", "studio/resource:studio://motto"),
    "nothing": (),
}


def policy(**rules: tuple[str, ...]) -> Policy:
    return Policy.of(Role(name, tuple(map(parse_rule, said))) for name, said in {**RULES, **rules}.items())


@pytest.fixture(scope="module")
def world(broker: Broker, plane: str) -> Iterator[str]:
    """Agents `time` and `git`, and `limited`, who may call one tool of one of them."""
    broker.authority.apply_policy(policy())
    for name, roles in (("limited", ("clock",)), ("visitor", ("painter",)), ("alone", ("agent",)), ("lost", ("nothing",))):
        broker.authority.issue(name, roles)
    asyncio.run(push(broker.authority, plane))
    with bridges(plane, ("time", [str(BIN / "mcp-server-time")]), ("git", [str(BIN / "mcp-server-git")])):
        yield plane


def check_denied(error: MCPError, action: str, caller: str = "limited") -> None:
    assert error.error.code == -32070
    assert error.error.data["mesh"] == "permission_denied"
    assert error.error.data["hint"].startswith(f"`mesh auth explain {caller} '{action}'`")
    assert error.error.message == f"'{caller}' may not {action}: no rule of its roles allows it"


def agents_tools(names: Iterable[str]) -> list[str]:
    """Without the mesh's own (`tests/test_mesh_tools.py`)."""
    return [each for each in names if each not in TOOLS]


async def check_one_tool(client: Client) -> None:
    async with asyncio.timeout(5):  # a denial comes at once: no deadline of a call is as short
        assert [tool.name for tool in (await client.list_tools()).tools] == ["get_current_time"]
        assert "Berlin" in text(await client.call_tool("get_current_time", {"timezone": "Europe/Berlin"}))
        with pytest.raises(MCPError) as refused:
            await client.call_tool("convert_time", {"source_timezone": "UTC", "time": "12:00", "target_timezone": "UTC"})
    check_denied(refused.value, "call time/convert_time")


# ---- one agent


@pytest.mark.parametrize("mode", ERAS)
async def test_one_agent(world: str, mode: Literal["legacy"]) -> None:
    async with Mesh(name="limited", broker=world) as mesh, Client(mesh_transport("time", mesh=mesh), mode=mode) as client:
        await check_one_tool(client)
    async with Mesh(name="local", broker=world) as mesh, Client(mesh_transport("time", mesh=mesh), mode=mode) as client:
        assert len((await client.list_tools()).tools) == 2


@pytest.mark.parametrize("mode", ERAS)
async def test_one_agent_over_stdio(world: str, mode: Literal["legacy"]) -> None:
    command = ["-m", "bridge", "connect", "time", "--as", "limited", "--broker", world, "--state-dir", os.environ["MESH_STATE_DIR"]]
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=command, cwd=ROOT)), mode=mode) as client:
        await check_one_tool(client)


@pytest.mark.parametrize("mode", ERAS)
async def test_one_agent_over_http(world: str, mode: Literal["legacy"]) -> None:
    async with front(world, caller="limited") as url, Client(streamable_http_client(f"{url}/agents/time/mcp"), mode=mode) as client:
        await check_one_tool(client)


@pytest.mark.parametrize("mode", ERAS)
async def test_an_agent_of_which_nothing_may_be_called(world: str, mode: Literal["legacy"]) -> None:
    async with Mesh(name="limited", broker=world) as mesh, asyncio.timeout(5):
        with pytest.raises((MCPError, ExceptionGroup)) as refused:
            async with Client(mesh_transport("git", mesh=mesh), mode=mode) as client:
                await client.list_tools()
    error = refused.value.exceptions[0] if isinstance(refused.value, ExceptionGroup) else refused.value
    assert isinstance(error, MCPError)
    check_denied(error, "call git")


async def test_the_list_and_the_broker_agree(world: str) -> None:
    """What is shown is what the broker lets through, and a refusal of the broker's own says the same as ours."""
    async with Mesh(name="local", broker=world) as mesh:
        tools = [tool["name"] for tool in (await mesh.request("time", "tools/list"))["tools"]]
    async with Mesh(name="limited", broker=world) as mesh:
        shown = {tool for tool in tools if mesh.reach.may_call("time", "tools/call", tool)}
        with pytest.raises(Denied) as ours:
            await mesh.call("time", "convert_time")
        mesh.connection.rights = None
        assert mesh.reach.all_of("time", "tools/call")
        async with asyncio.timeout(5):
            said = await asyncio.gather(*(mesh.call("time", tool, {}) for tool in tools), return_exceptions=True)
    refused = {tool: problem for tool, problem in zip(tools, said, strict=True) if isinstance(problem, Denied)}
    assert shown == set(tools) - refused.keys() == {"get_current_time"}
    assert [problem.as_dict() for problem in refused.values()] == [ours.value.as_dict()]


# ---- all agents as one


@pytest.mark.parametrize("mode", ERAS)
async def test_all_agents_as_one(world: str, mode: Literal["legacy"]) -> None:
    async with Mesh(name="limited", broker=world) as mesh, Client(mesh_transport(mesh=mesh), mode=mode) as client:
        assert agents_tools(tool.name for tool in (await client.list_tools()).tools) == ["find_tools", "time__get_current_time"]
        assert "git" not in (client.instructions or "")
        found = (await client.call_tool("find_tools", {"query": ""})).structured_content
        assert agents_tools(tool["name"] for tool in (found or {})["tools"]) == ["time__get_current_time"]
        assert "Berlin" in text(await client.call_tool("time__get_current_time", {"timezone": "Europe/Berlin"}))
        for name, action in (
            ("time__convert_time", "call time/convert_time"),
            ("git__git_status", "call git/git_status"),
            ("whoever__it_is", "call whoever/it_is"),
        ):
            async with asyncio.timeout(5):
                with pytest.raises(MCPError) as refused:
                    await client.call_tool(name, {})
            check_denied(refused.value, action)


@pytest.mark.parametrize("mode", ERAS)
async def test_all_agents_as_one_over_http(world: str, mode: Literal["legacy"]) -> None:
    async with front(world, caller="limited") as url, Client(streamable_http_client(f"{url}/mcp"), mode=mode) as client:
        assert agents_tools(tool.name for tool in (await client.list_tools()).tools) == ["find_tools", "time__get_current_time"]


@pytest.mark.parametrize("name", ["alone", "lost"])
async def test_who_may_call_nobody_sees_nobody(world: str, name: str) -> None:
    async with Mesh(name=name, broker=world) as mesh, hosted(mesh) as host, asyncio.timeout(10):
        await host.greet()
        assert agents_tools(tool["name"] for tool in (await host.ask(1, "tools/list"))["result"]["tools"]) == ["find_tools"]
        for number, (method, member) in enumerate({"prompts/list": "prompts", "resources/list": "resources"}.items(), start=2):
            assert [each["name"] for each in (await host.ask(number, method))["result"][member]] in ([], ["inbox"])
        assert (await host.ask(9, "tools/call", name="time__get_current_time"))["error"]["data"]["mesh"] == "permission_denied"


async def test_on_the_command_line(broker: Broker, world: str, tmp_path: Path) -> None:
    def asked(words: str) -> Any:
        return command(*words.split(), "--json", *broker.options, cwd=tmp_path)

    assert [tool["name"] for tool in (await asked("tools --name limited")).json] == ["get_current_time"]
    assert [(each["name"], each["tools"]) for each in (await asked("agents --name limited")).json] == [("time", 1)]
    assert (await asked("tools --name alone")).json == []
    assert {(each["name"], each["tools"]) for each in (await asked("agents")).json} >= {("time", 2), ("git", 12)}
    assert (await asked("agents --name operator")).json[0]["tools"] == 0
    refused = (await asked("call time convert_time --name limited")).error
    assert refused["code"] == "permission_denied"
    assert refused["hint"].startswith("`mesh auth explain limited 'call time/convert_time'`")


# ---- everything else that has a name, and changes


class Hearing:
    """A host on one agent that says what it likes, and notes what it hears."""

    def __init__(self, mesh: Mesh, agent: str) -> None:
        self.heard: list[dict[str, Any]] = []
        self.signals = Signals()
        self.link = Connected(mesh, agent, self._hear)

    def _hear(self, raw: bytes) -> None:
        self.heard.append(json.loads(raw))
        self.signals.tell()

    def say(self, id: int, method: str, **params: Any) -> None:
        self.link.receive(dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))

    async def ask(self, id: int, method: str, **params: Any) -> dict[str, Any]:
        self.say(id, method, **params)
        await self.signals.until(lambda: any(each.get("id") == id for each in self.heard))
        return next(each for each in self.heard if each.get("id") == id)

    def of(self, method: str) -> list[dict[str, Any]]:
        return [each for each in self.heard if each.get("method") == method]


async def test_prompts_and_resources(world: str) -> None:
    async with serve(studio(), name="studio", broker=world), Mesh(name="visitor", broker=world) as mesh:
        host = Hearing(mesh, "studio")
        shown = {
            listed.member: [each[listed.key] for each in (await host.ask(number, method, _meta=MODERN))["result"][listed.member]]
            for number, (method, listed) in enumerate(LISTS.items())
        }
        assert shown == {"tools": ["work"], "prompts": [], "resources": ["studio://motto"], "resourceTemplates": []}
        assert (await host.ask(9, "resources/read", uri="studio://motto", _meta=MODERN))["result"]["contents"][0]["text"] == "less"
        refused = (await host.ask(10, "prompts/get", name="greeting", _meta=MODERN))["error"]
        assert refused["data"]["mesh"] == "permission_denied"
        assert "call studio/prompt:greeting" in refused["message"]
        await host.link.close()


async def test_other_rights_are_other_lists(broker: Broker, world: str) -> None:
    changed = "notifications/tools/list_changed"
    async with agent(world, "knocker", "knocker"), Mesh(name="visitor", broker=world) as mesh, hosted(mesh) as gathered:
        handshake, modern = Hearing(mesh, "knocker"), Hearing(mesh, "knocker")
        greeting = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        said = await handshake.ask(1, "initialize", **greeting)
        assert said["result"]["capabilities"]["tools"]["listChanged"] is True
        modern.say(1, "subscriptions/listen", _meta=MODERN, notifications={"toolsListChanged": True})
        await modern.signals.until(lambda: modern.of("notifications/subscriptions/acknowledged"))
        await gathered.greet()
        assert [tool["name"] for tool in (await modern.ask(2, "tools/list", _meta=MODERN))["result"]["tools"]] == ["heard"]

        broker.authority.apply_policy(policy(painter=("knocker",)))
        await push(broker.authority, world)
        for host in (handshake, modern):
            await host.signals.until(lambda host=host: host.of(changed))  # type: ignore[misc]
        assert modern.of(changed)[0]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == 1
        assert not modern.of("notifications/resources/list_changed")
        assert not handshake.of("notifications/prompts/list_changed")
        await gathered.next(lambda each: each.get("method") == changed)
        for host, params in ((handshake, {}), (modern, {"_meta": MODERN})):
            assert {"heard", "knock"} <= {tool["name"] for tool in (await host.ask(10, "tools/list", **params))["result"]["tools"]}
        assert "knocker__knock" in {tool["name"] for tool in (await gathered.ask("list", "tools/list"))["result"]["tools"]}

        broker.authority.apply_policy(policy())
        await push(broker.authority, world)
        await handshake.signals.until(lambda: len(handshake.of(changed)) == 2)
        assert [tool["name"] for tool in (await handshake.ask(20, "tools/list"))["result"]["tools"]] == ["heard"]
        await handshake.link.close()
        await modern.link.close()


# ---- the bytes

ENTRIES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "ä", 'q"]},']), "more": st.sampled_from([None, [1, [2]], "]", "\\"])}),
        st.sampled_from([1, "name", None, [], {}, {"name": 3}, [{"name": "a"}]]),
    ),
    max_size=6,
)


@given(entries=ENTRIES, spaced=st.booleans(), plain=st.booleans())
def test_entries_are_cut_and_the_rest_stays(entries: list[Any], spaced: bool, plain: bool) -> None:
    message = {"jsonrpc": "2.0", "id": 7, "result": {"x": 12, "tools": entries, "nextCursor": "tools"}}
    raw = json.dumps(message, indent=1 if spaced else None, ensure_ascii=plain).encode()
    kept = [each for each in entries if isinstance(each, dict) and each.get("name") in ("a", "ä")]
    found = without(raw, LISTS["tools/list"], lambda name: name in ("a", "ä"))
    message["result"] = {"x": 12, "tools": kept, "nextCursor": "tools"}
    assert json.loads(found) == message
    if kept == entries:
        assert found == raw


def test_bytes_that_no_parser_would_write_again() -> None:
    tool = b'{"name":"\\u0061","n":123456789012345678901234567890,"n":1E400,"s":"\\ud800"}'
    raw = b'{"id":"x" , "result":{"ttlMs":5,"cacheScope":"public","tools":[ ' + tool + b' , {"name":"b"}],"a":1,"a":2},"jsonrpc":"2.0"}'
    found = without(raw, LISTS["tools/list"], lambda name: name == "a")
    assert found == raw.replace(b' , {"name":"b"}', b"").replace(b'"public"', b'"private"')
    assert without(raw, LISTS["tools/list"], lambda _: True) == raw
