"""Schedules: whoever may write one may have the broker publish in anybody's name, so only the control plane does, and asks who wants it."""

import asyncio

import pytest

from mesh import Mesh
from mesh.broker.schedules import Schedules
from mesh.errors import Denied, NoSuchSchedule
from mesh.link.jetstream import JetStream
from mesh.subjects import Due, Schedule
from mesh.topology import SCHEDULED, SCHEDULES, bucket_subject
from mesh.wire.jsonrpc import dumps
from tests.attacks.broker_writes import reader_of
from tests.attacks.test_messages import stopped
from tests.attacks.world import ACCOMPLICE, AGENT, HOST, SUBJECTS, Attacker, World
from tests.message_world import Inbox, receiving

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])

FORGED = dumps({"id": "1", "type": "t", "content": "forged", "sent": "2026-01-31T12:00:00Z", "sender": "honest"})


async def clock_of(operator: Attacker, sender: str) -> list[str]:
    """Where the broker keeps the times of one sender's schedules."""
    filter = {"subjects_filter": SUBJECTS.schedules_of(sender)}
    state = (await operator.ask(f"$JS.API.STREAM.INFO.{SCHEDULES}", dumps(filter)))["state"]
    return [each for each in state.get("subjects") or {} if len(each.rpartition(".")[2]) == 32]


@EVIL
async def test_write_a_schedule_or_what_is_due(world: World, evil: str) -> None:
    subjects = [SUBJECTS.build(kind(who, "1")) for kind in (Schedule, Due) for who in (evil, "honest")]
    await stopped(world, evil, *subjects, body=FORGED)


@EVIL
async def test_ask_the_broker_for_what_is_scheduled(world: World, evil: str) -> None:
    await stopped(
        world,
        evil,
        f"$JS.API.STREAM.MSG.GET.{SCHEDULES}",
        f"$JS.API.STREAM.PURGE.{SCHEDULES}",
        f"$JS.API.CONSUMER.MSG.NEXT.{SCHEDULES}.due",
    )


async def test_schedule_headers_on_a_subject_of_ones_own(world: World) -> None:
    """The streams of messages take no schedules."""
    host = await world.join(HOST)
    headers = {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": SUBJECTS.message("victim", "honest", "normal")}
    for subject in (SUBJECTS.message("victim", HOST, "normal"), SUBJECTS.event(HOST, "normal", "a.b")):
        answer = await host.ask(subject, FORGED, headers)
        assert "error" in answer, subject


async def test_a_sender_in_the_body_of_a_message_of_ones_own(world: World) -> None:
    inbox = Inbox()
    host = await world.join(HOST)
    async with receiving(world.url, "victim", inbox):
        assert "seq" in await host.ask(SUBJECTS.message("victim", HOST, "normal"), FORGED)
        await inbox.holds(1)
    assert inbox.messages[0].sender == HOST


@EVIL
async def test_send_as_the_control_plane(world: World, evil: str) -> None:
    await stopped(world, evil, SUBJECTS.message("victim", "mesh", "normal"), body=FORGED)


async def test_schedule_to_whom_one_may_not_send(world: World) -> None:
    async with Mesh(name=AGENT, broker=world.url) as mesh:
        with pytest.raises(Denied):
            await mesh.messages.publish_message("victim", "t", delay=0)
        asked = {"id": "1", "to": "victim", "type": "t", "every": 1, "sender": "honest", "caller": "honest"}
        with pytest.raises(Denied):
            await mesh.request("mesh", "mesh/schedule", asked)


async def test_anothers_schedules_are_its_own(world: World) -> None:
    async with Mesh(name=ACCOMPLICE, broker=world.url) as mesh, Mesh(name=HOST, broker=world.url) as evil:
        await mesh.messages.publish_message("victim", "t", "secret", delay=3600, id="mine")
        assert await evil.messages.list_schedules() == []
        for id in ("mine", "*", ">", f"{ACCOMPLICE}.mine", f"../{ACCOMPLICE}/mine"):
            with pytest.raises(NoSuchSchedule):
                await evil.messages.cancel_schedule(id)
        await evil.messages.publish_message("victim", "t", "not mine", delay=3600, id="mine")  # its own of that id
        assert [each["content"] for each in await mesh.messages.list_schedules()] == ["secret"]
        for each in (mesh, evil):
            await each.messages.cancel_schedule("mine")


async def test_an_answer_of_the_brokers_among_what_is_due(world: World) -> None:
    """Whoever may ask the broker anything can have it write its answer there. It is nobody's schedule, and stops none."""
    inbox = Inbox()
    host = await world.join(HOST)
    for kind in (Schedule, Due):
        await host.publish(SUBJECTS.message("victim", HOST, "low"), FORGED, SUBJECTS.build(kind("honest", "1")))
    await host.settle()
    async with Mesh(name="honest", broker=world.url) as honest, receiving(world.url, "steadfast", inbox):
        assert await honest.messages.list_schedules() == []
        async with asyncio.timeout(15):
            await honest.messages.publish_message("steadfast", "t", "true", delay=0)
            await inbox.holds(1)
    assert [(each.sender, each.content) for each in inbox.messages] == [("honest", "true")]


@EVIL
async def test_cancel_anothers_schedule_by_what_the_broker_answers(world: World, evil: str) -> None:
    """A message in a schedule's place ends it. Its place is a secret, and what a bucket holds under another key is no schedule."""
    attacker, bare = await world.join(evil), await world.unprotected()
    async with Mesh(name="honest", broker=world.url) as honest:
        await honest.messages.publish_message("victim", "t", "kept", delay=3600, id="night")
        [subject] = await clock_of(bare, "honest")
        guesses = [SUBJECTS.build(kind("honest", "night")) for kind in (Schedule, Due)]
        for place in (*guesses, bucket_subject(SCHEDULED, "honest.night"), bucket_subject(SCHEDULED, "honest.night.x")):
            await attacker.publish("$SYS.REQ.USER.INFO", b"", place)
        await attacker.settle()
        assert [each["content"] for each in await honest.messages.list_schedules()] == ["kept"]
        await honest.messages.cancel_schedule("night")
        assert subject not in await clock_of(bare, "honest")


async def test_empty_the_stream_of_schedules(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of schedules must take `Nats-Rollup`, and a host can have one delivered there that it has stored among its heartbeats. What
    is scheduled lies elsewhere, and is put back."""
    host, bare = await world.join(HOST), await world.unprotected()
    async with Mesh(name="honest", broker=world.url) as honest, Mesh(name="mesh", broker=world.url) as plane:
        await honest.messages.publish_message("steadfast", "t", "kept", delay=3600, id="rolled")
        reader = await reader_of(host, "health")
        assert "seq" in await host.ask(f"$KV.health.{HOST}.x", b"{}", {"Nats-Rollup": "all"})
        pull = f"$JS.API.CONSUMER.MSG.NEXT.KV_health.{reader}"
        await host.publish(pull, b'{"batch":1000,"no_wait":true}', SUBJECTS.build(Schedule("z", "z")))
        async with asyncio.timeout(5):
            while await clock_of(bare, "honest"):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        assert [each["content"] for each in await honest.messages.list_schedules()] == ["kept"]
        monkeypatch.setattr("mesh.broker.schedules.LOOK_SECONDS", 0)
        assert await Schedules(JetStream(plane.connection), SUBJECTS, lambda *_: None).put_back() == 1
        assert len(await clock_of(bare, "honest")) == 1
        await honest.messages.cancel_schedule("rolled")
