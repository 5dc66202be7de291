"""Who gets in over HTTP and WebSocket, and as whom: a real front before a real broker."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from mcp import Client as SdkClient
from mcp.client.streamable_http import streamable_http_client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from bridge.web import door
from mesh import clock
from mesh.crypto import bearer
from mesh.crypto.creds import read_credentials
from mesh.crypto.keys import Kind, new_key, read_seed
from mesh.identity.push import push
from mesh.identity.tokens import make_token
from tests.auth_world import ME, NOBODY, OTHER, World, issue, join, made
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Background
from tests.web_world import MODERN, agent, call, front, headers_of, request

pytestmark = CUT_WARNINGS


@pytest.fixture(scope="module")
def world(broker: Broker, plane: str) -> Iterator[World]:
    with Background(lambda: made(broker)) as background:
        yield background.value


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong tokens of one test do not slow down the next."""
    monkeypatch.setattr(door, "_address", repr)


# ---- who comes in


@pytest.mark.parametrize("name", [ME, OTHER])
async def test_the_caller_is_the_one_in_the_token(world: World, name: str) -> None:
    async with asyncio.timeout(20), world.client(name) as client:
        message = call(1, "x", {"n": name})
        for _ in range(2):  # verified, and remembered
            response = await client.modern(message)
            assert (response.status_code, response.json()["result"]) == (200, {"echo": {"n": name}})
        assert {each.caller for each in world.recorder.calls if f'"{name}"'.encode() in each.frame.raw} == {name}


@pytest.mark.parametrize("mode", ["auto", "legacy", MODERN])
@pytest.mark.parametrize("path", ["/agents/old/mcp", "/mcp"])
async def test_the_sdks_client_brings_a_token(world: World, mode: str, path: str) -> None:
    async with (
        asyncio.timeout(30),
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {world.token()}"}) as http,
        SdkClient(streamable_http_client(world.url + path, http_client=http), mode=mode) as sdk,
    ):
        assert {tool.name for tool in (await sdk.list_tools()).tools} & {"ask", "old__ask"}


@pytest.mark.parametrize("path", ["/agents/witness/mcp", "/agents/nobody-has-that-name/mcp", "/mcp", "/agents/witness/ws", "/ws"])
async def test_without_a_token_a_client_is_told_where_to_get_in(world: World, path: str) -> None:
    async with asyncio.timeout(10), httpx2.AsyncClient() as http:
        message = call(1, "x")
        metadata = f"{world.url}/.well-known/oauth-protected-resource{path}"
        for response in (await http.post(world.url + path, json=message, headers=headers_of(message)), await http.get(world.url + path)):
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == f'Bearer resource_metadata="{metadata}"'
        document = await http.get(metadata)
        assert document.json() == {"resource": world.url + path, "bearer_methods_supported": ["header"], "resource_name": "mesh"}


async def test_what_is_open_to_everybody(world: World) -> None:
    async with asyncio.timeout(10), httpx2.AsyncClient() as http:
        for path in ("/health", "/ready", "/.well-known/oauth-protected-resource"):
            assert (await http.get(world.url + path)).status_code == 200
        known = "/.well-known/oauth-protected-resource"
        for path in ("/", "/agents", "/mcp/x", known + "/other", known + "/health", known + known):
            assert (await http.get(world.url + path)).status_code == 404, path


async def test_the_metadata_names_the_configured_issuers(broker: Broker, plane: str, tmp_path: Path) -> None:
    issuers = ({"issuer": "https://id.example", "jwks": str(tmp_path / "jwks")},)
    async with asyncio.timeout(20), front(plane, auth="token", issuers=issuers) as url, httpx2.AsyncClient() as http:
        port = url.rpartition(":")[2]
        document = (await http.get(f"http://localhost:{port}/.well-known/oauth-protected-resource/mcp")).json()
        assert document["authorization_servers"] == ["https://id.example"]
        assert document["resource"] == f"http://localhost:{port}/mcp"  # the name that the client has used


def wrong(world: World) -> dict[str, str]:
    good = world.token()
    _, claims, signature = good.split(".")
    mallory, now = new_key(Kind.USER), clock.wall_ns() // 1_000_000_000
    path = world.authority.credentials(ME)
    assert path is not None
    mine = read_seed(read_credentials(path).seed)
    return {
        "expired": bearer.sign_bearer(mine, ME, world.url, issued=now - 99, expires=now - 50, id="1"),
        "another audience": world.token(audience="http://127.0.0.1:1"),
        "another part": world.token(audience=world.url + "/agents/other"),
        "alg none": "eyJhbGciOiJub25lIn0." + claims + ".",
        "HS256": "eyJhbGciOiJIUzI1NiJ9." + claims + "." + signature,
        "a foreign key": bearer.sign_bearer(mallory, ME, world.url, issued=now, expires=now + 99, id="1"),
        "cut": good[:-4],
        "one letter": "x",
        "nonsense": "a,b;c==.{}.~",
    }


@pytest.mark.parametrize(
    "what", ["expired", "another audience", "another part", "alg none", "HS256", "a foreign key", "cut", "one letter", "nonsense"]
)
async def test_a_wrong_token_is_refused_in_both_eras_and_over_websocket(world: World, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    token = wrong(world)[what]
    async with asyncio.timeout(20), world.client(token=token) as client:
        responses = [await client.modern(call(1, "x")), await client.begin(), await client.http.get(client.url)]
        for response in responses:
            assert response.status_code == 401
            assert 'error="invalid_token"' in response.headers["www-authenticate"]
            assert "resource_metadata=" in response.headers["www-authenticate"]
            assert len(token) < 9 or token[-20:] not in response.text + str(response.headers)
    with pytest.raises(InvalidStatus) as refused:
        async with join(world, token):
            pass
    assert refused.value.response.status_code == 401
    assert "invalid_token" in refused.value.response.headers["www-authenticate"]
    said = "".join(capfd.readouterr())
    assert len(token) < 9 or token[-20:] not in said


async def test_one_authorization_header_and_bearer_alone(world: World) -> None:
    async with asyncio.timeout(10), httpx2.AsyncClient() as http:
        message = call(1, "x")
        url, pairs = f"{world.url}/agents/witness/mcp", [*headers_of(message).items(), ("Content-Type", "application/json")]
        good = ("Authorization", f"Bearer {world.token()}")
        for headers in ([good, good], [good, ("Authorization", "Bearer x")], [("Authorization", "Basic YTpi")]):
            response = await http.post(url, content=json.dumps(message), headers=[*pairs, *headers])
            assert (response.status_code, "invalid_request" in response.headers["www-authenticate"]) == (400, True)
        lower = [*pairs, ("authorization", good[1].replace("Bearer", "bearer"))]
        assert (await http.post(url, content=json.dumps(message), headers=lower)).status_code == 200
        in_address = await http.post(f"{url}?access_token={world.token()}", content=json.dumps(message), headers=pairs)
        assert in_address.status_code == 401


async def test_a_token_for_one_agent_is_good_there_only(world: World) -> None:
    token = world.token(audience=world.url + "/agents/witness")
    async with asyncio.timeout(10), world.client(token=token) as client, world.client(agent="old", token=token) as other:
        assert (await client.modern(call(1, "x"))).status_code == 200
        assert (await other.modern(call(1, "echo"))).status_code == 401


# ---- what belongs to whom


async def test_another_users_session_is_unknown(world: World) -> None:
    async with asyncio.timeout(20), world.client(agent="old") as mine, world.client(OTHER, agent="old") as theirs:
        assert (await mine.begin()).status_code == 200
        theirs.session = mine.session
        for response in (
            await theirs.post(request(1, "tools/list", modern=False)),
            await theirs.http.get(theirs.url, headers={**theirs.session, "Accept": "text/event-stream"}),
            await theirs.http.delete(theirs.url, headers=theirs.session),
        ):
            assert response.status_code == 404
        assert (await mine.post(request(1, "tools/list", modern=False))).status_code == 200
        mine.http.headers["Authorization"] = f"Bearer {world.token()}"  # a new token of the same user
        assert (await mine.post(request(2, "tools/list", modern=False))).status_code == 200


async def test_what_the_roles_do_not_allow(world: World) -> None:
    """The broker's permissions are the user's own, and HTTP says it in its own words."""
    async with asyncio.timeout(20), world.client(NOBODY) as client:
        for response in (await client.modern(call(1, "x")), await client.begin()):
            assert response.status_code == 403, response.text
            assert response.json()["error"]["data"]["mesh"] == "permission_denied"
            assert 'error="insufficient_scope"' in response.headers["www-authenticate"]
    assert NOBODY not in {each.caller for each in world.recorder.calls}


async def test_who_may_not_call_a_tool_learns_nothing_of_its_schema(world: World) -> None:
    async with asyncio.timeout(20), agent(world.broker.url, "region", "headers"):
        for name, status in ((ME, 400), (NOBODY, 403)):
            async with world.client(name, agent="region") as client:
                response = await client.modern(call(1, "where", {"region": "eu"}))
                assert (response.status_code, "Region" in response.text) == (status, status == 400)


async def test_a_websocket_brings_its_token_with_the_handshake(world: World) -> None:
    async with asyncio.timeout(10), join(world, world.token(OTHER)) as socket:
        await socket.send(json.dumps(call(1, "x", {"n": "by socket"})))
        assert json.loads(await socket.recv())["result"] == {"echo": {"n": "by socket"}}
    assert [each.caller for each in world.recorder.calls if b"by socket" in each.frame.raw] == [OTHER]
    with pytest.raises(InvalidStatus) as refused:
        async with asyncio.timeout(10), connect(f"ws{world.url.removeprefix('http')}/agents/witness/ws", subprotocols=[Subprotocol("mcp")]):
            pass
    assert refused.value.response.status_code == 401


async def test_a_websocket_ends_with_its_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from bridge.web import endpoint

    monkeypatch.setattr(endpoint, "SWEEP", 0.05)
    monkeypatch.setattr(bearer, "LEEWAY", 0)
    async with asyncio.timeout(20), front(world.broker.url, auth="token") as url:
        async with join(world, world.token(audience=url, lifetime=timedelta(seconds=2)), url) as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, "expired" in closed.value.rcvd.reason) == (1008, True)


async def test_a_revoked_user_is_out_at_once_with_all_that_it_had_open(world: World) -> None:
    await issue(world.broker, "dora", "agent", "host")
    token = world.token("dora")
    async with asyncio.timeout(20), world.client(agent="old", token=token) as client, join(world, token) as socket:
        assert (await client.begin()).status_code == 200
        async with client.events("GET") as events:
            assert (await client.post(request(1, "tools/list", modern=False))).status_code == 200
            async with asyncio.timeout(4):
                world.authority.revoke("dora")
                await push(world.authority, world.broker.url)
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
                await events.until(lambda each: each.ended)
        assert (await client.post(request(2, "tools/list", modern=False))).status_code == 401
        assert (await client.modern(call(1, "x"))).status_code == 401


async def test_the_broker_has_the_last_word(world: World, tmp_path: Path) -> None:
    """A front with a copy of credentials, which does not hear that they were revoked."""
    await issue(world.broker, "emil", "agent", "host")
    copy = tmp_path / "emil.creds"
    path = world.authority.credentials("emil")
    assert path is not None
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    async with asyncio.timeout(30), front(world.broker.url, auth="token", credentials=tmp_path) as url:
        token = make_token(read_credentials(copy), url)[0]
        async with world.client(token=token, url=url) as client, world.client(ME, url=url) as stranger:
            assert (await client.modern(call(1, "x"))).status_code == 200
            assert (await stranger.modern(call(1, "x"))).status_code == 401  # this front was not given its credentials
            async with join(world, token, url) as socket:
                world.authority.revoke("emil")
                await push(world.authority, world.broker.url)
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
            response = await client.modern(call(1, "x"))
            assert (response.status_code, "not admitted" in response.headers["www-authenticate"]) == (401, True)
