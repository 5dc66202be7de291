"""Users of an authority: what is issued, what a change changes, what is refused. No broker."""

import itertools
from datetime import timedelta
from pathlib import Path

import pytest

from mesh import clock
from mesh.crypto import jwt, keys
from mesh.crypto.keys import Kind
from mesh.errors import ConfigError
from mesh.identity import ledger
from mesh.identity.authority import Authority
from mesh.policy.rights import Policy, Role, parse_rule
from mesh.subjects import escape
from tests.issued import account, token, void


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path, create=True)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second later."""
    seconds = itertools.count(1_800_000_000)
    monkeypatch.setattr(clock, "wall_ns", lambda: next(seconds) * 1_000_000_000)


def test_a_renewal_keeps_the_key_and_voids_nothing(authority: Authority, ticking: None) -> None:
    first = authority.issue("time", expires=timedelta(days=30))
    old = token(authority, "time")
    assert old.expires is not None
    assert old.expires - old.issued in (30 * 86_400, 30 * 86_400 - 1)
    renewed = authority.renew("time")
    new = token(authority, "time")
    assert (renewed.user.public, renewed.account_changed) == (first.user.public, False)
    assert new.issued > old.issued
    assert not void(authority, old)
    assert not void(authority, new)


def test_the_account_grows_with_roles_not_with_users(authority: Authority) -> None:
    authority.issue("a", ("agent", "host"))
    size = len(authority.account_jwt())
    assert not authority.issue("b", ("agent", "host", "team")).account_changed
    assert len(authority.account_jwt()) == size
    assert token(authority, "b").nats["tags"] == ["role:team"]


def test_many_at_once(authority: Authority) -> None:
    authority.issue("a1", ("host",))
    before = token(authority, "a1")
    assert authority.issue_all((f"a{n}" for n in range(50)), ("agent", "host"))
    assert {user.scope for user in authority.users() if user.name != "a1"} == {"agent+host"}
    assert len({token(authority, f"a{n}").subject for n in range(50)}) == 50
    assert token(authority, "a1") == before


def test_revoked_and_issued_again(authority: Authority) -> None:
    authority.issue("time")
    old = token(authority, "time")
    authority.revoke("time")
    assert authority.revoke("time").revoked is not None
    assert void(authority, old)
    assert authority.credentials("time") is None
    with pytest.raises(ConfigError, match="was revoked"):
        authority.issue("time")
    again = authority.issue("time", again=True)
    assert again.user.public != old.subject
    assert not void(authority, token(authority, "time"))
    assert void(authority, old)


def test_other_roles_void_older_tokens_at_once_and_never_the_new_one(authority: Authority) -> None:
    for roles in (("agent",), ("agent", "host"), ("agent", "team"), ("agent",)):
        old = token(authority, "time") if authority.credentials("time") else None
        authority.issue("time", roles)
        assert not void(authority, token(authority, "time"))
        assert old is None or void(authority, old)


def test_an_expired_revocation_is_forgotten(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.issue("brief", expires=timedelta(seconds=60))
    authority.issue("forever")
    gone, stays = authority.revoke("brief").public, authority.revoke("forever").public
    assert set(account(authority).nats["revocations"]) == {gone, stays}
    now = clock.wall_ns()
    monkeypatch.setattr(clock, "wall_ns", lambda: now + 61 * 1_000_000_000)
    assert set(account(authority).nats["revocations"]) == {stays}


def test_rotating_a_users_key(authority: Authority) -> None:
    authority.issue("time")
    old = token(authority, "time")
    new = authority.renew("time", new_key=True)
    assert new.user.public != old.subject
    assert void(authority, old)
    assert not void(authority, token(authority, "time"))


def test_a_policy_moves_users_between_scopes(authority: Authority) -> None:
    authority.issue("qa", ("agent", "reviewer"))
    authority.issue("time")
    old, other = token(authority, "qa"), token(authority, "time")
    assert authority.apply_policy(Policy.of([Role("reviewer", call=(parse_rule("time/now"),))])) == ("qa",)
    assert authority.user("qa").scope == "agent+reviewer"
    assert void(authority, old)
    assert not void(authority, token(authority, "qa"))
    assert token(authority, "time") == other
    template = next(each["template"] for each in account(authority).nats["signing_keys"] if each["role"] == "agent+reviewer")
    assert any(subject.endswith("tools.call.now") for subject in template["pub"]["allow"])
    # Another process sees it; taken back, the user is an agent again.
    assert Authority.open(authority.keyring.path.parent).policy == authority.policy
    assert authority.apply_policy(Policy()) == ("qa",)
    assert authority.user("qa").scope == "agent"


def test_an_account_too_large_is_refused_and_nothing_changes(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.issue("time")
    before, size = authority.account_jwt(), len(authority.account_jwt())
    monkeypatch.setattr(ledger, "LARGEST_ACCOUNT", size + 100)
    authority.apply_policy(Policy.of([Role("agent2", call=tuple(parse_rule(f"a{n}/t{n}") for n in range(100)))]))
    with pytest.raises(ConfigError, match="the account's JWT would take") as refused:
        authority.issue("time", ("agent", "agent2"))
    assert refused.value.details["limit"] == size + 100
    assert authority.account_jwt() == before
    assert authority.user("time").scope == "agent"
    assert not void(authority, token(authority, "time"))


def test_names_that_would_be_somebody_elses(authority: Authority) -> None:
    authority.issue("time", ("agent", "clock"))
    for name, roles in (
        ("mesh", ("agent",)), ("x", ("plane",)), ("x", ("agent", "mesh")), ("x", ("agent", "time")), ("clock", ("agent",)),
        ("", ("agent",)), ("n" * 201, ("agent",)), ("x", ()), ("x", ("team",)),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            authority.issue(name, roles)
        assert refused.value.message
    assert authority.issue("mesh", ("plane",)).user.scope == "plane"


@pytest.mark.parametrize("name", ["Team X", "../../etc", "a.b *", ">", "ü", "{{name()}}"])
def test_any_name_is_one_token_and_one_file(authority: Authority, name: str) -> None:
    issued = authority.issue(name)
    assert issued.path.parent == authority.keyring.path / "users"
    assert token(authority, name).name == escape(name)
    assert authority.user(name).name == name


def test_a_key_that_was_made_elsewhere(authority: Authority) -> None:
    key = keys.new_key(Kind.USER)
    issued = authority.issue("far", public=key.public)
    assert jwt.read(issued.path.read_text().strip(), "user").subject == key.public
    assert authority.credentials("far") is None
    assert authority.renew("far").user.public == key.public
    with pytest.raises(ConfigError, match="keeps its key elsewhere"):
        authority.renew("far", new_key=True)
    with pytest.raises(ConfigError, match="begins with U"):
        authority.issue("far", public=authority.account_public())
    authority.revoke("far")
    with pytest.raises(ConfigError, match="this key was revoked"):
        authority.issue("far", public=key.public, again=True)
