"""What the broker can be made to store and deliver elsewhere, among what is kept for others: its own answers, and messages that one has
stored oneself, with headers of one's own. Each attacker publishes only what it may, and chooses where the answer goes."""

import asyncio
import hashlib
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh import Mesh, clock
from mesh.errors import Denied, MailboxFull, MeshError
from mesh.link.jetstream import JetStream
from mesh.registry.strays import remove_strays, remove_words
from mesh.topology import HANDLED, REGISTRY, SCHEMAS, SUBSCRIPTIONS, bucket_stream, bucket_subject
from mesh.wire.event import encode, new_event
from mesh.wire.jsonrpc import dumps
from tests.attacks.world import AGENT, HOST, SUBJECTS, Attacker, World, stored, until
from tests.event_world import Heard, hearing
from tests.helpers import live, watching

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])
ONE = {"type": "object", "properties": {"pr": {"type": "integer"}}}


async def answer_to(attacker: Attacker, subject: str) -> None:
    """The broker's word that a key of one's own was stored."""
    await attacker.publish(f"$KV.health.{attacker.name}.x", b"{}", subject)
    await attacker.settle()


async def deliver(world: World, topic: str, body: bytes, headers: dict[str, str], to: str) -> None:
    """An event of the host's own, with these headers, as it pulls it to a subject of its choice."""
    async with Mesh(name=HOST, broker=world.url) as mesh:
        asked = {"name": "redirect", "topic": topic, "wanted": ["normal"]}
        consumer = (await mesh.request("mesh", "mesh/subscribe", asked))["consumers"]["normal"]
        evil = await world.join(HOST)
        assert "seq" in await evil.ask(SUBJECTS.event(HOST, "normal", topic), body, headers)
        await evil.publish(f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.{consumer}", b'{"batch":1,"no_wait":true}', to)
        await evil.settle()
        await mesh.request("mesh", "mesh/unsubscribe", {"name": "redirect"})


@EVIL
async def test_end_anothers_subscription_by_what_the_broker_answers(world: World, evil: str) -> None:
    """Written over, its owner could not find it again, and what it had still to read would have gone with its consumers."""
    attacker, bare, heard, key = await world.join(evil), await world.unprotected(), Heard(), bucket_subject(SUBSCRIPTIONS, "honest.kept")
    async with Mesh(name="honest", broker=world.url) as honest:
        async with hearing(honest, "kept.x", heard, "kept"):
            pass
        await honest.events.publish("kept.x", "true")
        before = await world.value(bare, key)
        await answer_to(attacker, key)
        assert await world.value(bare, key) == before
        async with hearing(honest, "kept.x", heard, "kept"):
            await heard.holds(1)
        await answer_to(attacker, f"{key}-{evil}")  # where none is yet
        assert b"KV_health" in await world.value(bare, f"{key}-{evil}")
        async with hearing(honest, "kept.x", heard, f"kept-{evil}"):
            await honest.events.publish("kept.x", "again")
            await heard.holds(2)
        for name in ("kept", f"kept-{evil}"):
            await honest.events.unsubscribe(name)


@EVIL
async def test_remove_anothers_schema_by_what_the_broker_answers(world: World, evil: str) -> None:
    attacker, bare = await world.join(evil), await world.unprotected()
    async with Mesh(name="honest", broker=world.url) as honest:
        schemas = honest.events.schemas
        topic = f"stays.{evil}"
        assert await schemas.register(topic, ONE) == 1
        for version in (1, 2):
            await answer_to(attacker, bucket_subject(SCHEMAS, f"{topic}.{version}"))
        assert (await schemas.get(topic))["document"] == ONE
        assert b"KV_health" in await world.value(bare, bucket_subject(SCHEMAS, f"{topic}.2"))
        assert await schemas.register(topic, {**ONE, "description": "more"}) == 2
        assert await schemas.delete(topic) == 2


async def test_swallow_a_message_as_one_that_was_handled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are no secret, and headers are what their sender writes. Only what comes under the subject of a copy counts as one."""
    key, place = ("victim", "honest", "order-17"), "victim.aaaa"
    digest = hashlib.blake2b("\0".join(key).encode(), digest_size=16).digest()
    forged = {"Nats-Subject": bucket_subject(HANDLED, place), "Nats-Stream": bucket_stream(HANDLED)}
    async with Mesh(name="victim", broker=world.url) as victim, victim.messages.handled_in_bucket() as handled:
        before = victim.connection.foreign
        await deliver(world, place, digest, forged, f"{SUBJECTS.root}handled.{place}")
        await answer_to(await world.join(AGENT), f"{SUBJECTS.root}handled.{place}")
        await until(lambda: victim.connection.foreign > before)
        assert not handled.seen(key)
        for subscription in victim.connection._handlers.values():
            subscription.start = ""
        await deliver(world, place, digest, forged, f"{SUBJECTS.root}handled.{place}")
        await until(lambda: handled.seen(key) is True)


async def test_say_what_another_is_by_a_message_of_ones_own(world: World) -> None:
    """Another's entry in the registry, and that its key is gone, as copies of the bucket that are none."""
    _, presence = await world.victim()
    place = f"victim.{presence.entry.instance}"
    async with watching(await world.honest()) as (directory, _):
        for bucket in (REGISTRY, "health"):
            forged = {
                "Nats-Subject": bucket_subject(bucket, place),
                "Nats-Stream": bucket_stream(bucket),
                "Nats-Sequence": "999999",
                "Nats-Time-Stamp": "2030-01-01T00:00:00Z",
                "KV-Operation": "DEL",
            }
            await deliver(world, place, b"", forged, f"{SUBJECTS.root}{bucket}.{place}")
        await directory._js.connection.flush()
        assert live(directory, "victim") == [presence.entry.instance]


async def test_store_messages_where_they_do_not_belong(world: World) -> None:
    """Where nobody would ever read them, and the others' would find no room. The control plane takes them out."""
    strays = ("JOBS", "STREAMS", "KV_jobs", "KV_registry", "KV_schemas", "KV_subscriptions", "MESSAGES_LOW", "DEAD_LETTERS", "SCHEDULES")
    places = (
        SUBJECTS.job("victim", "z", "tools/call", "t"), SUBJECTS.flow("victim", "z", "s"), "$KV.jobs.a.b.c", "$KV.registry.a.b",
        "$KV.schemas.a.1", "$KV.subscriptions.a.b", SUBJECTS.message("victim", "z", "low"), SUBJECTS.dead("z", "X", "1-1"),
        f"{SUBJECTS.root}schedule.z.z",
    )  # fmt: skip
    bare, subject = await world.unprotected(), SUBJECTS.event(HOST, "normal", "stray.x")
    for place in places:
        await deliver(world, "stray.x", dumps({"id": place}), {}, place)
    for stream in strays:
        async with asyncio.timeout(5):
            while not await stored(bare, subject, stream):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
    async with Mesh(name="mesh", broker=world.url) as plane:
        assert await remove_strays(JetStream(plane.connection), SUBJECTS) == len(strays)
    assert [await stored(bare, subject, stream) for stream in (*strays, "EVENTS")] == [0] * len(strays) + [len(strays)]


async def test_fill_anothers_share_with_what_the_broker_answers(world: World) -> None:
    """Nobody receives under that name, so nobody drops them; the sender is told that it is full, until the control plane has looked."""
    attacker, lane = await world.join(AGENT), SUBJECTS.message("absent", "honest", "normal")
    bare = await world.unprotected()
    async with Mesh(name="honest", broker=world.url) as honest:
        await honest.messages.publish_message("absent", "t", "true")
        for _ in range(10_000):
            await attacker.publish("$SYS.REQ.USER.INFO", b"", lane)
        await attacker.settle()
        async with asyncio.timeout(10):
            while await stored(bare, lane, "MESSAGES_NORMAL") < 10_000:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        with pytest.raises(MailboxFull):
            await honest.messages.publish_message("absent", "t")
        with capture_logs():
            async with Mesh(name="mesh", broker=world.url) as plane:
                await remove_words(JetStream(plane.connection), {})
        assert await stored(bare, lane, "MESSAGES_NORMAL") == 1
        await honest.messages.publish_message("absent", "t")
    await bare.ask("$JS.API.STREAM.PURGE.MESSAGES_NORMAL", dumps({"filter": lane}))


async def test_have_anothers_event_stored_again(world: World) -> None:
    """It is its publisher's, with its id, when the stream has forgotten that: nobody takes it for what happens now."""
    heard, now, bare = Heard(), Heard(), await world.unprotected()
    async with (
        Mesh(name="honest", broker=world.url) as honest,
        hearing(honest, "again.x", heard, "again"),
        hearing(honest, "again.x", now),
    ):
        for seconds in (3600, 0):
            event = new_event("honest", "again.x", seconds, id=str(seconds), type="t", time_ns=clock.wall_ns() - seconds * 10**9)
            said = encode(event)
            headers = {**said.headers, "Nats-Msg-Id": f"{seconds:048d}"}
            assert "seq" in await bare.ask(SUBJECTS.event("honest", "normal", "again.x"), said.body, headers)
        await heard.holds(1)
        await now.holds(1)
        assert (heard.data, now.data) == ([0], [0])
        await honest.events.unsubscribe("again")


async def test_register_a_schema_for_what_every_agent_says(world: World) -> None:
    """Each may publish on `agent.health`, and so could have nobody else's events of it fit."""
    for evil in (AGENT, HOST):
        async with Mesh(name=evil, broker=world.url) as mesh:
            with pytest.raises(Denied):
                await mesh.events.schemas.register("agent.health", {"type": "null"})


async def test_ask_for_what_is_too_long_to_keep(world: World) -> None:
    """The control plane would store it, or the broker hold it in memory, once for each question."""
    long = "t" * 300_000
    questions: list[tuple[str, dict[str, Any]]] = [
        ("subscribe", {"name": "long", "topic": long}),
        ("subscribe", {"name": "long", "topic": ".".join("t" * 600)}),
        ("flow", {"from": long, "stream": "s"}),
        ("flow", {"from": "x", "stream": long}),
        ("reader", {"stream": "EVENTS", "filters": [f"mesh.v1.event.*.*.{long}"]}),
        ("schedule", {"id": long, "to": "victim", "type": "t", "every": 60}),
    ]
    async with Mesh(name=HOST, broker=world.url) as mesh:
        for question, params in questions:
            with pytest.raises(MeshError):
                await mesh.request("mesh", f"mesh/{question}", params, timeout=5)


async def test_convert_what_others_have_said(world: World) -> None:
    """Who may publish on a topic may add a version; what older events become only its owner says, also where its rule is none."""
    async with Mesh(name="honest", broker=world.url) as owner, Mesh(name=HOST, broker=world.url) as evil:
        await owner.events.schemas.register("said.x", ONE, compatibility="none")
        changed = {**ONE, "description": "more"}
        with pytest.raises(Denied):
            await evil.events.schemas.register("said.x", changed, convert="{'pr': 666}")
        assert await owner.events.schemas.register("said.x", changed, convert="{'pr': data.pr}") == 2
        await owner.events.schemas.delete("said.x")
