"""Over HTTP: in another's name, through the front's own rights, out of a browser, and past its parsers."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from bridge.web import door
from mesh import clock
from mesh.crypto import bearer
from mesh.crypto.creds import read_credentials
from mesh.crypto.keys import Kind, new_key, read_seed
from mesh.identity.push import push
from mesh.identity.tokens import make_token
from tests.attacks.world import HOST, World
from tests.helpers import CUT_WARNINGS, Recorder
from tests.web_world import Client, agent, call, front, headers_of, request

pytestmark = CUT_WARNINGS


@pytest.fixture
async def url(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A front that wants tokens, with nothing behind it yet. Wrong tokens of one test do not slow down the next."""
    monkeypatch.setattr(door, "_address", repr)
    async with front(world.url, auth="token") as url:
        yield url


def credentials(world: World, name: str) -> Any:
    path = world.authority.credentials(name)
    assert path is not None
    return read_credentials(path)


def token(world: World, url: str, name: str = "honest") -> str:
    return make_token(credentials(world, name), url, timedelta(hours=1))[0]


async def said(world: World, url: str, bearer_token: str, target: str = "victim") -> Client:
    http = await world.stack.enter_async_context(httpx2.AsyncClient(timeout=10, headers={"Authorization": f"Bearer {bearer_token}"}))
    return Client(http, f"{url}/agents/{target}/mcp")


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_a_bearer_token_that_is_forged(world: World, url: str) -> None:
    """Another audience, no algorithm or a symmetric one with the public key, a foreign key, one's own for another's name, expired."""
    recorder, _ = await world.victim()
    good, now = token(world, url), clock.wall_ns() // 10**9
    head, claims, signature = good.split(".")
    mine, theirs = read_seed(credentials(world, HOST).seed), read_seed(credentials(world, "honest").seed)

    def sign(key: Any, **other: Any) -> str:
        return bearer.sign_bearer(key, **{"name": "honest", "audience": url, "issued": now, "expires": now + 99, "id": "1", **other})

    forged = {
        "alg none": part({"alg": "none"}) + f".{claims}.",
        "alg None, signed": part({"alg": "None"}) + f".{claims}.{signature}",
        "alg HS256": part({"alg": "HS256", "kid": theirs.public}) + f".{claims}.{signature}",
        "claims changed": f"{head}.{part({'sub': 'operator', 'aud': url, 'exp': now + 99, 'iat': now})}.{signature}",
        "a foreign key": sign(new_key(Kind.USER)),
        "one's own key, another's name": sign(mine),
        "another's audience": sign(theirs, audience="http://127.0.0.1:1"),
        "another part of it": sign(theirs, audience=url + "/agents/steady"),
        "expired": sign(theirs, issued=now - 99, expires=now - 50),
        "of the control plane": sign(mine, name="mesh"),
    }
    with capture_logs() as logs:
        for what, each in forged.items():
            response = await (await said(world, url, each)).modern(call(1, "t"))
            assert (response.status_code, what) == (401, what)
    assert len([each for each in logs if each["event"] == "a token was refused" and each["address"]]) == len(forged)
    assert recorder.calls == []
    assert (await (await said(world, url, sign(theirs))).modern(call(1, "t"))).status_code == 200
    assert [each.caller for each in recorder.calls] == ["honest"]


async def test_a_bearer_token_of_who_was_revoked(world: World, url: str) -> None:
    await world.victim()
    world.authority.issue("dismissed", ("agent", "host"))
    await push(world.authority, world.url)
    client = await said(world, url, token(world, url, "dismissed"))
    assert (await client.modern(call(1, "t"))).status_code == 200
    world.authority.revoke("dismissed")
    await push(world.authority, world.url)
    async with asyncio.timeout(3):
        while (await client.modern(call(2, "t"))).status_code != 401:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.05)


async def raw(url: str, lines: bytes) -> list[bytes]:
    """Bytes straight to the socket; the status lines of what comes back."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(lines)
        async with asyncio.timeout(5):
            text = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return [line for line in text.split(b"\r\n") if line.startswith(b"HTTP/1.1")]


def post(url: str, bearer_token: str, path: str, message: dict[str, Any], more: str = "") -> bytes:
    body = json.dumps(message).encode()
    pairs = {**headers_of(message), "Content-Type": "application/json", "Authorization": f"Bearer {bearer_token}", "Connection": "close"}
    head = "".join(f"{key}: {value}\r\n" for key, value in pairs.items())
    start = f"POST {path} HTTP/1.1\r\nHost: {url.removeprefix('http://')}\r\nContent-Length: {len(body)}\r\n"
    return f"{start}{head}{more}\r\n".encode() + body


async def test_inject_by_headers(world: World, url: str) -> None:
    """A second length or host, a header that goes on, one that names the caller, the broker or the mesh: refused, or without meaning."""
    recorder, _ = await world.victim()
    mine, message, path = token(world, url, HOST), call(1, "t"), "/agents/victim/mcp"
    smuggled = post(url, mine, path, call(2, "smuggled"))
    again = f"Authorization: Bearer {token(world, url)}\r\n"
    refused = ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: evil.example\r\n", "X: a\x00b\r\n", again]
    for each in refused:
        answers = await raw(url, post(url, mine, path, message, each) + smuggled)
        assert all(b" 200 " not in line for line in answers), (each, answers)
    assert recorder.calls == []
    for each in ("X-Forwarded-User: honest", "Mesh-Caller: honest", "Nats-Msg-Id: 1", "Mesh-Deadline: none", "X-Forwarded-For: 127.0.0.1"):
        assert await raw(url, post(url, mine, path, message, f"{each}\r\n")) == [b"HTTP/1.1 200 OK"]
    assert {each.caller for each in recorder.calls} == {HOST}
    assert {each.timeout for each in recorder.calls} == {60.0}


PATHS = [
    "/agents/steady.any.honest/mcp", "/agents/victim%2Eany%2Ehonest.tools.call.t%3F/mcp", "/agents/%2A/mcp", "/agents/%3E/mcp",
    "/agents/victim%0D%0APUB%20x%200/mcp", "/agents/..%2Fvictim/mcp", "/agents/../../mcp", "//victim/mcp", "/agents/victim/../steady/mcp",
    "/agents/%7B%7Bname()%7D%7D/mcp", "/agents/victim%00/mcp", "/agents/%FF%FE/mcp", "/agents/" + "x" * 5_000 + "/mcp",
    "/agents/victim/mcp/..;/ws", "/AGENTS/victim/mcp",
]  # fmt: skip


async def test_inject_by_the_path(world: World, url: str) -> None:
    """An agent's name is escaped before it is a token of a subject: nobody has these names."""
    recorder, _ = await world.victim()
    mine, message = token(world, url, HOST), call(1, "t")
    for path in PATHS:
        answers = await raw(url, post(url, mine, path, message))
        assert answers, path
        assert all(line.split()[1] in (b"400", b"404", b"413", b"414", b"421") for line in answers), (path, answers)
    assert recorder.calls == []
    assert await raw(url, post(url, mine, "/agents/v%69ctim/mcp", message)) == [b"HTTP/1.1 200 OK"]
    assert len(recorder.calls) == 1


HOSTS = ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1@evil.example", "[::1]x"]
ORIGINS = ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost@evil.example", "file://", "http://"]


async def test_out_of_a_page_in_a_browser(world: World) -> None:
    """Cross-origin, and by a name of the attacker's that suddenly means this machine: even where everybody may come in."""
    recorder, _ = await world.victim()
    async with front(world.url) as url, httpx2.AsyncClient() as http:
        client = Client(http, f"{url}/agents/victim/mcp")
        for host in HOSTS:
            assert (await client.modern(call(1, "t"), Host=host)).status_code in (400, 421), host
        for origin in ORIGINS:
            assert (await client.modern(call(1, "t"), Origin=origin)).status_code == 403, origin
        preflight = await http.options(client.url, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"})
        assert preflight.status_code >= 400
        assert "access-control-allow-origin" not in preflight.headers
        assert recorder.calls == []
        assert (await client.modern(call(1, "t"))).status_code == 200


async def test_use_anothers_session_over_http(world: World, url: str) -> None:
    """Its id, stolen or guessed: without the token of its owner it is none."""
    await world.stack.enter_async_context(agent(world.url, "victim", "asker"))
    mine, theirs = await said(world, url, token(world, url)), await said(world, url, token(world, url, HOST))
    assert (await mine.begin()).status_code == 200
    theirs.session = mine.session
    assert (await theirs.post(request(1, "tools/list", modern=False))).status_code == 404
    assert (await theirs.http.get(theirs.url, headers={**theirs.session, "Accept": "text/event-stream"})).status_code == 404
    assert (await theirs.http.delete(theirs.url, headers=theirs.session)).status_code == 404
    assert (await mine.post(request(1, "tools/list", modern=False))).status_code == 200


async def test_reach_through_the_front_what_one_may_not(world: World, url: str) -> None:
    """The front acts with its users' own credentials: whom the broker lets call nobody calls nobody here."""
    recorder: Recorder
    recorder, _ = await world.victim()
    client = await said(world, url, token(world, url, "mallory"))
    assert (await client.modern(call(1, "t"))).status_code == 403
    assert recorder.calls == []
    assert (await (await said(world, url, token(world, url, HOST))).modern(call(1, "t"))).status_code == 200
