"""Streams: to open what one may not, to speak in another's, to forge grants, to read or end another's durable one, to fill a memory."""

import asyncio
from contextlib import suppress
from dataclasses import asdict

import pytest

from mesh import Mesh, clock
from mesh.errors import Busy, RemoteError, StreamRefused
from mesh.link.connection import Message
from mesh.policy.rights import Policy, Role, compile_scope, expand
from mesh.policy.rights.model import parse_rule
from mesh.policy.stream_flow import AGAIN, ASK, Flow, Kind
from mesh.streams import DurableStream, Stream
from mesh.streams.flows import MOST_FLOWS
from mesh.topology import MARKS, STREAMS
from mesh.wire.stream import OPEN, Mark
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
    names = ("victim", "honest", "s")
    await stopped(world, evil, SUBJECTS.stream_frame("victim", "end", "honest", "s"), SUBJECTS.flow(*names), SUBJECTS.mark(*names))


@EVIL
async def test_consumers_of_durable_streams_are_the_control_planes(world: World, evil: str) -> None:
    verbs = (f"CONSUMER.NAMES.{STREAMS}", f"CONSUMER.LIST.{STREAMS}", f"CONSUMER.CREATE.{STREAMS}.evil", f"CONSUMER.DELETE.{STREAMS}.x")
    stores = [f"{verb}.{store}" for verb in ("STREAM.MSG.GET", "STREAM.MSG.DELETE", "DIRECT.GET") for store in (STREAMS, MARKS)]
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


async def test_the_id_of_a_stream_is_no_line_of_the_protocol(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a stream chooses its id; it must not stand where the one who serves it speaks to the broker."""
    monkeypatch.setattr("mesh.streams.ends.KEEPALIVE", 0.0)  # a question with a reply subject at once, and not after a silence
    victim = await serve(world, silent=silent)
    heard: list[str] = []
    async with Mesh(name=HOST, broker=world.url) as evil:
        forged = SUBJECTS.stream_frame(HOST, "e", "victim", "s")
        await evil.connection.subscribe(SUBJECTS.stream_frames_to(HOST, "e"), lambda message: heard.append(message.subject))
        id = f"x 0\r\n\r\nPUB {forged} 2\r\nhi\r\nPUB z"
        asked = {"type": "silent", "stream": id, "end": "e", "window": 1, "window_bytes": 1, "idle": 60}
        with suppress(RemoteError):
            await evil.request("victim", OPEN, asked)
        subject = SUBJECTS.stream_frame("victim", victim.connection.token, HOST, id)
        evil.connection.send(subject, Flow(0.0).grant(ASK))
        await evil.connection.flush()
        with suppress(RemoteError):
            await evil.request("victim", "ping", {})  # behind the frame
        await evil.connection.flush()
        assert forged not in heard


async def test_a_peer_that_asks_again_and_again_is_sent_no_flood(world: World) -> None:
    """Forty bytes that ask for a window again cost the other end a window, at most twice a second."""

    async def fills(stream: Stream) -> None:
        for _ in range(32):
            await stream.send(bytes(10_000))
        await asyncio.Event().wait()

    victim = await serve(world, fills=fills)
    got = 0

    def count(message: Message) -> None:
        nonlocal got
        got += len(message.body)

    async with Mesh(name=HOST, broker=world.url) as evil:
        await evil.connection.subscribe(SUBJECTS.stream_frames_to(HOST, "e"), count)
        await evil.request("victim", OPEN, {"type": "fills", "stream": "s", "end": "e", "window": 64, "window_bytes": 1 << 20, "idle": 60})
        subject = SUBJECTS.stream_frame("victim", victim.connection.token, HOST, "s")
        began = clock.monotonic()
        for _ in range(200):
            evil.connection.send(subject, Flow(0.0).grant(ASK | AGAIN))
            await evil.connection.flush()
        windows = 2 + (clock.monotonic() - began) / 0.2
        assert 320_000 <= got <= windows * 330_000


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
        await stream.stored()
        nothing = asdict(Mark())
        for other in ("victim", "honest"):
            assert await evil.request("mesh", "mesh/flow", {"with": other, "stream": "book"}) == {"said": nothing, "heard": nothing}
        broker = await world.unprotected()
        await broker.publish(SUBJECTS.flow("victim", "honest", "book"), b'{"error": {}}')  # as the broker itself may be made to say there
        await broker.settle()
        known = await honest.request("mesh", "mesh/flow", {"with": "victim", "stream": "book"})
        assert known == {"said": asdict(Mark(1, unread=True)), "heard": nothing}
        await evil.request("mesh", "mesh/flow", {"from": "honest", "stream": "book"})
        assert await evil.request("mesh", "mesh/flow", {"from": "honest", "stream": "book", "end": True}) == {}
        stream.end()
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
