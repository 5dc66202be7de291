"""Credentials of participants of this machine: what is made for whom, what is left alone, and that the broker comes to know it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from mesh import clock
from mesh.crypto import keys
from mesh.crypto.keys import Kind
from mesh.errors import BrokerUnavailable, ConfigError
from mesh.identity import push as pushing
from mesh.identity.authority import Authority
from mesh.identity.finding import find_credentials, provide
from mesh.identity.keeper import Keeper
from mesh.identity.keyring import creds_file
from mesh.identity.push import push, untold
from mesh.identity.serving import server_trust
from mesh.link.connection import Connection
from mesh.policy.rights import Policy, Role, parse_rule
from tests.issued import account, token, void
from tests.operator_server import operator_server

NOBODY = "nats://127.0.0.1:1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "state", create=True)


@pytest.fixture
async def server(authority: Authority, tmp_path: Path) -> AsyncIterator[str]:
    async with operator_server(authority, tmp_path / "server") as url:
        yield url


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = clock.wall_ns()
    monkeypatch.setattr(clock, "wall_ns", lambda: now + int(seconds * 1e9))
    monkeypatch.setattr("mesh.identity.finding.wall_ns", lambda: now + int(seconds * 1e9))


# ---- what is made


@pytest.mark.parametrize("lost", [False, True])
def test_who_gets_new_credentials_keeps_roles_and_lifetime(authority: Authority, monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """Expired, or the file is gone."""
    authority.issue("ann", ("auditor",), expires=timedelta(hours=1))
    if lost:
        authority.keyring.remove(creds_file("ann"))
    else:
        assert provide(authority, "ann") is None
        later(monkeypatch, 3601)
    made = provide(authority, "ann")
    assert made is not None
    assert (made.user.roles, made.user.lifetime) == (("auditor",), timedelta(hours=1))
    assert provide(authority, "ann") is None


def test_other_roles_leave_the_lifetime(authority: Authority) -> None:
    authority.issue("ann", expires=timedelta(hours=1))
    made = provide(authority, "ann", ("agent", "team"))
    assert made is not None
    assert made.user.roles == ("agent", "team")
    assert made.user.lifetime is not None
    assert 0 <= (timedelta(hours=1) - made.user.lifetime).total_seconds() <= 1, "a new token is dated after what is void"
    assert provide(authority, "ann", ("team", "agent")) is None


async def test_a_key_that_is_kept_elsewhere_stays_the_one_that_counts(authority: Authority) -> None:
    public = keys.new_key(Kind.USER).public
    authority.issue("far", public=public)
    with pytest.raises(ConfigError, match="kept elsewhere") as caught:
        await find_credentials(authority.keyring.path.parent, "far", NOBODY)
    assert "--credentials FILE" in caught.value.hint
    assert authority.user("far").public == public
    assert public not in account(authority).nats["revocations"]


def test_nothing_is_made_for_who_was_revoked(authority: Authority) -> None:
    authority.issue("ann")
    authority.revoke("ann")
    with pytest.raises(ConfigError, match="was revoked"):
        provide(authority, "ann")


async def test_credentials_that_others_can_read_are_not_used(authority: Authority) -> None:
    path = authority.issue("ann").path
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read") as caught:
        await find_credentials(authority.keyring.path.parent, "ann", NOBODY)
    assert f"chmod 600 {path}" in caught.value.hint


# ---- what the broker is told


async def connects(authority: Authority, url: str, name: str) -> None:
    async with await Connection.open(url, name=name, user_credentials=authority.credentials(name)):
        pass


async def test_what_could_not_be_told_is_told_later(authority: Authority, server: str) -> None:
    """The file is written and the broker does not know it: whoever comes then would be turned away for good."""
    with pytest.raises(BrokerUnavailable):
        await find_credentials(authority.keyring.path.parent, "ann", NOBODY, ("host", "auditor"))
    assert untold(authority)
    async with asyncio.timeout(10):
        await Keeper(authority, server, None, dict).look()
        await connects(authority, server, "ann")
    assert not untold(authority)


@pytest.mark.parametrize("rule", ["time/get_*", "time/get_now"])
async def test_a_policy_that_could_not_be_told_is_told_later(authority: Authority, server: str, rule: str) -> None:
    """Also at a broker that `mesh up` did not start, and where no rule is a pattern."""
    wanted = Policy.of([Role("reader", call=(parse_rule(rule),))])
    tools = {"time": ["get_now"]}
    keeper = Keeper(authority, NOBODY, wanted, lambda: tools)
    with pytest.raises(BrokerUnavailable):
        await keeper.look()
    keeper._broker_url = server
    await keeper.look()
    assert not untold(authority)
    broker_knows = next((authority.keyring.path / "accounts").glob(f"{authority.account_public()}.jwt"))
    assert broker_knows.read_text().strip() == authority.account_jwt()


def test_a_broker_that_starts_knows_it(authority: Authority) -> None:
    authority.keyring.write(pushing.UNTOLD, "")
    server_trust(authority)
    assert not untold(authority)


async def test_two_that_tell_at_once_leave_the_newest(authority: Authority, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker takes what it is told last: a push that began before a revocation must not end after it and undo it."""
    authority.issue("ann")
    old = token(authority, "ann")
    tell, others = pushing._tell, iter([True])

    async def slowly(connection: Connection, said: str) -> None:
        if next(others, False):
            authority.revoke("ann")
            await push(authority, server)
        await tell(connection, said)

    monkeypatch.setattr(pushing, "_tell", slowly)
    async with asyncio.timeout(10):
        await push(authority, server)
    broker_knows = authority.keyring.path / "accounts" / f"{authority.account_public()}.jwt"
    assert broker_knows.read_text().strip() == authority.account_jwt()
    assert void(authority, old)


async def test_one_that_cannot_be_renewed_keeps_nobody_else_from_it(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    for name in ("ann", "bob"):
        authority.issue(name, expires=timedelta(seconds=100))
    authority.keyring.path.joinpath(creds_file("ann")).chmod(0o644)
    keeper = Keeper(authority, server, None, dict)
    later(monkeypatch, 90)
    await keeper.look()
    now = clock.wall_ns() // 10**9
    assert {user.name: (user.expires or 0) > now + 50 for user in authority.users()} == {"ann": False, "bob": True}
