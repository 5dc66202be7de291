"""All agents as one, against a real broker and real servers, as the SDK's client sees it in both eras."""

import asyncio
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Literal

import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, PromptReference, ResourceTemplateReference, Root, TextContent
from pydantic import FileUrl

from bridge import mesh_transport, serve
from mesh import Mesh, clock
from mesh.link.heart import Heart
from tests.gather_world import MODERN, hosted, some_agents, studio, text, together
from tests.helpers import ROOT, Bridge, Recorder, finish

ERAS = ("legacy", "auto")
"""The SDK's client by handshake, and of the modern era."""


@pytest.fixture(scope="module")
def agents(plane: str) -> Iterator[list[Bridge]]:
    with some_agents(plane) as made:
        yield made


@pytest.mark.parametrize("mode", ERAS)
async def test_everything_of_everybody(plane: str, agents: list[Bridge], mode: Literal["legacy"]) -> None:
    async with together(plane) as mesh, Client(mesh_transport(mesh=mesh), mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"find_tools", "time__get_current_time", "git__git_log", "studio__grow", "library__touch"} <= set(tools)
        assert any(name.startswith("clock_v2__get_current_time_") for name in tools)
        assert not any(name.startswith("mesh__") for name in tools)
        assert "- time" in (client.instructions or "")

        assert "Berlin" in text(await client.call_tool("time__get_current_time", {"timezone": "Europe/Berlin"}))
        assert "repository" in text(await client.call_tool("git__git_status", {"repo_path": str(ROOT)})).lower()

        reports: list[float] = []

        async def report(progress: float, total: float | None, message: str | None) -> None:
            reports.append(progress)

        assert text(await client.call_tool("studio__work", {"steps": 3}, progress_callback=report)) == "done"
        assert reports == [1, 2, 3]

        prompts = (await client.list_prompts()).prompts
        assert [prompt.name for prompt in prompts] == ["studio__greeting"]
        said = await client.get_prompt("studio__greeting", {"name": "Ada"})
        assert isinstance(said.messages[0].content, TextContent)
        assert said.messages[0].content.text == "Say hello to Ada"

        listed = [resource.uri for resource in (await client.list_resources()).resources]
        assert listed == ["mesh://inbox", "book:///1", "mesh://library/shared:///x", "mesh://studio/shared:///x", "studio://motto"]
        for uri, found in (
            ("book:///1", "library has book:///1"),
            ("studio://motto", "less"),
            ("mesh://library/shared:///x", "library has shared:///x"),
            ("mesh://studio/shared:///x", "studio has shared:///x"),
            ("studio://paint/red", "red paint"),
        ):
            assert (await client.read_resource(uri)).contents[0].text == found  # type: ignore[union-attr]
        with pytest.raises(MCPError, match="Several agents may have shared:///x"):
            await client.read_resource("shared:///x")

        templates = [each.uri_template for each in (await client.list_resource_templates()).resource_templates]
        assert templates == ["book:///{n}", "studio://paint/{colour}"]
        done = await client.complete(ResourceTemplateReference(uri="studio://paint/{colour}"), {"name": "colour", "value": "r"})
        assert done.completion.values == ["studio://paint/{colour}", "red"]
        done = await client.complete(PromptReference(name="studio__greeting"), {"name": "name", "value": "A"})
        assert done.completion.values == ["greeting"]


@pytest.mark.parametrize("mode", ERAS)
async def test_find_tools_and_call_tool(plane: str, agents: list[Bridge], mode: Literal["legacy"]) -> None:
    async with together(plane) as mesh, Client(mesh_transport(mesh=mesh, only_find=True), mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find_tools", "call_tool"]
        found = (await client.call_tool("find_tools", {"query": "current time", "agent": "time"})).structured_content
        assert found is not None
        assert found["tools"][0]["name"] == "time__get_current_time"
        assert "timezone" in found["tools"][0]["inputSchema"]["properties"]
        asked = {"agent_tool": "time__get_current_time", "arguments": {"timezone": "Europe/Berlin"}}
        assert "Berlin" in text(await client.call_tool("call_tool", asked))
        with pytest.raises(MCPError, match="Unknown tool: nobody__x"):
            await client.call_tool("call_tool", {"agent_tool": "nobody__x"})


@pytest.mark.parametrize("mode", ERAS)
async def test_over_stdio(plane: str, agents: list[Bridge], mode: Literal["legacy"]) -> None:
    command = ["-m", "bridge", "connect", "--broker", plane, "--state-dir", os.environ["MESH_STATE_DIR"]]
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=command, cwd=ROOT)), mode=mode) as client:
        assert "time__convert_time" in {tool.name for tool in (await client.list_tools()).tools}
        assert "Berlin" in text(await client.call_tool("time__get_current_time", {"timezone": "Europe/Berlin"}))
    command.append("--find-only")
    async with Client(stdio_client(StdioServerParameters(command=sys.executable, args=command, cwd=ROOT)), mode=mode) as client:
        assert len((await client.list_tools()).tools) == 2


async def test_agents_ask_the_host(plane: str, agents: list[Bridge]) -> None:
    async def elicit(context: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"word": "mesh"})

    async def roots(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///here"))])

    async def sample(context: Any, params: Any) -> CreateMessageResult:
        raise AssertionError("nobody asks for it")

    async with (
        together(plane) as mesh,
        Client(
            mesh_transport(mesh=mesh), mode="legacy", elicitation_callback=elicit, list_roots_callback=roots, sampling_callback=sample
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        asked = [group.create_task(client.call_tool(name)) for name in ("studio__ask", "library__roots", "studio__ask")]
    assert [text(task.result()) for task in asked] == ["mesh", "file:///here", "mesh"]


async def test_an_agent_of_the_other_era_asks_a_modern_host(plane: str, agents: list[Bridge]) -> None:
    async def roots(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///here"))])

    async with Mesh(name="host", broker=plane) as mesh, Client(mesh_transport(mesh=mesh), list_roots_callback=roots) as client:
        assert client.protocol_version == "2026-07-28"
        assert text(await client.call_tool("library__roots")) == "file:///here"


# ---- changes


async def test_changes_for_a_handshake_host(plane: str) -> None:
    async with Mesh(name="host", broker=plane) as mesh, hosted(mesh) as host:
        await host.greet()

        async def told(method: str = "notifications/tools/list_changed") -> set[str]:
            await host.next(lambda each: each.get("method") == method)
            return {tool["name"] for tool in (await host.ask("list", "tools/list"))["result"]["tools"]}

        async with serve(studio(), name="comes", broker=plane):
            assert "comes__grow" in await told()
            await host.next(lambda each: each.get("method") == "notifications/prompts/list_changed")
            await host.ask("grow", "tools/call", name="comes__grow", arguments={"name": "more"})
            assert "comes__more" in await told()
            assert (await host.ask("call", "tools/call", name="comes__more"))["result"]["content"][0]["text"] == "more"
        assert not [name for name in await told() if name.startswith("comes")]


async def test_changes_for_a_modern_host(plane: str) -> None:
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh(name="host", broker=plane))
        client = await stack.enter_async_context(Client(mesh_transport(mesh=mesh), mode="2026-07-28", cache=None))
        heard = await stack.enter_async_context(client.listen(tools_list_changed=True))
        assert heard.honored.tools_list_changed
        async with asyncio.timeout(15), serve(studio(), name="newcomer", broker=plane):
            await anext(aiter(heard))
            assert "newcomer__grow" in {tool.name for tool in (await client.list_tools()).tools}
            async with client.listen(resource_subscriptions=["studio://motto"]) as updates:
                async with asyncio.TaskGroup() as group:
                    first = group.create_task(anext(aiter(updates)))
                    while not first.done():  # the agent's own stream may not stand yet
                        await client.call_tool("newcomer__touch", {"uri": "studio://motto"})
                        await asyncio.wait({first}, timeout=0.1)
                assert first.result() == ResourceUpdated(uri="studio://motto")


# ---- many


async def test_a_hundred_agents(plane: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The figure: the aggregated list of 100 agents with 20 tools each, under 20 ms p50."""

    async def answer(_: Recorder, call: Any) -> None:
        finish(call, {"content": [{"type": "text", "text": call.frame.name}], "resultType": "complete"})

    schema = {"type": "object", "properties": {"text": {"type": "string", "description": "What to say"}}, "required": ["text"]}
    async with AsyncExitStack() as stack:
        heart = Heart()
        stack.push_async_callback(heart.close)
        for number in range(100):
            agent = await stack.enter_async_context(Mesh(name=f"agent-{number}", broker=plane, heart=heart))
            listed = tuple({"name": f"tool_{n}", "description": f"Tool {n} of many, for tests", "inputSchema": schema} for n in range(20))
            await stack.enter_async_context(agent.present(Recorder(answer), entry={"tools": listed}))
        mesh = await stack.enter_async_context(Mesh(name="host", broker=plane))
        host = await stack.enter_async_context(hosted(mesh))
        await host.greet()
        seconds = []
        for number in range(50):
            begun = clock.monotonic()
            said = await host.ask(number, "tools/list")
            seconds.append(clock.monotonic() - begun)
            assert sum(tool["name"].startswith("agent-") for tool in said["result"]["tools"]) == 2000
            assert "nextCursor" not in said["result"]
        ours = statistics.median(seconds)
        client = await stack.enter_async_context(Client(mesh_transport(mesh=mesh), mode="2026-07-28", cache=None))
        seconds = []
        for _ in range(10):
            begun = clock.monotonic()
            assert len((await client.list_tools()).tools) > 2000
            seconds.append(clock.monotonic() - begun)
        read = statistics.median(seconds)
        with capsys.disabled():
            sys.stdout.write(f"\n2000 tools of 100 agents, p50: listed in {ours * 1e3:.1f} ms, read by the SDK in {read * 1e3:.1f} ms\n")
        assert ours < 0.1
        answers = await asyncio.gather(*(host.ask(f"c{n}", "tools/call", name=f"agent-{n}__tool_7", _meta=MODERN) for n in range(100)))
        assert all(each["result"]["content"][0]["text"] == "tool_7" for each in answers)
