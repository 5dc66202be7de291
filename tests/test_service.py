"""The authentication service: credentials that count get a token, which says whose it is; and what that one may do is the policy's word."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mesh import clock
from mesh.crypto.creds import Credentials, read_credentials
from mesh.errors import ConfigError, InvalidToken, NotAdmitted
from mesh.identity import AuthenticationService
from mesh.identity.authority import Authority
from mesh.policy.rights import Policy, Role, parse_rule


class World:
    def __init__(self, path: Path) -> None:
        self.authority = Authority.open(path, create=True)
        self.authority.apply_policy(Policy.of([Role("team", call=(parse_rule("time/now"),))]))
        self.issue("qa manager", "agent", "team", "QA")
        self.service = AuthenticationService(path)

    def issue(self, name: str, *roles: str, expires: timedelta | None = None) -> Path:
        return self.authority.issue(name, roles, expires=expires).path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / ".mesh")


async def test_who_has_credentials_gets_a_token_that_says_who_it_is(world: World) -> None:
    path = world.authority.credentials("qa manager")
    assert path is not None
    token = await world.service.authenticate_agent(path)
    assert token.value not in repr(token)
    identity = await world.service.validate_token(token.value)
    assert (identity.name, identity.roles) == ("qa manager", ("QA", "agent", "team"))
    assert identity.expires >= token.expires > clock.wall_ns() / 1e9
    for action, resource, allowed in (
        ("call", "time/now", True), ("call", "time/set", False), ("call", "time", False), ("answer", "qa manager", True),
        ("answer", "QA", True), ("answer", "time", False), ("see", "time", True), ("read", "journal", False),
    ):  # fmt: skip
        assert world.service.authorize_action(identity, action, resource) is allowed, (action, resource)
    with pytest.raises(ConfigError, match="no action"):
        world.service.authorize_action(identity, "eat", "time")


def another_key(world: World, tmp_path: Path) -> Credentials:
    mine = read_credentials(world.issue("mallory", "agent"))
    return replace(read_credentials(world.issue("alice", "agent")), seed=mine.seed)


def of_another_mesh(world: World, tmp_path: Path) -> Credentials:
    return read_credentials(Authority.open(tmp_path / "other", create=True).issue("alice").path)


def revoked(world: World, tmp_path: Path) -> Credentials:
    stolen = read_credentials(world.issue("alice", "agent"))
    world.authority.revoke("alice")
    return stolen


def of_older_roles(world: World, tmp_path: Path) -> Credentials:
    before = read_credentials(world.issue("alice", "agent", "host"))
    world.issue("alice", "agent")
    return before


@pytest.mark.parametrize("make", [another_key, of_another_mesh, revoked, of_older_roles])
async def test_credentials_that_the_broker_would_not_take_get_no_token(world: World, tmp_path: Path, make: object) -> None:
    assert callable(make)
    with pytest.raises(NotAdmitted, match="'alice' do not count") as caught:
        await world.service.authenticate_agent(make(world, tmp_path))
    assert not caught.value.retryable


async def test_expired_credentials_get_no_token_and_end_the_tokens_they_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.issue("guest", "agent", expires=timedelta(minutes=1))
    token = await world.service.authenticate_agent(path)
    now = clock.wall_ns()
    monkeypatch.setattr(clock, "wall_ns", lambda: now + 61 * 1_000_000_000)
    with pytest.raises(NotAdmitted, match="expired"):
        await world.service.authenticate_agent(path)
    with pytest.raises(InvalidToken):
        await world.service.validate_token(token.value)


async def test_a_revocation_and_a_policy_count_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = world.issue("bob", "team")
    token = await world.service.authenticate_agent(path)
    identity = await world.service.validate_token(token.value)
    assert world.service.authorize_action(identity, "call", "time/now")
    world.authority.apply_policy(Policy.of([Role("team", call=(parse_rule("time/set"),))]))
    assert not world.service.authorize_action(identity, "call", "time/now")
    assert world.service.authorize_action(identity, "call", "time/set")
    world.authority.revoke("bob")
    assert not world.service.authorize_action(identity, "call", "time/set")
    later = clock.monotonic() + 2
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    with pytest.raises(InvalidToken):
        await world.service.validate_token(token.value)


async def test_a_token_counts_for_its_audience_only(world: World) -> None:
    path = world.authority.credentials("qa manager")
    assert path is not None
    other = AuthenticationService(world.authority.keyring.path.parent, audience="http://127.0.0.1:8808")
    token = await other.authenticate_agent(path)
    assert (await other.validate_token(token.value)).name == "qa manager"
    for text in (token.value, token.value[:-8] + "AAAAAAAA", "", "a.b.c", "ä"):
        with pytest.raises(InvalidToken):
            await world.service.validate_token(text)
