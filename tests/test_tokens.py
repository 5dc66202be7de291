"""Bearer tokens without a front: who made them, for whom, until when; and what a forger could write instead."""

import base64
import hashlib
import hmac
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from mesh import clock
from mesh.crypto import bearer
from mesh.crypto.keys import Kind, new_key
from mesh.errors import ConfigError, InvalidToken
from mesh.identity import tokens
from mesh.identity.tokens import make_token
from tests.token_world import BASE, NAME, Clock, World, text


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_a_token_is_its_makers(world: World) -> None:
    token = world.token()
    assert world.verifier.known(token) is None
    found = await world.verifier.verify(token)
    assert found.user.name == NAME
    assert found.serves("/mcp")
    assert world.verifier.known(token) is found
    claims = bearer.peek(token.decode()).claims
    assert claims["iss"] == claims["sub"] == world.credentials.public
    assert world.credentials.seed not in token.decode()


async def test_any_library_can_verify_one(world: World) -> None:
    raw = base64.b32decode(world.credentials.public + "=" * (-len(world.credentials.public) % 8))[1:-2]
    key = ed25519.Ed25519PublicKey.from_public_bytes(raw)
    said = jwt.decode(world.token(), key, algorithms=["EdDSA"], audience=BASE, options={"require": ["exp", "iat", "nbf", "jti"]})
    assert said["name"] == NAME


@pytest.mark.parametrize(
    ("audience", "serves", "not_there"),
    [
        (BASE, ["/mcp", "/agents/time/mcp"], []),
        (BASE + "/", ["/mcp"], []),
        ("https://mesh.example", ["/mcp"], []),
        (BASE + "/agents/time", ["/agents/time/mcp", "/agents/time/ws"], ["/mcp", "/agents/timer/mcp", "/agents", "/agents/tim"]),
        (BASE + "/mcp", ["/mcp"], ["/ws", "/mcpx"]),
    ],
)
async def test_an_audience_is_the_front_or_a_part_of_it(world: World, audience: str, serves: list[str], not_there: list[str]) -> None:
    found = await world.verifier.verify(world.token(audience))
    assert [path for path in [*serves, *not_there] if found.serves(path)] == serves


async def refused(world: World, token: bytes) -> str:
    with pytest.raises(InvalidToken) as caught:
        await world.verifier.verify(token)
    assert world.verifier.known(token) is None
    said = str(caught.value) + caught.value.hint + str(caught.value.details)
    assert token.decode("latin-1")[:20] not in said or not token
    return str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "http://127.0.0.1:8601"}, {"aud": BASE + "1"}, {"aud": None}, {"aud": 7}, {"aud": [None, {}]}, {"aud": "http://127.0.0.1"},
        {"exp": 1}, {"exp": None}, {"exp": "tomorrow"}, {"exp": True}, {"exp": float("nan")}, {"exp": 1e300}, {"exp": 99_999_999_999},
        {"nbf": 99_999_999_999}, {"iat": 99_999_999_999}, {"iat": None}, {"iat": -1}, {"nbf": []},
        {"iss": "UAAAA"}, {"sub": "somebody"}, {"iss": None}, {"name": "nobody"}, {"name": None}, {"name": 7}, {"name": ""},
        {"name": "../users/qa_x20_manager"}, {"name": "x" * 5_000}, {"name": "\ud800"}, {"name": "mesh"}, {"name": "gateway"},
    ],
    ids=str,
)  # fmt: skip
async def test_claims_that_do_not_count_here(world: World, change: dict[str, Any]) -> None:
    assert (await world.verifier.verify(world.signed({}))).user.name == NAME  # only the change is what is wrong
    await refused(world, world.signed(change))


async def test_other_algorithms_and_forged_signatures(world: World) -> None:
    head, claims, signature = world.token().decode().split(".")
    public = world.credentials.public
    for algorithm in ("none", "None", "", None, "HS256", "RS256", "ed25519-nkey", "eddsa"):
        header = {"alg": algorithm, "typ": "JWT"}
        signing = f"{text(header)}.{claims}"
        for secret in (public.encode(), base64.b32decode(public)[1:-2]):
            await refused(world, f"{signing}.{text(hmac.new(secret, signing.encode(), hashlib.sha256).digest())}".encode())
        for end in ("", signature):
            await refused(world, f"{signing}.{end}".encode())
    mallory = new_key(Kind.USER)
    now = clock.wall_ns() // 1_000_000_000
    await refused(world, bearer.sign_bearer(mallory, NAME, BASE, issued=now, expires=now + 60, id="1").encode())
    lying = {**json.loads(base64.urlsafe_b64decode(claims + "==")), "exp": now + 86_400}
    await refused(world, f"{head}.{text(lying)}.{signature}".encode())
    for said in ({"alg": "EdDSA", "crit": ["b64"], "b64": False}, {"alg": "EdDSA", "typ": "dpop+jwt"}, ["EdDSA"], "EdDSA"):
        await refused(world, f"{text(said)}.{claims}.{signature}".encode())


@pytest.mark.parametrize(
    "raw", [b"", b".", b"..", b"a.b.c", b"\xff.\xff.\xff", b"e30.e30.e30", b"." * 9_000, text({"a": 1}).encode() * 900, b"!.!.!"]
)
async def test_what_is_no_token(world: World, raw: bytes) -> None:
    await refused(world, raw)
    await refused(world, text([] if len(raw) < 3 else b"[" * 5_000).encode() + b"." + raw + b".x")


async def test_who_is_unknown_is_told_nothing_else_than_a_forger(world: World) -> None:
    now = clock.wall_ns() // 1_000_000_000
    forged = [bearer.sign_bearer(new_key(Kind.USER), name, BASE, issued=now, expires=now + 9, id="1") for name in (NAME, "nobody")]
    assert len({await refused(world, each.encode()) for each in forged}) == 1


async def test_it_expires_also_where_it_is_remembered(world: World, time: Clock) -> None:
    token = world.token(lifetime=timedelta(seconds=60))
    await world.verifier.verify(token)
    time.ahead = 60 + bearer.LEEWAY - 1
    assert world.verifier.known(token) is not None
    time.ahead = 60 + bearer.LEEWAY + 1
    assert world.verifier.known(token) is None
    assert "expired" in await refused(world, token)


async def test_it_ends_with_its_participants_credentials(world: World, time: Clock) -> None:
    world.authority.issue(NAME, ("agent", "host"), expires=timedelta(seconds=30))
    token, expires = make_token(world.credentials, BASE, timedelta(hours=1))
    assert expires == world.credentials.expires
    longer = world.signed({"exp": clock.wall_ns() // 1_000_000_000 + 3_600})
    await world.verifier.verify(longer)
    time.ahead = 31
    assert world.verifier.known(longer) is None
    assert "credentials" in await refused(world, longer)
    with pytest.raises(ConfigError, match="expired"):
        make_token(world.credentials, BASE)
    world.authority.renew(NAME)
    assert (await world.verifier.verify(longer)).user.name == NAME  # the key is the same
    assert token


async def test_revocation_and_a_new_key_void_it(world: World, time: Clock) -> None:
    token = world.token()
    await world.verifier.verify(token)
    world.authority.issue(NAME, ("agent", "host"), new_key=True)
    time.ahead += tokens.LOOK + 0.1
    assert world.verifier.known(token) is None
    await refused(world, token)
    token = world.token()
    await world.verifier.verify(token)
    world.authority.revoke(NAME)
    time.ahead += tokens.LOOK + 0.1
    assert world.verifier.known(token) is None
    await refused(world, token)


async def test_what_is_remembered_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_REMEMBERED", 3)
    made = [world.token() for _ in range(5)]
    for each in made:
        await world.verifier.verify(each)
    assert [world.verifier.known(each) is not None for each in made] == [False, False, True, True, True]


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(days=31)])
def test_a_life_is_bounded(world: World, lifetime: timedelta) -> None:
    with pytest.raises(ConfigError, match="30 days"):
        make_token(world.credentials, BASE, lifetime)
