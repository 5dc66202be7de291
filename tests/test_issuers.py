"""Tokens of outside identity providers: whose are believed, with which keys, and which participant each one is."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from mesh import clock
from mesh.errors import ConfigError, InvalidToken
from mesh.identity import issuers
from mesh.identity.issuers import Issuer, Provider
from mesh.identity.tokens import Verifier
from tests.token_world import BASE, NAME, Clock, World, text


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


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
