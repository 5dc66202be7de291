"""MCP over HTTP at `/agents/{name}/mcp`: both eras, what each header and status must be, and what happens when somebody leaves.

This module is long because the rules of one specification are tested in one place, in their order.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client as SdkClient
from mcp import types

from bridge.config import make_http
from bridge.web.server import serving
from mesh.errors import ConfigError, PortTaken
from mesh.settings import make_settings
from tests.helpers import Background, bridges
from tests.web_world import MODERN, Client, agent, call, client, front, headers_of, request


@asynccontextmanager
async def world(broker_url: str) -> AsyncIterator[str]:
    async with agent(broker_url, "echo", "echo"), agent(broker_url, "old", "asker"), front(broker_url) as url:
        yield url


@pytest.fixture(scope="module")
def url(plane: str) -> Iterator[str]:
    with Background(lambda: world(plane)) as background:
        yield background.value


@pytest.fixture
async def echo(url: str) -> AsyncIterator[Client]:
    async with client(url, "echo") as echo:
        yield echo


@pytest.fixture
async def old(url: str) -> AsyncIterator[Client]:
    async with client(url, "old") as old:
        yield old


def text_in(result: Any) -> str:
    return str(result.content[0].text)


# ---- the SDK's clients


@pytest.mark.parametrize("mode", ["auto", "legacy", MODERN])
async def test_the_sdks_client(url: str, mode: str) -> None:
    async with asyncio.timeout(20), SdkClient(f"{url}/agents/echo/mcp", mode=mode) as sdk:
        assert "echo" in [tool.name for tool in (await sdk.list_tools()).tools]
        result = await sdk.call_tool("echo", {"text": "ü"})
        assert result.structured_content["arguments"] == {"text": "ü"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_sdks_client_with_a_server_that_others_wrote(plane: str, mode: str) -> None:
    program = Path(sys.executable).parent / "mcp-server-time"
    async with (
        asyncio.timeout(30),
        agent(plane, "clock", str(program), "--local-timezone", "UTC"),
        front(plane) as url,
        SdkClient(f"{url}/agents/clock/mcp", mode=mode) as sdk,
    ):
        result = await sdk.call_tool("get_current_time", {"timezone": "Europe/Berlin"})
        assert "Europe/Berlin" in text_in(result)


async def test_the_sdks_client_is_asked_in_a_session(url: str) -> None:
    async def elicit(context: Any, params: Any) -> Any:
        return types.ElicitResult(action="accept", content={"name": params.message})

    logged: list[Any] = []

    async def log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    endpoint = f"{url}/agents/old/mcp"
    async with asyncio.timeout(20), SdkClient(endpoint, mode="legacy", elicitation_callback=elicit, logging_callback=log) as sdk:
        result = await sdk.call_tool("ask", {})
        assert json.loads(text_in(result)) == {"action": "accept", "content": {"name": "Who?"}}
        await sdk.call_tool("log", {"count": 50})
        assert logged == list(range(50))


async def _note(seen: list[float], progress: float, total: float | None, message: str | None) -> None:
    seen.append(progress)


async def test_progress_reaches_the_sdks_client(url: str) -> None:
    for mode in ("legacy", MODERN):
        seen: list[float] = []

        async with asyncio.timeout(20), SdkClient(f"{url}/agents/echo/mcp", mode=mode) as sdk:
            await sdk.call_tool("slow", {"seconds": 0.2, "steps": 4}, progress_callback=partial(_note, seen))
        assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_all_agents_as_one(url: str, mode: str) -> None:
    async with asyncio.timeout(20), SdkClient(f"{url}/mcp", mode=mode) as sdk:
        assert {"echo__echo", "old__ask"} <= {tool.name for tool in (await sdk.list_tools()).tools}
        assert (await sdk.call_tool("echo__echo", {"n": 1})).structured_content["arguments"] == {"n": 1}


# ---- the modern era


async def test_a_quick_answer_is_json_and_has_the_servers_own_bytes(echo: Client) -> None:
    text = '"result":{"n":123456789012345678901234567890,"e":1E400,"d":1,"d":2,"s":"\\ud800","x":null}'
    response = await echo.modern(call("7", "raw", {"text": text}))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.content == b'{"jsonrpc":"2.0","id":"7",' + text.encode() + b"}"


async def test_an_answer_with_progress_is_a_stream(echo: Client) -> None:
    message = call(1, "slow", {"seconds": 0.1, "steps": 2}, progressToken=1)
    response = await echo.modern(message)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in response.text.split("\r\n") if line.startswith("data: ")]
    assert [each.get("params", {}).get("progressToken") for each in events] == [1, 1, None]
    assert events[-1]["id"] == 1
    assert "id: " not in response.text  # nothing can be taken up again


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Accept": "application/json"}, 406, -32600),
        ({"Accept": "text/event-stream"}, 406, -32600),
        ({"Accept": "text/html"}, 406, -32600),
        ({"Content-Type": "text/plain"}, 415, -32600),
        ({"Mcp-Method": "tools/list"}, 400, -32020),
        ({"Mcp-Method": ""}, 400, -32020),
        ({"Mcp-Name": "pid"}, 400, -32020),
        ({"Mcp-Name": ""}, 400, -32020),
        ({"Mcp-Name": "=?base64?!?="}, 400, -32020),
        ({"MCP-Protocol-Version": "2026-07-29"}, 400, -32020),
        ({"MCP-Protocol-Version": ""}, 400, -32020),
        ({"MCP-Protocol-Version": "2025-11-25"}, 400, -32020),
    ],
)
async def test_headers_that_are_wrong(echo: Client, headers: dict[str, str], status: int, code: int) -> None:
    message = call(1, "echo")
    response = await echo.post(message, {**headers_of(message), **headers})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "*/*"},
        {"Accept": "text/event-stream;q=0.5, application/json"},
        {"Accept": "text/*, application/*"},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Mcp-Name": "=?base64?ZWNobw==?="},
        {"Origin": "http://localhost:3000"},
        {"Host": "localhost:1"},
        {"Host": "[::1]:80"},
    ],
)
async def test_headers_that_are_right(echo: Client, headers: dict[str, str]) -> None:
    message = call(1, "echo")
    assert (await echo.post(message, {**headers_of(message), **headers})).status_code == 200


async def test_a_header_that_stands_twice(echo: Client) -> None:
    message = call(1, "echo")
    headers = [*headers_of(message).items(), ("Mcp-Name", "echo"), ("Content-Type", "application/json")]
    response = await echo.http.post(echo.url, content=json.dumps(message).encode(), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)


async def test_the_envelope(echo: Client) -> None:
    for missing in ("protocolVersion", "clientCapabilities"):
        message = call(1, "echo")
        del message["params"]["_meta"][f"io.modelcontextprotocol/{missing}"]
        response = await echo.modern(message)
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32602)
        assert missing in response.json()["error"]["message"]
    message = call(1, "echo")
    message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2030-01-01"
    response = await echo.modern(message, MCP_Protocol_Version="2030-01-01")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == -32022
    assert response.json()["error"]["data"] == {"supported": [MODERN], "requested": "2030-01-01"}


async def test_errors_have_their_status(echo: Client) -> None:
    for message, status, code in (
        (request(1, "no/such"), 404, -32601),
        (call(1, "no such"), 400, -32602),
        (call(1, "error"), 200, -32123),
    ):
        response = await echo.modern(message)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_an_agent_that_is_not_there(url: str) -> None:
    async with client(url, "ech") as nobody:
        response = await nobody.modern(call(1, "echo"))
        assert response.status_code == 404
        assert response.json()["error"]["data"]["mesh"] == "no_such_agent"
        response = await nobody.begin()
        assert response.status_code == 404
        assert "mcp-session-id" not in response.headers


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b"3", -32600),
        (b'{"id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32602),
        (b"[" * 100_000, -32700),
    ],
)
@pytest.mark.parametrize("version", ["", "2025-06-18", MODERN])
async def test_garbage(echo: Client, body: bytes, code: int, version: str) -> None:
    response = await echo.post(body, {"MCP-Protocol-Version": version})
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


async def test_methods_and_paths(echo: Client, url: str) -> None:
    for method, headers, allow in (("PUT", {}, "GET, POST, DELETE"), ("GET", {"MCP-Protocol-Version": MODERN}, "POST")):
        response = await echo.http.request(method, echo.url, headers=headers)
        assert (response.status_code, response.headers["allow"]) == (405, allow)
    for path in ("/", "/mcp/x", "/agents/echo", "/agents//mcp", "/agents/echo/mcp/", "/agents/echo/../echo/mcp/x", "/health/x"):
        assert (await echo.http.post(url + path)).status_code == 404
    assert (await echo.http.get(f"{url}/agents/echo/ws")).status_code == 426
    assert (await echo.http.get(f"{url}/health")).json() == {"status": "ok"}
    assert (await echo.http.get(f"{url}/ready")).json() == {"ready": True}
    assert (await echo.http.post(f"{url}/ready")).status_code == 405
    assert (await echo.http.head(f"{url}/ready")).status_code == 200


async def test_a_notification_of_the_modern_era_is_accepted(echo: Client) -> None:
    response = await echo.modern({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    assert (response.status_code, response.content) == (202, b"")
    assert (await echo.modern({"jsonrpc": "2.0", "id": 1, "result": {}})).status_code == 400


async def test_closing_the_connection_cancels(echo: Client) -> None:
    """The server is told within 200 ms: another call waits for the notice that it gets."""
    before = asyncio.create_task(echo.modern(call(1, "wait", {"method": "notifications/cancelled", "count": 1})))
    message = call(2, "slow", {"seconds": 60})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(echo.modern(message), 0.3)
    async with asyncio.timeout(1):
        assert "True" in (await before).text


async def test_host_and_origin(echo: Client, url: str, plane: str) -> None:
    message = call(1, "echo")
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "user@localhost",
        "localhost:80:80",
        "0.0.0.0",
        "[::2]",
    ):
        for path in ("/agents/echo/mcp", "/health", "/ready"):
            response = await echo.http.post(url + path, json=message, headers={**headers_of(message), "Host": host})
            assert response.status_code == 421, host
    for origin in (
        "http://evil.example",
        "null",
        "http://localhost.evil.example",
        "file://",
        "https://localhost@evil.example",
        "localhost",
    ):
        response = await echo.http.post(echo.url, json=message, headers={**headers_of(message), "Origin": origin})
        assert response.status_code == 403, origin
    async with front(plane, hosts=("mesh.example",), origins=("https://app.example",)) as open_url:
        headers = {**headers_of(message), "Host": "mesh.example:8443", "Origin": "https://app.example"}
        assert (await echo.http.post(f"{open_url}/agents/echo/mcp", json=message, headers=headers)).status_code == 200


async def test_it_listens_on_this_machine_only(plane: str, url: str) -> None:
    settings = make_settings(broker=plane)
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(ConfigError, match="without TLS"):
            await serving(make_http(host=host), settings).__aenter__()
    with pytest.raises(ConfigError, match="no address"):
        await serving(make_http(host="example.com"), settings).__aenter__()
    with pytest.raises(PortTaken):
        await serving(make_http(port=int(url.rpartition(":")[2])), settings).__aenter__()


async def test_big_bodies(plane: str, echo: Client) -> None:
    text = "x" * 300_000
    response = await echo.modern(call(1, "echo", {"text": text}))
    assert response.json()["result"]["structuredContent"]["arguments"]["text"] == text
    async with front(plane, most_bytes=100_000) as url, client(url, "echo") as small:
        message = call(1, "echo", {"text": text})
        assert (await small.modern(message)).status_code == 413

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(10):
                yield b" " * 50_000

        headers = {**headers_of(message), "Content-Type": "application/json"}
        assert (await small.http.post(small.url, content=chunks(), headers=headers)).status_code == 413
        assert (await small.modern(call(1, "echo"))).status_code == 200


async def test_many_clients_with_the_same_ids(url: str) -> None:
    async with httpx2.AsyncClient(timeout=30, limits=httpx2.Limits(max_connections=50)) as http:
        clients = [Client(http, f"{url}/agents/echo/mcp") for _ in range(50)]
        sessions = clients[:10]
        for each in sessions:
            await each.begin()

        async def one(number: int, id: int) -> None:
            modern = number >= len(sessions)
            message = call(id, "slow", {"seconds": 0.05, "steps": 2}, modern=modern, progressToken=id)
            plain = call(id + 4, "echo", {"n": f"{number}-{id}"}, modern=modern)
            each = clients[number]
            ask = each.modern if modern else each.post
            streamed, answered = await asyncio.gather(ask(message), ask(plain))
            events = [json.loads(line[6:]) for line in streamed.text.split("\r\n") if line.startswith("data: {")]
            assert [event["params"]["progressToken"] for event in events[:-1]] == [id, id]
            assert events[-1]["id"] == id
            assert (answered.json()["id"], answered.json()["result"]["structuredContent"]["arguments"]) == (id + 4, {"n": f"{number}-{id}"})

        await asyncio.gather(*(one(number, id) for number in range(50) for id in range(4)))


async def test_params_in_headers(plane: str) -> None:
    async with agent(plane, "region", "headers"), front(plane) as url, client(url, "region") as region:
        message = call(1, "where", {"region": "eu", "other": 1})
        assert (await region.modern(message, Mcp_Param_Region="eu")).status_code == 200
        for headers in ({}, {"Mcp_Param_Region": "us"}):
            response = await region.modern(message, **headers)
            assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)
        message = call(1, "where", {"other": 1})
        assert (await region.modern(message, Mcp_Param_Other="1")).status_code == 200
        assert (await region.modern(message, Mcp_Param_Region="eu")).status_code == 400


async def test_params_in_headers_of_all_agents_as_one(plane: str) -> None:
    async with agent(plane, "land", "headers"), front(plane) as url, httpx2.AsyncClient(timeout=20) as http:
        everyone = Client(http, f"{url}/mcp")
        message = call(1, "land__where", {"region": "eu"})
        assert (await everyone.modern(message, Mcp_Param_Region="eu")).json()["result"]["content"]
        for headers in ({}, {"Mcp_Param_Region": "us"}):
            response = await everyone.modern(message, **headers)
            assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)
        assert (await everyone.modern(call(1, "find_tools", {"query": "where"}))).status_code == 200


async def test_an_instance_that_dies_while_a_call_runs(plane: str) -> None:
    with bridges(plane, ("mortal", "echo")) as [bridge]:
        async with front(plane) as url, client(url, "mortal") as mortal:
            running = asyncio.create_task(mortal.modern(call(1, "slow", {"seconds": 60})))
            assert (await mortal.modern(call(2, "wait", {"method": "tools/call", "count": 1}))).status_code == 200
            bridge.send(signal.SIGKILL)
            response = await running
            error = json.loads(response.text.partition("data: ")[2] or response.text)["error"]
            assert error["data"]["mesh"] == "instance_lost"
