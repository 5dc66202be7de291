"""Sessions, waiting calls and exchanges of others: to end them, to speak in them, to take them over, to keep them."""

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.eras.state import Claim, Sealer
from bridge.expose import Exposed
from mesh import Mesh
from mesh.errors import RemoteError
from mesh.link.responder import Responder
from mesh.subjects import ANSWER
from mesh.wire import control
from mesh.wire.entries import ProbeQuestion
from mesh.wire.jsonrpc import dumps
from tests.attacks.world import HOST, SUBJECTS, World, drop, held, until
from tests.helpers import Recorder, hold
from tests.test_translation_faults import answer, call
from tests.test_translation_faults import serving as serving_nosy

HELLO: Any = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


async def session(world: World, mesh: Mesh) -> tuple[Exposed, str]:
    """A handshake session of `mesh` with `victim`, and its reply subject."""
    found: list[Exposed] = []
    start = Exposed.start

    async def started(self: Exposed) -> Any:
        found.append(self)
        return await start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exposed, "start", started)
        await world.stack.enter_async_context(serving_nosy(world.url, "victim"))
    target = await mesh.target("victim")
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    opened = mesh.exchanges.open(
        target,
        "initialize",
        on_frame=lambda frame: done.set_result(frame) if frame.final else None,
        on_failure=done.set_exception,
        timeout=10,
    )
    opened.send(dumps({"jsonrpc": "2.0", "id": opened.id, "method": "initialize", "params": HELLO}))
    await done
    assert found[0]._sessions._sessions.keys() == {opened.reply}
    return found[0], opened.reply


async def test_speak_in_anothers_session(world: World) -> None:
    """A notice that names it by its reply subject: to end it, or to say something in it."""
    exposed, reply = await session(world, await world.honest())
    attacker = await world.join(HOST)
    said = {
        control.CLOSED: control.closed(),
        "notifications/roots/list_changed": dumps({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}),
    }
    with capture_logs() as logs:
        for method, body in said.items():
            await attacker.publish(SUBJECTS.note("victim", HOST, method), body, reply)
        instance = exposed._face._talks.sealer._head.split(".")[2]
        direct = SUBJECTS.call("victim", instance, HOST, control.CLOSED)
        await attacker.publish(direct, control.closed(), reply)
        await attacker.publish(SUBJECTS.call("victim", instance, HOST, ANSWER), dumps({"jsonrpc": "2.0", "id": 1, "result": {}}), reply)
        await until(lambda: len([each for each in logs if each["event"] == "message refused"]) == 4)
    assert {each["agent"] for each in logs if each["event"] == "message refused"} == {"victim"}
    assert exposed._sessions._sessions.keys() == {reply}
    bare = await world.unprotected()
    await bare.publish(SUBJECTS.note("victim", "honest", control.CLOSED), control.closed(), reply)
    await until(lambda: not exposed._sessions._sessions)


async def test_give_a_sign_of_life_for_anothers_session(world: World) -> None:
    """It would be kept for ever, and say again what its host has not answered."""
    exposed, reply = await session(world, await world.honest())
    attacker, bare = await world.join(HOST), await world.unprotected()
    found = exposed._sessions._sessions[reply]
    found.heard_at = 0.0
    question = ProbeQuestion(session=reply, back=True).encode()
    await attacker.publish(SUBJECTS.probe("victim", "any", HOST), question)
    own = f"{SUBJECTS.reply_prefix(HOST, 'victim', 'k', quiet=True)}p1"
    await attacker.subscribe(own)
    await attacker.publish(SUBJECTS.probe("victim", "any", HOST), question, own)
    await attacker.signals.until(lambda: attacker.heard)
    assert found.heard_at == 0.0
    await bare.publish(SUBJECTS.probe("victim", "any", "honest"), question)
    await until(lambda: found.heard_at)


async def test_cancel_or_resume_anothers_exchange(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume would bring the answer, or tell what became of a call."""
    recorder, presence = await world.victim(Recorder(hold))
    mesh, attacker = await world.honest(), await world.join(HOST)
    task, running = await held(recorder, mesh)
    own = f"{SUBJECTS.reply_prefix(HOST, 'victim', 'k')}1"
    await attacker.subscribe(own)
    await attacker.publish(SUBJECTS.note("victim", HOST, "notifications/cancelled"), control.cancelled(running.id, "x"))
    await attacker.publish(SUBJECTS.note("victim", HOST, control.RESUME), control.resume([running.id]), own)
    await attacker.publish(SUBJECTS.note("victim", HOST, control.RESUME), control.resume([running.id]), running.prefix + running.exchange)
    with capture_logs() as logs:
        await until(lambda: presence._responder.refused == 3)
    assert {each["agent"] for each in logs if each["event"] == "message refused"} <= {"victim"}
    assert recorder.cancelled == []
    assert attacker.heard == []
    monkeypatch.setattr(presence._responder, "_cancel", lambda _, frame: _trusting(presence._responder, frame))
    await attacker.publish(SUBJECTS.note("victim", HOST, "notifications/cancelled"), control.cancelled(running.id, "x"))
    await recorder.signals.until(lambda: recorder.cancelled == [running.id])
    await drop(task)


def _trusting(responder: Responder, frame: Any) -> None:
    """As if everybody might cancel everything."""
    responder._give_up(responder._running[str(frame.cancels)], "x")


async def test_forge_or_replay_request_state(world: World) -> None:
    """Of a call that waits for answers: somebody else's, another instance's, one that was used, one that was changed or made up."""
    async with serving_nosy(world.url, "victim"):
        honest, evil = await world.honest(), await world.honest(HOST)
        required = await call(honest, "victim", "ask")
        state = required["requestState"]
        head, _, sealed = state.rpartition(".")
        agent, instance = head.split(".")[1:]
        claim = Claim("honest", "tools/call", "ask", "honest.k.1", 0)
        forged = [
            (evil, state),
            (honest, f"{head}.{sealed[:-4]}AAAA"),
            (honest, Sealer(agent, instance).seal(claim, 1e12)),
            (evil, Sealer(agent, instance).seal(claim, 1e12)),
            (honest, f"{head}."),
            (honest, state + "\x00"),
            (honest, "mesh1.victim.other." + sealed),
        ]
        with capture_logs() as logs:
            for mesh, each in forged:
                with pytest.raises(RemoteError) as refused:
                    await call(mesh, "victim", "ask", {**answer(required, {"action": "accept"}), "requestState": each})
                assert refused.value.rpc_code == -32602
        assert HOST in {each.get("caller") for each in logs if each["event"] == "request state refused"}
        right = answer(required, {"action": "accept", "content": {}})
        assert (await call(honest, "victim", "ask", right))["resultType"] == "complete"
        with pytest.raises(RemoteError):
            await call(honest, "victim", "ask", right)
        assert json.loads(dumps(right))["requestState"] == state


async def test_forged_state_where_nothing_is_sealed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one key for all and without the look at who asks, another's waiting call is taken over."""
    monkeypatch.setattr("bridge.translation.talks.Claim", lambda caller, *rest: Claim(HOST, *rest))
    async with serving_nosy(world.url, "victim"):
        honest, evil = await world.honest(), await world.honest(HOST)
        required = await call(honest, "victim", "ask")
        taken = await call(evil, "victim", "ask", answer(required, {"action": "accept", "content": {}}))
        assert taken["resultType"] == "complete"
