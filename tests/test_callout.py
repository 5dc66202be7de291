"""Guests of an outside identity provider at a real broker: admitted with exactly their role's rights, or refused in a bounded time."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client
from nats.errors import Error

from mesh import clock
from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.identity.callout import Callout
from mesh.identity.issuers import Issuer
from mesh.identity.outside import GUESTS, Outside, disable, enable, keep
from mesh.identity.push import push_other
from mesh.policy.rights import Permissions, Policy, Role, parse_rule
from tests.helpers import CUT_WARNINGS, ROOT
from tests.operator_server import operator_server

pytestmark = CUT_WARNINGS

ISSUER = "https://id.example"
AUDIENCE = "the mesh"
KEY = Ed25519PrivateKey.generate()
OTHER_KEY = Ed25519PrivateKey.generate()
RSA_KEY = rsa.generate_private_key(65537, 2048)


async def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


def token(key: Any = KEY, algorithm: str = "EdDSA", **changes: Any) -> str:
    now = clock.wall_ns() // 1_000_000_000
    claims = {"iss": ISSUER, "sub": "visitor", "aud": AUDIENCE, "iat": now, "exp": now + 3600, **changes}
    return pyjwt.encode({key: value for key, value in claims.items() if value is not None}, key, algorithm, {"kid": "1"})


class World:
    def __init__(self, authority: Authority, url: str, stack: AsyncExitStack) -> None:
        self.authority, self.url, self.stack = authority, url, stack

    async def guest(self, said: str | None, credentials: Path | None = None, name: str = "visitor") -> Client:
        path = credentials or self.authority.keyring.path / GUESTS
        client = Client()
        self.stack.push_async_callback(client.close)
        await client.connect(
            self.url, user_credentials=str(path), token=said, allow_reconnect=False, connect_timeout=6, error_cb=_silent,
            inbox_prefix=f"_INBOX.{name}",
        )  # fmt: skip
        return client

    async def refused(self, said: str | None) -> None:
        with pytest.raises((Error, TimeoutError)):
            await self.guest(said)


async def rights(client: Client) -> Permissions:
    answer = await client.request("$SYS.REQ.USER.INFO", b"", timeout=5)
    said = json.loads(answer.data)["data"]["permissions"]
    return Permissions(tuple(sorted(said["publish"]["allow"])), tuple(sorted(said["subscribe"]["allow"])))


async def _silent(_: Exception) -> None:
    """nats-py would print it."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    authority = Authority.open(tmp_path / ".mesh", create=True)
    authority.apply_policy(Policy.of([Role("visitors", call=(parse_rule("time/now"),))]))
    authority.issue("member", ("agent", "host"))
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [{**json.loads(pyjwt.algorithms.OKPAlgorithm.to_jwk(KEY.public_key())), "kid": "1"}]}))
    async with operator_server(authority, tmp_path / "server") as url, AsyncExitStack() as stack:
        issuer = Issuer(ISSUER, str(keys), audience=AUDIENCE)
        await push_other(authority, enable(authority, Outside(issuer, ("visitors", "QA"))), url)
        yield World(authority, url, stack)


@pytest.fixture
async def service(world: World) -> AsyncIterator[Callout]:
    callout = Callout(world.authority, world.url, no_fetch)
    task = asyncio.create_task(callout.run())
    async with asyncio.timeout(10):
        await callout.ready.wait()
    yield callout
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_guest_gets_what_its_role_may_do_and_nothing_else(world: World, service: Callout) -> None:
    guest = await world.guest(token())
    assert await rights(guest) == world.authority.rights("visitor")
    assert world.authority.rights("visitor").may_publish("mesh.v1.call.time.any.visitor.tools.call.now")
    assert not world.authority.rights("visitor").may_publish("mesh.v1.call.time.any.visitor.tools.call.set")
    again, twice = await asyncio.gather(world.guest(token()), world.guest(token(sub="other"), name="other"))
    assert await rights(again) == await rights(guest)
    assert await rights(twice) == world.authority.rights("other")


async def test_a_token_that_names_a_participant_gives_that_ones_rights(world: World, service: Callout) -> None:
    assert await rights(await world.guest(token(sub="member"), name="member")) == world.authority.rights("member")


@pytest.mark.parametrize(
    "said",
    [
        None, "", "no token", token(OTHER_KEY), token(iss="https://evil.example"), token(aud="another mesh"), token(aud=None),
        token(exp=1), token(exp=None), token(sub="mesh"), token(sub="operator"), token(sub=None), token(sub=""),
        token(RSA_KEY, "RS256"), pyjwt.encode({"iss": ISSUER, "sub": "visitor", "aud": AUDIENCE}, "", "none"),
    ],
)  # fmt: skip
async def test_any_other_token_is_refused_at_once(world: World, service: Callout, said: str | None) -> None:
    async with asyncio.timeout(1.8):  # sooner than the broker gives up by itself
        await world.refused(said)
    assert service.refused == 1
    assert [user.name for user in world.authority.users()] == ["member"]


async def test_who_was_revoked_is_refused_whatever_its_provider_says(world: World, service: Callout) -> None:
    await world.guest(token())
    world.authority.revoke("visitor")
    await world.refused(token())


async def test_without_the_service_guests_are_refused_and_all_others_are_not(world: World) -> None:
    async with asyncio.timeout(5):
        await world.refused(token())
    member = world.authority.credentials("member")
    assert (await world.guest(None, member)).is_connected


async def test_when_nobody_is_believed_any_more_guests_stay_out(world: World, service: Callout) -> None:
    path = world.authority.keyring.path / GUESTS
    copy = path.read_text()
    said = disable(world.authority)
    assert said is not None
    await push_other(world.authority, said, world.url)
    path.write_text(copy)
    path.chmod(0o600)
    await world.refused(token())
    await world.refused(None)
    assert disable(world.authority) is None
    with pytest.raises(ConfigError, match="no outside identity provider"):
        Callout(world.authority, world.url, no_fetch)


async def test_a_broker_that_starts_later_knows_of_guests(world: World, tmp_path: Path) -> None:
    said = enable(world.authority, Outside(Issuer(ISSUER, str(tmp_path / "jwks.json"), audience=AUDIENCE)))
    keep(world.authority, said)
    found = [each.read_text() for each in (world.authority.keyring.path / "accounts").glob("*.jwt")]
    assert said in found


async def test_as_a_person_types_it(world: World, tmp_path: Path) -> None:
    where = ("--state-dir", str(tmp_path / ".mesh"), "--broker", world.url, "--json")

    async def typed(*words: str) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "mesh", "auth", "callout", *words, *where)
        return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)

    async def said(*words: str) -> dict[str, Any]:
        process = await typed(*words)
        out, _ = await process.communicate()
        assert process.returncode == 0
        return dict(json.loads(out))

    provider = ("--issuer", ISSUER, "--jwks", str(tmp_path / "jwks.json"), "--audience", AUDIENCE)
    async with asyncio.timeout(30):
        assert (await said("enable", *provider, "--role", "visitors"))["told"]
        service = await typed()
        assert service.stdout is not None
        assert json.loads(await service.stdout.readline()) == {"event": "ready", "issuer": ISSUER, "audience": AUDIENCE}
        assert await rights(await world.guest(token())) == world.authority.rights("visitor")
        service.terminate()
        assert await service.wait() == 0
        assert await said("disable") == {"changed": True, "told": True}
        assert await said("disable") == {"changed": False, "told": False}
