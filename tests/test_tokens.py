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
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mesh import clock
from mesh.crypto import bearer
from mesh.crypto.creds import read_credentials
from mesh.crypto.keys import Kind, new_key, read_seed
from mesh.errors import ConfigError, InvalidToken
from mesh.identity import issuers, tokens
from mesh.identity.authority import Authority
from mesh.identity.issuers import Issuer, Provider
from mesh.identity.tokens import Verifier, make_token

BASE = "http://127.0.0.1:8600"
NAME = "qa manager"


class World:
    """A state directory with one participant, and a verifier that has its credentials."""

    def __init__(self, path: Path) -> None:
        self.authority = Authority.open(path, create=True)
        self.authority.issue(NAME, ("agent", "host"))
        self.users = self.authority.keyring.path / "users"
        self.verifier = Verifier(self.users, (BASE, "https://mesh.example/"))

    @property
    def credentials(self) -> Any:
        path = self.authority.credentials(NAME)
        assert path is not None
        return read_credentials(path)

    def token(self, audience: str = BASE, lifetime: timedelta = timedelta(hours=1)) -> bytes:
        return make_token(self.credentials, audience, lifetime)[0].encode()

    def signed(self, change: dict[str, Any]) -> bytes:
        """A token with other claims, but with the right signature. None takes a claim away."""
        now = clock.wall_ns() // 1_000_000_000
        key = read_seed(self.credentials.seed)
        claims: dict[str, Any] = {
            "iss": key.public,
            "sub": key.public,
            "name": NAME,
            "aud": BASE,
            "iat": now,
            "nbf": now,
            "exp": now + 60,
            "jti": "1",
        }
        claims = {name: value for name, value in (claims | change).items() if value is not None}
        return bearer._jws.encode(json.dumps(claims).encode(), key, algorithm="EdDSA").encode()  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Clock:
    """Time that a test moves, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        wall_ns, monotonic = clock.wall_ns, clock.monotonic
        monkeypatch.setattr(clock, "wall_ns", lambda: wall_ns() + int(self.ahead * 1e9))
        monkeypatch.setattr(clock, "monotonic", lambda: monotonic() + self.ahead)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def text(value: Any) -> str:
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=").decode()


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


# ---- outside issuers


ID = "https://id.example"
RSA, EC, ED = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, id: str | None, **more: str) -> dict[str, Any]:
    kind: Any = jwt.algorithms.OKPAlgorithm
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), **({} if id is None else {"kid": id}), **more}


class Outside:
    """An identity provider's keys, and how often they were asked for."""

    def __init__(self, world: World, *keys: Any, **options: Any) -> None:
        self.keys = [*keys]
        self.asked = 0
        self.fails = False
        provider = Provider(Issuer(ID, ID + "/jwks", **options), self.fetch)
        self.verifier = Verifier(world.users, (BASE,), [provider])

    async def fetch(self, url: str) -> bytes:
        assert url == ID + "/jwks"
        self.asked += 1
        if self.fails:
            raise ConfigError("it is away")
        return json.dumps({"keys": self.keys}).encode()

    async def comes(self, key: Any, algorithm: str, id: str | None, **change: Any) -> str:
        now = clock.wall_ns() // 1_000_000_000
        claims = {"iss": ID, "sub": NAME, "aud": BASE, "exp": now + 60, **change}
        token = jwt.encode(claims, key, algorithm=algorithm, headers={} if id is None else {"kid": id})
        return (await self.verifier.verify(token.encode())).user.name


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
async def test_an_outside_issuers_token_names_a_participant(world: World, key: Any, algorithm: str) -> None:
    outside = Outside(world, jwk(key, "k1"), jwk(RSA, "other"))
    assert await outside.comes(key, algorithm, "k1") == NAME
    for change in (
        {"sub": "nobody"}, {"sub": "mesh"}, {"sub": "operator"}, {"sub": 7}, {"aud": "https://other.example"}, {"exp": 1}, {"iss": ID + "/"}
    ):  # fmt: skip
        with pytest.raises(InvalidToken):
            await outside.comes(key, algorithm, "k1", **change)
    with pytest.raises(InvalidToken):
        await outside.comes(key, algorithm, "k2")
    mallory = {"RS256": rsa.generate_private_key(65537, 2048), "ES256": ec.generate_private_key(ec.SECP256R1())}
    with pytest.raises(InvalidToken, match="signature"):
        await outside.comes(mallory.get(algorithm, ed25519.Ed25519PrivateKey.generate()), algorithm, "k1")


async def test_an_issuers_claim_and_audience_are_what_the_configuration_says(world: World) -> None:
    outside = Outside(world, jwk(EC, None), claim="email", audience="mesh")
    assert await outside.comes(EC, "ES256", None, email=NAME, email_verified=True, aud=["mesh", "others"], sub="1") == NAME
    for said in ({"email_verified": False, "aud": "mesh"}, {"email_verified": True, "aud": BASE}):
        with pytest.raises(InvalidToken):
            await outside.comes(EC, "ES256", None, email=NAME, **said)


async def test_a_public_key_is_no_secret(world: World) -> None:
    """The classic: sign with HS256, and the provider's public key as the secret."""
    outside = Outside(world, jwk(RSA, "k1"), {"kty": "oct", "k": text(b"x" * 32), "kid": "k2"})
    claims = text({"iss": ID, "sub": NAME, "aud": BASE, "exp": clock.wall_ns() // 1_000_000_000 + 60})
    for algorithm in ("HS256", "RS256", "none"):
        signing = f"{text({'alg': algorithm, 'kid': 'k1'})}.{claims}"
        for secret in (json.dumps(jwk(RSA, "k1")).encode(), text(b"x" * 32).encode(), b"x" * 32):
            with pytest.raises(InvalidToken):
                await outside.verifier.verify(f"{signing}.{text(hmac.new(secret, signing.encode(), hashlib.sha256).digest())}".encode())
    with pytest.raises(ConfigError):
        Issuer(ID, ID + "/jwks", algorithms=("HS256",))
    with pytest.raises(ConfigError):
        Issuer(ID, "http://id.example/jwks")


async def test_only_the_algorithms_that_were_configured(world: World) -> None:
    outside = Outside(world, jwk(RSA, "k1"), jwk(EC, "k2"), algorithms=("RS256",))
    assert await outside.comes(RSA, "RS256", "k1") == NAME
    with pytest.raises(InvalidToken, match="algorithm"):
        await outside.comes(EC, "ES256", "k2")
    small = rsa.generate_private_key(65537, 1024)
    with pytest.warns(jwt.InsecureKeyLengthWarning), pytest.raises(InvalidToken):
        await Outside(world, jwk(small, "k1")).comes(small, "RS256", "k1")


async def test_keys_are_asked_for_seldom_and_outlive_an_outage(world: World, time: Clock) -> None:
    outside = Outside(world, jwk(EC, "k1"))
    for _ in range(3):
        assert await outside.comes(EC, "ES256", "k1", jti=str(_)) == NAME
    for _ in range(3):
        with pytest.raises(InvalidToken):
            await outside.comes(EC, "ES256", "made up")
    assert outside.asked == 1
    outside.keys.append(jwk(ED, "k2"))
    time.ahead += issuers.AGAIN + 1
    assert await outside.comes(ED, "EdDSA", "k2") == NAME  # the provider has a new key
    assert outside.asked == 2
    outside.fails = True
    time.ahead += issuers.FRESH + 1
    assert await outside.comes(EC, "ES256", "k1") == NAME
    time.ahead += issuers.STALE
    with pytest.raises(InvalidToken):
        await outside.comes(EC, "ES256", "k1")


async def test_keys_from_a_file(world: World, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(ED, None), {"kty": "OKP", "crv": "X25519", "x": "AA"}, "nonsense"]}))

    async def fetch(_: str) -> bytes:
        raise AssertionError("nothing is fetched")

    verifier = Verifier(world.users, (BASE,), [Provider(Issuer(ID, str(file)), fetch)])
    claims = {"iss": ID, "sub": NAME, "aud": BASE + "/agents/time", "exp": clock.wall_ns() // 1_000_000_000 + 60}
    found = await verifier.verify(jwt.encode(claims, ED, algorithm="EdDSA").encode())
    assert (found.user.name, found.paths) == (NAME, ("/agents/time",))
