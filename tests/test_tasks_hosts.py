"""Tasks of hosts at servers that know nothing of them: over each way in, in both eras, with clients and servers that others wrote, and with
bridges that are killed in the middle.
"""

import asyncio
import json
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

from bridge.tasks.words import EXTENSION
from mesh.rpc import CLIENT_CAPABILITIES, MODERN, PROTOCOL_VERSION
from tests.helpers import ROOT, Bridge, bridges
from tests.hosts import Host, Join, http_host, pipe_host, socket_host
from tests.task_client import OVER, Tasks
from tests.web_world import front

TIME = str(Path(sys.executable).parent / "mcp-server-time")
BERLIN = {"name": "get_current_time", "arguments": {"timezone": "Europe/Berlin"}}
META = {PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: {"extensions": {EXTENSION: {}}}}
RELATED = "io.modelcontextprotocol/related-task"


@pytest.fixture(scope="module")
def served(plane: str) -> Iterator[list[Bridge]]:
    plans = ("echo", "echo"), ("old", "handshake"), ("time", [TIME]), ("asker", "asker"), ("tasked", "tasked")
    with bridges(plane, *plans, ("secret", "echo", "--journal", "metadata")) as made:
        yield made


@pytest.fixture(params=["stdio", "http", "websocket"])
async def join(request: pytest.FixtureRequest, plane: str, served: list[Bridge]) -> AsyncIterator[Join]:
    if request.param == "stdio":
        yield partial(pipe_host, plane)
        return
    async with front(plane) as url:
        yield partial(http_host if request.param == "http" else socket_host, url)


@asynccontextmanager
async def joined(join: Join, agent: str) -> AsyncIterator[Host]:
    async with asyncio.timeout(30), join(agent) as host:
        said = await host.begin()
        assert said["capabilities"]["tasks"]["requests"] == {"tools": {"call": {}}}
        yield host


async def submit(host: Host, name: str, ttl: int | None = None, token: str | None = None, **arguments: Any) -> str:
    """The id of a task of the handshake era."""
    params = {"name": name, "arguments": arguments, "task": {} if ttl is None else {"ttl": ttl}}
    made = await host.ask("tools/call", params if token is None else {**params, "_meta": {"progressToken": token}})
    assert made["task"]["status"] == "working", made
    return str(made["task"]["taskId"])


async def modern(host: Host, method: str, **params: Any) -> Any:
    return await host.ask(method, {**params, "_meta": META})


async def over(host: Host, id: str) -> Any:
    """A task of the modern era, once it is over."""
    while True:
        task = await modern(host, "tasks/get", taskId=id)
        if task["status"] in OVER:
            return task
        await asyncio.sleep(0.05)  # a host polls


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


@pytest.mark.proves("tasks/cancel reaches the worker, and ends in cancelled")
async def test_a_cancellation_reaches_the_server(join: Join) -> None:
    async with joined(join, "echo") as host:
        id = await submit(host, "never")
        await host.until(lambda _: True)
        assert (await host.ask("tasks/cancel", {"taskId": id}))["status"] == "cancelled"
        assert (await host.ask("tasks/get", {"taskId": id}))["status"] == "cancelled"
        assert (await host.ask("tasks/cancel", {"taskId": id}))["code"] == -32602
        assert (await host.ask("tasks/result", {"taskId": id}))["data"]["mesh"] == "job_cancelled"


@pytest.mark.proves("notifications/tasks/status, and progress of a task")
async def test_a_session_hears_of_its_tasks(join: Join) -> None:
    async with joined(join, "echo") as host:
        id = await submit(host, "slow", token="mine", seconds=1.5, steps=3)
        await host.until(lambda each: each.get("method") == "notifications/tasks/status" and each["params"]["status"] == "completed")
        assert [each["params"]["taskId"] for each in host.of("notifications/tasks/status")] == [id]
        heard = [each["params"] for each in host.of("notifications/progress")]
        assert {each["progressToken"] for each in heard} == {"mine"}
        assert all(each["_meta"][RELATED] == {"taskId": id} for each in heard)
        assert [each["progress"] for each in heard] == sorted(each["progress"] for each in heard)
        assert heard[-1]["total"] == 3


async def test_errors_and_tools_that_are_no_tasks(join: Join) -> None:
    async with joined(join, "echo") as host:
        id = await submit(host, "error")
        assert (await host.ask("tasks/result", {"taskId": id}))["code"] == -32123
        assert (await host.ask("tasks/get", {"taskId": id}))["status"] == "failed"
    async with joined(join, "secret") as host:
        assert not [each for each in (await host.ask("tools/list"))["tools"] if "execution" in each]
        assert (await host.ask("tools/call", {"name": "echo", "arguments": {}, "task": {}}))["code"] == -32601


# ---- the modern era


@pytest.mark.proves("a server decides on a task, tasks/get, tasks/update, tasks/cancel")
@pytest.mark.parametrize("agent", ["echo", "old"])
async def test_a_long_call_becomes_a_task(plane: str, served: list[Bridge], agent: str) -> None:
    async with asyncio.timeout(30), pipe_host(plane, agent) as host:
        said = await modern(host, "server/discover")
        assert EXTENSION in said["capabilities"]["extensions"]
        quick = await modern(host, "tools/call", name="echo", arguments={})
        assert quick["resultType"] == "complete"
        made = await modern(host, "tools/call", name="slow", arguments={"seconds": 2, "steps": 4})
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
async def test_a_listen_hears_of_a_task(plane: str, served: list[Bridge]) -> None:
    async with asyncio.timeout(30), pipe_host(plane, "echo") as host:
        made = await modern(host, "tools/call", name="slow", arguments={"seconds": 2, "steps": 2})
        await host.start("subscriptions/listen", {"notifications": {"taskIds": [made["taskId"], "1-nothing"]}, "_meta": META})
        await host.until(lambda each: each.get("method") == "notifications/tasks" and each["params"]["status"] == "completed")
        [acknowledged] = host.of("notifications/subscriptions/acknowledged")
        assert acknowledged["params"]["notifications"] == {"taskIds": [made["taskId"]]}
        assert host.of("notifications/tasks")[-1]["params"]["result"]["content"][0]["text"] == "done"


@pytest.mark.proves("a server that must ask ends its task with the error that says so")
async def test_a_server_that_must_ask_ends_its_task(plane: str, served: list[Bridge]) -> None:
    async with asyncio.timeout(30), pipe_host(plane, "asker") as host:
        said = await modern(host, "tools/call", name="ask", arguments={})
        if "taskId" in said:
            said = (await over(host, said["taskId"]))["error"]
        assert said["code"] == -32021, said
        assert said["data"]["requiredCapabilities"] == {"elicitation": {}}


@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_the_sdks_client_collects_a_task(plane: str, served: list[Bridge], way: str) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(30))
        options = ["-m", "bridge", "connect", "old", "--broker", plane, "--state-dir", os.environ["MESH_STATE_DIR"]]
        to: Any = StdioServerParameters(command=sys.executable, args=options, cwd=ROOT)
        if way == "http":
            to = f"{await stack.enter_async_context(front(plane))}/agents/old/mcp"
        tasks = Tasks()
        client = await stack.enter_async_context(Client(to, mode=MODERN, extensions=[tasks]))
        result = await client.call_tool("slow", {"seconds": 2, "steps": 2})
        assert isinstance(result.content[0], mcp_types.TextContent)
        assert result.content[0].text == "done"
        assert len(tasks.seen) == 1


# ---- all agents as one


async def test_all_agents_as_one_have_tasks(plane: str, served: list[Bridge]) -> None:
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
        made = await modern(host, "tools/call", name="echo__slow", arguments={"seconds": 2, "steps": 2})
        assert (await over(host, made["taskId"]))["result"]["content"][0]["text"] == "done"


# ---- tasks of a server


async def test_a_server_with_tasks_keeps_them(plane: str, served: list[Bridge]) -> None:
    async with asyncio.timeout(30), pipe_host(plane, "tasked") as host:
        assert (await host.begin())["capabilities"]["tasks"] == {"list": {}}
        assert not [each for each in (await host.ask("tools/list"))["tools"] if "execution" in each]
        assert (await host.ask("tools/call", {"name": "echo", "arguments": {}, "task": {}}))["task"]["taskId"] == "mine"
        for method in ("tasks/get", "tasks/result", "tasks/cancel", "tasks/list"):
            assert (await host.ask(method, {"taskId": "mine"}))["of"] == method
        assert (await modern(host, "server/discover"))["capabilities"]["extensions"] == {EXTENSION: {}}
        assert (await modern(host, "tools/call", name="echo", arguments={}))["taskId"] == "mine"
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            assert (await modern(host, method, taskId="mine"))["of"] == method


# ---- what is killed in the middle


@pytest.mark.proves("a task outlives its host and its bridges", "a task is one identity's")
async def test_a_task_outlives_the_host_that_made_it(plane: str, served: list[Bridge]) -> None:
    async with asyncio.timeout(60):
        async with pipe_host(plane, "echo") as host:
            await host.begin()
            id = await submit(host, "slow", seconds=2, steps=2)
            made = await modern(host, "tools/call", name="slow", arguments={"seconds": 3, "steps": 2})
            host.process.kill()
        async with pipe_host(plane, "echo", "--as", "other") as other:
            await other.begin()
            for method in ("tasks/get", "tasks/result", "tasks/cancel"):
                assert (await other.ask(method, {"taskId": id}))["code"] == -32602
            assert (await modern(other, "tasks/get", taskId=made["taskId"]))["code"] == -32602
            assert id not in [each["taskId"] for each in (await other.ask("tasks/list"))["tasks"]]
        async with pipe_host(plane, "echo") as host:
            await host.begin()
            assert id in [each["taskId"] for each in (await host.ask("tasks/list"))["tasks"]]
            assert (await host.ask("tasks/result", {"taskId": id}))["content"][0]["text"] == "done"
            assert (await over(host, made["taskId"]))["result"]["content"][0]["text"] == "done"


async def test_a_task_outlives_the_front_and_the_servers_bridge(plane: str) -> None:
    async with asyncio.timeout(90):
        with bridges(plane, ("late", "echo")) as made:
            async with killed_front(plane) as url, http_host(url, "late") as host:
                await host.begin()
                id = await submit(host, "slow", seconds=3, steps=3)
            made[0].process.kill()
            await asyncio.to_thread(made[0].process.wait)
        with bridges(plane, ("late", "echo")):
            async with front(plane) as url, http_host(url, "late") as host:
                await host.begin()
                assert (await host.answer(await host.start("tasks/result", {"taskId": id}), 60))["content"][0]["text"] == "done"


@asynccontextmanager
async def killed_front(plane: str) -> AsyncIterator[str]:
    """A front in a process of its own, killed at the end of the block, before its hosts leave."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "bridge", "http", "--port", "0", "--auth", "none", "--json", "--broker", plane],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        yield json.loads(await process.stdout.readline())["http"]
    finally:
        process.kill()
        await process.communicate()
