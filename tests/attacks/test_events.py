"""Events: to publish in another's name or where one may not, to hear what one may not by any way, to acknowledge for another, to forge."""

import asyncio
import contextlib

import pytest

from mesh import Mesh, clock
from mesh.broker import AgentMessage
from mesh.errors import CallError, Denied, NoSuchDeadLetter
from mesh.wire.event import CONTENT_TYPE, STRUCTURED
from mesh.wire.jsonrpc import dumps
from mesh.wire.letter import DEAD_HEADER, DeadLetter
from tests.attacks.test_messages import stopped
from tests.attacks.world import AGENT, HOST, SUBJECTS, World, stored
from tests.event_world import Heard, hearing

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])
HONEST = SUBJECTS.event("honest", "normal", "build.done")
FORGED = dumps({"specversion": "1.0", "id": "1", "source": "/agents/honest", "type": "t", "data": "forged"})
API = "$JS.API"


@EVIL
async def test_publish_in_anothers_name(world: World, evil: str) -> None:
    await stopped(
        world, evil, HONEST, SUBJECTS.event("mesh", "critical", "agent.health"), SUBJECTS.cast("honest", "high", "any"), body=FORGED
    )


async def test_an_agent_publishes_and_broadcasts_nowhere_but_on_its_own_health(world: World) -> None:
    await stopped(world, AGENT, SUBJECTS.event(AGENT, "normal", "build.done"), SUBJECTS.cast(AGENT, "normal", "any"), body=FORGED)
    agent = await world.join(AGENT)
    assert "seq" in await agent.ask(SUBJECTS.event(AGENT, "normal", "agent.health"), FORGED)
    async with Mesh(name=AGENT, broker=world.url) as mesh:
        with pytest.raises(Denied):
            await mesh.events.publish("build.done", 1)
        with pytest.raises(Denied):
            await mesh.events.broadcast("any", 1)


async def test_hear_a_topic_through_the_broker(world: World) -> None:
    attacker = await world.join(AGENT)
    filters = ["mesh.v1.event.>", SUBJECTS.events("build.done"), SUBJECTS.events(">"), "mesh.v1.cast.*.*.librarian", "mesh.v1.cast.>"]
    for each in filters:
        await attacker.subscribe(each)
    assert await attacker.refused(*filters) == filters
    bare = await world.unprotected()
    await bare.subscribe(filters[0])
    await bare.settle()
    await (await world.honest()).events.publish("build.done", "heard")
    await bare.signals.until(lambda: bare.heard)


@EVIL
async def test_hear_a_topic_through_a_consumer_of_ones_own(world: World, evil: str) -> None:
    await stopped(
        world,
        evil,
        f"{API}.CONSUMER.CREATE.EVENTS.x",
        f"{API}.CONSUMER.DURABLE.CREATE.EVENTS.x",
        f"{API}.STREAM.MSG.GET.EVENTS",
        f"{API}.DIRECT.GET.EVENTS",
        f"{API}.STREAM.INFO.EVENTS",
        f"{API}.DIRECT.GET.KV_subscriptions.$KV.subscriptions.victim.nightly",
        f"{API}.CONSUMER.CREATE.KV_subscriptions.x",
        "$KV.subscriptions.victim.nightly",
        f"{API}.STREAM.PURGE.EVENTS",
        f"{API}.STREAM.MSG.DELETE.EVENTS",
    )


async def test_hear_a_topic_through_the_control_plane(world: World) -> None:
    """Durably, from now on, or again."""
    heard = Heard()
    async with Mesh(name=AGENT, broker=world.url) as mesh:
        for topic in ("build.done", "agent.health", ">"):
            for name in (None, "spy"):
                with pytest.raises(Denied):
                    async with hearing(mesh, topic, heard, name):
                        pass
            with pytest.raises(Denied):
                async for _ in mesh.events.replay_events(topic, 0):
                    pass
        with pytest.raises(Denied):
            async with mesh.events.subscribe_to_broadcasts(heard, roles=("librarian",), name="spy"):
                pass
        for filters in ([], ["mesh.v1.event.>"], [">"], [SUBJECTS.casts("any"), "mesh.v1.event.*.*.a"], ["mesh.v1.cast.*.*.>"]):
            with pytest.raises(CallError):
                await mesh.request("mesh", "mesh/reader", {"stream": "EVENTS", "filters": filters}, timeout=5)
        for params in (
            {"name": "x"},
            {"name": "x", "topic": ">", "roles": ["any"]},
            {"name": "", "topic": "a"},
            {"name": "x", "topic": 5},
            {},
        ):
            with pytest.raises(CallError):
                await mesh.request("mesh", "mesh/subscribe", params, timeout=5)
        assert heard.events == []


@EVIL
async def test_hear_through_anothers_subscription(world: World, evil: str) -> None:
    """Its consumers are called by a secret, which nobody but its owner is told. The same name is another subscription."""
    heard = Heard()
    await stopped(world, evil, f"{API}.CONSUMER.NAMES.EVENTS", f"{API}.CONSUMER.LIST.EVENTS")
    async with Mesh(name="honest", broker=world.url) as honest, hearing(honest, "secret.>", heard, "nightly"):
        operator = await world.unprotected()
        names = (await operator.ask(f"{API}.CONSUMER.NAMES.EVENTS"))["consumers"]
        secret = [each for each in names if each.startswith("sub-")]
        assert secret
        assert all(len(each.split("-")[1]) == 32 for each in secret)
        async with Mesh(name=evil, broker=world.url) as mesh:
            with contextlib.suppress(Denied):
                said = await mesh.request(
                    "mesh", "mesh/subscribe", {"name": "nightly", "topic": "secret.>", "wanted": ["normal"]}, timeout=5
                )
                assert not set(said["consumers"].values()) & set(secret)
            assert "nightly" not in [each["agent"] for each in await mesh.events.subscriptions() if each["agent"] != evil]
            for asked in (mesh.events.subscriptions(all=True), mesh.events.unsubscribe("nightly", agent="honest")):
                with pytest.raises(Denied):
                    await asked
        await honest.events.publish("secret.x", 1)
        await heard.holds(1)


@EVIL
async def test_acknowledge_what_another_has_still_to_read(world: World, evil: str) -> None:
    """Acknowledgements name the consumer: without its secret they say nothing."""
    heard = Heard()
    async with Mesh(name="honest", broker=world.url) as honest:
        async with hearing(honest, "acks.x", heard, "acks"):
            pass
        await honest.events.publish("acks.x", "kept")
        attacker = await world.join(evil)
        for consumer in ("acks", "honest", "sub-" + "0" * 32 + "-normal", "*", ">"):
            await attacker.publish(f"$JS.ACK.EVENTS.{consumer}.1.1.1.1.0", b"+TERM")
        await attacker.settle()
        async with hearing(honest, "acks.x", heard, "acks"):
            await heard.holds(1)


async def test_claim_another_source_or_write_what_is_no_event(world: World) -> None:
    """The subject is the broker's word. What disagrees is a dead letter for a durable subscription, and nothing for any other."""
    evil, heard, now, start = await world.join(HOST), Heard(), Heard(), clock.wall_ns()
    subject = SUBJECTS.event(HOST, "normal", "forged.x")
    async with (
        Mesh(name="honest", broker=world.url) as honest,
        hearing(honest, "forged.>", heard, "forged"),
        hearing(honest, "forged.>", now),
    ):
        bodies = [FORGED, b"no json", b"[]", b"", dumps({"specversion": "1.0", "id": "1", "source": f"/agents/{HOST}"}), b"[" * 10_000]
        for body in bodies:
            assert "seq" in await evil.ask(subject, body)
        binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-type": "t", "ce-source": "/agents/honest"}
        assert "seq" in await evil.ask(subject, b"1", binary)
        own = dumps({"specversion": "1.0", "id": "1", "source": f"/agents/{HOST}", "type": "t", "data": "true"})
        for headers in (
            {CONTENT_TYPE: STRUCTURED, **binary},
            {"Nats-Fake": "x", "Nats-Sequence": "1", "Status": "503", "KV-Operation": "DEL"},
        ):
            assert "seq" in await evil.ask(subject, own, headers)
        await now.holds(2)
        await heard.holds(1)  # both have one id
        await honest.events.publish("forged.x", "last")
        await now.holds(3)
        assert now.data == ["true", "true", "last"]
        assert {each.publisher for each in now.events} == {HOST, "honest"}
        assert [each.data async for each in honest.events.replay_events("forged.>", start)] == ["true", "true", "last"]
        await heard.holds(2)
        assert heard.data == ["true", "last"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": HONEST},
        {"Nats-Incr": "1"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
        {"Nats-Expected-Stream": "OTHER"},
    ],
    ids=lambda headers: next(iter(headers.items()))[0],
)
async def test_have_the_stream_do_more_than_store(world: World, headers: dict[str, str]) -> None:
    evil, operator = await world.join(HOST), await world.unprotected()
    await (await world.honest()).events.publish("build.done", "kept")
    before = await stored(operator, HONEST, "EVENTS")
    assert "error" in await evil.ask(SUBJECTS.event(HOST, "normal", "build.done"), FORGED, headers)
    await evil.settle()
    assert await stored(operator, HONEST, "EVENTS") == before


async def test_have_the_broker_answer_into_the_stream(world: World) -> None:
    """Its answer lies there under the victim's subject, and is nobody's event."""
    evil, heard, start = await world.join(HOST), Heard(), clock.wall_ns()
    operator = await world.unprotected()
    async with Mesh(name="honest", broker=world.url) as honest, hearing(honest, "build.>", heard, "answers"):
        before = await stored(operator, HONEST, "EVENTS")
        await evil.publish(SUBJECTS.event(HOST, "normal", "elsewhere"), FORGED, HONEST)
        async with asyncio.timeout(5):
            while await stored(operator, HONEST, "EVENTS") == before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        await honest.events.publish("build.done", "true")
        await heard.holds(1)
        assert heard.data == ["true"]
        assert [each.data async for each in honest.events.replay_events("build.>", start)] == ["true"]
    async with Mesh(name="operator", broker=world.url) as operating:
        assert [each for each in await operating.messages.dead_letters.find(target="honest") if each.letter.subscription == "answers"] == []


async def test_swallow_an_event_by_its_deduplication_id(world: World) -> None:
    evil, heard = await world.join(HOST), Heard()
    async with Mesh(name="honest", broker=world.url) as honest, hearing(honest, "swallow.x", heard):
        for guess in ("plain", f"{SUBJECTS.event('honest', 'normal', 'swallow.x')} plain"):
            await evil.ask(SUBJECTS.event(HOST, "normal", "other"), FORGED, {"Nats-Msg-Id": guess})
        await honest.events.publish("swallow.x", 1, id="plain")
        await heard.holds(1)


async def test_replay_into_another_without_the_right_to_send(world: World) -> None:
    """And who has it says so in its own name: nobody's inbox takes an event for true that somebody tells again."""
    got: list[AgentMessage] = []

    async def take(message: AgentMessage) -> None:
        got.append(message)

    honest = await world.honest()
    start = clock.wall_ns()
    await honest.events.publish("told.x", 1)
    async with (
        Mesh(name=HOST, broker=world.url) as mesh,
        Mesh(name="victim", broker=world.url) as victim,
        victim.messages.subscribe_to_messages(take),
    ):
        assert await mesh.events.replay_into("victim", mesh.events.replay_events("told.x", start)) == 1
        async with asyncio.timeout(5):
            while not got:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert got[0].sender == HOST
    async with Mesh(name=AGENT, broker=world.url) as mesh:
        with pytest.raises(Denied):
            await mesh.events.replay_into("victim", mesh.events.replay_events("told.x", start))


async def test_an_event_of_ones_own_dead_letter_reaches_nobody_else(world: World) -> None:
    """Who answers to a name may write its dead letters, also of an event that never was. Sent again, its own subscription alone gets it."""
    evil, heard, now, start = await world.join(AGENT), Heard(), Heard(), clock.wall_ns()
    letter = DeadLetter(
        subject=HONEST,
        body=FORGED,
        code="failed",
        reason="r",
        deliveries=1,
        stored_ns=0,
        subscription="nightly",
        headers={"Mesh-Only": "honest x"},
    )
    answer = await evil.ask(SUBJECTS.dead(AGENT, "EVENTS", "1-1"), FORGED, {DEAD_HEADER: letter.header(), "Mesh-Only": "honest x"})
    assert answer["stream"] == "DEAD_LETTERS"
    async with (
        Mesh(name="honest", broker=world.url) as honest,
        hearing(honest, "build.>", heard, "x"),
        hearing(honest, "build.>", now),
        Mesh(name="operator", broker=world.url) as operator,
    ):
        [kept] = [each for each in await operator.messages.dead_letters.find(target=AGENT) if each.letter.subscription == "nightly"]
        await operator.messages.dead_letters.redrive(kept)
        await honest.events.publish("build.done", "true")
        await heard.holds(1)
        await now.holds(1)
        assert (heard.data, now.data) == (["true"], ["true"])
        assert [each.data async for each in honest.events.replay_events("build.>", start)] == ["true"]
        with pytest.raises(NoSuchDeadLetter):
            await operator.messages.dead_letters.get(kept.number)
