"""To speak in another's name. The sender is a token of each subject, and the broker holds everybody to their own."""

import pytest

from mesh.subjects import Gone, Record, client_name
from mesh.wire import control
from mesh.wire.jsonrpc import dumps, scan
from tests.attacks.world import AGENT, HOST, SUBJECTS, World, call, drop, held, stored, until, until_stored
from tests.helpers import Recorder, finish, hold

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])


@EVIL
@pytest.mark.parametrize("quiet", [False, True])
async def test_call_in_anothers_name(world: World, evil: str, quiet: bool) -> None:
    recorder, _ = await world.victim(journal=None)
    subject, body, reply = call("honest", "victim", "k", quiet=quiet)
    attacker = await world.join(evil)
    await attacker.publish(subject, body, reply)
    assert await attacker.refused(subject) == [subject]
    assert recorder.calls == []
    bare = await world.unprotected()
    await bare.subscribe(reply)
    await bare.publish(subject, body, reply)
    await bare.signals.until(lambda: bare.heard)
    assert quiet or [each.caller for each in recorder.calls] == ["honest"]


@EVIL
async def test_notice_in_anothers_name(world: World, evil: str) -> None:
    recorder, _ = await world.victim(Recorder(hold))
    task, running = await held(recorder, await world.honest())
    subject = SUBJECTS.note("victim", "honest", "notifications/cancelled")
    attacker = await world.join(evil)
    await attacker.publish(subject, control.cancelled(running.id, "x"))
    assert await attacker.refused(subject) == [subject]
    assert recorder.cancelled == []
    await (await world.unprotected()).publish(subject, control.cancelled(running.id, "x"))
    await recorder.signals.until(lambda: recorder.cancelled == [running.id])
    await drop(task)


@EVIL
async def test_probe_in_anothers_name(world: World, evil: str) -> None:
    asked: list[str] = []

    def on_probe(caller: str, _: bytes) -> bytes:
        asked.append(caller)
        return b"{}"

    await world.victim(on_probe=on_probe)
    subject, reply = SUBJECTS.probe("victim", "any", "honest"), SUBJECTS.reply_prefix("honest", "victim", "k", quiet=True) + "p1"
    attacker = await world.join(evil)
    await attacker.publish(subject, b"", reply)
    assert await attacker.refused(subject) == [subject]
    assert asked == []
    await (await world.unprotected()).publish(subject, b"", reply)
    await until(lambda: asked == ["honest"])


@EVIL
async def test_part_in_anothers_name(world: World, evil: str) -> None:
    """`count` 0 says "I have it all", and the sender forgets the body."""
    _, presence = await world.victim()
    parts = presence._responder._parts
    parts.offer(scan(dumps({"jsonrpc": "2.0", "id": "honest.k.1", "result": {"large": True}})), lambda name: name == "honest")
    subject = SUBJECTS.part("victim", parts.end, "honest", "honest.k.1")
    grant = b"G" + dumps({"next": 0, "count": 0, "end": "k"})
    attacker = await world.join(evil)
    await attacker.publish(subject, grant)
    await attacker.publish(SUBJECTS.part("victim", parts.end, evil, "honest.k.1"), grant)  # in its own: it is not asked for
    assert await attacker.refused(subject) == [subject]
    assert list(parts._offers) == ["honest.k.1"]
    await (await world.unprotected()).publish(subject, grant)
    await until(lambda: not parts._offers)


@EVIL
async def test_record_in_anothers_name(world: World, evil: str) -> None:
    """That another was called, without bodies: the journal would hold it."""
    subject = SUBJECTS.build(Record("victim", evil))
    attacker = await world.join(evil)
    await attacker.publish(subject, b'{"forged":1}')
    assert await attacker.refused(subject) == [subject]
    bare = await world.unprotected()
    before = await stored(bare, subject)
    await bare.publish(subject, b'{"forged":1}')
    await until_stored(bare, subject, more_than=before)


@EVIL
async def test_say_that_another_is_gone(world: World, evil: str) -> None:
    recorder, _ = await world.victim(Recorder(hold))
    mesh = await world.honest()
    task, running = await held(recorder, mesh)
    subject, body = SUBJECTS.build(Gone("honest", mesh.connection.token)), control.gone(client_name("honest", mesh.connection.token))
    attacker = await world.join(evil)
    await attacker.publish(subject, body)
    assert await attacker.refused(subject) == [subject]
    assert recorder.cancelled == []
    await (await world.unprotected()).publish(subject, body)
    await recorder.signals.until(lambda: recorder.cancelled == [running.id])
    await drop(task)


async def test_a_connection_named_as_anothers(world: World) -> None:
    """When it ends, the broker says so with the name that it gave itself, and with its claims, which count."""
    recorder, _ = await world.victim(Recorder(hold))
    mesh = await world.honest()
    task, running = await held(recorder, mesh)
    watch = await world.unprotected()
    await watch.subscribe(SUBJECTS.gone)
    await watch.settle()
    path = world.authority.credentials(AGENT)
    liar = await world.connect(AGENT, str(path), name=client_name("honest", mesh.connection.token))
    await liar.client.close()
    await watch.signals.until(lambda: SUBJECTS.build(Gone(AGENT, mesh.connection.token)) in [each.subject for each in watch.heard])
    assert SUBJECTS.build(Gone("honest", mesh.connection.token)) not in [each.subject for each in watch.heard]
    assert recorder.cancelled == []
    finish(running, {})
    await task
