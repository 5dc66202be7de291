"""Jobs where something is missing or comes twice: the control plane, a reconnection, a second copy, a worker that is free."""

import asyncio
import math
from contextlib import AsyncExitStack
from typing import Any

import pytest

from mesh import Mesh
from mesh.delivery import Participant, receiver
from mesh.errors import ApiError, BrokerUnavailable, Denied, RemoteError
from mesh.jobs import JobError, JobRecord, Jobs, Retry, Work
from mesh.jobs.asking import passing
from mesh.link.jetstream import CONSUMER_NOT_FOUND, JetStream
from mesh.topology import JOBS
from mesh.wire.control import INVALID_PARAMS, MESH_ERROR, METHOD_NOT_FOUND
from mesh.wire.job import JOB_HEADER, JobOptions
from tests.conftest import Broker
from tests.helpers import control_plane
from tests.job_world import Hands, forever, joined, worker


class Asked:
    """Counts what is asked of the control plane, and fails as often as it is told to."""

    def __init__(self, mesh: Mesh, *failures: Exception) -> None:
        self.count = 0
        self._request = mesh.request
        self._failures = list(failures)

    async def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        self.count += 1
        if self._failures:
            raise self._failures.pop(0)
        return await self._request(*args, **options)


async def until_begun(jobs: Jobs, id: str) -> JobRecord:
    async with asyncio.timeout(20):
        async for record in jobs.watch(id):
            if record.state == "running":
                return record
    raise AssertionError("it ended")


def asking(mesh: Mesh, *failures: Exception) -> tuple[Jobs, Asked]:
    """A door of the same participant, and what it asks."""
    asked = Asked(mesh, *failures)
    return Jobs(Participant(mesh.connection, mesh.subjects, mesh.name, b"secret", asked)), asked


# who waits


async def test_who_watches_is_told_and_does_not_ask(broker: Broker) -> None:
    """The control plane answers 200 questions a minute to one participant; a job may report four times a second."""
    seen = {step: asyncio.Event() for step in range(1, 6)}

    async def steps(work: Work) -> str:
        for step, event in seen.items():
            work.progress(step, 5)
            await event.wait()
        return "done"

    async with control_plane(broker.url), worker(broker.url, "ann", Hands(steps)), joined(broker.url) as boss:
        jobs, asked = asking(boss)
        async with jobs:
            job = await jobs.submit("ann", "t")
            found = []
            async with asyncio.timeout(30):
                async for record in jobs.watch(job.id):
                    found.append(record.progress)
                    if record.progress is not None:
                        seen[int(record.progress)].set()
    assert found[-6:] == [1, 2, 3, 4, 5, 5]
    assert asked.count == 1


@pytest.mark.parametrize(
    "problem", [RemoteError(MESH_ERROR, "JetStream does not answer", {"mesh": "broker_unavailable"}), BrokerUnavailable("gone")]
)
async def test_who_waits_outlasts_a_control_plane_in_trouble(broker: Broker, problem: Exception) -> None:
    async with control_plane(broker.url), joined(broker.url) as boss:
        jobs, asked = asking(boss, problem, problem)
        async with jobs, worker(broker.url, "bob", Hands()):
            assert (await jobs.wait((await jobs.submit("bob", "t")).id, 20)).state == "done"
        assert asked.count >= 1


def test_what_will_not_pass_is_no_reason_to_wait() -> None:
    assert [passing(RemoteError(code, "")) for code in (METHOD_NOT_FOUND, INVALID_PARAMS, MESH_ERROR)] == [False, False, True]
    assert passing(ApiError(503, 10008, "no leader"))
    assert not passing(Denied("no"))


# without a control plane


async def test_while_no_control_plane_runs_jobs_are_done_and_waited_for(broker: Broker) -> None:
    """Also by a worker that starts meanwhile, where there is a consumer already."""
    go = asyncio.Event()

    async def until_go(_: Work) -> str:
        await go.wait()
        return "done"

    first, second = Hands(until_go), Hands()
    async with joined(broker.url) as boss, AsyncExitStack() as stack:
        async with control_plane(broker.url):
            await stack.enter_async_context(worker(broker.url, "cat", first))
            job = await boss.jobs.submit("cat", "t")
            waiting = asyncio.create_task(boss.jobs.wait(job.id, 30))
            await until_begun(boss.jobs, job.id)
        await stack.enter_async_context(worker(broker.url, "cat", second))
        later = await boss.jobs.submit("cat", "t")
        await second.until(lambda hands: hands.got)
        go.set()
        assert (await waiting).state == "done"
    assert second.got[0].id == later.id


async def test_an_idle_worker_has_no_consumer_at_the_broker(broker: Broker) -> None:
    async with control_plane(broker.url), worker(broker.url, "dan", Hands()), joined(broker.url, "operator") as operator:
        js = JetStream(operator.connection)
        with pytest.raises(ApiError) as refused:
            await js.api(f"CONSUMER.INFO.{JOBS}.dan")
        assert refused.value.err_code == CONSUMER_NOT_FOUND
        async with joined(broker.url) as boss:
            await boss.jobs.wait((await boss.jobs.submit("dan", "t")).id, 15)
        assert (await js.api(f"CONSUMER.INFO.{JOBS}.dan"))["name"] == "dan"


# workers


async def test_what_is_stored_twice_is_not_taken_from_who_does_it(broker: Broker) -> None:
    """The broker knows for ten minutes that it has a job. Submitted again after that, it is stored again, while it may still be done."""
    go = asyncio.Event()

    async def until_go(_: Work) -> str:
        await go.wait()
        return "done"

    first, second = Hands(until_go), Hands()
    async with control_plane(broker.url), joined(broker.url) as boss, worker(broker.url, "eve", first):
        job = await boss.jobs.submit("eve", "t")
        await first.until(lambda hands: hands.got)
        async with worker(broker.url, "eve", second):
            copy = first.got[0].request
            headers = {JOB_HEADER: JobOptions(nonce=job.nonce).header()}
            js = JetStream(boss.connection)
            await js.publish(boss.subjects.job("eve", "boss", "tools/call", "t"), copy, headers=headers)
            other = await boss.jobs.submit("eve", "other")
            await boss.jobs.wait(other.id, 20)  # the copy lies before it
            operator_sees = await boss.jobs.get(job.id)
            go.set()
            done = await boss.jobs.wait(job.id, 20)
    assert (operator_sees.state, operator_sees.attempts) == ("running", 1)
    assert (done.state, done.attempts, first.stopped) == ("done", 1, 0)
    assert [work.tool for work in second.got] == ["other"]


async def test_a_worker_that_is_free_gets_the_next_job(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the others are at work for long."""
    monkeypatch.setattr(receiver, "LEAVE_SECONDS", 0.5)
    hands = Hands(forever, forever, forever)
    async with control_plane(broker.url), joined(broker.url) as boss, worker(broker.url, "fay", hands, workers=4):
        for _ in range(3):
            await boss.jobs.submit("fay", "t")
        await hands.until(lambda h: len(h.got) == 3)
        for _ in range(3):
            assert (await boss.jobs.wait((await boss.jobs.submit("fay", "t")).id, 10)).state == "done"


async def test_a_report_that_is_no_number_harms_nothing(broker: Broker) -> None:
    async def strange(work: Work) -> str:
        for value in (math.nan, math.inf, "much", None, True):
            work.progress(value)  # type: ignore[arg-type]
        work.progress(1, math.inf, "one")
        await asyncio.Event().wait()
        return ""

    async with control_plane(broker.url), joined(broker.url) as boss, worker(broker.url, "gus", Hands(strange)):
        job = await boss.jobs.submit("gus", "t")
        async with asyncio.timeout(15):
            async for record in boss.jobs.watch(job.id):
                if record.message == "one":
                    break
        assert (record.progress, record.total) == (1, None)
        await boss.jobs.cancel(job.id)


async def test_an_error_that_is_too_large_for_a_record_is_cut(broker: Broker) -> None:
    huge = {"code": -32000, "message": "no " * 5000, "data": {"log": "x" * 2_000_000}}
    hands = Hands(JobError(huge), Retry("y" * 2_000_000, after=0.01))
    async with control_plane(broker.url), joined(broker.url) as boss, worker(broker.url, "hal", hands):
        failed = await boss.jobs.wait((await boss.jobs.submit("hal", "t")).id, 20)
        assert (failed.state, failed.attempts) == ("failed", 1)
        assert (failed.error or {})["code"] == -32000
        done = await boss.jobs.wait((await boss.jobs.submit("hal", "t")).id, 20)
        assert (done.state, done.attempts) == ("done", 2)


async def test_past_its_deadline_work_is_stopped_though_the_broker_is_away(broker: Broker) -> None:
    """Also in the middle of a report, whose outcome is not known until the broker is there again."""

    async def reports(work: Work) -> str:
        for step in range(10_000):
            work.progress(step)
            await asyncio.sleep(0.01)
        return ""

    hands = Hands(reports)
    async with control_plane(broker.url), joined(broker.url) as boss, worker(broker.url, "ida", hands):
        job = await boss.jobs.submit("ida", "t", deadline=1.0)
        await until_begun(boss.jobs, job.id)
        await asyncio.to_thread(broker.stop)
        try:
            await hands.until(lambda h: h.stopped)
        finally:
            await asyncio.to_thread(broker.start)
        assert (await boss.jobs.wait(job.id, 30)).state == "expired"
