"""What the control plane lists of jobs, and what it ends by itself."""

import asyncio

import pytest

from mesh import Mesh, clock
from mesh.errors import NoSuchJob
from mesh.jobs import listing, records
from mesh.jobs.ending import Ending
from mesh.jobs.records import key_of
from mesh.link.jetstream import JetStream
from mesh.topology import JOBS
from tests.conftest import Broker
from tests.helpers import back, settled
from tests.job_world import Hands, forever, joined, worker
from tests.message_world import letters


async def test_the_newest_first_and_in_pages(broker: Broker, plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 3)
    async with joined(broker.url, "lister") as boss:
        sent = [await boss.jobs.submit("ann", "t", {"n": n}) for n in range(8)]
        async with worker(broker.url, "ann", Hands(*(f"the result {n}" for n in range(8)))):
            await boss.jobs.wait(sent[4].id, 20)
            await boss.jobs.wait(sent[7].id, 20)
        later = [await boss.jobs.submit("nobody", "t") for _ in range(2)]
        ids = [each.id for each in reversed(sent + later)]
        assert [each.id for each in await boss.jobs.list()] == ids
        assert [each.id for each in await boss.jobs.list(most=4)] == ids[:4]
        found = {each.id: each for each in await boss.jobs.list()}
        assert (found[sent[0].id].state, found[sent[0].id].result, found[later[0].id].state) == ("done", None, "queued")


async def test_what_nobody_does_for_a_week_is_expired(broker: Broker, plane: str) -> None:
    """And what is being done then: with its message another attempt would be gone."""
    hands = Hands(forever)
    async with joined(broker.url) as boss, worker(broker.url, "eve", hands), Mesh(name="mesh", broker=broker.url) as mesh:
        await boss.jobs.wait((await boss.jobs.submit("eve", "t", deadline=0.5)).id, 20)  # over, so it stays as it is
        hands.then.append(forever)
        begun = await boss.jobs.submit("eve", "t")
        await hands.until(lambda h: len(h.got) == 2)
        waits = await boss.jobs.submit("noone", "t")
        before = clock.wall_ns()
        young = await boss.jobs.submit("noone", "t")
        ending = Ending(JetStream(mesh.connection), mesh.subjects)
        for _ in range(2):
            await ending.expire_older(before)
        assert [(await boss.jobs.get(each.id)).state for each in (begun, waits, young)] == ["expired", "expired", "queued"]
        await hands.until(lambda h: h.stopped == 2)
        held = await JetStream(mesh.connection).api(f"STREAM.INFO.{JOBS}", {"subjects_filter": mesh.subjects.jobs_to("noone")})
        assert sum(held["state"]["subjects"].values()) == 1
    assert [each.letter.code for each in await letters(broker.url, "noone")] == ["expired"]
    assert [each.letter.code for each in await letters(broker.url, "eve")] == ["expired", "expired"]


async def test_what_is_forgotten_does_not_come_back_with_a_killed_broker(
    broker: Broker, plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's file store then has the record before the last: the job would run for ever, and its attempts count for the same key."""
    monkeypatch.setattr(records, "LEAST_KEPT", 1)
    hands = Hands()
    async with joined(broker.url, "keeper") as boss, Mesh(name="mesh", broker=broker.url) as mesh, asyncio.timeout(50):
        async with worker(broker.url, "ann", hands):
            stays = await boss.jobs.submit("ann", "t")
            job = await boss.jobs.submit("ann", "t", key="once", attempts=1, keep=1)
            await asyncio.gather(boss.jobs.wait(stays.id, 20), boss.jobs.wait(job.id, 20))
        ending = Ending(JetStream(mesh.connection), mesh.subjects)
        kept = True
        while kept:
            await asyncio.sleep(0.05)
            kept = await ending.last(key_of(job)) is not None
        await asyncio.gather(back(mesh.connection, lambda: None), back(boss.connection, lambda: None), asyncio.to_thread(broker.kill))
        await settled(boss)
        found = await ending.look(key_of(job))
        assert found is not None
        assert found.stale
        assert [each.id for each in await boss.jobs.list()] == [stays.id]
        with pytest.raises(NoSuchJob):
            await boss.jobs.get(job.id)
        again = await boss.jobs.submit("ann", "t", key="once", attempts=1)
        assert [each.state for each in await boss.jobs.list()] == ["queued", "done"]
        async with worker(broker.url, "ann", hands):
            assert (await boss.jobs.wait(again.id, 20)).state == "done"
