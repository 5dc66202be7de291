"""Streams: to open what one may not, to speak in another's, to forge grants, to read or end another's durable one, to fill a memory."""

import asyncio

import pytest

from mesh import Mesh
from mesh.errors import Busy, StreamRefused
from mesh.policy.rights import Policy, Role, compile_scope, expand
from mesh.policy.rights.model import parse_rule
from mesh.policy.stream_flow import Flow, Kind
from mesh.streams import DurableStream, Stream
from mesh.streams.flows import MOST_FLOWS
from mesh.topology import STREAMS
from tests.attacks.test_messages import EVIL, stopped
from tests.attacks.world import AGENT, HOST, SUBJECTS, World
from tests.test_streams import until

API = "$JS.API"


async def echo(stream: Stream) -> None:
    async for message in stream:
        await stream.send(message)


async def silent(stream: Stream) -> None:
    await asyncio.Event().wait()


async def serve(world: World, **handlers) -> Mesh:
    mesh = await world.stack.enter_async_context(Mesh(name="victim", broker=world.url))
    await world.stack.enter_async_context(mesh.streams.serve(handlers))
    return mesh


def test_a_right_to_one_type_is_none_to_another() -> None:
    role = Role("tester", call=(parse_rule("victim/stream:test_run"),))
    rights = expand(compile_scope(Policy.of((role,)), ["tester"], SUBJECTS), "me", ())
    allowed = {type: rights.may_publish(SUBJECTS.call("victim", "any", "me", "streams/open", type)) for type in ("test_run", "deploy")}
    assert allowed == {"test_run": True, "deploy": False}
    assert not rights.may_publish(SUBJECTS.call("victim", "any", "me", "tools/call", "t"))


async def test_an_agent_opens_no_streams(world: World) -> None:
    await stopped(world, AGENT, SUBJECTS.call("victim", "any", AGENT, "streams/open", "test_run"))


@EVIL
async def test_frames_and_durable_messages_in_anothers_name(world: World, evil: str) -> None:
    await stopped(world, evil, SUBJECTS.stream_frame("victim", "end", "honest", "s"), SUBJECTS.flow("victim", "honest", "s"))


@EVIL
async def test_consumers_of_durable_streams_are_the_control_planes(world: World, evil: str) -> None:
    verbs = (f"CONSUMER.NAMES.{STREAMS}", f"CONSUMER.LIST.{STREAMS}", f"CONSUMER.CREATE.{STREAMS}.evil", f"CONSUMER.DELETE.{STREAMS}.x")
    stores = (f"STREAM.MSG.GET.{STREAMS}", f"STREAM.MSG.DELETE.{STREAMS}", f"DIRECT.GET.{STREAMS}")
    await stopped(world, evil, *(f"{API}.{each}" for each in (*verbs, *stores)))


async def test_frames_under_ones_own_name_reach_no_stream_of_another(world: World) -> None:
    """Grants, messages and aborts, to the very end and id of an honest stream."""
    victim = await serve(world, echo=echo)
    honest = await world.honest()
    attacker = await world.join(HOST)
    forged = Flow(0.0)
    forged.push(Kind.TEXT, b"forged", 0.0)
    forged.started = True
    async with await honest.create_stream("victim", "echo") as stream:
        subject = SUBJECTS.stream_frame("victim", victim.connection.token, HOST, stream.id)
        for frame in (*forged.outgoing(0.0), b'X{"code":"stream_lost","message":""}'):
            await attacker.publish(subject, frame)
        assert await attacker.refused(subject) == []  # it may speak to the victim, and nobody listens
        await until(lambda: victim.streams.ends.refused >= 3)
        await stream.send("true")
        assert await stream.receive() == "true"


async def test_a_peer_that_ignores_its_credit_is_cut_off_and_fills_nothing(world: World) -> None:
    victim = await serve(world, silent=silent)
    async with Mesh(name=HOST, broker=world.url) as mesh:
        stream = await mesh.create_stream("victim", "silent", window=8)
        stream.flow.window = stream.flow.window_bytes = 1 << 40
        for _ in range(100):
            await stream.send(bytes(100_000))
        with pytest.raises(StreamRefused, match="more than was granted"):
            await stream.receive()
        [held] = victim.streams.ends._streams.values() or [None]
        assert held is None or held.flow.waiting <= 8
        await stream.close()


async def test_another_asks_for_a_durable_stream_and_gets_its_own(world: World) -> None:
    """Neither what lies there nor its end is the attacker's, even with the stream's id."""
    go = asyncio.Event()
    heard: list[object] = []

    async def slow(stream: DurableStream) -> None:
        await go.wait()
        heard.extend([message async for message in stream])

    await serve(world, slow=slow)
    honest = await world.honest()
    async with Mesh(name=HOST, broker=world.url) as evil, await honest.streams.open_durable("victim", "slow", id="book") as stream:
        await stream.send("secret")
        await evil.request("mesh", "mesh/flow", {"from": "honest", "stream": "book"})
        assert await evil.request("mesh", "mesh/flow", {"from": "honest", "stream": "book", "end": True}) == {}
        await stream.end()
        go.set()
        await until(lambda: heard)
        assert heard == ["secret"]


async def test_who_asks_for_many_consumers_gets_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.streams.flows.MOST_FLOWS", 5)
    async with Mesh(name=HOST, broker=world.url) as evil:
        for number in range(5):
            await evil.request("mesh", "mesh/flow", {"from": "x", "stream": str(number)})
        with pytest.raises(Busy):
            await evil.request("mesh", "mesh/flow", {"from": "x", "stream": "one more"})
        for number in range(5):
            await evil.request("mesh", "mesh/flow", {"from": "x", "stream": str(number), "end": True})
    assert MOST_FLOWS == 200
