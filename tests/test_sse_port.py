"""The SSE port against servers that say any bytes: what its stream and its POSTs may meet."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridge.errors import ServerUnreachable
from bridge.ports.sse_port import SseServer
from mesh.errors import Refused
from mesh.wire.jsonrpc import scan
from tests.http_peers import Answer, Asked, Heard, event, raw_server, result_of
from tests.port_peers import opened

ENDPOINT = b"event: endpoint\ndata: /messages?session=1\n\n"


class Script:
    """A server whose stream stays open, and whose POSTs `on_post` answers."""

    def __init__(self, on_post: Answer) -> None:
        self.on_post = on_post
        self.stream: Asked | None = None

    async def __call__(self, asked: Asked) -> None:
        if asked.method == "GET":
            self.stream = asked
            asked.stream(ENDPOINT)
            await asked.gone()
        elif (waits := self.on_post(asked)) is not None:
            await waits

    def say(self, raw: bytes) -> None:
        assert self.stream is not None
        self.stream.writer.write(raw)


@asynccontextmanager
async def talking(on_post: Answer) -> AsyncIterator[tuple[Script, Any, Heard]]:
    script = Script(on_post)
    async with raw_server(script) as server, SseServer("raw", server.url) as sse, opened(sse.port()) as heard:
        yield script, server, heard
    assert (sse._client.requests, sse._client.bytes, sse._client.streams) == (0, 0, 0)


async def final(heard: Heard, id: str) -> dict[str, Any]:
    frame = await heard.until(lambda: next((frame for frame, _ in heard.frames if frame.final and frame.id == id), None))
    said: dict[str, Any] = json.loads(frame.raw)
    return said


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (lambda asked: asked.say("404 Not Found"), "HTTP 404"),
        (lambda asked: asked.say("307 Temporary Redirect", Location="http://elsewhere/"), "sends us elsewhere"),
        (lambda asked: asked.say(body=b"{}"), "where a stream of events is expected"),
        (lambda asked: asked.stream(), "its stream ended"),
        (lambda asked: asked.stream(b"event: endpoint\ndata: http://elsewhere/messages\n\n"), "another host"),
        (lambda asked: asked.stream(b"event: endpoint\ndata: \xff\n\n"), "no URL"),
    ],
)
async def test_no_stream_no_port(first: Answer, why: str) -> None:
    async with raw_server(first) as server, SseServer("raw", server.url) as sse:
        port = sse.port()
        heard = Heard(port)
        with pytest.raises(ServerUnreachable, match=why):
            await port.open(heard.on_frame, heard.on_end)
        assert (heard.ends, sse._client.streams) == ([], 0)


async def test_a_post_that_is_refused_is_that_calls_error() -> None:
    async with talking(lambda asked: asked.say("429 Too Many Requests", Retry_After="7")) as (_, _, heard):
        heard.ask("1", "ping")
        error = (await final(heard, "1"))["error"]
        assert error["data"]["mesh"] == "busy"
        assert not heard.ends


async def test_a_session_that_is_not_known_any_more_is_the_end() -> None:
    async with talking(lambda asked: asked.say("404 Not Found")) as (_, _, heard):
        heard.ask("1", "ping")
        assert (await final(heard, "1"))["error"]["code"] == -32601
        await heard.until(lambda: heard.ends == ["the server does not know this session any more"])


async def test_a_server_that_holds_its_posts_still_hears_of_a_cancellation() -> None:
    """And the answer counts where it comes, though the POST is still open."""

    async def on_post(asked: Asked) -> None:
        if asked.frame.method != "notifications/cancelled":
            await asyncio.Event().wait()
        asked.say("202 Accepted", kind="")
        script.say(event(b'{"jsonrpc":"2.0","id":"1","error":{"code":1,"message":"cancelled"}}'))

    async with talking(on_post) as (script, server, heard):
        heard.ask("1", "tools/call", {"name": "x"})
        await server.until(lambda: server.of("tools/call"))
        heard.tell("notifications/cancelled", {"requestId": "1"})
        assert (await final(heard, "1"))["error"]["message"] == "cancelled"


async def test_order_ids_and_nonsense() -> None:
    """A request waits for the notification before it; an id in use is refused; nonsense and answers to nothing are passed over."""

    def on_post(asked: Asked) -> None:
        asked.say("202 Accepted", kind="")
        if asked.frame.method == "second":
            script.say(event(b"nonsense") + b": a comment\n\n" + event(b'{"jsonrpc":"2.0","id":"9","result":{}}') + event(result_of(asked)))

    async with talking(on_post) as (script, server, heard):
        heard.tell("notifications/first")
        heard.ask("1", "second")
        with pytest.raises(Refused):
            heard.ask("1", "second")
        assert (await final(heard, "1"))["result"] == {}
        assert [asked.frame.method for asked in server.asked if asked.method == "POST"] == ["notifications/first", "second"]
        assert [frame.id for frame, _ in heard.frames] == ["1"]


async def test_a_stream_of_nonsense_is_the_end() -> None:
    def on_post(asked: Asked) -> None:
        asked.say("202 Accepted", kind="")
        script.say(event(b"x" * 300_000))

    async with talking(on_post) as (script, _, heard):
        heard.port.send(scan(b'{"jsonrpc":"2.0","method":"go"}'))
        await heard.until(lambda: heard.ends)
        assert "no message" in heard.ends[0]
