"""Credentials that are forged, stolen, void, or that say more than they may. The broker decides, and it knows only signatures."""

import asyncio
import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import Error

from mesh import clock
from mesh.crypto import jwt
from mesh.crypto.creds import format_credentials, read_credentials
from mesh.crypto.keys import KeyPair, Kind, new_key
from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.identity.push import push
from tests.attacks.world import AGENT, World
from tests.helpers import CUT_WARNINGS

ALL = {"allow": [">"]}
pytestmark = CUT_WARNINGS

NOW = clock.wall_ns() // 10**9


async def admitted(world: World, text: str) -> bool:
    path = world.authority.keyring.path.parent / "stolen.creds"
    path.write_text(text)

    async def silent(_: Exception) -> None:
        """nats-py would print it."""

    client = Client()
    try:
        await client.connect(world.url, user_credentials=str(path), allow_reconnect=False, reconnect_time_wait=0, error_cb=silent)
    except (Error, ValueError, OSError):
        return False
    else:
        return True
    finally:
        await client.close()
        if client._transport is not None:
            client._transport.close()  # of a refused connection nats-py leaves it open
            await asyncio.sleep(0)


def signed(world: World, signer: KeyPair, name: str, *, seed: KeyPair | None = None, **claims: Any) -> str:
    """Credentials of a user whose token says `claims`, signed by `signer`."""
    key = seed or new_key(Kind.USER)
    nats_claims = {"pub": {}, "sub": {}, "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, **claims}
    return format_credentials(jwt.sign(signer, key.public, name, nats_claims, issued=NOW), key.seed)


def scope_key(world: World, scope: str = "agent") -> KeyPair:
    return world.authority.scopes.key(scope)


async def test_a_key_that_nobody_trusts(world: World, tmp_path: Path) -> None:
    foreign = Authority.open(tmp_path, create=True)
    account = world.authority.account_public()
    foreign.issue(AGENT)
    path = foreign.credentials(AGENT)
    assert path is not None
    assert not await admitted(world, path.read_text())
    stranger = new_key(Kind.ACCOUNT)
    assert not await admitted(world, signed(world, stranger, "honest"))
    assert not await admitted(world, signed(world, stranger, "honest", issuer_account=account))
    assert await admitted(world, signed(world, world.authority.trust.account_key(), "honest"))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "ed25519", "ed25519-nkey"])
async def test_a_token_without_a_signature(world: World, algorithm: str) -> None:
    path = world.authority.credentials("honest")
    assert path is not None
    true = read_credentials(path)

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    head, body, signature = true.jwt.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    key = new_key(Kind.USER)
    mine = part({"typ": "JWT", "alg": algorithm}) + "." + part({**claims, "sub": key.public})
    for end in ("", signature, "AAAA"):
        assert not await admitted(world, format_credentials(f"{mine}.{end}", key.seed))
    assert await admitted(world, format_credentials(f"{head}.{body}.{signature}", true.seed))


async def test_another_users_token_with_a_key_of_ones_own(world: World) -> None:
    """The token is public, more or less: the seed proves whose it is."""
    path = world.authority.credentials("honest")
    assert path is not None
    true = read_credentials(path)
    assert not await admitted(world, format_credentials(true.jwt, new_key(Kind.USER).seed))
    assert await admitted(world, format_credentials(true.jwt, true.seed))


async def test_more_rights_in_a_token_than_its_scope_gives(world: World) -> None:
    """Who stole a scope's signing key has what the scope has, in any name; what the token says of rights voids it."""
    account, key = world.authority.account_public(), scope_key(world)
    for wider in ({"pub": ALL}, {"sub": ALL}, {"pub": ALL, "sub": ALL, "resp": {"max": 1}}):
        assert not await admitted(world, signed(world, key, AGENT, issuer_account=account, **wider))
    assert not await admitted(world, signed(world, key, AGENT))
    assert await admitted(world, signed(world, world.authority.trust.account_key(), AGENT, pub=ALL, sub=ALL))


async def test_a_membership_that_is_a_wildcard(world: World) -> None:
    """Memberships are tags, put into subjects: `*` and `>` are escaped before they are."""
    world.authority.issue("greedy", ("agent", "*", ">", "any.>"))
    await push(world.authority, world.url)
    attacker = await world.join("greedy")
    filters = ["mesh.v1.call.*.any.>", "mesh.v1.call.victim.any.>", "mesh.v1.note.*.>", "mesh.v1.note.>"]
    for each in filters:
        await attacker.subscribe(each)
    replies = ["mesh.v1.reply.honest.victim.k.1", "mesh.v1.record.victim.honest"]
    for each in replies:
        await attacker.publish(each, b"")
    assert await attacker.refused(*filters, *replies) == [*filters, *replies]
    bare = await world.unprotected()
    for each in filters:
        await bare.subscribe(each)
    assert await bare.refused(*filters) == []


async def test_a_revoked_token(world: World) -> None:
    world.authority.issue("fired", ("agent",))
    path = world.authority.credentials("fired")
    assert path is not None
    copy = path.read_text()
    assert await admitted(world, copy)
    attacker, gone = await world.join("fired"), asyncio.Event()

    async def closed() -> None:
        gone.set()

    attacker.client._disconnected_cb = closed
    world.authority.revoke("fired")
    async with asyncio.timeout(2):
        await push(world.authority, world.url)
        await gone.wait()
    assert not await admitted(world, copy)


async def test_an_expired_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.wall_ns()
    with monkeypatch.context() as earlier:
        earlier.setattr(clock, "wall_ns", lambda: now - 3_600 * 10**9)
        world.authority.issue("late", ("agent",), expires=timedelta(minutes=59))
        world.authority.issue("timely", ("agent",), expires=timedelta(minutes=61))
    for name, good in (("late", False), ("timely", True)):
        path = world.authority.credentials(name)
        assert path is not None
        assert await admitted(world, path.read_text()) is good


async def test_a_role_named_as_an_agent(world: World) -> None:
    """Its holders would be sent that agent's calls. The other way round too."""
    for name, roles in (
        ("newcomer", ("agent", "victim")),
        ("librarian", ("agent",)),
        ("mesh", ("agent",)),
        ("newcomer", ("agent", "mesh")),
    ):
        with pytest.raises(ConfigError):
            world.authority.issue(name, roles)
    bare = await world.unprotected()
    await bare.subscribe("mesh.v1.call.victim.any.>", "victim")
    assert await bare.refused("mesh.v1.call.victim.any.>") == []
