"""To have others write where one may not: reply subjects, trace headers, schedules; and to have the broker record what was not, or not
what was."""

import asyncio

import pytest
from structlog.testing import capture_logs

from mesh.audit.journal import Journal
from mesh.link.connection import Connection, Message
from mesh.policy.memory import Peer
from mesh.subjects import Gone, client_name
from mesh.wire import control
from mesh.wire.jsonrpc import dumps
from tests.attacks.broker_writes import WRITES, reader_of
from tests.attacks.world import ACCOMPLICE, AGENT, HOST, SUBJECTS, World, call, drop, held, stored, until, until_stored
from tests.helpers import Recorder, finish, hold, live, watching

ELSEWHERE = [
    "mesh.v1.reply.honest.victim.k.1",
    "mesh.v1.reply.hank.steady.k.1",
    "mesh.v1.call.steady.any.honest.tools.call.t",
    "mesh.v1.note.steady.honest.notifications.cancelled",
    "$JS.API.STREAM.DELETE.JOURNAL",
    "$JS.API.CONSUMER.CREATE.JOURNAL",
    "$KV.registry.victim.x",
    "$KV.health.steady.x",
    "_INBOX.honest.x",
    "_INBOX.hank.x",
    "mesh.v1.gone.honest.k",
]
"""Where a responder may not write, and where it may but should not be made to."""


async def test_have_a_responder_write_elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caller and accomplice: the caller chooses the reply subject of a call, the accomplice would hear or profit. An honest responder
    answers only its caller; what a malicious one is asked for, the broker refuses."""
    recorder, presence = await world.victim()
    attacker, bare = await world.join(HOST), await world.unprotected()
    for each in ELSEWHERE:
        await bare.subscribe(each)
    await bare.settle()
    subject, body, _ = call(HOST, "victim", "k")
    with capture_logs() as logs:
        for each in ELSEWHERE:
            await attacker.publish(subject, body, each)
        await until(lambda: presence._responder.refused == len(ELSEWHERE))
    assert [each["agent"] for each in logs if each["event"] == "message refused"] == ["victim"] * len(ELSEWHERE)
    assert [each["subject"] for each in logs if each["event"] == "message refused"] == [subject] * len(ELSEWHERE)
    assert recorder.calls == []
    await bare.settle()
    assert bare.heard == []
    accomplice = await world.join(ACCOMPLICE)
    for each in ELSEWHERE:
        await accomplice.publish(each, body)
    assert await accomplice.refused(*ELSEWHERE) == ELSEWHERE

    def believing(caller: str, target: str, quiet: bool, message: Message) -> tuple[Peer, str, str]:
        prefix, dot, exchange = message.reply.rpartition(".")
        return Peer(caller, "k"), prefix + dot, exchange

    monkeypatch.setattr(presence._responder, "_peer", believing)
    await attacker.publish(subject, body, f"mesh.v1.reply.{HOST}.steady.k.1")
    await until(lambda: recorder.calls)


async def test_have_a_prober_answer_elsewhere(world: World) -> None:
    _, presence = await world.victim()
    attacker, bare = await world.join(HOST), await world.unprotected()
    for each in ELSEWHERE:
        await bare.subscribe(each)
    await bare.settle()
    for each in ELSEWHERE:
        await attacker.publish(SUBJECTS.probe("victim", "any", HOST), b"", each)
    await until(lambda: presence._responder.refused == len(ELSEWHERE))
    own = f"{SUBJECTS.reply_prefix(HOST, 'victim', 'k', quiet=True)}p1"
    await bare.subscribe(own)
    await bare.settle()
    await attacker.publish(SUBJECTS.probe("victim", "any", HOST), b"", own)
    await bare.signals.until(lambda: bare.heard)
    assert [each.subject for each in bare.heard] == [own]


@WRITES
async def test_end_anothers_calls_by_what_the_broker_answers(world: World, evil: str, write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the control plane says who is gone, the broker can be made to write as well."""
    recorder, presence = await world.victim(Recorder(hold))
    mesh, attacker = await world.honest(), await world.join(evil)
    task, running = await held(recorder, mesh)
    notice = SUBJECTS.build(Gone("honest", mesh.connection.token))
    with capture_logs() as logs:
        await write(attacker, notice)
        await until(lambda: presence._responder.refused)
    assert {each["subject"] for each in logs if each["event"] == "message refused"} == {notice}
    assert recorder.cancelled == []
    monkeypatch.setattr(control, "says_gone", lambda *_: True)
    await write(attacker, notice)
    await recorder.signals.until(lambda: recorder.cancelled == [running.id])
    await drop(task)


async def test_tell_the_control_plane_that_anothers_connection_ended(world: World) -> None:
    """An event of the broker's, as an agent has stored it and a host pulls it to where the control plane hears those events."""
    _, presence = await world.victim(heart=None)
    agent, host = await world.join(AGENT), await world.join(ACCOMPLICE)
    connection: Connection = presence._connection
    event = {"client": {"id": connection.client_id, "name": client_name("x", "y")}, "server": {"id": connection.server_id}, "reason": "x"}
    async with watching(await world.honest()) as (directory, _):
        await agent.publish(f"$KV.registry.{AGENT}.x", dumps(event))
        pull = f"$JS.API.CONSUMER.MSG.NEXT.KV_registry.{await reader_of(host)}"
        await agent.settle()
        await host.publish(pull, b'{"batch":1000,"no_wait":true}', "mesh.v1.broker.disconnect")
        await asyncio.sleep(0.8)  # the control plane would wait 0.6 before it says so
        assert live(directory, "victim") == [presence.entry.instance]
        await (await world.unprotected()).publish("mesh.v1.broker.disconnect", dumps(event))
        await until(lambda: not live(directory, "victim"))


@pytest.mark.parametrize("evil", [AGENT, HOST])
async def test_have_the_broker_trace_to_where_one_may_not_publish(world: World, evil: str) -> None:
    attacker, bare = await world.join(evil), await world.unprotected()
    dest, subject = "mesh.v1.health.victim.x", SUBJECTS.note("mesh", evil, "notifications/x")
    await bare.subscribe(dest)
    await bare.settle()
    for headers in ({"Nats-Trace-Dest": dest}, {"Nats-Trace-Dest": dest, "Nats-Trace-Only": "true"}):
        await attacker.publish(subject, b"{}", headers=headers)
    assert await attacker.refused(dest) == [dest]
    await bare.settle()
    assert bare.heard == []
    await bare.publish(subject, b"{}", headers={"Nats-Trace-Dest": dest})
    await bare.signals.until(lambda: bare.heard)


@pytest.mark.parametrize("how", ["@at 2030-01-01T00:00:00Z", "@every 1s", "0 * * * * *"])
async def test_schedule_a_message_in_anothers_name(world: World, how: str) -> None:
    """A schedule's target may be any subject of its stream: so no stream takes any."""
    _, presence = await world.victim()
    attacker, bare = await world.join(AGENT), await world.unprotected()
    headers = {"Nats-Schedule": how, "Nats-Schedule-Target": f"$KV.registry.victim.{presence.entry.instance}"}
    answer = await attacker.ask(f"$KV.registry.{AGENT}.x", b"{}", headers=headers)
    assert "schedule" in answer["error"]["description"]
    await bare.ask("$JS.API.STREAM.CREATE.PLANS", dumps({"name": "PLANS", "subjects": ["plans.>"], "allow_msg_schedules": True}))
    headers = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "plans.other"}
    assert "error" not in await bare.ask("plans.mine", b"{}", headers=headers)
    await until_stored(bare, "plans.other", stream="PLANS")
    await bare.ask("$JS.API.STREAM.DELETE.PLANS")


KEEP_OUT = {
    "Nats-Expected-Last-Sequence": "999999999",
    "Nats-Expected-Stream": "NONE",
    "Nats-Expected-Last-Subject-Sequence": "999999999",
    "Nats-Rollup": "all",
    "Nats-TTL": "1s",
    "Nats-Schedule": "@every 1s",
    "Nats-Incr": "1",
    "Nats-Batch-Id": "b",
    "Nats-Msg-Id": "again",
}
"""Headers with which the broker delivers a message and does not record it. Source: the facts of the broker."""


@pytest.mark.parametrize("header", KEEP_OUT)
async def test_keep_a_call_out_of_the_journal(world: World, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, presence = await world.victim()
    attacker, bare = await world.join(HOST), await world.unprotected()
    subject, body, reply = call(HOST, "victim", "k", header)
    if header == "Nats-Msg-Id":
        await attacker.publish(SUBJECTS.note("mesh", HOST, "x"), b"{}", headers={header: KEEP_OUT[header]})
    await attacker.settle()
    before = await stored(bare, subject)
    with capture_logs() as logs:
        await attacker.publish(subject, body, reply, {header: KEEP_OUT[header]})
        await until(lambda: presence._responder.refused == 1)
    refused = [(each["agent"], each["subject"]) for each in logs if each["event"] == "message refused"]
    assert [each for each in refused if each[0] == "victim"] == [("victim", subject)]  # the control plane may refuse the note only now
    assert recorder.calls == []
    monkeypatch.setattr("mesh.link.responder.any", lambda _: False, raising=False)
    await attacker.publish(subject, body, reply, {header: KEEP_OUT[header]})
    await until(lambda: recorder.calls)
    assert await stored(bare, subject) == before, "it ran, and the journal does not know"


@WRITES
async def test_put_into_the_journal_what_was_not(world: World, evil: str, write) -> None:
    """The broker's answer is stored as if it were a call of somebody else's; who reads the journal does not take it for one."""
    attacker, bare = await world.join(evil), await world.unprotected()
    subject = SUBJECTS.call("steady", "any", "honest", "tools/call", f"never{write.__name__}")
    await write(attacker, subject)
    await until_stored(bare, subject)
    operator = await world.honest("operator")
    seen = [each async for each in Journal(operator.connection, SUBJECTS).calls(target="steady")]
    assert [each for each in seen if each.caller == "honest"] == []


async def test_use_anothers_deduplication_id(world: World) -> None:
    """The window is one for all senders of a stream: so nobody in the mesh relies on it, and a call with such a header is refused."""
    await world.victim()
    mesh, attacker, bare = await world.honest(), await world.join(HOST), await world.unprotected()
    guess = f"honest.{mesh.connection.token}.1"
    await attacker.publish(SUBJECTS.note("mesh", HOST, "notifications/x"), b"{}", headers={"Nats-Msg-Id": guess})
    await attacker.settle()
    before = await stored(bare, SUBJECTS.call("victim", "any", "honest", "tools/call", "dup"))
    await mesh.call("victim", "dup", {})
    await until_stored(bare, SUBJECTS.call("victim", "any", "honest", "tools/call", "dup"), more_than=before)
    taken, answer = [], {}
    for number in (1, 2):
        answer = await bare.ask(f"$KV.registry.unprotected.{number}", b"{}", headers={"Nats-Msg-Id": "one"})
        taken.append(answer.get("duplicate", False))
    assert taken == [False, True], "what a second sender would meet"


async def test_fill_an_instance_for_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One caller with ever new connections, calls that never end, cancellations of what never was: it fills its own share."""
    monkeypatch.setattr("mesh.link.responder.MOST_EACH", 20)
    recorder, presence = await world.victim(Recorder(hold))
    responder, mesh, attacker = presence._responder, await world.honest(), await world.join(HOST)
    for number in range(60):
        await attacker.publish(*call(HOST, "victim", f"k{number}"))
        await attacker.publish(*call(HOST, "victim", "k", str(number)))
        long = control.cancelled(f"{HOST}.k.{'9' * 10_000}{number}", "x")
        await attacker.publish(SUBJECTS.note("victim", HOST, "notifications/cancelled"), long)
    await until(lambda: responder.refused == 60)
    assert len(responder._memory.peers) <= 21
    assert responder.running <= 20
    assert not responder._cancelled.get(HOST)
    task, running = await held(recorder, mesh)
    finish(running, {"fine": True})
    assert await task == {"fine": True}
