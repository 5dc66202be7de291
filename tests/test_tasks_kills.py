"""Tasks of hosts whose bridges are killed in the middle: the host's own, the front, and the server's."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh.jobs import desk
from tests.helpers import ROOT, bridges
from tests.hosts import Host, http_host, pipe_host
from tests.task_client import modern, over, submit
from tests.web_world import agent, front


@pytest.mark.proves("a task outlives its host and its bridges", "a task is one identity's")
async def test_a_task_outlives_the_host_that_made_it(plane: str) -> None:
    async with asyncio.timeout(50), agent(plane, "echo", "echo"):
        async with pipe_host(plane, "echo") as host:
            await host.begin()
            id = await submit(host, "slow", seconds=1.5, steps=2)
            made = await modern(host, "tools/call", name="slow", arguments={"seconds": 1.5, "steps": 2})
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


@pytest.mark.proves("a task runs twice only where its tool says that it may")
async def test_a_task_outlives_the_front_and_the_servers_bridge(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says that it may is begun again; what does not is begun once, and its task says that it failed."""
    monkeypatch.setattr(desk, "ACK_WAIT", 3.0)  # for the lane of this name, which is made now
    async with asyncio.timeout(50):
        with bridges(plane, ("late", "marked")) as made:
            async with killed_front(plane) as url, http_host(url, "late") as host:
                await host.begin()
                slow, once = await submit(host, "slow", seconds=2, steps=2), await submit(host, "never")
                for id in (slow, once):
                    await begun(host, id)
            made[0].process.kill()
            await asyncio.to_thread(made[0].process.wait)
        with bridges(plane, ("late", "marked")):
            async with front(plane) as url, http_host(url, "late") as host:
                await host.begin()
                assert (await host.answer(await host.start("tasks/result", {"taskId": slow}), 30))["content"][0]["text"] == "done"
                said = await host.answer(await host.start("tasks/result", {"taskId": once}), 30)
                assert said["data"] == {"mesh": "undelivered"}


async def begun(host: Host, id: str) -> None:
    while True:
        task = await host.ask("tasks/get", {"taskId": id})
        if "waits" not in task.get("statusMessage", ""):
            return
        await asyncio.sleep(0.05)  # a host polls


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
