"""What the HTTP port does at its bounds: sizes, numbers, a server that hangs, an address that is none, an environment that interferes."""

import asyncio
import contextlib

import pytest

from bridge.ports import http as http_port
from bridge.ports import http_client, http_request, http_session
from bridge.ports.http import HttpServer
from bridge.sse import EventStream
from mesh.errors import Busy, ConfigError, Refused, TooLarge
from mesh.wire.jsonrpc import Frame, scan
from tests.http_peers import Asked, as_modern, asking, event, result_of


@pytest.mark.parametrize("line", [b"x" * 65536, b": " + b"x" * 65534, b"data: " + b"x" * 65529 + b"\n"])
async def test_an_endless_line_ends_the_request(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventStream.__init__, "__defaults__", (1 << 20,))

    async def say(asked: Asked) -> None:
        asked.stream()
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                asked.writer.write(line)
                await asked.writer.drain()

    async with asking(say) as (_, heard):
        heard.port.send(scan(as_modern()))
        assert (await heard.error("1"))["data"]["mesh"] == "too_large"


@pytest.mark.parametrize("told", [True, False])
async def test_an_answer_over_the_size_limit(told: bool) -> None:
    async def say(asked: Asked) -> None:
        if told:
            asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n")
        else:
            asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not asked.writer.is_closing():
                asked.writer.write(b" " * (1 << 20))
                await asked.writer.drain()

    async with asking(say) as (_, heard):
        heard.port.send(scan(as_modern()))
        assert (await heard.error("1"))["data"]["mesh"] == "too_large"


async def test_a_request_over_the_size_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_request, "LARGEST_BODY", 1000)
    monkeypatch.setattr(http_session, "LARGEST_BODY", 1000)
    async with asking(lambda asked: asked.say(body=result_of(asked))) as (server, heard):
        heard.port.send(scan(as_modern(more=b" " * 1000 + b"1")))
        assert (await heard.error("1"))["data"]["mesh"] == "too_large"
        with pytest.raises(TooLarge):
            heard.tell("x", {"y": "z" * 1000})
        assert not server.asked


async def test_bounds_refuse_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "MOST_REQUESTS", 2)
    async with asking(Asked.gone) as (_, heard):
        heard.ask("1", "x", modern=True)
        with pytest.raises(Refused, match="'1' is running"):
            heard.ask("1", "x", modern=True)
        heard.ask("2", "x", modern=True)
        with pytest.raises(Busy) as full:
            heard.ask("3", "x", modern=True)
        assert full.value.details["retry_after"] == 1.0
        heard.tell("notifications/cancelled", {"requestId": "1"})
        for _ in range(10):  # its task needs a few turns to end
            await asyncio.sleep(0)
        assert heard.port.client.requests == 1
        monkeypatch.setattr(http_client, "MOST_BYTES", 10)
        with pytest.raises(Busy):
            heard.ask("4", "x", modern=True)
        with pytest.raises(Busy):
            heard.tell("x")


async def test_closing_does_not_wait_for_a_server_that_hangs() -> None:
    gone: list[str] = []

    async def say(asked: Asked) -> None:
        await asked.gone()
        gone.append(asked.method)

    async with asking(say) as (server, heard):
        for number in range(20):
            heard.ask(f"{number}", "x", modern=True)
        heard.tell("notifications/x")
        await server.until(lambda: len(server.asked) == 21)
        heard.port.session.id = "s"  # so that a DELETE is due, which hangs too
        async with asyncio.timeout(http_client.CLOSE_SECONDS + 1):
            await heard.port.close()
        assert heard.frames == []
        heard.ask("late", "x", modern=True)  # said to a closed port


async def test_a_listener_that_fails_stops_nothing() -> None:
    def fail(frame: Frame, request: str | None) -> None:
        heard.on_frame(frame, request)
        raise ZeroDivisionError

    async with asking(lambda asked: asked.stream(event(b'{"jsonrpc":"2.0","method":"x"}'), event(result_of(asked)))) as (_, heard):
        heard.port._on_frame = fail
        heard.ask("1", "x", modern=True)
        await heard.result("1")
        assert len(heard.frames) == 2


@pytest.mark.parametrize("url", ["ftp://x/", "x", "http://", "http://x:99999/", "unix:///x"])
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError):
        HttpServer("raw", url)


def test_headers_that_are_not_free() -> None:
    with pytest.raises(ConfigError, match="mcp-session-id"):
        HttpServer("raw", "http://x/", {"MCP-Session-Id": "1"})


async def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with asking(lambda asked: asked.say(body=result_of(asked), Set_Cookie="a=b; Path=/")) as (server, heard):
        for id in "12":
            heard.ask(id, "x", modern=True)
            await heard.result(id)
        assert "cookie" not in server.asked[1].headers
