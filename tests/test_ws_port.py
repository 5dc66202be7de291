"""The WebSocket port against servers that misbehave: what its handshake and its connection may meet."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bridge.errors import ServerUnreachable
from bridge.ports import ws
from bridge.ports.ws import WebSocketPort, WebSocketServer
from mesh.errors import Busy, ConfigError, TooLarge
from mesh.wire.jsonrpc import scan
from tests.http_peers import Heard
from tests.port_peers import opened

SUBPROTOCOLS: Any = ["mcp"]


@asynccontextmanager
async def talking(talk: Callable[[ServerConnection], Awaitable[None]], **options: Any) -> AsyncIterator[Heard]:
    async with serve(talk, "127.0.0.1", 0, subprotocols=SUBPROTOCOLS, **options) as listening:
        server = WebSocketServer("raw", f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
        async with server, opened(server.port()) as heard:
            yield heard


@pytest.mark.parametrize("url", ["ws://", "http://x/", "x", "ws://x:99999/", "ws://x/#part"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError):
        WebSocketServer("raw", url)


@pytest.mark.parametrize("header", ["Sec-WebSocket-Protocol", "Host", "upgrade"])
def test_headers_of_the_handshakes_own(header: str) -> None:
    with pytest.raises(ConfigError, match=header):
        WebSocketServer("raw", "ws://x/", {header: "1"})


@pytest.mark.parametrize(("status", "why"), [(401, "lets us not in"), (302, "sends us elsewhere"), (404, "HTTP 404"), (503, "HTTP 503")])
async def test_a_refused_handshake(status: int, why: str) -> None:
    """A redirect is not followed: the agent's headers are for this URL."""
    seen: list[str | None] = []

    def refuse(connection: ServerConnection, request: Any) -> Any:
        seen.append(request.headers.get("Authorization"))
        answer = connection.respond(status, "no\n")
        answer.headers["Location"] = "/elsewhere"
        return answer

    async def talk(_: ServerConnection) -> None:
        """Never reached."""

    async with serve(talk, "127.0.0.1", 0, process_request=refuse) as listening:
        url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        port = WebSocketServer("raw", url, {"Authorization": "secret"}).port()
        with pytest.raises(ServerUnreachable, match=why):
            await port.open(lambda *_: None, lambda _: None)
        await port.close()
    assert seen == ["secret"]


async def test_nonsense_is_passed_over_and_much_of_it_is_the_end() -> None:
    async def talk(connection: ServerConnection) -> None:
        assert connection.subprotocol == "mcp"
        await connection.send("nonsense")
        await connection.send(b'{"jsonrpc":"2.0","method":"binary"}')
        await connection.recv()
        await connection.send("x" * 300_000)
        await connection.wait_closed()

    async with talking(talk) as heard:
        assert (await heard.message("binary"))[0].raw == b'{"jsonrpc":"2.0","method":"binary"}'
        heard.tell("go")
        await heard.until(lambda: heard.ends == ["it sends much that is no message"])


async def test_the_reason_of_the_end_is_told() -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.close(1012, "session_lost")

    async with talking(talk) as heard:
        await heard.until(lambda: heard.ends == ["it closed the connection with 1012 session_lost"])


async def test_text_that_is_no_text_ends_nothing() -> None:
    async def talk(connection: ServerConnection) -> None:
        await connection.send(b'{"jsonrpc":"2.0","id":"1","result":{"a":"\xff"}}', text=True)
        await connection.send('{"jsonrpc":"2.0",\n"method":"☃"}')
        await connection.wait_closed()

    async with talking(talk) as heard:
        await heard.message("☃")
        assert (heard.frames, heard.ends) == ([], [])


async def test_a_server_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is bounded, a message has a limit, and close does not wait for the server."""
    monkeypatch.setattr(ws, "MOST_MESSAGES", 20)
    large = scan(b'{"jsonrpc":"2.0","method":"%s"}' % (b"x" * 2**20))
    monkeypatch.setattr(ws, "LARGEST_BODY", 2**20 + 100)
    begun, done = asyncio.Event(), asyncio.Event()

    async def talk(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        begun.set()
        await done.wait()
        connection.transport.abort()

    async with talking(talk) as heard:
        await begun.wait()
        with pytest.raises(TooLarge):
            heard.port.send(scan(b'{"jsonrpc":"2.0","method":"%s"}' % (b"x" * 2**21)))
        for _ in range(20):
            heard.port.send(large)
        with pytest.raises(Busy):
            heard.port.send(large)
        assert isinstance(heard.port, WebSocketPort)
        async with asyncio.timeout(5):
            await heard.port.close()
        done.set()
        assert not heard.ends
