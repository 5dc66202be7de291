"""Frames that are not what they seem, and what the control plane is asked: refused or told, and disturbing nobody."""

import asyncio
from typing import Any

import pytest

from mesh import Mesh
from mesh.errors import CallError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import dumps
from tests.forger import SUBJECTS, forging
from tests.helpers import Recorder, Still, finish, hold, serving

BARE = True  # what is tested here is below all identities


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"result": {"forged": True}}, {"Nats-Msg-Id": "1"}),
        ({"id": "honest.x.1", "result": {"forged": True}}, None),
        ({"id": 1, "result": {"forged": True}}, None),
        ({"id": None, "error": {"code": 1, "message": "forged"}}, None),
        ({"method": control.WORKING, "params": {"exchange": "honest.x.9", "agent": "forged", "instance": "forged"}}, None),
        ({"method": control.UNKNOWN, "params": {"exchange": "?", "agent": "victim", "instance": "x"}}, None),
        ({"method": "notifications/progress", "params": {"progressToken": "other", "progress": 1}}, None),
        ({"method": "notifications/message", "params": {}}, {"Mesh-Exchange": "other"}),
    ],
    ids=str,
)
async def test_a_frame_that_is_not_of_this_exchange_ends_nothing(plane: str, body: Any, headers: dict[str, str] | None) -> None:
    recorder = Recorder(hold)
    async with (
        asyncio.timeout(10),
        serving(plane, "victim", recorder, heart=Still()),
        forging(plane) as forger,
        Mesh(name="honest", broker=plane) as mesh,
    ):
        heard: list[Any] = []
        call = asyncio.create_task(mesh.call("victim", "t", {}, progress=lambda *said: heard.append(said)))
        await recorder.signals.until(lambda: recorder.calls)
        taken = recorder.calls[0]
        raw = (
            body
            if isinstance(body, bytes)
            else dumps({"jsonrpc": "2.0", "id": taken.id, **body} if "result" in body else {"jsonrpc": "2.0", **body})
        )
        forger.connection.send(taken.prefix + taken.exchange, raw, headers=headers)
        await forger.connection.flush()
        await mesh.connection.flush()
        assert mesh.exchanges.refused == 1
        assert not call.done()
        assert heard == []
        finish(taken, {"true": True})
        assert await call == {"true": True}


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"[" * 100_000,
        b"\xff",
        b'{"jsonrpc":"2.0","method":"notifications/mesh/working","params":5}',
        b'{"jsonrpc":"2.0","method":"notifications/mesh/working","params":{"n":' + b"9" * 5000 + b"}}",
    ],
)
async def test_an_answer_that_is_no_message_ends_its_call_with_an_error_that_says_so(plane: str, body: bytes) -> None:
    """Only the target can write there, so it is the target's answer, and nothing better will come."""
    recorder = Recorder(hold)
    async with (
        asyncio.timeout(10),
        serving(plane, "victim", recorder, heart=Still()),
        forging(plane) as forger,
        Mesh(name="honest", broker=plane) as mesh,
    ):
        call = asyncio.create_task(mesh.call("victim", "t", {}, progress=lambda *_: None))
        await recorder.signals.until(lambda: recorder.calls)
        forger.connection.send(recorder.calls[0].prefix + recorder.calls[0].exchange, body)
        with pytest.raises(CallError, match="victim answered what is no JSON-RPC message"):
            await call
        await recorder.signals.until(lambda: recorder.cancelled)


async def test_a_frame_on_another_targets_subject_finds_no_exchange(plane: str) -> None:
    """The broker lets an agent publish only where its own name stands in the target's place; a frame there belongs to no call of ours."""
    recorder = Recorder(hold)
    async with (
        asyncio.timeout(10),
        serving(plane, "victim", recorder, heart=Still()),
        forging(plane) as forger,
        Mesh(name="honest", broker=plane) as mesh,
    ):
        call = asyncio.create_task(mesh.call("victim", "t", {}))
        await recorder.signals.until(lambda: recorder.calls)
        taken = recorder.calls[0]
        subject = SUBJECTS.reply_prefix("honest", "forger", taken.peer.connection) + taken.exchange
        forger.connection.send(subject, dumps({"jsonrpc": "2.0", "id": taken.id, "result": {"forged": True}}))
        await forger.connection.flush()
        await mesh.connection.flush()
        assert not call.done()
        for _ in range(3):
            finish(taken, {"true": True})
        assert await call == {"true": True}
        assert await mesh.request("mesh", "ping") == {}


# ---- the control plane is called like any other


@pytest.mark.parametrize(
    "params",
    [b"{}", b'{"bucket":5}', b'{"bucket":["health"]}', b'{"n":' + b"9" * 5000 + b"}", b'{"n":' + b"[" * 50_000 + b"]" * 50_000 + b"}"],
)
async def test_the_control_plane_answers_nonsense_with_an_error(plane: str, params: bytes) -> None:
    async with asyncio.timeout(10), forging(plane) as forger:
        exchange = f"q{abs(hash(params))}"
        body = b'{"jsonrpc":"2.0","id":"forger.k.%s","method":"mesh/reader","params":%s}' % (exchange.encode(), params)
        subject = SUBJECTS.call("mesh", "any", "forger", "mesh/reader", quiet=True)
        forger.call(subject=subject, reply=SUBJECTS.reply_prefix("forger", "mesh", "k", quiet=True) + exchange, body=body)
        problem = await forger.error()
        assert problem["code"] == control.INVALID_PARAMS, problem


@pytest.mark.parametrize(
    "result",
    [b'{"_meta":"mesh/parts"}', b'{"_meta":{"mesh/parts":5}}', b'{"x":"mesh/parts"}', b'{"_meta":["mesh/parts"],"n":' + b"9" * 5000 + b"}"],
)
async def test_an_answer_that_speaks_of_parts_is_an_answer(plane: str, result: bytes) -> None:
    async def work(_: Recorder, call: Call) -> None:
        call.finish(b'{"jsonrpc":"2.0","id":' + dumps(call.id) + b',"result":' + result + b"}")

    async with asyncio.timeout(10), serving(plane, "victim", Recorder(work), heart=Still()), Mesh(name="honest", broker=plane) as mesh:
        ends = await asyncio.gather(mesh.call("victim", "t", {}), return_exceptions=True)
        assert isinstance(ends[0], dict) or "cannot be read" in str(ends[0])
