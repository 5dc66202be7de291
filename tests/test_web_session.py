"""Sessions of the handshake era over HTTP: how they begin, where each message comes out, what can be taken up again, and how they end."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest

from tests.helpers import Background, bridges
from tests.web_world import Client, Events, agent, call, client, front, request


@asynccontextmanager
async def world(broker_url: str) -> AsyncIterator[str]:
    async with agent(broker_url, "old", "asker"), front(broker_url) as url:
        yield url


@pytest.fixture(scope="module")
def url(plane: str) -> Iterator[str]:
    with Background(lambda: world(plane)) as background:
        yield background.value


@pytest.fixture
async def old(url: str) -> AsyncIterator[Client]:
    async with client(url, "old") as old:
        yield old
        if old.session:
            await old.http.delete(old.url, headers=old.session)


def say(text: str) -> dict[str, Any]:
    return call(9, "say", {"text": text}, modern=False)


async def hold(client: Client, *ids: int) -> list[asyncio.Task[httpx2.Response]]:
    """Requests that run until somebody pings, and have reached the server."""
    held = [asyncio.create_task(client.post(call(id, "wait", {"method": "ping", "count": 1}, modern=False))) for id in ids]
    count = len(ids) + 1
    assert "True" in (await client.post(call("held", "wait", {"method": "tools/call", "count": count}, modern=False))).text
    return held


CHANGED = '{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}'


async def test_it_begins_and_ends(old: Client) -> None:
    response = await old.begin()
    assert response.json()["result"]["serverInfo"]["name"] == "asker"
    assert response.headers["content-type"] == "application/json"
    assert (await old.post(call(1, "echo", modern=False))).json()["id"] == 1
    assert (await old.http.delete(old.url, headers=old.session)).status_code == 200
    gone = await old.post(call(2, "echo", modern=False))
    assert (gone.status_code, gone.json()["error"]["message"]) == (404, "Session not found")
    assert (await old.http.delete(old.url, headers=old.session)).status_code == 404
    assert (await old.http.get(old.url, headers={**old.session, "Accept": "text/event-stream"})).status_code == 404
    old.session = {}


async def test_what_a_request_without_a_session_gets(old: Client, url: str) -> None:
    for message in (request(1, "tools/list", modern=False), {"jsonrpc": "2.0", "method": "notifications/initialized"}):
        assert (await old.post(message)).status_code == 400
    assert (await old.http.get(old.url, headers={"Accept": "text/event-stream"})).status_code == 400
    assert (await old.http.get(old.url, headers={"Accept": "application/json"})).status_code == 406
    assert (await old.http.delete(old.url)).status_code == 400
    assert (await old.post(request(1, "tools/list", modern=False), {"Mcp-Session-Id": "guessed"})).status_code == 404
    await old.begin()
    assert (await old.post(request(1, "ping", modern=False), {"MCP-Protocol-Version": "1999-01-01"})).status_code == 400
    assert (await old.post(request(1, "ping", modern=False), {"MCP-Protocol-Version": ""})).status_code == 200
    async with client(url, "nobody") as other:
        other.session = old.session
        assert (await other.post(request(1, "ping", modern=False))).status_code == 404, "a session is of one agent"


async def test_a_request_of_the_server_comes_on_the_stream_that_caused_it(old: Client) -> None:
    await old.begin(capabilities={"elicitation": {}})
    async with old.events("GET") as get, old.events("POST", call(1, "ask", modern=False)) as post:
        await post.until(lambda seen: len(seen.messages) == 1)
        asked = post.messages[0]
        assert asked["method"] == "elicitation/create"
        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}
        assert (await old.post(answer)).status_code == 202
        await post.until(lambda seen: seen.ended)
        assert json.loads(post.messages[1]["result"]["content"][0]["text"]) == {"action": "decline"}
        assert get.messages == []


async def test_what_belongs_to_no_request_comes_on_the_get_stream(old: Client) -> None:
    await old.begin()
    async with old.events("GET") as get:
        assert get.response.headers["content-type"].startswith("text/event-stream")
        assert (await old.http.get(old.url, headers={**old.session, "Accept": "text/event-stream"})).status_code == 409
        running = await hold(old, 1, 2)
        assert (await old.post(say(CHANGED))).status_code == 200  # three requests run: none of them can claim it
        await get.until(lambda seen: len(seen.messages) == 1)
        assert get.messages == [json.loads(CHANGED)]
        await old.post(request(5, "ping", modern=False))
        await asyncio.gather(*running)


async def test_a_stream_is_taken_up_again(old: Client) -> None:
    await old.begin()
    message = call(1, "slow", {"seconds": 1.0, "steps": 5}, modern=False, progressToken="t")
    async with old.events("POST", message) as post:
        await post.until(lambda seen: len(seen.messages) >= 2)
        before = list(post.seen)
    assert before[0][1] is None, "a stream begins with an id, so that it can be taken up before anything came"
    async with old.events("GET", Last_Event_ID=before[1][0]) as again:
        await again.until(lambda seen: seen.ended)
    steps = [each["params"]["progress"] for each in again.messages[:-1]]
    assert steps == [2, 3, 4, 5]
    assert again.messages[-1]["id"] == 1
    async with old.events("GET", Last_Event_ID=before[0][0]) as whole:  # also when it is over
        await whole.until(lambda seen: seen.ended)
        assert len(whole.messages) == 6
    for nonsense in ("x", "1", "1-", "1-999999", "77-1", "-1-1", "9" * 50 + "-1"):
        headers = {**old.session, "Accept": "text/event-stream", "Last-Event-ID": nonsense}
        assert (await old.http.get(old.url, headers=headers)).status_code == 400, nonsense


async def test_older_revisions_get_no_event_without_data(old: Client) -> None:
    await old.begin("2025-06-18")
    async with old.events("POST", call(1, "slow", {"seconds": 0.2}, modern=False, progressToken=1)) as post:
        await post.until(lambda seen: seen.ended)
        assert [each.get("id") for each in post.messages] == [None, 1]
        assert len(post.seen) == len(post.messages)


async def test_the_get_stream_is_taken_up_again(old: Client) -> None:
    await old.begin()
    late = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
    async with old.events("GET") as get:
        held = await hold(old, 1)
        await old.post(say(CHANGED))
        await get.until(lambda seen: len(seen.messages) == 1)
        last = get.seen[0][0]
        async with old.events("GET", Last_Event_ID=last) as second:  # the old connection is dead, though nobody noticed
            await get.until(lambda seen: seen.ended)
            await old.post(say(late))
            await second.until(lambda seen: len(seen.messages) == 1)
            assert second.messages == [json.loads(late)]
        await old.post(request(5, "ping", modern=False))
        await held[0]


async def test_closing_a_connection_cancels_nothing(old: Client) -> None:
    await old.begin()
    async with old.events("POST", call(1, "slow", {"seconds": 1.0}, modern=False)) as post:
        await post.until(lambda seen: seen.seen)
        began = post.seen[0][0]
    async with old.events("GET", Last_Event_ID=began) as again:
        await again.until(lambda seen: seen.ended)
        assert again.messages[-1]["result"]["content"][0]["text"] == "done"


async def test_a_cancellation_ends_the_stream(old: Client) -> None:
    await old.begin()
    async with old.events("POST", call("c", "slow", {"seconds": 60}, modern=False)) as post:
        await post.until(lambda seen: seen.seen)
        assert (await old.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}})).status_code == 202
        await post.until(lambda seen: seen.ended)
        assert post.messages[-1]["error"]["code"] == -32800
    answered = await old.post(call(2, "wait", {"method": "notifications/cancelled", "count": 1}, modern=False))
    assert answered.json()["result"]["content"][0]["text"] == "True"


async def test_ids_in_use_and_errors(old: Client) -> None:
    await old.begin()
    [held] = await hold(old, 1)
    twice = await old.post(call(1, "echo", modern=False))
    assert twice.json()["error"]["data"]["mesh"] == "refused"
    await old.post(request(5, "ping", modern=False))
    assert (await held).status_code == 200
    error = await old.post(request(2, "no/such", modern=False))
    assert (error.status_code, error.json()["error"]["code"]) == (200, -32601)


async def test_a_session_whose_instance_dies_is_unknown(plane: str) -> None:
    with bridges(plane, ("mortal", "asker")) as [bridge]:
        async with front(plane) as url, client(url, "mortal") as mortal:
            await mortal.begin()
            async with mortal.events("GET") as get, mortal.events("POST", call(1, "slow", {"seconds": 60}, modern=False)) as post:
                await post.until(lambda seen: seen.seen)
                bridge.send(signal.SIGKILL)
                await post.until(lambda seen: seen.ended)
                assert post.messages[-1]["error"]["data"]["mesh"] == "instance_lost"
                await get.until(lambda seen: seen.ended)
            assert (await mortal.post(call(2, "echo", modern=False))).status_code == 404


async def test_a_session_whose_server_dies_is_unknown(plane: str) -> None:
    async with agent(plane, "frail", "asker"), front(plane) as url, client(url, "frail") as frail:
        await frail.begin()
        crashed = await frail.post(call(1, "crash", modern=False))
        assert (crashed.status_code, crashed.json()["error"]["data"]["mesh"]) == (200, "server_died")
        assert (await frail.post(call(2, "echo", modern=False))).status_code == 404
        frail.session = {}
        assert (await frail.begin()).status_code == 200


async def test_bounds(plane: str, url: str) -> None:
    async with front(plane, most_sessions=2) as narrow, client(narrow, "old") as first, client(narrow, "old") as second:
        for each in (first, second):
            assert (await each.begin()).status_code == 200
        async with client(narrow, "old") as third:
            refused = await third.begin()
            assert (refused.status_code, refused.json()["error"]["data"]["mesh"]) == (503, "busy")
            await first.http.delete(first.url, headers=first.session)
            assert (await third.begin()).status_code == 200


@pytest.mark.proves("a client that leaves without a word makes room")
async def test_a_session_that_was_left_makes_room(plane: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that leaves without a word, as the TypeScript SDK's does, holds a process of the server; its GET tells that it has left."""
    monkeypatch.setattr("bridge.sessions.MOST_SESSIONS", 2)
    async with agent(plane, "small", "asker"), AsyncExitStack() as stack:
        left, there, third, fourth = [await stack.enter_async_context(client(url, "small")) for _ in range(4)]
        await left.begin()
        await there.begin()
        assert (refused := await third.begin()).status_code == 503, "nobody has left"
        assert refused.json()["error"]["data"]["mesh"] == "busy"
        async with left.events("GET") as get:
            assert get.response.status_code == 200
            assert (await third.begin()).status_code == 503, "it listens"
        async with asyncio.timeout(10):
            while (await third.begin()).status_code != 200:
                pass  # until the front has seen that the stream is closed
        assert (await left.post(call(1, "echo", modern=False))).status_code == 404
        assert (await there.post(call(1, "echo", modern=False))).status_code == 200
        assert (await fourth.begin()).status_code == 503
        monkeypatch.setattr("bridge.web.session.SEEMS_LEFT", 0.0)
        assert (await fourth.begin()).status_code == 200
        assert (await third.post(call(2, "echo", modern=False))).status_code == 404, "the one that was silent longest"


async def test_it_makes_room_for_one_of_all_agents_together_too(plane: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.sessions.MOST_SESSIONS", 1)
    async with agent(plane, "tiny", "asker"), client(url, "tiny") as left, httpx2.AsyncClient(timeout=20) as http:
        await left.begin()
        everyone = Client(http, f"{url}/mcp")
        await everyone.begin()
        refused = (await everyone.post(call(1, "tiny__echo", modern=False))).json()
        assert refused["error"]["data"]["mesh"] == "busy", "nobody has left"
        monkeypatch.setattr("bridge.web.session.SEEMS_LEFT", 0.0)
        assert "result" in (await everyone.post(call(2, "tiny__echo", modern=False))).json()
        assert (await left.post(call(1, "echo", modern=False))).status_code == 404


async def test_who_names_a_stream_first_gets_one(old: Client) -> None:
    await old.begin()
    async with old.events("POST", call(1, "echo", modern=False), Accept="text/event-stream, application/json") as post:
        await post.until(lambda seen: seen.ended)
    assert post.response.headers["content-type"] == "text/event-stream"
    assert [message.get("id") for message in post.messages] == [1]
    assert post.seen[0][0], "what can be taken up begins with an event that has an id only"
    assert post.seen[0][1] is None


async def test_the_end_of_the_front_ends_what_is_open(plane: str, url: str) -> None:
    async with client(url, "old") as old:
        async with front(plane) as short:
            old.url = f"{short}/agents/old/mcp"
            await old.begin()
            get, post = old.events("GET"), old.events("POST", call(1, "slow", {"seconds": 60}, modern=False))
            streams: list[Events] = [await get.__aenter__(), await post.__aenter__()]
            await streams[1].until(lambda seen: seen.seen)
        for stream in streams:
            await stream.until(lambda seen: seen.ended)
        assert streams[1].messages[-1]["error"]["data"]["mesh"] == "session_lost"
        for manager in (post, get):
            await manager.__aexit__(None, None, None)
