"""MCP over WebSocket at `/agents/{name}/ws`: both eras on one connection, who is let in, and how it ends."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.helpers import Background, bridges
from tests.web_world import HANDSHAKE, agent, call, front, request

MCP = Subprotocol("mcp")


@asynccontextmanager
async def world(broker_url: str) -> AsyncIterator[str]:
    async with agent(broker_url, "echo", "echo"), agent(broker_url, "old", "asker"), front(broker_url) as url:
        yield "ws" + url.removeprefix("http")


@pytest.fixture(scope="module")
def url(plane: str) -> Iterator[str]:
    with Background(lambda: world(plane)) as background:
        yield background.value


@asynccontextmanager
async def joined(url: str, name: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with asyncio.timeout(20), connect(f"{url}/agents/{name}/ws", subprotocols=[MCP], **options) as socket:
        yield socket


async def ask(socket: ClientConnection, message: Any) -> Any:
    await socket.send(json.dumps(message))
    return json.loads(await socket.recv())


async def begin(socket: ClientConnection) -> Any:
    params = {"protocolVersion": HANDSHAKE, "capabilities": {"elicitation": {}}, "clientInfo": {"name": "test", "version": "1"}}
    answer = await ask(socket, request(0, "initialize", params, modern=False))
    await socket.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
    return answer


async def test_the_modern_era(url: str) -> None:
    async with joined(url, "echo") as socket:
        assert socket.subprotocol == "mcp"
        text = '"result":{"n":123456789012345678901234567890,"s":"\\ud800","u":"ü"}'
        await socket.send(json.dumps(call("a", "raw", {"text": text})))
        assert await socket.recv() == '{"jsonrpc":"2.0","id":"a",' + text + "}"
        await socket.send(json.dumps(call(1, "slow", {"seconds": 0.1, "steps": 2}, progressToken="t")))
        frames = [json.loads(await socket.recv()) for _ in range(3)]
        assert [frame.get("params", {}).get("progressToken") for frame in frames] == ["t", "t", None]


async def test_a_session(url: str) -> None:
    async with joined(url, "old") as socket:
        assert (await begin(socket))["result"]["protocolVersion"] == HANDSHAKE
        asked = await ask(socket, call(1, "ask", modern=False))
        assert asked["method"] == "elicitation/create"
        answer = await ask(socket, {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "cancel"}})
        assert json.loads(answer["result"]["content"][0]["text"]) == {"action": "cancel"}
        await socket.send(json.dumps(call(2, "slow", {"seconds": 60}, modern=False)))
        await socket.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}))
        answer = await ask(socket, call(3, "wait", {"method": "notifications/cancelled", "count": 1}, modern=False))
        assert (answer["id"], answer["result"]["content"][0]["text"]) == (3, "True")


async def test_closing_cancels(url: str) -> None:
    async with joined(url, "echo") as watcher:
        await watcher.send(json.dumps(call(1, "wait", {"method": "notifications/cancelled", "count": 1})))
        async with joined(url, "echo") as socket:
            await ask(socket, call(1, "slow", {"seconds": 60, "steps": 1200}, progressToken=1))
        async with asyncio.timeout(1):
            assert "True" in await watcher.recv(decode=True)


async def test_garbage_is_answered_and_disturbs_nothing(url: str) -> None:
    async with joined(url, "echo") as socket:
        for garbage in ("", "{", "[]", '{"jsonrpc":"2.0","id":true,"method":"x"}'):
            await socket.send(garbage)
            answer = json.loads(await socket.recv())
            assert (answer["id"], answer["error"]["code"]) == (None, -32700)
        assert (await ask(socket, call(1, "echo")))["id"] == 1
        await socket.send(b"{}")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/agents/echo/ws", {"origin": "http://evil.example"}, 403),
        ("/agents/echo/ws", {"additional_headers": {"Origin": "null"}}, 403),
        ("/agents/echo/mcp", {}, 404),
        ("/wss", {}, 404),
        ("/agents/echo/ws", {"subprotocols": ["graphql-ws"]}, 400),
    ],
)
async def test_who_is_refused(url: str, path: str, options: dict[str, Any], status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(url + path, **options)
    assert refused.value.response.status_code == status


async def test_a_foreign_host_is_refused(url: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    head = (
        "GET /agents/echo/ws HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    )
    writer.write((head + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode())
    assert b" 421 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_without_a_subprotocol(url: str) -> None:
    async with asyncio.timeout(10), connect(f"{url}/agents/echo/ws", origin="http://127.0.0.1:5173") as socket:  # type: ignore[arg-type]
        assert (await ask(socket, call(1, "echo")))["id"] == 1
        assert (await ask(socket, call(2, "echo")))["id"] == 2


async def test_a_session_whose_instance_dies_closes_it(plane: str) -> None:
    with bridges(plane, ("mortal", "asker")) as [bridge]:
        async with front(plane) as url, joined("ws" + url.removeprefix("http"), "mortal") as socket:
            await begin(socket)
            assert (await ask(socket, call(1, "echo", modern=False)))["id"] == 1
            bridge.send(signal.SIGKILL)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "instance_lost")


async def test_bounds(plane: str, url: str) -> None:
    async with front(plane, most_bytes=10_000, most_sessions=1) as narrow:
        at = "ws" + narrow.removeprefix("http")
        async with joined(at, "echo") as socket:
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{at}/agents/echo/ws")
            assert refused.value.response.status_code == 503
            await socket.send(json.dumps(call(1, "echo", {"text": "x" * 20_000})))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009


async def test_many_hosts_with_the_same_ids(url: str) -> None:
    async def one(number: int) -> None:
        async with joined(url, "echo") as socket:
            for id in range(5):
                await socket.send(json.dumps(call(id, "echo", {"n": number})))
            answers = [json.loads(await socket.recv()) for _ in range(5)]
            assert sorted(each["id"] for each in answers) == list(range(5))
            assert {each["result"]["structuredContent"]["arguments"]["n"] for each in answers} == {number}

    await asyncio.gather(*(one(number) for number in range(30)))
