"""Attacks on jobs: submitted, read, ended, taken or answered in another's place."""

import pytest

from mesh import Mesh
from mesh.errors import Denied, MeshError, NoSuchJob
from mesh.jobs import JobRecord
from mesh.topology import bucket_subject
from mesh.wire.job import JOB_HEADER, JobOptions
from mesh.wire.jsonrpc import dumps
from tests.attacks.world import ACCOMPLICE, AGENT, HOST, SUBJECTS, World, stored
from tests.job_world import Hands, forever

BODY = dumps({"jsonrpc": "2.0", "id": "n", "method": "tools/call", "params": {"name": "t", "arguments": {}}})
HEADERS = {JOB_HEADER: JobOptions(nonce="abcdefgh").header()}
EVIL = pytest.mark.parametrize("evil", [AGENT, ACCOMPLICE, HOST])


def record(target: str = "victim", caller: str = "honest", nonce: str = "abcdefgh", **said: object) -> bytes:
    job = JobRecord(id=f"1-{nonce}", target=target, caller=caller, method="tools/call", name="t", state="done", created_ns=0, updated_ns=0)
    return dumps({**job.as_dict(), "result": {"forged": True}, **said})


async def refused(world: World, evil: str, *subjects: str, body: bytes = b"") -> None:
    attacker = await world.join(evil)
    for subject in subjects:
        await attacker.publish(subject, body)
    assert await attacker.refused(*subjects) == list(subjects)


@EVIL
async def test_submit_in_anothers_name(world: World, evil: str) -> None:
    await refused(world, evil, SUBJECTS.job("victim", "honest", "tools/call", "t"), body=BODY)


async def test_submit_what_no_rule_allows(world: World) -> None:
    await refused(world, AGENT, SUBJECTS.job("victim", AGENT, "tools/call", "t"), body=BODY)
    async with Mesh(name=AGENT, broker=world.url) as mesh:
        with pytest.raises(Denied):
            await mesh.jobs.submit("victim", "t")


@EVIL
async def test_write_how_anothers_job_stands(world: World, evil: str) -> None:
    """A forged result, a forged end, and one that empties the bucket."""
    await refused(
        world, evil, bucket_subject("jobs", "victim.honest.abcdefgh"), f"{SUBJECTS.root}jobs.victim.honest.abcdefgh", body=record()
    )


@EVIL
async def test_take_or_acknowledge_anothers_jobs(world: World, evil: str) -> None:
    await refused(
        world,
        evil,
        "$JS.API.CONSUMER.MSG.NEXT.JOBS.victim",
        "$JS.ACK.JOBS.victim.1.1.1.1.1",
        "$JS.API.CONSUMER.CREATE.JOBS.mine",
        "$JS.API.STREAM.MSG.GET.JOBS",
        "$JS.API.STREAM.MSG.DELETE.JOBS",
        "$JS.API.STREAM.MSG.GET.KV_jobs",
        "$JS.API.DIRECT.GET.KV_jobs.$KV.jobs.victim.honest.abcdefgh",
        "$JS.API.CONSUMER.CREATE.KV_jobs.mine",
    )


@EVIL
async def test_hear_of_anothers_jobs(world: World, evil: str) -> None:
    attacker = await world.join(evil)
    for subject in (SUBJECTS.job_states("honest"), SUBJECTS.job_states_of("victim"), SUBJECTS.jobs_to("victim")):
        await attacker.subscribe(subject)
        assert await attacker.refused(subject) == [subject]


@EVIL
async def test_look_at_end_or_guess_anothers_job(world: World, evil: str) -> None:
    honest = await world.honest()
    job = await honest.jobs.submit("victim", "t", {"secret": 1})
    async with Mesh(name=evil, broker=world.url) as mesh:
        for ask in (mesh.jobs.get, mesh.jobs.cancel):
            for id in (job.id, f"1-{job.nonce}", f"{job.id.partition('-')[0]}-aaaaaaaa", f"0-{job.nonce}"):
                with pytest.raises(NoSuchJob):
                    await ask(id)
        assert await mesh.jobs.list() == []
        with pytest.raises(Denied):
            await mesh.jobs.list(all=True)
        for method, params in (
            ("look", {"target": "victim", "caller": "honest", "nonce": job.nonce}),
            ("lane", {"target": "victim", "wanted": True}),
        ):
            with pytest.raises(Denied):
                await mesh.request("mesh", f"mesh/jobs/{method}", params, timeout=5)
        for bad in ("*", ">", "1-*", "1-a.b", "1-", "-a", "x" * 5000, "1-$KV"):
            with pytest.raises(MeshError):
                await mesh.jobs.get(bad)
    assert (await honest.jobs.get(job.id)).state == "queued"
    await honest.jobs.cancel(job.id)


async def test_a_worker_writes_a_result_under_its_own_name_for_anothers_job(world: World) -> None:
    """It may write its own keys, with any caller; the nonce, that only the caller and the target know, keeps it out of others' jobs."""
    evil, honest = await world.join(AGENT), await world.honest()
    job = await honest.jobs.submit("victim", "t")
    await evil.ask(bucket_subject("jobs", f"{AGENT}.honest.guess"), record(nonce=job.nonce))
    assert (await honest.jobs.get(job.id)).state == "queued"
    assert [each.state for each in await honest.jobs.list() if each.id == job.id] == ["queued"]
    await honest.jobs.cancel(job.id)


async def test_swallow_a_job_by_its_deduplication_id(world: World) -> None:
    evil, operator = await world.join(HOST), await world.unprotected()
    honest = await world.honest()
    before = await stored(operator, SUBJECTS.jobs_to("victim"), "JOBS")
    for guess in ("k", f"{SUBJECTS.job('victim', 'honest', 'tools/call', 't')} k"):
        await evil.ask(SUBJECTS.job("other", HOST, "tools/call", "t"), BODY, {**HEADERS, "Nats-Msg-Id": guess})
    job = await honest.jobs.submit("victim", "t", key="k")
    assert await stored(operator, SUBJECTS.jobs_to("victim"), "JOBS") == before + 1
    await honest.jobs.cancel(job.id)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {JOB_HEADER: "no"},
        {JOB_HEADER: "{}"},
        {JOB_HEADER: '{"nonce":"a.b","attempts":1,"keep":1}'},
        {JOB_HEADER: '{"nonce":"a","attempts":99,"keep":1}'},
    ],
)
async def test_a_job_that_cannot_be_read_is_a_dead_letter_and_disturbs_no_other(world: World, headers: dict[str, str]) -> None:
    evil, hands = await world.join(HOST), Hands()
    async with Mesh(name="victim", broker=world.url) as victim, victim.jobs.work(hands), Mesh(name="honest", broker=world.url) as honest:
        await evil.ask(SUBJECTS.job("victim", HOST, "tools/call", "t"), BODY, headers)
        assert (await honest.jobs.wait((await honest.jobs.submit("victim", "t")).id, 15)).state == "done"
    assert [work.caller for work in hands.got] == ["honest"]


async def test_a_body_that_is_not_its_subjects(world: World) -> None:
    """Whose tool the subject names, that tool it is: so a rule on one tool allows no other."""
    evil, hands = await world.join(HOST), Hands()
    async with Mesh(name="victim", broker=world.url) as victim, victim.jobs.work(hands), Mesh(name="honest", broker=world.url) as honest:
        await evil.ask(SUBJECTS.job("victim", HOST, "tools/call", "allowed"), BODY, HEADERS)
        assert (await honest.jobs.wait((await honest.jobs.submit("victim", "t")).id, 15)).state == "done"
    assert [work.caller for work in hands.got] == ["honest"]


async def test_end_a_job_by_a_word_that_the_broker_says(world: World) -> None:
    """An acknowledgement of the broker's on the subject of a record's copies stops no worker and ends no waiting."""
    evil, hands = await world.join(HOST), Hands(forever)
    async with Mesh(name="victim", broker=world.url) as victim, victim.jobs.work(hands), Mesh(name="honest", broker=world.url) as honest:
        job = await honest.jobs.submit("victim", "t")
        await hands.until(lambda h: h.got)
        await evil.publish(SUBJECTS.message("victim", HOST, "low"), b"{}", f"{SUBJECTS.root}jobs.victim.honest.{job.nonce}")
        await evil.settle()
        assert (await honest.jobs.get(job.id)).state == "running"
        assert hands.stopped == 0
        await honest.jobs.cancel(job.id)
