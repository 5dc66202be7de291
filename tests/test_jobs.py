"""Jobs over a real broker: submitted, done, tried again, cancelled, expired, collected by another process."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mesh.delivery import receiver
from mesh.errors import CallTimeout, JobFailed, NoSuchJob
from mesh.jobs import JobError, Reject, Retry, Work, records
from tests.conftest import Broker
from tests.helpers import control_plane
from tests.job_world import Hands, forever, joined, worker
from tests.message_world import letters


@pytest.fixture(autouse=True)
async def plane(broker: Broker) -> AsyncIterator[None]:
    async with control_plane(broker.url):
        yield


async def test_submitted_left_and_collected_by_another_process(broker: Broker) -> None:
    async with joined(broker.url) as boss:
        job = await boss.jobs.submit("ann", "plan", {"n": 1})
        assert (await boss.jobs.get(job.id)).state == "queued"
    hands = Hands()
    async with worker(broker.url, "ann", hands), joined(broker.url) as again:
        done = await again.jobs.wait(job.id, 15)
        assert (done.state, done.attempts, done.result["structuredContent"]) == ("done", 1, {"echo": {"n": 1}})
        assert [each.id for each in await again.jobs.list()] == [job.id]
    assert (hands.got[0].tool, hands.got[0].caller) == ("plan", "boss")


async def test_one_key_is_one_job(broker: Broker) -> None:
    hands = Hands()
    async with worker(broker.url, "bob", hands), joined(broker.url) as boss:
        first = await boss.jobs.submit("bob", "t", {"n": 1}, key="k")
        await boss.jobs.wait(first.id, 15)
        assert (await boss.jobs.submit("bob", "t", {"n": 1}, key="k")).id == first.id
        other = await boss.jobs.submit("bob", "t", {"n": 2}, key="other")
        await boss.jobs.wait(other.id, 15)
    assert [work.arguments["n"] for work in hands.got] == [1, 2]


async def test_progress_is_seen(broker: Broker) -> None:
    go = asyncio.Event()

    async def steps(work: Work) -> str:
        work.progress(1, 3, "one")
        await go.wait()
        return "done"

    async with worker(broker.url, "cat", Hands(steps)), joined(broker.url) as boss:
        job = await boss.jobs.submit("cat", "t")
        seen = []
        async with asyncio.timeout(15):
            async for record in boss.jobs.watch(job.id):
                seen.append(record)
                if record.progress is not None:
                    go.set()
    assert (seen[-1].state, seen[-1].result["content"][0]["text"]) == ("done", "done")
    assert any((each.progress, each.total, each.message) == (1, 3, "one") for each in seen)


async def test_tried_again_and_then_failed_with_a_dead_letter(broker: Broker) -> None:
    hands = Hands(ValueError("one"), Retry("two", after=0.01), ValueError("three"))
    async with worker(broker.url, "dan", hands), joined(broker.url) as boss:
        job = await boss.jobs.submit("dan", "t", attempts=2)
        failed = await boss.jobs.wait(job.id, 15)
        assert (failed.state, failed.attempts) == ("failed", 2)
        [letter] = await letters(broker.url, "dan")
        assert letter.letter.code == "failed"
        with pytest.raises(JobFailed, match="two"):
            await boss.jobs.result(job.id)


@pytest.mark.parametrize("raised", [Reject("not mine"), JobError({"code": -32602, "message": "not mine"})])
async def test_what_would_fail_again_is_not_tried_again(broker: Broker, raised: Exception) -> None:
    name = f"eve-{type(raised).__name__}"
    async with worker(broker.url, name, Hands(raised)), joined(broker.url) as boss:
        failed = await boss.jobs.wait((await boss.jobs.submit(name, "t")).id, 15)
    assert (failed.state, failed.attempts) == ("failed", 1)
    assert failed.error is not None
    assert failed.error["message"] == "not mine"


async def test_a_cancellation_reaches_the_worker(broker: Broker) -> None:
    hands = Hands(forever)
    async with worker(broker.url, "fay", hands), joined(broker.url) as boss:
        job = await boss.jobs.submit("fay", "t")
        await hands.until(lambda h: h.got)
        assert (await boss.jobs.cancel(job.id)).state == "cancelled"
        await hands.until(lambda h: h.stopped)
        assert (await boss.jobs.get(job.id)).state == "cancelled"


async def test_what_is_cancelled_before_it_began_never_begins(broker: Broker) -> None:
    hands = Hands()
    async with joined(broker.url) as boss:
        job = await boss.jobs.submit("gus", "t", {"n": 1})
        await boss.jobs.cancel(job.id)
        assert (await boss.jobs.wait(job.id, 5)).state == "cancelled"
        after = await boss.jobs.submit("gus", "t", {"n": 2})
        async with worker(broker.url, "gus", hands):
            await boss.jobs.wait(after.id, 15)
    assert [work.arguments["n"] for work in hands.got] == [2]


async def test_past_its_deadline_the_work_is_stopped(broker: Broker) -> None:
    hands = Hands(forever)
    async with worker(broker.url, "hal", hands), joined(broker.url) as boss:
        job = await boss.jobs.submit("hal", "t", deadline=1.0)
        assert (await boss.jobs.wait(job.id, 15)).state == "expired"
        assert hands.stopped == 1
    assert [each.letter.code for each in await letters(broker.url, "hal")] == ["expired"]


async def test_nobody_comes_before_the_deadline(broker: Broker) -> None:
    async with joined(broker.url) as boss:
        job = await boss.jobs.submit("nobody", "t", deadline=0.3)
        assert (await boss.jobs.wait(job.id, 15)).state == "expired"
    assert [each.letter.code for each in await letters(broker.url, "nobody")] == ["expired"]


async def test_a_result_that_is_too_large_is_a_clear_failure(broker: Broker) -> None:
    async with worker(broker.url, "ida", Hands("x" * 2_000_000)), joined(broker.url) as boss:
        failed = await boss.jobs.wait((await boss.jobs.submit("ida", "t")).id, 15)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error["data"] == {"mesh": "too_large"}


async def test_a_worker_that_leaves_hands_its_job_on(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "LEAVE_SECONDS", 0.5)
    first, second = Hands(forever), Hands()
    async with joined(broker.url) as boss:
        async with worker(broker.url, "jan", first):
            job = await boss.jobs.submit("jan", "t", attempts=2)
            await first.until(lambda h: h.got)
        async with worker(broker.url, "jan", second):
            done = await boss.jobs.wait(job.id, 20)
    assert (done.state, done.attempts, first.stopped, len(second.got)) == ("done", 1, 1, 1)


async def test_what_may_be_begun_once_is_not_handed_on(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "LEAVE_SECONDS", 0.5)
    first, second = Hands(forever), Hands()
    async with joined(broker.url) as boss:
        async with worker(broker.url, "once", first):
            job = await boss.jobs.submit("once", "t", attempts=1)
            await first.until(lambda h: h.got)
        async with worker(broker.url, "once", second):
            failed = await boss.jobs.wait(job.id, 20)
    assert (failed.state, first.stopped, second.got) == ("failed", 1, [])
    assert (failed.error or {})["data"] == {"mesh": "undelivered"}


async def test_a_dead_letter_sent_again_is_the_same_job(broker: Broker) -> None:
    hands = Hands(Reject("first"))
    async with worker(broker.url, "kim", hands), joined(broker.url) as boss:
        job = await boss.jobs.submit("kim", "t")
        assert (await boss.jobs.wait(job.id, 15)).state == "failed"
        [letter] = await letters(broker.url, "kim")
        async with joined(broker.url, "operator") as operator:
            await operator.messages.dead_letters.redrive(letter)
        async with asyncio.timeout(15):
            while (now := await boss.jobs.get(job.id)).state != "done":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert now.result["structuredContent"] == {"echo": {}}


async def test_a_role_does_jobs_and_results_go_when_they_are_not_kept(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LEAST_KEPT", 1)
    async with worker(broker.url, "lea", Hands(), roles=("smiths",)), joined(broker.url) as boss:
        job = await boss.jobs.submit("smiths", "t", keep=1)
        assert (await boss.jobs.wait(job.id, 15)).target == "smiths"
        async with asyncio.timeout(15):
            while True:
                try:
                    await boss.jobs.get(job.id)
                except NoSuchJob:
                    break
                await asyncio.sleep(0.1)


async def test_who_gets_no_job_has_no_consumer(broker: Broker) -> None:
    async with worker(broker.url, "max", Hands()) as idle, joined(broker.url) as boss:
        assert not idle.working
        await boss.jobs.wait((await boss.jobs.submit("max", "t")).id, 15)
        assert idle.working


async def test_waiting_has_an_end_and_others_see_nothing(broker: Broker) -> None:
    async with joined(broker.url) as boss, joined(broker.url, "other") as other:
        job = await boss.jobs.submit("zoe", "t")
        with pytest.raises(CallTimeout):
            await boss.jobs.wait(job.id, 0.3)
        for ask in (other.jobs.get, other.jobs.cancel, other.jobs.wait):
            with pytest.raises(NoSuchJob):
                await ask(job.id)
        assert await other.jobs.list() == []
        async with joined(broker.url, "operator") as operator:
            assert job.id in [each.id for each in await operator.jobs.list(all=True)]


async def test_the_doors_of_the_message_broker(broker: Broker) -> None:
    told = asyncio.get_running_loop().create_future()
    async with worker(broker.url, "pam", Hands()), joined(broker.url) as boss:
        id = await boss.messages.request_response("pam", "t", {"n": 1})
        telling = boss.messages.subscribe_to_response(id, told.set_result)
        async with asyncio.timeout(15):
            assert (await told).state == "done"
            await telling
        answer = await boss.messages.request_response("pam", "t", {"n": 2}, async_=False)
        assert answer["structuredContent"] == {"echo": {"n": 2}}
