"""Several hosts of the handshake era on one child, where the agent's entry says so: what is kept apart, and what is not."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.helpers import Background
from tests.hosts import Host, pipe_host, socket_host
from tests.web_world import agent, front


@asynccontextmanager
async def world(broker_url: str) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        for name in ("common", "alone", "levels", "subscribed", "mortal"):
            await stack.enter_async_context(agent(broker_url, name, "knocker", sessions="shared"))
        await stack.enter_async_context(agent(broker_url, "both", "echo", sessions="shared"))
        yield await stack.enter_async_context(front(broker_url))


@pytest.fixture(scope="module")
def url(plane: str) -> Iterator[str]:
    with Background(lambda: world(plane)) as background:
        yield background.value


@asynccontextmanager
async def hosts(url: str, name: str, count: int = 2) -> AsyncIterator[list[Host]]:
    """Hosts whose sessions have begun, one after the other."""
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        made = [await stack.enter_async_context(socket_host(url, name)) for _ in range(count)]
        for host in made:
            assert (await host.begin({"roots": {}}))["serverInfo"]["name"] in ("knocker", "An echo", "echo")
        yield made


async def passed(*hosts: Host) -> None:
    """All that was said before has arrived: an answer comes behind it."""
    for host in hosts:
        await host.ask("ping")


@pytest.mark.proves("one shared child where the entry says so")
async def test_hosts_share_one_child_and_one_handshake(url: str, plane: str) -> None:
    async with hosts(url, "common") as [first, second], pipe_host(plane, "common") as third:
        await third.begin()
        pids = [await host.tool("pid") for host in (first, second, third)]
        assert len(set(pids)) == 1
        for method in ("initialize", "notifications/initialized"):
            assert len(await first.tool("heard", method=method)) == 1
        again = await second.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}})
        assert "already" in again["message"]
    async with hosts(url, "common", 1) as [later]:
        assert await later.tool("pid") == pids[0], "the child stays"


async def test_each_hears_what_belongs_to_its_requests(url: str) -> None:
    async with hosts(url, "common", 3) as made:

        async def use(host: Host, name: str) -> None:
            for id in range(100, 110):  # the same ids and tokens for all
                params = {"name": "slow", "arguments": {"seconds": 0.05, "steps": 3}, "_meta": {"progressToken": 1}}
                await host.say({"id": id, "method": "tools/call", "params": params})
                await host.answer(id)
            assert [each["params"]["progress"] for each in host.of("notifications/progress")] == [1, 2, 3] * 10, name

        await asyncio.gather(*(use(host, str(at)) for at, host in enumerate(made)))
        running = await made[0].start("tools/call", {"name": "slow", "arguments": {"seconds": 60}})
        other = await made[1].start("tools/call", {"name": "wait", "arguments": {"method": "notifications/cancelled", "count": 1}})
        await made[0].note("notifications/cancelled", requestId=running)
        assert (await made[1].answer(other))["content"][0]["text"] == "True"


async def test_a_request_of_the_server_goes_to_the_only_host_or_is_refused(url: str) -> None:
    async with hosts(url, "alone", 1) as [host]:
        await host.knock(id="roots", method="roots/list")
        await host.until(lambda each: each.get("id") == "roots")
        async with hosts(url, "alone", 1) as [other]:
            await other.say({"id": "roots", "result": {"roots": ["forged"]}})
            await host.say({"id": "roots", "result": {"roots": []}})
            assert await host.tool("heard", method=None, count=1) == [{"jsonrpc": "2.0", "id": "roots", "result": {"roots": []}}]
            await host.knock(id="whose", method="sampling/createMessage", params={"messages": [], "maxTokens": 1})
            await host.knock(id="ping", method="ping")
            refused, ping = (await host.tool("heard", method=None, count=3))[1:]
            assert (refused["id"], refused["error"]["code"], refused["error"]["data"]) == ("whose", -32601, {"mesh": "shared"})
            assert (ping["id"], ping["result"]) == ("ping", {})
            await host.note("notifications/roots/list_changed")
            await passed(host, other)
            assert [each.get("id") for each in (*host.heard, *other.heard) if "method" in each] == ["roots"]
            assert await other.tool("heard", method="notifications/roots/list_changed") == []


async def test_a_question_to_a_host_that_left_is_answered(url: str) -> None:
    async with hosts(url, "alone", 1) as [host]:
        before = len(await host.tool("heard", method=None))
        await host.knock(id="left", method="roots/list")
        await host.until(lambda each: each.get("id") == "left")
    async with hosts(url, "alone", 1) as [host]:
        assert (await host.tool("heard", method=None, count=before + 1))[-1]["error"]["message"] == "the host has left"


def log(level: str) -> dict[str, Any]:
    return {"method": "notifications/message", "params": {"level": level, "data": level}}


async def test_log_levels_are_each_hosts_own(url: str) -> None:
    async with hosts(url, "levels", 3) as [loud, quiet, silent]:
        assert await quiet.ask("logging/setLevel", {"level": "error"}) == {"_meta": {"for": {"level": "error"}}}, "the server's own answer"
        assert await loud.ask("logging/setLevel", {"level": "debug"}) == {"_meta": {"for": {"level": "debug"}}}
        assert await quiet.ask("logging/setLevel", {"level": "warning"}) == {}, "the child has a lower one"
        for level in ("debug", "info", "warning", "error"):
            await loud.knock(**log(level))
        await loud.knock(method="notifications/tools/list_changed")
        for host in (loud, quiet, silent):
            await host.until(lambda each: each.get("method") == "notifications/tools/list_changed")
        heard = [[each["params"]["level"] for each in host.of("notifications/message")] for host in (loud, quiet, silent)]
        assert heard == [["debug", "info", "warning", "error"], ["warning", "error"], ["info", "warning", "error"]]
        await quiet.ask("logging/setLevel", {"level": "none such"})  # the server says what it thinks of that
        assert await loud.ask("logging/setLevel", {"level": "critical"}) == {}
        said = await loud.tool("heard", method="logging/setLevel", count=4)
        assert [each["params"]["level"] for each in said] == ["error", "debug", "none such", "warning"]


async def test_subscriptions_are_counted(url: str) -> None:
    async with hosts(url, "subscribed", 2) as [first, second]:
        for host in (first, second):
            await host.ask("resources/subscribe", {"uri": "memo://1"})
        await second.ask("resources/subscribe", {"uri": "memo://2"})
        assert (await first.ask("resources/subscribe", {"uri": "memo://none"}))["code"] == -32002
        for uri in ("memo://1", "memo://2/part", "memo://none"):
            await first.knock(method="notifications/resources/updated", params={"uri": uri})
        await passed(first, second)
        updated = [[each["params"]["uri"] for each in host.of("notifications/resources/updated")] for host in (first, second)]
        assert updated == [["memo://1"], ["memo://1", "memo://2/part"]]
        await second.ask("resources/unsubscribe", {"uri": "memo://1"})
        assert await first.tool("heard", method="resources/unsubscribe") == []
        subscribed = await first.tool("heard", method="resources/subscribe")
        assert [each["params"]["uri"] for each in subscribed] == ["memo://1", "memo://2", "memo://none"]
    async with hosts(url, "subscribed", 1) as [later]:
        left = await later.tool("heard", method="resources/unsubscribe", count=2)
        assert sorted(each["params"]["uri"] for each in left) == ["memo://1", "memo://2"]


async def test_a_child_that_dies_ends_all_its_sessions(url: str) -> None:
    async with hosts(url, "mortal", 2) as [first, second]:
        pid = await first.tool("pid")
        running = await second.start("tools/call", {"name": "never", "arguments": {}})
        assert (await first.ask("tools/call", {"name": "crash", "arguments": {}}))["data"]["mesh"] == "server_died"
        assert (await second.answer(running))["data"]["mesh"] == "server_died"
    async with hosts(url, "mortal", 1) as [later]:
        assert await later.tool("pid") != pid


async def test_a_host_that_leaves_takes_only_its_own_calls(url: str) -> None:
    async with hosts(url, "common", 1) as [stays]:
        running = await stays.start("tools/call", {"name": "slow", "arguments": {"seconds": 0.5}})
        before = len(await stays.tool("heard", method="notifications/cancelled"))
        async with hosts(url, "common", 1) as [leaves]:
            await leaves.start("tools/call", {"name": "slow", "arguments": {"seconds": 60}})
            await passed(leaves)
        assert len(await stays.tool("heard", method="notifications/cancelled", count=before + 1)) == before + 1
        assert (await stays.answer(running))["content"][0]["text"] == "done"


async def test_a_server_of_both_eras_is_shared_too(url: str) -> None:
    async with hosts(url, "both", 2) as made:
        assert len({await host.tool("pid") for host in made}) == 1
