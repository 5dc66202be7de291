"""Jobs of MCP servers behind bridges in processes of their own: progress, errors, cancellation, and kills of everybody on the way."""

import asyncio
import signal

import pytest

from mesh.jobs import JobRecord, desk
from mesh.jobs.door import Jobs
from tests.conftest import Broker
from tests.helpers import bridges, control_plane
from tests.job_world import joined


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker waits less for the word of a worker, of jobs of a name whose lane is made now."""
    monkeypatch.setattr(desk, "ACK_WAIT", 3.0)


async def until_running(jobs: Jobs, id: str) -> JobRecord:
    async with asyncio.timeout(30):
        async for record in jobs.watch(id):
            if record.progress is not None:
                return record
    raise AssertionError("it ended")


async def test_any_servers_tool_is_a_job(plane: str) -> None:
    with bridges(plane, ("worker", "echo"), ("old", "handshake"), ("asker", "asker")):
        async with joined(plane) as boss:
            jobs = boss.jobs
            for agent in ("worker", "old"):
                job = await jobs.submit(agent, "echo", {"n": 10**30})
                assert (await jobs.wait(job.id, 20)).result["structuredContent"]["arguments"] == {"n": 10**30}
                job = await jobs.submit(agent, "slow", {"seconds": 0.3, "steps": 1})
                seen = [record async for record in jobs.watch(job.id)]
                assert seen[-1].result["content"][0]["text"] == "done"
                failed = await jobs.wait((await jobs.submit(agent, "nothing")).id, 20)
                assert (failed.state, failed.attempts, (failed.error or {})["code"]) == ("failed", 1, -32602)
            said = await jobs.wait((await jobs.submit("worker", "tool_error")).id, 20)
            assert (said.state, said.result["isError"]) == ("done", True)
            asked = await jobs.wait((await jobs.submit("asker", "ask")).id, 20)
            assert (asked.state, asked.attempts) == ("failed", 1)
            assert "elicitation" in (asked.error or {})["message"]
            job = await jobs.submit("worker", "slow", {"seconds": 600, "steps": 6000})
            await until_running(jobs, job.id)
            await jobs.cancel(job.id)
            heard = await boss.call("worker", "wait", {"method": "notifications/cancelled", "count": 1})
            assert heard["content"][0]["text"] == "True"


async def test_a_server_that_dies_each_time_fails_the_job(plane: str) -> None:
    with bridges(plane, ("crashing", "echo")):
        async with joined(plane) as boss:
            failed = await boss.jobs.wait((await boss.jobs.submit("crashing", "crash", attempts=2)).id, 50)
    assert (failed.state, failed.attempts) == ("failed", 2)
    assert (failed.error or {})["data"]["mesh"] in ("server_died", "job_failed")


async def test_a_killed_bridge_is_replaced_and_the_job_is_done(plane: str, short: None) -> None:
    async with joined(plane) as boss:
        with bridges(plane, ("mortal", "echo")) as [first]:
            job = await boss.jobs.submit("mortal", "slow", {"seconds": 2, "steps": 20})
            assert (await until_running(boss.jobs, job.id)).attempts == 1
            first.send(signal.SIGKILL)
            with bridges(plane, ("mortal", "echo")):
                done = await boss.jobs.wait(job.id, 45)
    assert (done.state, done.attempts) == ("done", 2)


async def test_a_job_that_kills_its_bridge_ends(plane: str, short: None) -> None:
    """With one attempt it is failed by the next worker, which does not begin it."""
    async with joined(plane) as boss:
        with bridges(plane, ("poisoned", "echo")) as [first]:
            job = await boss.jobs.submit("poisoned", "slow", {"seconds": 600, "steps": 6000}, attempts=1)
            await until_running(boss.jobs, job.id)
            first.send(signal.SIGKILL)
            with bridges(plane, ("poisoned", "echo")):
                failed = await boss.jobs.wait(job.id, 45)
    assert (failed.state, failed.attempts) == ("failed", 1)
    assert (failed.error or {})["data"] == {"mesh": "undelivered"}


@pytest.mark.timeout(90)
async def test_a_killed_broker_loses_no_job(broker: Broker) -> None:
    async with control_plane(broker.url), joined(broker.url) as boss:
        with bridges(broker.url, ("survivor", "echo")):
            running = await boss.jobs.submit("survivor", "slow", {"seconds": 2, "steps": 20})
            await until_running(boss.jobs, running.id)
            await asyncio.to_thread(broker.kill)
            after = await boss.jobs.submit("survivor", "pid", key="after")
            assert (await boss.jobs.wait(running.id, 45)).state == "done"
            assert (await boss.jobs.wait(after.id, 45)).state == "done"
