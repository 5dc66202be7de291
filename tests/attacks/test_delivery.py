"""What delivery keeps of others: what waits for them, what they have done, and dead letters of events and of jobs."""

import pytest

from mesh import Mesh
from mesh.errors import Denied
from mesh.topology import EVENTS, HANDLED, JOBS, bucket_stream, bucket_subject
from mesh.wire.jsonrpc import dumps
from mesh.wire.letter import DEAD_HEADER, DeadLetter
from tests.attacks.test_messages import stopped
from tests.attacks.world import ACCOMPLICE, AGENT, HOST, SUBJECTS, World, stored
from tests.event_world import Heard

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])
MARK = bucket_subject(HANDLED, "victim.batch")
STREAM = bucket_stream(HANDLED)


@EVIL
async def test_see_what_waits_for_others(world: World, evil: str) -> None:
    async with Mesh(name=evil, broker=world.url) as mesh:
        assert (await mesh.messages.mailbox(evil)).waiting == 0
        with pytest.raises(Denied):
            await mesh.messages.mailboxes()
        if evil == AGENT:  # the host may send there
            with pytest.raises(Denied):
                await mesh.messages.mailbox("victim")
    async with Mesh(name="operator", broker=world.url) as operator:
        await operator.messages.mailboxes()


@EVIL
async def test_say_what_another_has_done(world: World, evil: str) -> None:
    """Its message would be taken for done, and never handled."""
    await stopped(world, evil, MARK, f"{SUBJECTS.root}handled.victim.batch", body=b"x" * 16)


@EVIL
async def test_read_what_another_has_done(world: World, evil: str) -> None:
    attacker = await world.join(evil)
    filters = [SUBJECTS.handled_by("victim"), f"{SUBJECTS.root}handled.>", f"$KV.{HANDLED}.>"]
    for each in filters:
        await attacker.subscribe(each)
    assert await attacker.refused(*filters) == filters
    await stopped(
        world,
        evil,
        f"$JS.API.CONSUMER.CREATE.{STREAM}.mine",
        f"$JS.API.STREAM.MSG.GET.{STREAM}",
        f"$JS.API.DIRECT.GET.{STREAM}.{MARK}",
        f"$JS.API.STREAM.PURGE.{STREAM}",
    )
    operator = await world.unprotected()
    for name in ("victim", evil):
        assert "seq" in await operator.ask(bucket_subject(HANDLED, f"{name}.read"), b"x" * 16)
    async with Mesh(name=evil, broker=world.url) as mesh:
        reader = (await mesh.request("mesh", "mesh/reader", {"bucket": HANDLED}, timeout=5))["consumer"]
    info = await operator.ask(f"$JS.API.CONSUMER.INFO.{STREAM}.{reader}")
    config = info["config"]
    assert [config["filter_subject"]] if "filter_subject" in config else config["filter_subjects"] == [bucket_subject(HANDLED, f"{evil}.*")]
    assert info["num_pending"] == await stored(operator, bucket_subject(HANDLED, f"{evil}.*"), STREAM)


@pytest.mark.parametrize("stream", [EVENTS, JOBS])
async def test_write_anothers_dead_letter_of_events_or_jobs(world: World, stream: str) -> None:
    for evil in (AGENT, HOST):
        await stopped(world, evil, SUBJECTS.dead("victim", stream, "1-1"), f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.victim")


async def test_name_anothers_job_in_ones_own_dead_letter(world: World) -> None:
    """Sent again it would be the victim's to do, for a caller who never asked."""
    body = dumps({"jsonrpc": "2.0", "id": "n", "method": "tools/call", "params": {"name": "t", "arguments": {}}})
    evil = await world.join(ACCOMPLICE)
    for number, target in enumerate(("victim", ACCOMPLICE)):
        sent = SUBJECTS.job(target, "honest", "tools/call", "t")
        letter = DeadLetter(subject=sent, body=body, code="failed", reason="r", deliveries=1, stored_ns=0)
        assert "seq" in await evil.ask(SUBJECTS.dead(ACCOMPLICE, JOBS, f"{number}-1"), body, {DEAD_HEADER: letter.header()})
    async with Mesh(name="operator", broker=world.url) as operator:
        found = await operator.messages.dead_letters.find()
        assert [each.letter.subject for each in found if each.sender == "honest"] == [SUBJECTS.job(ACCOMPLICE, "honest", "tools/call", "t")]


async def test_name_anothers_event_in_ones_own_dead_letter(world: World) -> None:
    """Sent again it goes to the writer alone, whoever it says has published it."""
    evil = await world.join(AGENT)
    sent = SUBJECTS.event("honest", "normal", "a.topic")
    body = dumps({"specversion": "1.0", "id": "1", "type": "t", "source": "/agents/honest", "data": {"forged": True}})
    letter = DeadLetter(subject=sent, body=body, code="failed", reason="r", deliveries=1, stored_ns=0, subscription="mine")
    assert "seq" in await evil.ask(SUBJECTS.dead(AGENT, EVENTS, "1-1-mine"), body, {DEAD_HEADER: letter.header()})
    heard = Heard()
    async with (
        Mesh(name="operator", broker=world.url) as operator,
        Mesh(name="honest", broker=world.url) as honest,
        honest.events.subscribe("a.topic", heard, name="mine"),
        honest.events.subscribe("a.topic", heard),
    ):
        [kept] = [each for each in await operator.messages.dead_letters.find(target=AGENT) if each.letter.subject == sent]
        await operator.messages.dead_letters.redrive(kept)
        await honest.events.publish("a.topic", {"true": True})
        await heard.holds(2)
        replayed = [event.data async for event in operator.events.replay_events("a.topic", 0)]
    assert heard.data == [{"true": True}] * 2
    assert replayed == [{"true": True}]
