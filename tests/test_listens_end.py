"""A modern server ends a listen: over stdio with `notifications/cancelled` that names it, since there is no stream to close."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.helpers import Background
from tests.hosts import Host, pipe_host, socket_host
from tests.web_world import ENVELOPE, agent, call, client, front, headers_of, request

LISTEN = {"_meta": ENVELOPE, "notifications": {"toolsListChanged": True}}


@asynccontextmanager
async def world(broker_url: str) -> AsyncIterator[str]:
    async with agent(broker_url, "listener", "listener"), front(broker_url) as url:
        yield url


@pytest.fixture(scope="module")
def url(plane: str) -> Iterator[str]:
    with Background(lambda: world(plane)) as background:
        yield background.value


async def use(host: Host, tool: str) -> None:
    await host.ask("tools/call", {"name": tool, "arguments": {}, "_meta": ENVELOPE})


@pytest.mark.proves("server notification notifications/cancelled, modern")
@pytest.mark.parametrize("way", ["stdio", "websocket"])
async def test_a_host_hears_that_its_listen_has_ended(plane: str, url: str, way: str) -> None:
    joined = pipe_host(plane, "listener") if way == "stdio" else socket_host(url, "listener")
    async with asyncio.timeout(20), joined as host, socket_host(url, "listener") as other:
        first, second = await host.start("subscriptions/listen", LISTEN), await other.start("subscriptions/listen", LISTEN)
        for each in (host, other):
            await each.until(lambda said: said.get("method") == "notifications/subscriptions/acknowledged")
        await use(other, "hang_up")
        for each, id in ((host, first), (other, second)):
            ended = await each.until(lambda said: said.get("method") == "notifications/cancelled")
            assert ended["params"] == {"requestId": id, "reason": "so long"}
        await host.say({"id": first, "method": "subscriptions/listen", "params": LISTEN})
        await host.signals.until(lambda: len(host.of("notifications/subscriptions/acknowledged")) == 2)
        await use(host, "tell")
        assert len(host.of("notifications/tools/list_changed")) == 1
        assert not [
            each for each in (*host.heard, *other.heard) if each.get("id") in (first, second) and "method" not in each and "error" in each
        ]


async def test_over_http_the_stream_ends(url: str) -> None:
    listen = request("l", "subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    async with client(url, "listener") as http, http.events("POST", listen, **headers_of(listen)) as stream:
        await stream.until(lambda seen: seen.messages)
        assert (await http.modern(call(1, "hang_up"))).status_code == 200
        await stream.until(lambda seen: seen.ended)
        assert (stream.messages[-1]["id"], stream.messages[-1]["error"]["code"]) == ("l", -32800)
