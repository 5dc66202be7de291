"""Streams over WebSocket at `/agents/{name}/streams/{type}`: both ways, with backpressure, and how they end."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mesh import Mesh
from mesh.crypto import bearer
from mesh.crypto.creds import read_credentials
from mesh.identity.push import push
from mesh.identity.tokens import make_token
from mesh.streams import Stream
from tests.auth_world import issue
from tests.conftest import Broker
from tests.helpers import Background
from tests.web_world import front

sent: list[int] = []


async def echo(stream: Stream) -> None:
    if stream.content is not None:
        await stream.send(stream.content)
    async for message in stream:
        await stream.send(message)


async def fails(stream: Stream) -> None:
    raise ValueError("not today")


async def cancels(stream: Stream) -> None:
    await stream.receive()
    stream.cancel("enough")


async def flood(stream: Stream) -> None:
    for number in range(100_000):
        sent[:] = [number]
        await stream.send(bytes(1024))


async def told(stream: Stream) -> None:
    await stream.send("ready")
    told_of.append([message async for message in stream])


told_of: list[list[Any]] = []


@asynccontextmanager
async def world(broker_url: str) -> AsyncIterator[str]:
    handlers = {"echo": echo, "fails": fails, "cancels": cancels, "flood": flood, "told": told}
    async with Mesh(name="streamer", broker=broker_url) as mesh, mesh.streams.serve(handlers, window=16), front(broker_url) as url:
        yield "ws" + url.removeprefix("http")


@pytest.fixture(scope="module")
def url(plane: str) -> Iterator[str]:
    with Background(lambda: world(plane)) as background:
        yield background.value


@asynccontextmanager
async def opened(url: str, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with asyncio.timeout(20), connect(f"{url}/agents/streamer/streams/{path}", **options) as socket:
        yield socket


async def test_text_is_text_and_bytes_are_bytes(url: str) -> None:
    async with opened(url, 'echo?content={"a":1}') as socket:
        assert await socket.recv() == '{"a": 1}'
        for message in ("grüße", b"\x00\xff", ""):
            await socket.send(message)
            assert await socket.recv() == message


@pytest.mark.parametrize(("type", "code", "reason"), [("fails", 1011, "not today"), ("cancels", 4000, "enough")])
async def test_how_it_ended_is_the_close_code(url: str, type: str, code: int, reason: str) -> None:
    async with opened(url, type) as socket:
        if type == "cancels":
            await socket.send("x")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
        assert reason in closed.value.rcvd.reason


@pytest.mark.parametrize(("path", "status"), [("streamer/streams/none", 404), ("nobody-here/streams/echo", 404), ("streamer/streams", 404)])
async def test_what_nobody_serves_is_an_answer_to_the_handshake(url: str, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{url}/agents/{path}")
    assert refused.value.response.status_code == status


@pytest.mark.parametrize("content", ["{", "[" * 2000])
async def test_content_that_is_no_json_is_an_answer_to_the_handshake(url: str, content: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{url}/agents/streamer/streams/echo?content={quote(content)}")
    assert refused.value.response.status_code == 400


async def test_another_origin_is_refused(url: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{url}/agents/streamer/streams/echo", origin="https://elsewhere.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


async def test_a_client_that_does_not_read_holds_the_agent_up(url: str) -> None:
    async with opened(url, "flood", max_queue=1, close_timeout=0):  # its goodbye is not read either
        before = -1
        while sent and sent[0] != before:
            before = sent[0]
            await asyncio.sleep(0.5)
        assert before < 50_000  # window, the queues of both ends, and what the sockets hold


async def test_the_end_of_the_client_is_the_end_of_its_direction(url: str) -> None:
    async with opened(url, "told") as socket:
        assert await socket.recv() == "ready"
        await socket.send("last words")
    async with asyncio.timeout(10):
        while not told_of:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert told_of == [["last words"]]


@asynccontextmanager
async def mine(broker: Broker, url: str, name: str, **spec: Any) -> AsyncIterator[ClientConnection]:
    """A stream of this user, with a token of two seconds or `lifetime`."""
    path = broker.authority.credentials(name)
    assert path is not None
    token = make_token(read_credentials(path), url, spec.get("lifetime", timedelta(seconds=2)))[0]
    address = f"ws{url.removeprefix('http')}/agents/streamer/streams/echo"
    async with connect(address, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
        yield socket


async def test_a_stream_ends_with_its_token(broker: Broker, plane: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearer, "LEEWAY", 0)
    await issue(broker, "walter", "agent", "host")
    async with asyncio.timeout(20), front(plane, auth="token") as own, mine(broker, own, "walter") as socket:
        await socket.send("in time")
        assert await socket.recv() == "in time"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, "expired" in closed.value.rcvd.reason) == (1008, True)


async def test_a_revoked_user_is_out_at_once_of_its_streams_too(broker: Broker, plane: str, url: str) -> None:
    await issue(broker, "wanda", "agent", "host")
    async with asyncio.timeout(20), front(plane, auth="token") as own, mine(broker, own, "wanda", lifetime=timedelta(hours=1)) as socket:
        await socket.send("in time")
        assert await socket.recv() == "in time"
        async with asyncio.timeout(4):
            broker.authority.revoke("wanda")
            await push(broker.authority, broker.url)
            with pytest.raises(ConnectionClosed):
                await socket.recv()
