"""Tasks of hosts at servers that know nothing of them: over each way in, in both eras, with clients and servers that others wrote.

Agents and the front run in this process.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mcp_types
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from bridge.tasks import link
from bridge.tasks.words import EXTENSION
from mesh.rpc import CLIENT_CAPABILITIES, MODERN
from tests.helpers import ROOT, Background
from tests.hosts import Host, Join, http_host, pipe_host, socket_host
from tests.task_client import META, Tasks, modern, over, submit
from tests.web_world import agent, front

TIME = str(Path(sys.executable).parent / "mcp-server-time")
BERLIN = {"name": "get_current_time", "arguments": {"timezone": "Europe/Berlin"}}
RELATED = "io.modelcontextprotocol/related-task"


AGENTS = [
    ["echo", "echo"],
    ["old", "handshake"],
    ["time", TIME, "--local-timezone", "UTC"],
    ["asker", "asker"],
    ["tasked", "tasked"],
]


@asynccontextmanager
async def agents(broker_url: str) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for name, *command in AGENTS:
            await stack.enter_async_context(agent(broker_url, name, *command))
        await stack.enter_async_context(agent(broker_url, "secret", "echo", journal="metadata"))
        yield


@pytest.fixture(scope="module")
def served(plane: str) -> Iterator[None]:
    with Background(lambda: agents(plane)):
        yield


@pytest.fixture(scope="module")
def web(plane: str, served: None) -> Iterator[str]:
    """The URL of a front."""
    with Background(lambda: front(plane)) as made:
        yield made.value


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the modern era becomes a task sooner."""
    monkeypatch.setattr(link, "GRACE", 0.1)


@pytest.fixture(params=["stdio", "http", "websocket"])
def join(request: pytest.FixtureRequest, plane: str, web: str) -> Join:
    if request.param == "stdio":
        return partial(pipe_host, plane)
    return partial(http_host if request.param == "http" else socket_host, web)


@asynccontextmanager
async def joined(join: Join, agent: str) -> AsyncIterator[Host]:
    async with asyncio.timeout(30), join(agent) as host:
        said = await host.begin()
        assert said["capabilities"]["tasks"]["requests"] == {"tools": {"call": {}}}
        yield host


# ---- the handshake era


@pytest.mark.proves("tools/call as a task, tasks/get, tasks/result, tasks/list")
async def test_a_task_at_a_server_that_knows_nothing_of_tasks(join: Join) -> None:
    async with joined(join, "time") as host:
        tools = (await host.ask("tools/list"))["tools"]
        assert {each["execution"]["taskSupport"] for each in tools} == {"optional"}
        made = (await host.ask("tools/call", {**BERLIN, "task": {"ttl": 120_000}}))["task"]
        mcp_types.Task.model_validate(made)
        assert made["ttl"] == 120_000
        result = await host.ask("tasks/result", {"taskId": made["taskId"]})
        assert "Europe/Berlin" in result["content"][0]["text"]
        assert result["_meta"][RELATED] == {"taskId": made["taskId"]}
        assert "resultType" not in result
        assert (await host.ask("tasks/get", {"taskId": made["taskId"]}))["status"] == "completed"
        wrong = await submit(host, "get_current_time", timezone="Nowhere/At/All")
        assert (await host.ask("tasks/result", {"taskId": wrong}))["isError"] is True
        assert (await host.ask("tasks/get", {"taskId": wrong}))["status"] == "failed"
        known = [each["taskId"] for each in (await host.ask("tasks/list"))["tasks"]]
        assert {made["taskId"], wrong} <= set(known)
        assert "Europe/Berlin" in (await host.ask("tools/call", BERLIN))["content"][0]["text"]  # an ordinary call stays one
        assert (await host.ask("tasks/get", {"taskId": "1-nothing"}))["code"] == -32602


@pytest.mark.proves("tasks/cancel reaches the worker, and ends in cancelled", "notifications/tasks/status, and progress of a task")
async def test_a_session_cancels_and_hears_of_its_tasks(join: Join) -> None:
    async with joined(join, "echo") as host:
        never = await submit(host, "never")
        assert (await host.ask("tasks/cancel", {"taskId": never}))["status"] == "cancelled"
        assert (await host.ask("tasks/get", {"taskId": never}))["status"] == "cancelled"
        assert (await host.ask("tasks/cancel", {"taskId": never}))["code"] == -32602
        assert (await host.ask("tasks/result", {"taskId": never}))["data"]["mesh"] == "job_cancelled"
        wrong = await submit(host, "error")
        assert (await host.ask("tasks/result", {"taskId": wrong}))["code"] == -32123
        assert (await host.ask("tasks/get", {"taskId": wrong}))["status"] == "failed"
        id = await submit(host, "slow", token="mine", seconds=0.9, steps=3)
        await host.until(lambda each: each.get("method") == "notifications/tasks/status" and each["params"]["taskId"] == id)
        told = {each["params"]["taskId"]: each["params"]["status"] for each in host.of("notifications/tasks/status")}
        assert told == {never: "cancelled", wrong: "failed", id: "completed"}
        heard = [each["params"] for each in host.of("notifications/progress")]
        assert {each["progressToken"] for each in heard} == {"mine"}
        assert all(each["_meta"][RELATED] == {"taskId": id} for each in heard)
        assert [each["progress"] for each in heard] == sorted(each["progress"] for each in heard)
        assert heard[-1]["total"] == 3


async def test_what_must_not_be_stored_is_no_task(web: str) -> None:
    async with asyncio.timeout(30), socket_host(web, "secret") as host:
        await host.begin()
        assert not [each for each in (await host.ask("tools/list"))["tools"] if "execution" in each]
        assert (await host.ask("tools/call", {"name": "echo", "arguments": {}, "task": {}}))["code"] == -32601


# ---- the modern era


@pytest.mark.proves("a server decides on a task, tasks/get, tasks/update, tasks/cancel")
@pytest.mark.parametrize("agent", ["echo", "old"])
async def test_a_long_call_becomes_a_task(web: str, monkeypatch: pytest.MonkeyPatch, agent: str) -> None:
    async with asyncio.timeout(30), socket_host(web, agent) as host:
        said = await modern(host, "server/discover")
        assert EXTENSION in said["capabilities"]["extensions"]
        quick = await modern(host, "tools/call", name="echo", arguments={})
        assert quick["resultType"] == "complete"
        monkeypatch.setattr(link, "GRACE", 0.1)
        made = await modern(host, "tools/call", name="slow", arguments={"seconds": 0.6, "steps": 2})
        assert (made["resultType"], made["status"]) == ("task", "working")
        assert made["ttlMs"] == 86_400_000
        assert (await modern(host, "tasks/update", taskId=made["taskId"], inputResponses={"x": {}})) == {"resultType": "complete"}
        done = await over(host, made["taskId"])
        assert done["result"]["content"][0]["text"] == "done"
        never = await modern(host, "tools/call", name="never", arguments={})
        assert (await modern(host, "tasks/cancel", taskId=never["taskId"])) == {"resultType": "complete"}
        assert (await over(host, never["taskId"]))["status"] == "cancelled"
        assert (await modern(host, "tasks/get", taskId="1-nothing"))["code"] == -32602
        plain = {**META, CLIENT_CAPABILITIES: {}}
        assert (await host.ask("tasks/get", {"taskId": made["taskId"], "_meta": plain}))["code"] == -32021
        assert "content" in await host.ask("tools/call", {"name": "echo", "arguments": {}, "_meta": plain})


@pytest.mark.proves("notifications/tasks on a listen")
async def test_a_listen_hears_of_a_task(web: str, at_once: None) -> None:
    async with asyncio.timeout(30), socket_host(web, "echo") as host:
        made = await modern(host, "tools/call", name="slow", arguments={"seconds": 0.8, "steps": 2})
        await host.start("subscriptions/listen", {"notifications": {"taskIds": [made["taskId"], "1-nothing"]}, "_meta": META})
        await host.until(lambda each: each.get("method") == "notifications/tasks" and each["params"]["status"] == "completed")
        [acknowledged] = host.of("notifications/subscriptions/acknowledged")
        assert acknowledged["params"]["notifications"] == {"taskIds": [made["taskId"]]}
        assert host.of("notifications/tasks")[-1]["params"]["result"]["content"][0]["text"] == "done"


@pytest.mark.proves("a server that must ask ends its task with the error that says so")
async def test_a_server_that_must_ask_ends_its_task(web: str) -> None:
    async with asyncio.timeout(30), socket_host(web, "asker") as host:
        said = await modern(host, "tools/call", name="ask", arguments={})
        if "taskId" in said:
            said = (await over(host, said["taskId"]))["error"]
        assert said["code"] == -32021, said
        assert said["data"]["requiredCapabilities"] == {"elicitation": {}}


@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_the_sdks_client_collects_a_task(plane: str, web: str, way: str) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(30))
        options = ["-m", "bridge", "connect", "old", "--broker", plane, "--state-dir", os.environ["MESH_STATE_DIR"]]
        to: Any = StdioServerParameters(command=sys.executable, args=options, cwd=ROOT)
        if way == "http":
            to = f"{web}/agents/old/mcp"
        tasks = Tasks()
        client = await stack.enter_async_context(Client(to, mode=MODERN, extensions=[tasks]))
        result = await client.call_tool("slow", {"seconds": 1.3, "steps": 2})
        assert isinstance(result.content[0], mcp_types.TextContent)
        assert result.content[0].text == "done"
        assert len(tasks.seen) == 1


# ---- all agents as one


async def test_all_agents_as_one_have_tasks(plane: str, served: None) -> None:
    async with asyncio.timeout(30), pipe_host(plane) as host:
        assert "tasks" in (await host.begin())["capabilities"]
        tools = {each["name"]: each.get("execution", {}).get("taskSupport") for each in (await host.ask("tools/list"))["tools"]}
        assert tools["time__get_current_time"] == "optional"
        assert tools["secret__echo"] == "forbidden"
        assert tools["find_tools"] is None
        id = await submit(host, "time__get_current_time", timezone="Europe/Berlin")
        assert "Europe/Berlin" in (await host.ask("tasks/result", {"taskId": id}))["content"][0]["text"]
        assert (await host.ask("tools/call", {"name": "find_tools", "arguments": {"query": ""}, "task": {}}))["code"] == -32601
        assert (await host.ask("tools/call", {"name": "secret__echo", "arguments": {}, "task": {}}))["code"] == -32601
        made = await modern(host, "tools/call", name="echo__slow", arguments={"seconds": 1.3, "steps": 2})
        assert (await over(host, made["taskId"]))["result"]["content"][0]["text"] == "done"


# ---- tasks of a server


async def test_a_server_with_tasks_keeps_them(web: str) -> None:
    async with asyncio.timeout(30), socket_host(web, "tasked") as host:
        assert (await host.begin())["capabilities"]["tasks"] == {"list": {}}
        assert not [each for each in (await host.ask("tools/list"))["tools"] if "execution" in each]
        assert (await host.ask("tools/call", {"name": "echo", "arguments": {}, "task": {}}))["task"]["taskId"] == "mine"
        for method in ("tasks/get", "tasks/result", "tasks/cancel", "tasks/list"):
            assert (await host.ask(method, {"taskId": "mine"}))["of"] == method
        assert (await modern(host, "server/discover"))["capabilities"]["extensions"] == {EXTENSION: {}}
        assert (await modern(host, "tools/call", name="echo", arguments={}))["taskId"] == "mine"
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            assert (await modern(host, method, taskId="mine"))["of"] == method
