"""One suite for all ports: what each way to a server has to carry, how it begins and ends. `CAPABILITIES` says what a port cannot do."""

import asyncio
import contextlib
import gc
import json
import os
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from bridge.errors import ServerUnreachable
from bridge.ports.child import ChildPort
from mesh import clock
from mesh.wire.jsonrpc import scan
from tests.http_peers import Heard
from tests.port_peers import CAPABILITIES, PATHS, Can, Peer, listening_peers, mirror_of, opened, peer_of, remote


def able(what: str = "") -> list[str]:
    """The transports that can do `what`."""
    return [name for name, can in CAPABILITIES.items() if not what or getattr(can, what)]


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with listening_peers() as ports:
        yield ports


@pytest_asyncio.fixture(params=able())
async def peer(request: pytest.FixtureRequest, ports: dict[str, int]) -> AsyncIterator[Peer]:
    """One that the test leaves alive."""
    async with peer_of(request.param, ports.get(request.param)) as peer:
        yield peer


def call(heard: Heard, id: str, tool: str, **arguments: Any) -> None:
    heard.ask(id, "tools/call", {"name": tool, "arguments": arguments})


async def answer(heard: Heard, id: str) -> dict[str, Any]:
    """The one answer to a request, whether or not the port says what it belongs to."""
    frame = await heard.until(lambda: next((frame for frame, _ in heard.frames if frame.final and frame.id == id), None))
    assert len([frame for frame, _ in heard.frames if frame.final and frame.id == id]) == 1
    said: dict[str, Any] = json.loads(frame.raw)
    return said


async def text(heard: Heard, id: str) -> str:
    said = await answer(heard, id)
    found: str = said["result"]["content"][0]["text"]
    return found


async def handshake(heard: Heard) -> dict[str, Any]:
    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    heard.ask("hello", "initialize", client)
    said = await answer(heard, "hello")
    heard.tell("notifications/initialized")
    result: dict[str, Any] = said["result"]
    return result


def test_each_capability_is_used() -> None:
    """A port that lacks one is named here, and one that no port has is none."""
    assert {each: [name for name in CAPABILITIES if name not in able(each)] for each in Can.__dataclass_fields__} == {
        "raw_bytes": ["local"],
        "killed": ["local"],
        "unreachable": ["local"],
        "says_origin": ["child", "sse", "ws"],
        "notices_death": ["http"],
    }


async def test_a_session_and_a_call(peer: Peer) -> None:
    """initialize, a call, a large body, an error with data, a method and a notification that nobody knows."""
    async with opened(peer.port()) as heard:
        assert (await handshake(heard))["serverInfo"]["name"] == "peer"
        call(heard, "1", "echo", text="☃")
        assert await text(heard, "1") == "☃"
        call(heard, "2", "echo", text="x" * 2**20)
        assert await text(heard, "2") == "x" * 2**20
        call(heard, "3", "fail")
        assert (await answer(heard, "3"))["error"] == {"code": -32123, "message": "no", "data": {"n": [1, {"deep": None}]}}
        heard.tell("notifications/vendor/odd", {"a": 1})
        heard.ask("4", "vendor/odd", {"a": 1})
        assert (await answer(heard, "4"))["error"]["code"] == -32601
        heard.ask("5", "ping")
        assert (await answer(heard, "5"))["result"] == {}
        assert not heard.ends


async def test_the_modern_era(peer: Peer) -> None:
    async with opened(peer.port()) as heard:
        heard.ask("1", "server/discover", modern=True)
        assert "2026-07-28" in (await answer(heard, "1"))["result"]["supportedVersions"]
        heard.ask("2", "tools/call", {"name": "echo", "arguments": {"text": "modern"}}, modern=True)
        assert await text(heard, "2") == "modern"


async def test_progress_comes_in_order_and_before_the_answer(peer: Peer) -> None:
    async with opened(peer.port()) as heard:
        await handshake(heard)
        heard.ask("1", "tools/call", {"name": "count", "arguments": {"to": 20}, "_meta": {"progressToken": "p"}})
        assert await text(heard, "1") == "counted"
        of_call = [(frame, origin) for frame, origin in heard.frames if frame.method == "notifications/progress" or frame.id == "1"]
        assert [json.loads(frame.raw)["params"]["progress"] for frame, _ in of_call[:-1]] == list(range(1, 21))
        assert of_call[-1][0].final
        assert {origin for _, origin in of_call} == {"1" if peer.can.says_origin else None}


async def test_many_calls_at_once(peer: Peer) -> None:
    async with opened(peer.port()) as heard:
        await handshake(heard)
        for number in range(50):
            call(heard, f"c{number}", "echo", text=f"call {number}")
        for number in range(50):
            assert await text(heard, f"c{number}") == f"call {number}"


async def test_a_cancelled_call_is_stopped_at_the_server(peer: Peer) -> None:
    async with opened(peer.port()) as heard:
        await handshake(heard)
        call(heard, "1", "hang")
        call(heard, "2", "began")
        assert await text(heard, "2") == "began"
        call(heard, "3", "cancelled")
        heard.tell("notifications/cancelled", {"requestId": "1"})
        assert await text(heard, "3") == "cancelled"
        assert not heard.ends


@pytest.mark.parametrize("transport", able("raw_bytes"))
async def test_bytes_survive(transport: str) -> None:
    """Requests, notifications and answers arrive as they left: numbers that no computer holds, keys twice, half of a pair."""
    odd = b'{"n":123456789012345678901234567890,"e":1E400,"k":1,"k":2,"half":"\\ud83d","slash":"\\/","s" : "\xe2\x98\x83"}'
    request = b'{"params": ' + odd + b',  "method":"vendor/odd","id":"1","jsonrpc":"2.0"}'
    notification = b'{"params": ' + odd + b',  "method":"notifications/odd","jsonrpc":"2.0", "extra":null}'
    async with mirror_of(transport) as make_port, opened(make_port()) as heard:
        heard.port.send(scan(notification))
        heard.port.send(scan(request))
        await answer(heard, "1")
        raw = next(frame.raw for frame, _ in heard.frames if frame.id == "1")
    assert raw == b'{"jsonrpc":"2.0","id":"1","result":{"was":' + request + b',"told":[' + notification + b"]}}"


@pytest.mark.parametrize("transport", able("killed"))
async def test_the_server_dies_and_comes_back(transport: str) -> None:
    """`on_end` is told once, a call that was held does not hang, and a new port of the same factory works."""
    async with peer_of(transport) as peer:
        async with opened(peer.port()) as heard:
            await handshake(heard)
            call(heard, "held", "hang")
            call(heard, "began", "began")
            assert await text(heard, "began") == "began"
            await peer.kill()
            await heard.until(lambda: heard.ends or any(frame.id == "held" for frame, _ in heard.frames))
            if peer.can.notices_death:
                assert heard.ends
            await peer.start()
            heard.ask("after", "ping")
            await heard.until(lambda: heard.ends)
            heard.ask("late", "ping")  # no error, and no answer: its end was told
        assert len(heard.ends) == 1
        async with opened(peer.port()) as again:
            await handshake(again)
            call(again, "1", "echo", text="back")
            assert await text(again, "1") == "back"


async def test_close_is_prompt_and_leaves_nothing(peer: Peer) -> None:
    """With a call under way: no task stays, no process, and nothing is told any more."""
    before = asyncio.all_tasks()
    port = peer.port()
    async with opened(port) as heard:
        await handshake(heard)
        call(heard, "held", "hang")
        call(heard, "began", "began")
        assert await text(heard, "began") == "began"
        since = clock.monotonic()
        await port.close()
        assert clock.monotonic() - since < 5
        frames = len(heard.frames)  # a child may answer what it holds while it ends
        await port.close()
        heard.ask("late", "ping")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert (len(heard.frames), heard.ends) == (frames, [])
    if isinstance(port, ChildPort):
        with contextlib.suppress(ProcessLookupError):
            os.kill(port.pid or 0, 0)
            pytest.fail("the child is there still")


async def test_nothing_is_left_of_a_child_that_ended_by_itself() -> None:
    port = ChildPort("peer", [sys.executable, "-c", ""])
    heard = Heard(port)
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        await port.open(heard.on_frame, heard.on_end)
        async with asyncio.timeout(10):
            while port.alive or not heard.ends:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        del port, heard
        gc.collect()
    assert not left


@pytest.mark.parametrize("transport", able("unreachable"))
async def test_nothing_is_there(transport: str, unused_tcp_port: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if transport in PATHS:
            port = (await stack.enter_async_context(remote(transport, unused_tcp_port))).port()
        else:
            port = ChildPort("peer", ["no-such-program"])
        heard = Heard(port)
        with pytest.raises(ServerUnreachable, match="peer: cannot"):
            await port.open(heard.on_frame, heard.on_end)
        heard.ask("1", "ping")
        await port.close()
        assert not heard.ends
