"""Handshake sessions over each way in: a server that speaks first, and a broker that dies while they last."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Background
from tests.hosts import Host, Join, http_host, pipe_host, socket_host
from tests.web_world import agent, client, front
from tests.web_world import request as message_of

pytestmark = CUT_WARNINGS

ROOTS = {"roots": [{"uri": "file:///r", "name": "r"}]}


@asynccontextmanager
async def world(broker_url: str) -> AsyncIterator[str]:
    async with agent(broker_url, "knocker", "knocker"), front(broker_url) as url:
        yield url


@pytest.fixture(scope="module")
def url(plane: str) -> Iterator[str]:
    with Background(lambda: world(plane)) as background:
        yield background.value


async def there(url: str) -> None:
    """Wait until the agent answers over HTTP: an earlier test may have killed the broker."""
    async with asyncio.timeout(20), client(url, "knocker") as asking:
        for _ in iter(int, 1):
            if "result" in (await asking.modern(message_of("there?", "server/discover"))).json():
                return
            await asyncio.sleep(0.05)  # nobody tells us when


@pytest.fixture(params=["stdio", "http", "websocket"])
async def join(request: pytest.FixtureRequest, plane: str, url: str) -> Join:
    await there(url)
    ways: dict[str, Join] = {"stdio": partial(pipe_host, plane), "http": partial(http_host, url), "websocket": partial(socket_host, url)}
    return ways[request.param]


@asynccontextmanager
async def joined(join: Join) -> AsyncIterator[Host]:
    async with asyncio.timeout(60), join("knocker") as host:
        assert (await host.begin({"roots": {}, "elicitation": {}}))["serverInfo"]["name"] == "knocker"
        yield host


async def reply(host: Host, id: Any, result: Any) -> Any:
    """The host answers what the server asked, and the server has heard it."""
    await host.until(lambda each: each.get("id") == id and "method" in each)
    await host.say({"id": id, "result": result})
    for count in range(1, 100):
        answers = await host.tool("heard", method=None, count=count)
        if answers[-1]["id"] == id:
            return answers[-1]["result"]
    return None


@pytest.mark.proves("a server asks outside of a call")
async def test_a_server_asks_outside_of_any_call(join: Join) -> None:
    async with joined(join) as host:
        await host.knock(id="before", method="roots/list")
        assert await reply(host, "before", ROOTS) == ROOTS
        assert await host.tool("echo")
        await host.knock(id="after", method="ping")
        assert await reply(host, "after", {}) == {}
        await host.knock(method="notifications/tools/list_changed")
        await host.until(lambda each: each.get("method") == "notifications/tools/list_changed")
        await host.note("notifications/roots/list_changed")
        assert len(await host.tool("heard", method="notifications/roots/list_changed", count=1)) == 1


async def test_a_server_gives_up_what_it_asked(join: Join) -> None:
    async with joined(join) as host:
        await host.knock(id="never mind", method="roots/list")
        await host.knock(method="notifications/cancelled", params={"requestId": "never mind"})
        cancelled = await host.until(lambda each: each.get("method") == "notifications/cancelled")
        assert cancelled["params"]["requestId"] == "never mind"


def disturbed(broker: Broker) -> AbstractAsyncContextManager[None]:
    @asynccontextmanager
    async def gone() -> AsyncIterator[None]:
        await asyncio.to_thread(broker.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(broker.start)

    return gone()


@pytest.mark.proves("a session survives a reconnect to the broker")
async def test_a_session_goes_on_after_the_broker_died(broker: Broker, join: Join) -> None:
    async with joined(join) as host:
        pid = await host.tool("pid")
        running = await host.start(
            "tools/call", {"name": "knock", "arguments": {"text": '{"jsonrpc":"2.0","id":"q","method":"ping"}', "until": "q"}}
        )
        await host.until(lambda each: each.get("id") == "q")
        broker.kill()
        assert await host.tool("pid") == pid, "the same child: the same session"
        await host.say({"id": "q", "result": {"late": True}})
        assert '"late": true' in (await host.answer(running))["content"][0]["text"]
        await host.knock(id="again", method="roots/list")
        assert await reply(host, "again", ROOTS) == ROOTS


async def test_an_answer_that_is_given_while_the_broker_is_away_arrives(broker: Broker, join: Join) -> None:
    async with joined(join) as host:
        text = '{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"?"}}'
        running = await host.start("tools/call", {"name": "knock", "arguments": {"text": text, "until": "q"}})
        await host.until(lambda each: each.get("id") == "q")
        async with disturbed(broker):
            await host.say({"id": "q", "result": {"action": "decline"}})
        assert '"decline"' in (await host.answer(running))["content"][0]["text"]
