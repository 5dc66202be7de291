"""Large bodies: through a real broker, both ways, whole, bounded, and to nobody else."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mesh import Mesh
from mesh.errors import MalformedMessage, RemoteError, TooLarge
from mesh.link.call import Call
from mesh.link.parts import CHUNK, LIMIT, Parts, make_stub, read_stub
from mesh.wire.jsonrpc import Frame, dumps, scan
from tests.conftest import Broker

MIB = 1024 * 1024


class Echo:
    """Answers with the arguments of the call, or with as many bytes as they say."""

    def on_call(self, call: Call) -> None:
        params = json.loads(call.frame.raw)["params"]
        text = "x" * params["arguments"]["bytes"] if params["name"] == "make" else params["arguments"]["text"]
        call.finish(dumps({"jsonrpc": "2.0", "id": call.id, "result": {"text": text}}))

    def on_cancel(self, call: Call, reason: str) -> None:
        pass

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        pass


@asynccontextmanager
async def pair(broker: Broker, name: str) -> AsyncIterator[Mesh]:
    async with (
        Mesh(name="mesh", broker=broker.url) as plane,
        plane.control_plane(),
        Mesh(name=name, broker=broker.url, roles=("agent", f"{name}-role")) as agent,
        agent.present(Echo(), roles=(f"{name}-role",)),
        Mesh(name="caller", broker=broker.url) as caller,
    ):
        yield caller


@pytest.mark.parametrize("size", [MIB - 5000, MIB, MIB + 1, 4 * CHUNK, 9 * MIB + 17])
async def test_a_large_body_arrives_whole_both_ways(broker: Broker, size: int) -> None:
    text = secrets.token_hex(size // 2)
    async with asyncio.timeout(30), pair(broker, "echo") as mesh:
        assert (await mesh.call("echo", "say", {"text": text}))["text"] == text


async def test_over_the_limit_is_a_clear_error_and_nothing_is_sent(broker: Broker) -> None:
    async with asyncio.timeout(30), pair(broker, "echo") as mesh:
        with pytest.raises(TooLarge, match="over the mesh's limit"):
            await mesh.call("echo", "say", {"text": "x" * (LIMIT + 1)})
        with pytest.raises(RemoteError, match="over the mesh's limit") as caught:
            await mesh.call("echo", "make", {"bytes": LIMIT})
        assert caught.value.data["mesh"] == "too_large"
        assert (await mesh.call("echo", "say", {"text": "after"}))["text"] == "after"


async def test_many_large_bodies_at_once_and_small_ones_between(broker: Broker) -> None:
    async with asyncio.timeout(50), pair(broker, "echo") as mesh:
        large = [mesh.call("echo", "say", {"text": str(n) * (2 * MIB)}) for n in range(8)]
        small = [mesh.call("echo", "say", {"text": str(n)}) for n in range(200)]
        answers = await asyncio.gather(*large, *small)
        assert [answer["text"][:1] for answer in answers[:8]] == [str(n) for n in range(8)]
        assert [answer["text"] for answer in answers[8:]] == [str(n) for n in range(200)]


async def test_through_a_role(broker: Broker) -> None:
    async with asyncio.timeout(30), pair(broker, "echo") as mesh:
        assert len((await mesh.call("echo-role", "make", {"bytes": 3 * MIB}))["text"]) == 3 * MIB
        assert len((await mesh.call("echo-role", "say", {"text": "y" * 3 * MIB}))["text"]) == 3 * MIB


async def test_a_lost_chunk_is_asked_for_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    take = Parts._on_chunk

    def lossy(self: Parts, id: str, sender: str, body: bytes) -> None:
        index = int.from_bytes(body[1:5], "big")
        if index in (3, 7) and index not in lost:
            lost.append(index)
        else:
            take(self, id, sender, body)

    monkeypatch.setattr(Parts, "_on_chunk", lossy)
    async with asyncio.timeout(30), pair(broker, "echo") as mesh:
        assert len((await mesh.call("echo", "make", {"bytes": 3 * MIB}))["text"]) == 3 * MIB
    assert lost == [3, 7]


async def test_a_body_that_is_not_the_announced_one_is_refused(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Parts._on_chunk
    monkeypatch.setattr(Parts, "_on_chunk", lambda self, id, sender, body: take(self, id, sender, body[:-1] + b"!"))
    async with asyncio.timeout(30), pair(broker, "echo") as mesh:
        with pytest.raises(Exception, match="not the one that was announced"):
            await mesh.call("echo", "make", {"bytes": 3 * MIB})


async def test_a_stranger_gets_no_chunk(broker: Broker) -> None:
    """Who knows an exchange's id and asks for its body in its own name gets nothing: only the other side of the exchange may."""
    async with asyncio.timeout(30), Mesh(name="owner", broker=broker.url) as owner, Mesh(name="thief", broker=broker.url) as thief:
        parts = Parts(owner.connection, owner.subjects, "owner", "end1")
        await parts.start()
        body = dumps({"jsonrpc": "2.0", "id": "owner.c.1", "result": {"text": "x" * 2 * MIB}})
        parts.offer(scan(body), lambda name: name == "friend")
        got: asyncio.Queue[bytes] = asyncio.Queue()
        await thief.connection.subscribe(thief.subjects.parts_to("thief", "e"), lambda message: got.put_nowait(message.body))
        ask = b"G" + dumps({"next": 0, "count": 4, "end": "e"})
        await thief.connection.publish(thief.subjects.part("owner", "end1", "thief", "owner.c.1"), ask)
        await thief.connection.flush()
        await owner.connection.flush()
        await thief.connection.flush()
        assert got.empty()
        await parts.close()


def test_a_stub_says_method_name_and_hash_and_no_more() -> None:
    body = dumps({"jsonrpc": "2.0", "id": "a.b.1", "method": "tools/call", "params": {"name": "say", "arguments": {"text": "secret" * 99}}})
    stub = make_stub(scan(body), "end")
    frame = scan(stub)
    assert (frame.id, frame.method, frame.name) == ("a.b.1", "tools/call", "say")
    assert b"secret" not in stub
    found = read_stub(frame)
    assert found is not None
    assert (found.size, found.end) == (len(body), "end")


@pytest.mark.parametrize("said", [{}, {"size": -1}, {"size": "9", "sha256": "", "end": ""}, {"size": 1, "sha256": 2, "end": "e"}])
def test_a_stub_that_says_nonsense_is_refused(said: dict[str, object]) -> None:
    with pytest.raises(MalformedMessage):
        read_stub(scan(dumps({"jsonrpc": "2.0", "id": "a.b.1", "result": {"_meta": {"mesh/parts": said}}})))


def test_an_ordinary_message_is_no_stub() -> None:
    results: list[object] = [{}, {"_meta": None}, {"_meta": {}}, {"text": '"mesh/parts"'}, {"_meta": {"mesh/parts": None}}]
    for result in results:
        assert read_stub(scan(dumps({"jsonrpc": "2.0", "id": "a.b.1", "result": result}))) is None
