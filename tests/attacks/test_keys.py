"""The registry and the health bucket: to say of another that it is gone, alive, or something else."""

import asyncio

import pytest
from structlog.testing import capture_logs

from mesh import clock
from mesh.errors import BrokerError
from mesh.link.buckets import Entry
from mesh.link.jetstream import JetStream
from mesh.registry.directory import Directory
from mesh.topology import HEALTH, REGISTRY, bucket_stream
from mesh.wire.entries import Client, Health, InstanceEntry, read
from mesh.wire.jsonrpc import dumps
from tests.attacks.broker_writes import WRITES
from tests.attacks.world import AGENT, HOST, SUBJECTS, World, held, until
from tests.helpers import Recorder, finish, hold, live, watching

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])

PUTS = [
    ({}, b"{}"),
    ({"KV-Operation": "DEL"}, b""),
    ({"KV-Operation": "PURGE", "Nats-Rollup": "sub"}, b""),
    ({"Nats-TTL": "never"}, b"{}"),
    ({"Nats-Marker-Reason": "MaxAge"}, b""),
]


@EVIL
async def test_write_anothers_key(world: World, evil: str) -> None:
    _, presence = await world.victim()
    instance, attacker = presence.entry.instance, await world.join(evil)
    subjects = [f"$KV.{bucket}.victim.{name}" for bucket in (REGISTRY, HEALTH) for name in (instance, "another")]
    async with watching(await world.honest()) as (directory, signals):
        for subject in subjects:
            for headers, body in PUTS:
                await attacker.publish(subject, body, headers=headers or None)
        assert await attacker.refused(*subjects) == subjects
        assert live(directory, "victim") == [instance]
        await (await world.unprotected()).publish(f"$KV.health.victim.{instance}", b"", headers={"KV-Operation": "DEL"})
        await signals.until(lambda: not live(directory, "victim"))


@EVIL
async def test_write_the_brokers_copy_of_a_key(world: World, evil: str) -> None:
    """What everybody watches: the broker alone writes there."""
    recorder, presence = await world.victim(Recorder(hold))
    mesh = await world.honest()
    task, running = await held(recorder, mesh)
    key, attacker, target = f"victim.{presence.entry.instance}", await world.join(evil), mesh.exchanges.targets._targets["victim"]
    subjects = [f"mesh.v1.{bucket}.{key}" for bucket in (REGISTRY, HEALTH)]
    marker = {"KV-Operation": "DEL", "Nats-Subject": f"$KV.health.{key}", "Nats-Stream": "KV_health"}
    for subject in subjects:
        await attacker.publish(subject, b"", headers=marker)
    assert await attacker.refused(*subjects) == subjects
    assert target.instances
    await (await world.unprotected()).publish(subjects[1], b"", headers=marker)
    await until(lambda: not target.instances)
    finish(running, {})
    await task


@WRITES
async def test_overwrite_anothers_registry_entry_by_what_the_broker_answers(world: World, evil: str, write) -> None:
    """Its owner sees it and writes it again; who looks on keeps what the owner had said."""
    _, presence = await world.victim()
    attacker, bare = await world.join(evil), await world.unprotected()
    key = f"$KV.registry.victim.{presence.entry.instance}"
    async with watching(await world.honest()) as (directory, _):
        with capture_logs() as logs:
            await write(attacker, key)
            await until(lambda: presence.overwritten and key.endswith(tuple(each.get("key", "-") for each in logs)))
        assert {each["event"] for each in logs} >= {"our registry entry was overwritten", "a bucket holds what is no entry"}
        assert live(directory, "victim") == [presence.entry.instance]
    async with asyncio.timeout(5):
        while await world.value(bare, key) != presence.entry.encode():
            pass
    presence._copy.handler = lambda _: None
    await write(attacker, key)
    async with asyncio.timeout(5):
        while await world.value(bare, key) == presence.entry.encode():
            pass
    async with watching(await world.honest("bystander")) as (directory, _):
        assert live(directory, "victim") == []


@WRITES
async def test_say_that_another_is_dead_by_what_the_broker_answers(world: World, evil: str, write, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty message among the heartbeats, or one that is none."""
    recorder, presence = await world.victim(Recorder(hold))
    mesh, attacker, bare = await world.honest(), await world.join(evil), await world.unprotected()
    task, running = await held(recorder, mesh)
    key, target = f"$KV.health.victim.{presence.entry.instance}", mesh.exchanges.targets._targets["victim"]
    await bare.subscribe(f"mesh.v1.health.victim.{presence.entry.instance}")
    async with watching(await world.honest("bystander")) as (directory, _):
        await bare.settle()
        with capture_logs() as logs:
            await write(attacker, key)
            await until(lambda: key.endswith(tuple(each.get("key", "-") for each in logs)))
        await bare.signals.until(lambda: bare.heard)
        await mesh.connection.flush()
        assert live(directory, "victim") == [presence.entry.instance]
        assert presence.entry.instance in target.instances
        assert not task.done()
        finish(running, {})
        await task
        monkeypatch.setattr("mesh.registry.directory.Directory._on_health", _believing)
        await write(attacker, key)
        directory._health.pop(f"victim.{presence.entry.instance}", None)
        assert live(directory, "victim") == []


def _believing(self: Directory, key: str, entry: Entry | None, reason: str) -> None:
    """As if each message under a key were its owner's word."""
    self._health.pop(key, None)


async def test_empty_a_bucket(world: World) -> None:
    """One put to a key of one's own, with a header by which the broker drops all that came before it."""
    _, presence = await world.victim()
    attacker, bare = await world.join(AGENT), await world.unprotected()
    answer = await attacker.ask(f"$KV.registry.{AGENT}.x", b"{}", headers={"Nats-Rollup": "all"})
    assert "rollup" in answer["error"]["description"]
    assert read(InstanceEntry, await world.value(bare, f"$KV.registry.victim.{presence.entry.instance}")).agent == "victim"
    config = {"name": "KV_bite", "subjects": ["bite.>"], "allow_rollup_hdrs": True}
    await bare.ask("$JS.API.STREAM.CREATE.KV_bite", dumps(config))
    await bare.ask("bite.others", b"theirs")
    await bare.ask("bite.own", b"{}", headers={"Nats-Rollup": "all"})
    assert await stored_subjects(bare, "KV_bite") == ["bite.own"]
    await bare.ask("$JS.API.STREAM.DELETE.KV_bite")


async def stored_subjects(bare, stream: str) -> list[str]:
    state = (await bare.ask(f"$JS.API.STREAM.INFO.{stream}", dumps({"subjects_filter": ">"})))["state"]
    return sorted(state.get("subjects") or {})


async def test_empty_the_health_bucket(world: World) -> None:
    """There the broker insists on that header. So nobody takes a missing key for a death, and each beat brings its key back."""
    recorder, presence = await world.victim(Recorder(hold), heart=None)
    mesh, attacker, bare = await world.honest(), await world.join(AGENT), await world.unprotected()
    task, running = await held(recorder, mesh)
    key = f"$KV.health.victim.{presence.entry.instance}"
    async with watching(await world.honest("bystander")) as (directory, _):
        assert "error" not in await attacker.ask(f"$KV.health.{AGENT}.x", b"{}", headers={"Nats-Rollup": "all"})
        assert live(directory, "victim") == [presence.entry.instance]
        async with asyncio.timeout(3):
            while key not in await stored_subjects(bare, bucket_stream(HEALTH)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # nobody tells us
        assert live(directory, "victim") == [presence.entry.instance]
    assert not task.done()
    finish(running, {})
    await task


async def test_a_key_that_never_expires(world: World) -> None:
    """A heartbeat without an end keeps its key, and nobody alive: the newest beats of others say that it is over."""
    mesh = await world.honest()
    directory = Directory(JetStream(mesh.connection), SUBJECTS, mesh.readers.of_bucket)
    now = clock.wall_ns()
    for agent, at in (("mallory", now - 20 * 10**9), ("victim", now)):
        entry = InstanceEntry(agent=agent, instance="i").encode()
        beat = Health(agent=agent, instance="i", client=Client(server="s", id=1)).encode()
        directory._on_registry(f"{agent}.i", Entry(f"{agent}.i", entry, 1, at), "put")
        directory._on_health(f"{agent}.i", Entry(f"{agent}.i", beat, 1, at), "put")
        directory._on_health(f"{agent}.i", Entry(f"{agent}.i", b'{"stream":"KV_health","seq":1}', 2, now), "put")
    assert directory.silent() == ("mallory.i",)


async def test_an_entry_of_ones_own_that_names_another(world: World) -> None:
    """The key is what the broker enforces; a body under it that says another name is nobody's."""
    _, presence = await world.victim()
    attacker = await world.join(AGENT)
    lie = presence.entry.model_copy(update={"tools": ({"name": "forged"},)}).encode()
    async with watching(await world.honest()) as (directory, _):
        with capture_logs() as logs:
            for headers in (None, {"Nats-Subject": f"$KV.registry.victim.{presence.entry.instance}", "Nats-Sequence": str(2**62)}):
                await attacker.publish(f"$KV.registry.{AGENT}.{presence.entry.instance}", lie, headers=headers)
            await attacker.settle()
            await until(lambda: directory.refused)
            await directory._js.connection.flush()
        assert {each["key"] for each in logs if "key" in each} == {f"{AGENT}.{presence.entry.instance}"}
        found = directory.entry(f"victim.{presence.entry.instance}")
        assert found is not None
        assert found.tools == ()
        assert directory.entry(f"{AGENT}.{presence.entry.instance}") is None


async def test_fill_the_registry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent may write as many keys of its own as it likes, and a full bucket takes nobody's."""
    _, presence = await world.victim()
    attacker, bare = await world.join(AGENT), await world.unprotected()
    monkeypatch.setattr("mesh.registry.directory.MOST_OF_ONE", 3_000_000)
    with capture_logs() as logs:
        for number in range(8):
            await attacker.ask(f"$KV.registry.{AGENT}.{number}", b"x" * 900_000)
        purged = "an agent fills the registry: its entries are purged"
        await until(lambda: [each for each in logs if each["event"] == purged])
        async with asyncio.timeout(5):
            while len([each for each in await stored_subjects(bare, "KV_registry") if AGENT in each]) > 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # nobody tells us
    assert {each["agent"] for each in logs if each["event"] == purged} == {AGENT}
    await presence.update(presence.entry)
    monkeypatch.setattr("mesh.registry.directory.MOST_OF_ONE", 10**12)
    config = (await bare.ask("$JS.API.STREAM.INFO.KV_registry"))["config"]
    await bare.ask("$JS.API.STREAM.UPDATE.KV_registry", dumps({**config, "max_bytes": 3_000_000}))
    for number in range(4):
        await attacker.ask(f"$KV.registry.{AGENT}.{number}", b"x" * 900_000)
    with pytest.raises(BrokerError, match="maximum bytes"):
        await presence.update(presence.entry.model_copy(update={"description": "x" * 500_000}))
    await bare.ask("$JS.API.STREAM.UPDATE.KV_registry", dumps(config))
    await bare.ask("$JS.API.STREAM.PURGE.KV_registry", dumps({"filter": f"$KV.registry.{AGENT}.*"}))


async def test_fill_the_health_bucket(world: World) -> None:
    """It drops what is oldest, so nobody's beat is refused, and nobody is taken for dead."""
    recorder, presence = await world.victim(Recorder(hold), heart=None)
    mesh, attacker, bare = await world.honest(), await world.join(AGENT), await world.unprotected()
    task, running = await held(recorder, mesh)
    bucket = (await bare.ask("$JS.API.STREAM.INFO.KV_health"))["config"]
    await bare.ask("$JS.API.STREAM.UPDATE.KV_health", dumps({**bucket, "max_bytes": 3_000_000}))
    async with watching(await world.honest("bystander")) as (directory, signals):
        for number in range(12):
            assert "error" not in await attacker.ask(f"$KV.health.{AGENT}.{number}", b"x" * 900_000)
        beats: list[str] = []

        def on_change(_: str, key: str, reason: str) -> None:
            if key.startswith("victim."):
                beats.append(reason)
            signals.tell()

        directory._on_change = on_change
        await signals.until(lambda: "put" in beats, timeout=4)
        assert live(directory, "victim") == [presence.entry.instance]
    await bare.ask("$JS.API.STREAM.UPDATE.KV_health", dumps({**bucket, "discard": "new", "max_bytes": 1_000}))
    assert "maximum bytes" in (await attacker.ask(f"$KV.health.{AGENT}.x", b"{}"))["error"]["description"]
    await bare.ask("$JS.API.STREAM.UPDATE.KV_health", dumps(bucket))
    assert not task.done()
    finish(running, {})
    await task
