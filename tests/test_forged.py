"""Messages that are not what they seem: refused, counted, and disturbing nobody. The forger speaks straight to the broker."""

import asyncio
from typing import Any

import pytest

from mesh import Mesh
from mesh.errors import Busy
from mesh.link.call import Call
from mesh.link.connection import Message
from mesh.wire import control
from tests.forger import REPLY, SUBJECTS, forging, still_well
from tests.helpers import Recorder, Still, finish, hold, serving

BARE = True  # what is tested here is below all identities

# ---- calls


async def test_a_call_that_is_right_runs_once_however_often_it_comes(plane: str) -> None:
    recorder = Recorder()
    async with asyncio.timeout(10), serving(plane, "victim", recorder, heart=Still()), forging(plane) as forger:
        for _ in range(50):
            forger.call(1)
        await forger.signals.until(lambda: len(forger.answers) >= 49)
        assert recorder.ran == {1: 1}
        results = [body for _, body in forger.answers if "result" in body]
        assert results
        assert all(body == {"jsonrpc": "2.0", "id": "forger.k.1", "result": {"echo": {"n": 1}}} for body in results)
        assert all("result" in body or body["method"] == control.WORKING for _, body in forger.answers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"Nats-Msg-Id": "1"}},
        {"headers": {"Nats-Expected-Stream": "NONE"}},
        {"headers": {"Nats-TTL": "1s", "Traceparent": "00"}},
        {"method": "tools/list"},
        {"name": "other"},
        {"id": "forger.k.2"},
        {"id": "honest.k.1"},
        {"id": 1},
        {"id": ""},
        {"body": b""},
        {"body": b"garbage \xff\x00"},
        {"body": b"[" * 100_000},
        {"body": b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"tools/call"}'},
        {"body": b'{"jsonrpc":"2.0","id":"forger.k.1","id":"forger.k.1","method":"tools/call","params":{"name":"t"}}'},
        {"body": b'{"jsonrpc":"2.0","id":"forger.k.1","method":"tools/call","params":{"name":"t","name":"admin"}}'},
        {"body": b'[{"jsonrpc":"2.0","id":"forger.k.1","method":"tools/call","params":{"name":"t"}}]'},
        {"body": b'{"jsonrpc":"2.0","id":"forger.k.1","result":{}}'},
        {"body": b"x" * 1_000_000},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
async def test_a_call_that_disagrees_with_itself_is_answered_with_an_error(plane: str, wrong: dict[str, Any]) -> None:
    recorder = Recorder()
    async with asyncio.timeout(10), serving(plane, "victim", recorder, heart=Still()) as [presence], forging(plane) as forger:
        forger.call(**wrong)
        problem = await forger.error()
        assert problem["code"] in (control.PARSE_ERROR, control.INVALID_REQUEST)
        assert problem["data"]["mesh"] in ("refused", "malformed_message")
        assert presence._responder.refused == 1
        assert recorder.calls == []
        await still_well(plane, recorder)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "_INBOX.someone",
        SUBJECTS.reply_prefix("honest", "victim", "k") + "1",
        SUBJECTS.reply_prefix("forger", "other", "k") + "1",
        SUBJECTS.reply_prefix("forger", "victim", "k.k") + "1" + ".x",
        REPLY + "1.2",
        SUBJECTS.reply_prefix("forger", "victim", "k", quiet=True) + "1",
        SUBJECTS.call("victim", "any", "honest", "tools/call", "admin"),
        "mesh.v1.reply.forger.victim.1",
        "$JS.API.STREAM.DELETE.JOURNAL",
    ],
)
async def test_a_call_whose_reply_is_not_the_callers_own_is_not_answered(plane: str, reply: str) -> None:
    recorder = Recorder()
    async with asyncio.timeout(10), serving(plane, "victim", recorder, heart=Still()) as [presence], forging(plane) as forger:
        heard: list[Message] = []
        if reply and not reply.startswith("$JS"):
            await forger.connection.subscribe(reply, heard.append)
        forger.call(reply=reply)
        await still_well(plane, recorder)  # on the same subscription, so behind it
        await forger.connection.flush()
        assert presence._responder.refused == 1
        assert len(recorder.calls) == 1
        assert [each for each in heard if each.reply == ""] == []


async def test_a_subject_that_no_name_makes_is_refused(plane: str) -> None:
    recorder = Recorder()
    async with asyncio.timeout(10), serving(plane, "victim", recorder, heart=Still()) as [presence], forging(plane) as forger:
        for subject in ("mesh.v1.call.victim.any._x41_.tools.call.t", "mesh.v1.call.victim.any.forger", "mesh.v1.call.victim.any._x.ping"):
            forger.call(subject=subject)
        await still_well(plane, recorder)
        assert presence._responder.refused == 3


async def test_garbage_from_many_connections_locks_nobody_out(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are remembered, up to a bound. Whoever fills it with nonsense must not fill it for all."""
    monkeypatch.setattr("mesh.link.responder.MOST_PEERS", 20)
    recorder = Recorder()
    async with asyncio.timeout(30), serving(plane, "victim", recorder, heart=Still()), forging(plane) as forger:
        for number in range(50):
            await forger.connection.publish(
                SUBJECTS.call("victim", "any", "forger", "tools/call", "t"),
                b"garbage",
                reply=SUBJECTS.reply_prefix("forger", "victim", f"k{number}") + "1",
            )
        await still_well(plane, recorder)


async def test_too_many_connections_are_told_so(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.link.responder.MOST_PEERS", 1)
    recorder = Recorder()
    async with asyncio.timeout(10), serving(plane, "victim", recorder, heart=Still()):
        await still_well(plane, recorder)
        async with Mesh(name="honest", broker=plane) as mesh:
            with pytest.raises(Busy, match="takes no more"):
                await mesh.call("victim", "t", {})


# ---- notices


async def test_nobody_cancels_the_call_of_another(plane: str) -> None:
    recorder = Recorder(hold)
    served = serving(plane, "victim", recorder, heart=Still())
    async with asyncio.timeout(10), served as [presence], forging(plane) as forger, Mesh(name="honest", broker=plane) as mesh:
        call = asyncio.create_task(mesh.call("victim", "t", {}))
        await recorder.signals.until(lambda: recorder.calls)
        id = recorder.calls[0].id
        for caller in ("forger", "honest-not"):
            forger.connection.send(SUBJECTS.note("victim", caller, "notifications/cancelled"), control.cancelled(id, "x"))
        prefix, _, _ = recorder.calls[0].prefix.rpartition(".")
        forger.connection.send(SUBJECTS.note("victim", "forger", control.RESUME), control.resume([id]), f"{prefix}.1")
        forger.connection.send(SUBJECTS.note("victim", "forger", control.RESUME), control.resume([id]), f"{REPLY}1")
        await forger.connection.flush()
        await asyncio.gather(*(presence._connection.flush() for presence in [presence]))
        assert presence._responder.refused == 4
        assert recorder.cancelled == []
        assert forger.answers == []
        finish(recorder.calls[0], {"fine": True})
        assert await call == {"fine": True}


async def test_a_cancellation_that_overtakes_its_call_is_remembered(plane: str) -> None:
    recorder = Recorder()
    async with asyncio.timeout(10), serving(plane, "victim", recorder, heart=Still()), forging(plane) as forger:
        forger.connection.send(SUBJECTS.note("victim", "forger", "notifications/cancelled"), control.cancelled("forger.k.1", "x"))
        forger.call(1)
        problem = await forger.error()
        assert (problem["code"], problem["data"]["mesh"]) == (control.REQUEST_TIMEOUT, "cancelled")
        assert recorder.calls == []
        forger.call(2)
        await recorder.signals.until(lambda: recorder.calls)


async def test_a_resume_tells_what_became_of_each(plane: str) -> None:
    async def some(recorder: Recorder, call: Call) -> None:
        if call.exchange != "2":
            finish(call, {})

    recorder = Recorder(some)
    async with asyncio.timeout(10), serving(plane, "victim", recorder, heart=Still()) as [presence], forging(plane) as forger:
        forger.call(1)
        forger.call(2)
        await recorder.signals.until(lambda: len(recorder.calls) == 2)
        await forger.signals.until(lambda: forger.answers)
        forger.answers.clear()
        asked = [f"forger.k.{number}" for number in (1, 2, 3)]
        forger.connection.send(SUBJECTS.note("victim", "forger", control.RESUME), control.resume(asked), REPLY + "1")
        await forger.signals.until(lambda: len(forger.answers) >= 3)
        said = {subject.rpartition(".")[2]: body for subject, body in forger.answers}
        assert said["1"]["result"] == {}
        assert said["2"]["method"] == control.WORKING
        assert said["3"]["method"] == control.UNKNOWN
        assert said["3"]["params"]["forgotten"] is False
        assert presence._responder.refused == 0


# ---- discovery


async def test_micro_discovery_answers_to_inboxes_only(plane: str) -> None:
    async with asyncio.timeout(10), Mesh(name="looker", broker=plane) as mesh:
        heard: list[Message] = []
        for reply in ("mesh.v1.call.victim.any.mesh.tools.call.x", "_INBOXES.x", "$KV.registry.a.b"):
            await mesh.connection.subscribe(reply, heard.append)
            await mesh.connection.publish("$SRV.PING", b"", reply=reply)
        await mesh.connection.publish("$SRV.NONSENSE.a.b.c.d", b"", reply=mesh.connection.new_inbox())
        await mesh.request("mesh", "ping")
        await mesh.connection.flush()
        assert heard == []
