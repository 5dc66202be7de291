"""The handshake session of the HTTP port: order, the session's stream, resumption, cancellation, and the session's end."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from bridge.ports import http as http_port
from bridge.ports import http_session
from bridge.ports.http import HttpServer
from mesh.errors import Busy
from tests.http_peers import Asked, event, opened, raw_server, result_of

CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'


class Script:
    """A server of the handshake era. What is set here is said instead of the plain answer."""

    def __init__(self) -> None:
        self.posts: dict[str, Callable] = {}
        self.gets: Iterator[Callable] = itertools.repeat(lambda asked: asked.say("405 Method Not Allowed"))

    def __call__(self, asked: Asked):
        if asked.method == "GET":
            return next(self.gets)(asked)
        if asked.method == "DELETE":
            return asked.say("405 Method Not Allowed")
        frame = asked.frame
        if frame.method in self.posts:
            return self.posts[frame.method](asked)
        if frame.method == "initialize":
            return asked.say(body=result_of(asked, '{"protocolVersion":"2025-11-25"}'), Mcp_Session_Id="s-1")
        if frame.method and frame.id is not None:
            return asked.say(body=result_of(asked))
        return asked.say("202 Accepted")


@asynccontextmanager
async def session(script: Script):
    async with raw_server(script) as server, HttpServer("raw", server.url) as http, opened(http) as heard:
        yield server, heard


def gets(server) -> list[Asked]:
    return [asked for asked in server.asked if asked.method == "GET"]


async def test_a_request_waits_for_what_was_sent_before_it() -> None:
    script, taken = Script(), asyncio.Event()

    async def slowly(asked: Asked) -> None:
        await taken.wait()
        asked.say("202 Accepted")

    script.posts["notifications/initialized"] = slowly
    async with session(script) as (server, heard):
        await heard.handshake()
        heard.tell("notifications/a")
        heard.ask("1", "x")
        heard.tell("notifications/b")
        await server.until(lambda: server.of("notifications/initialized"))
        assert not server.of("x")
        taken.set()
        await heard.result("1")
        await server.until(lambda: server.of("notifications/b"))
        order = [asked.frame.method for asked in server.asked if asked.method == "POST"]
        assert order[:3] == ["initialize", "notifications/initialized", "notifications/a"]
        assert sorted(order[3:]) == ["notifications/b", "x"]


async def test_notices_keep_their_order() -> None:
    async with session(Script()) as (server, heard):
        await heard.handshake()
        for number in range(100):
            heard.tell(f"notifications/{number}")
        await server.until(lambda: server.of("notifications/99"))
        said = [asked.frame.method for asked in server.asked if asked.method == "POST" and asked.frame.id is None]
        assert said[1:] == [f"notifications/{number}" for number in range(100)]


async def test_notices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_session, "MOST_NOTICES", 2)
    script = Script()
    script.posts["notifications/slow"] = Asked.gone
    async with session(script) as (server, heard):
        await heard.handshake()
        heard.tell("notifications/slow")
        await server.until(lambda: server.of("notifications/slow"))
        heard.tell("notifications/a")
        heard.tell("notifications/b")
        with pytest.raises(Busy):
            heard.tell("notifications/c")


async def test_a_notice_that_the_server_does_not_take_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_session, "NOTICE_SECONDS", 0.2)
    script = Script()
    script.posts["notifications/hangs"] = Asked.gone
    script.posts["notifications/refused"] = lambda asked: asked.say("400 Bad Request", b"no")
    script.posts["notifications/streams"] = lambda asked: asked.stream(event(CHANGED)) or asked.gone()
    async with session(script) as (_, heard):
        await heard.handshake()
        for what in ("hangs", "refused", "streams"):
            heard.tell(f"notifications/{what}")
        heard.ask("1", "x")
        await heard.result("1")


async def test_the_sessions_stream_is_opened_again_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_session, "FIRST_DELAY", 0.01)
    script = Script()
    script.gets = iter(
        [
            lambda asked: asked.stream(b"retry: 10\n", event(CHANGED, "7"), b"id: 8\nda"),
            lambda asked: asked.say("503 Service Unavailable"),
            lambda asked: asked.say("409 Conflict"),
            lambda asked: asked.stream(event(b"{oops"), event(result_of_nobody()), event(CHANGED, "9")),
            lambda asked: asked.say("405 Method Not Allowed"),
        ]
    )
    async with session(script) as (server, heard):
        await heard.handshake()
        for _ in range(2):
            _, request = await heard.message("notifications/tools/list_changed")
            assert request is None
        await server.until(lambda: len(gets(server)) == 5)
        assert [asked.headers.get("last-event-id") for asked in gets(server)] == [None, "7", "7", "7", "9"]
        assert {asked.headers["mcp-session-id"] for asked in gets(server)} == {"s-1"}
        assert {asked.headers["accept"] for asked in gets(server)} == {"text/event-stream"}
        assert len(heard.frames) == 1  # the answer to initialize: an answer to nobody is none
    assert heard.ends == []


def result_of_nobody() -> bytes:
    return b'{"jsonrpc":"2.0","id":"hello","result":{}}'


async def test_a_broken_answer_is_taken_up_by_its_last_event() -> None:
    script, progress = Script(), b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"1","progress":%d}}'
    script.posts["x"] = lambda asked: asked.stream(b"id: a\nretry: 10\ndata: \n\n", event(progress % 1, "b"), b"id: c\ndata: {")
    answer = b'{"jsonrpc":"2.0","id":"1","result":{"n": 1.0}}'

    async def cut_off(asked: Asked) -> None:
        asked.writer.transport.abort()

    script.gets = iter(
        [
            lambda asked: asked.say("405 Method Not Allowed"),
            lambda asked: asked.stream(event(progress % 2, "c")),
            lambda asked: asked.stream(),
            cut_off,
            lambda asked: asked.stream(event(answer, "d")),
        ]
    )
    async with session(script) as (server, heard):
        await heard.handshake()
        await server.until(lambda: gets(server))
        heard.ask("1", "x")
        assert (await heard.answer("1")).raw == answer
        assert [request for frame, request in heard.frames if frame.method] == ["1", "1"]
        assert [asked.headers.get("last-event-id") for asked in gets(server)] == [None, "b", "c", "c", "c"]
        assert len(server.of("x")) == 1


@pytest.mark.parametrize(("status", "mesh", "ends"), [("405 Method Not Allowed", "server_died", 0), ("404 Not Found", "server_died", 1)])
async def test_a_broken_answer_that_cannot_be_taken_up(status: str, mesh: str, ends: int) -> None:
    script = Script()
    script.posts["x"] = lambda asked: asked.stream(b"id: a\nretry: 0\ndata: \n\n")
    script.posts["y"] = lambda asked: asked.stream(b"data: \n\n")  # no id, nowhere to go on
    script.gets = itertools.chain([lambda asked: asked.say("405 Method Not Allowed")], itertools.repeat(lambda asked: asked.say(status)))
    async with session(script) as (server, heard):
        await heard.handshake()
        await server.until(lambda: gets(server))
        heard.ask("2", "y")
        assert (await heard.error("2"))["data"]["mesh"] == "server_died"
        heard.ask("1", "x")
        assert (await heard.error("1"))["data"]["mesh"] == mesh
        await asyncio.sleep(0)
    assert len(heard.ends) == ends


async def test_a_modern_answer_is_not_taken_up() -> None:
    async with session(Script()) as (server, heard):
        heard.port.session.id = None
        answer = server.answer
        server.answer = lambda asked: asked.stream(b"id: a\nretry: 0\ndata: \n\n") if asked.method == "POST" else answer(asked)
        heard.ask("1", "x", modern=True)
        assert (await heard.error("1"))["data"]["mesh"] == "server_died"
        assert not gets(server)


@pytest.mark.parametrize("what", ["request", "notice", "stream"])
async def test_a_session_that_the_server_does_not_know_ends_the_port_once(what: str) -> None:
    script = Script()
    body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Session not found"}}'
    script.posts["x"] = lambda asked: asked.say("404 Not Found", body)
    script.posts["notifications/x"] = lambda asked: asked.say("404 Not Found", body)
    script.posts["hangs"] = Asked.gone
    if what == "stream":
        script.gets = iter([lambda asked: asked.say("404 Not Found")])
    async with session(script) as (server, heard):
        await heard.handshake()
        heard.ask("h", "hangs")
        if what == "request":
            heard.ask("1", "x")
            assert (await heard.error("1"))["message"] == "Session not found"  # the server's own words come first
        elif what == "notice":
            heard.tell("notifications/x")
        await heard.until(lambda: heard.ends)
        heard.ask("2", "ping")
        heard.tell("notifications/y")
        await asyncio.sleep(0.05)
        assert not server.of("ping")
    assert len(heard.ends) == 1
    assert not [asked for asked in server.asked if asked.method == "DELETE"]
    assert all(frame.id in ("hello", "1") for frame, _ in heard.frames)


async def test_a_cancellation_follows_its_request_and_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "GRACE", 0.05)
    script, gone = Script(), asyncio.Event()

    async def hangs(asked: Asked) -> None:
        asked.stream()
        await asked.gone()
        gone.set()

    script.posts["hangs"] = hangs
    async with session(script) as (server, heard):
        await heard.handshake()
        heard.ask("1", "hangs")
        heard.tell("notifications/cancelled", {"requestId": "1"})  # at once: its task has not begun
        heard.ask("2", "x")
        await heard.result("2")
        assert not server.of("hangs")
        assert not server.of("notifications/cancelled")
        heard.ask("3", "hangs")
        await server.until(lambda: server.of("hangs"))
        heard.tell("notifications/cancelled", {"requestId": "3"})
        await server.until(lambda: server.of("notifications/cancelled"))
        async with asyncio.timeout(5):
            await gone.wait()  # the server does not end the stream: after the grace, the port does
        heard.tell("notifications/cancelled", {"requestId": "unknown"})
        await server.until(lambda: len(server.of("notifications/cancelled")) == 2)
        assert {frame.id for frame, _ in heard.frames} == {"hello", "2"}
    assert heard.ends == []


async def test_an_answer_that_comes_after_the_cancellation_is_passed_on() -> None:
    script, cancelled = Script(), asyncio.Event()

    async def late(asked: Asked) -> None:
        await cancelled.wait()
        asked.say(body=result_of(asked))

    script.posts["late"] = late

    def take(asked: Asked) -> None:
        asked.say("202 Accepted")
        cancelled.set()

    script.posts["notifications/cancelled"] = take
    async with session(script) as (server, heard):
        await heard.handshake()
        heard.ask("1", "late")
        await server.until(lambda: server.of("late"))
        heard.tell("notifications/cancelled", {"requestId": "1"})
        await heard.result("1")


async def test_two_sessions_of_one_server_are_two() -> None:
    script, numbers = Script(), itertools.count(1)
    script.posts["initialize"] = lambda asked: asked.say(body=result_of(asked), Mcp_Session_Id=f"s-{next(numbers)}")
    async with raw_server(script) as server, HttpServer("raw", server.url) as http, opened(http) as one, opened(http) as two:
        await one.handshake()
        await two.handshake()
        for heard in (one, two):
            heard.ask("1", "x")
            await heard.result("1")
        assert [asked.headers["mcp-session-id"] for asked in server.of("x")] == ["s-1", "s-2"]


@pytest.mark.parametrize("bad", ["", "a b", "x" * 5000])
async def test_a_session_id_that_breaks_the_rules_is_none(bad: str) -> None:
    script = Script()
    script.posts["initialize"] = lambda asked: asked.say(body=result_of(asked, '{"protocolVersion":5}'), Mcp_Session_Id=bad)
    async with session(script) as (server, heard):
        await heard.handshake()
        heard.ask("1", "x")
        await heard.result("1")
        assert "mcp-session-id" not in server.of("x")[0].headers
        assert "mcp-protocol-version" not in server.of("x")[0].headers
    assert not [asked for asked in server.asked if asked.method != "POST"]
