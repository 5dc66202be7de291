"""To answer in another's name: as its target, as a role, and by having the broker write to where an answer is waited for.

Who a victim has once called knows its connection's token, and exchanges are counted: so their reply subjects can be guessed.
"""

import asyncio

import pytest
from structlog.testing import capture_logs

from mesh.errors import CallError
from mesh.link import exchanges, probes
from mesh.wire.entries import JournalPolicy, ProbeAnswer
from tests.attacks.broker_writes import WRITES, reader_of
from tests.attacks.world import ACCOMPLICE, AGENT, HOST, SUBJECTS, World, held, result, until
from tests.helpers import Recorder, finish, hold

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])


async def forge(world: World, evil: str, *, quiet: bool = False, target: str = "victim") -> None:
    roles = ("librarian",) if target == "librarian" else ()
    recorder, _ = await world.victim(Recorder(hold), roles=roles, journal=JournalPolicy(default="none" if quiet else "full"))
    task, running = await held(recorder, await world.honest(), target=target)
    subject, attacker = running.prefix + running.exchange, await world.join(evil)
    await attacker.publish(subject, result(running))
    assert await attacker.refused(subject) == [subject]
    assert not task.done()
    await (await world.unprotected()).publish(subject, result(running))
    assert await task == {"forged": True}


@EVIL
async def test_answer_in_anothers_name(world: World, evil: str) -> None:
    await forge(world, evil)


@EVIL
async def test_answer_quietly_in_anothers_name(world: World, evil: str) -> None:
    await forge(world, evil, quiet=True)


@EVIL
async def test_answer_for_a_role_that_one_does_not_have(world: World, evil: str) -> None:
    await forge(world, evil, target="librarian")


@EVIL
async def test_take_the_calls_of_a_role_that_one_does_not_have(world: World, evil: str) -> None:
    filters = ["mesh.v1.call.librarian.any.>", "mesh.v1.probe.librarian.any.*", "mesh.v1.note.librarian.>", "mesh.v1.call.librarian.i1.>"]
    attacker, bare = await world.join(evil), await world.unprotected()
    for each in filters:
        await attacker.subscribe(each, "librarian")
        await bare.subscribe(each)
    assert await attacker.refused(*filters) == filters
    await bare.settle()
    await world.victim(roles=("librarian",))
    for _ in range(5):
        await (await world.honest()).call("librarian", "t", {})
    await bare.signals.until(lambda: bare.heard)
    assert attacker.heard == []


@EVIL
async def test_answer_a_probe_in_anothers_name(world: World, evil: str) -> None:
    """ "I am here, and the journal must hold nothing of me": the calls that follow would leave no trace."""
    mesh = await world.honest()
    subject = f"{SUBJECTS.reply_prefix('honest', 'victim', mesh.connection.token, quiet=True)}p1"
    lie = ProbeAnswer(agent="victim", instance="i1", journal=JournalPolicy(default="none")).encode()
    attacker = await world.join(evil)
    await attacker.publish(subject, lie)
    assert await attacker.refused(subject) == [subject]
    bare = await world.unprotected()
    await bare.subscribe(SUBJECTS.probe("victim", "any", "honest"))
    await bare.settle()
    asking = asyncio.create_task(mesh.exchanges.probes.ask("victim", b"", 5))
    await bare.signals.until(lambda: bare.heard)
    await attacker.publish(subject, lie)
    await attacker.settle()
    assert not asking.done()
    await bare.publish(subject, lie)
    assert (await asking).journal.default == "none"


# what the broker can be made to write there


@WRITES
async def test_end_anothers_call_by_what_the_broker_answers(world: World, evil: str, write, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, _ = await world.victim(Recorder(hold))
    mesh, attacker = await world.honest(), await world.join(evil)
    task, running = await held(recorder, mesh)
    with capture_logs() as logs:
        await write(attacker, running.prefix + running.exchange)
        await until(lambda: mesh.exchanges.refused)
    assert [each["exchange"] for each in logs if each["event"] == "frame refused"] == [running.id]
    assert not task.done()
    finish(running, {"true": True})
    assert await task == {"true": True}
    with monkeypatch.context() as without:
        without.setattr(exchanges, "of_the_broker", lambda _: False)
        task, running = await held(recorder, mesh)
        await write(attacker, running.prefix + running.exchange)
        with pytest.raises(CallError, match="no JSON-RPC message"):
            await task


@WRITES
async def test_answer_a_probe_by_what_the_broker_answers(world: World, evil: str, write, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, attacker, bare = await world.honest(), await world.join(evil), await world.unprotected()
    await bare.subscribe(SUBJECTS.probe("victim", "any", "honest"))
    await bare.settle()

    async def attack(number: int) -> "asyncio.Task[ProbeAnswer]":
        asking = asyncio.create_task(mesh.exchanges.probes.ask("victim", b"", 5))
        await bare.signals.until(lambda: len(bare.heard) == number)
        await write(attacker, bare.heard[-1].reply)
        await attacker.settle()
        return asking

    asking = await attack(1)
    await until(lambda: mesh.exchanges.probes.refused == 1)
    await bare.publish(bare.heard[-1].reply, ProbeAnswer(agent="victim", instance="true").encode())
    assert (await asking).instance == "true"
    monkeypatch.setattr(probes, "read", lambda model, raw: ProbeAnswer(agent="?", instance=raw.decode()))
    assert (await (await attack(2))).agent == "?"


@WRITES
async def test_call_by_what_the_broker_answers(world: World, evil: str, write) -> None:
    """To have a call of somebody else's arrive: it has no reply subject and is no request, so it is refused."""
    recorder, presence = await world.victim()
    attacker = await world.join(evil)
    with capture_logs() as logs:
        await write(attacker, SUBJECTS.call("victim", "any", "honest", "tools/call", "t"))
        await until(lambda: presence._responder.refused)
    assert [each["agent"] for each in logs if each["event"] == "message refused"] == ["victim"]
    assert recorder.calls == []


# conspirators: one stores a message of its making, the other pulls it to where it likes


async def test_deliver_a_stored_message_to_anothers_subscription(world: World) -> None:
    """It comes under the subject that it is stored under. The key is named as the victim's instance, and says that it was deleted."""
    recorder, presence = await world.victim(Recorder(hold))
    mesh, agent, host = await world.honest(), await world.join(AGENT), await world.join(ACCOMPLICE)
    task, running = await held(recorder, mesh)
    instance, target = presence.entry.instance, mesh.exchanges.targets._targets["victim"]

    async def attack() -> None:
        own = f"$KV.health.{AGENT}.{instance}"
        await agent.publish(own, b"", headers={"KV-Operation": "DEL", "Nats-Subject": own})
        await agent.settle()
        pull = f"$JS.API.CONSUMER.MSG.NEXT.KV_health.{await reader_of(host, 'health')}"
        await host.publish(pull, b'{"batch":100,"no_wait":true}', f"mesh.v1.health.victim.{instance}")

    with capture_logs() as logs:
        await attack()
        await until(lambda: mesh.connection.foreign)
    assert "honest" in {each["connection"] for each in logs if each["event"] == "a message under another subject"}
    assert instance in target.instances
    assert not task.done()
    for subscription in mesh.connection._subscriptions:
        subscription.start = ""
    await attack()
    await until(lambda: instance not in target.instances)
    finish(running, {})
    await task
