"""The authority over its files: what is made, what a change changes, what is refused. No broker."""

import asyncio
import itertools
import json
import os
import stat
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from mesh import clock
from mesh.crypto import jwt, keys
from mesh.crypto.creds import read_credentials
from mesh.crypto.keys import Kind
from mesh.errors import ConfigError
from mesh.identity import ledger
from mesh.identity.authority import Authority
from mesh.policy.rights import Policy, Role, parse_rule
from mesh.subjects import escape
from tests.cli_helpers import ROOT


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path, create=True)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second later."""
    seconds = itertools.count(1_800_000_000)
    monkeypatch.setattr(clock, "wall_ns", lambda: next(seconds) * 1_000_000_000)


def account(authority: Authority) -> jwt.Claims:
    return jwt.read(authority.account_jwt(), "account")


def token(authority: Authority, name: str) -> jwt.Claims:
    path = authority.credentials(name)
    assert path is not None
    return jwt.read(read_credentials(path).jwt, "user")


def void(authority: Authority, claims: jwt.Claims) -> bool:
    """As the server decides it."""
    at = account(authority).nats["revocations"].get(claims.subject)
    return at is not None and at >= claims.issued


def test_what_is_made_at_first_is_found_again_and_nobody_else_can_read_it(authority: Authority, tmp_path: Path) -> None:
    again = Authority.open(tmp_path, create=True)
    assert again.operator_jwt() == authority.operator_jwt()
    assert again.account_jwt() == authority.account_jwt()
    assert again.server_config() == authority.server_config()
    authority.issue("time")
    for path in (tmp_path / "auth").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_operators_own_key_signs_nothing_but_itself(authority: Authority) -> None:
    operator = jwt.read(authority.operator_jwt(), "operator")
    assert operator.issuer == operator.subject
    assert account(authority).issuer in operator.nats["signing_keys"]
    assert account(authority).issuer != operator.subject


def test_where_nothing_was_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no identities"):
        Authority.open(tmp_path)


async def test_several_processes_at_once_make_one_operator_and_lose_no_user(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from mesh.identity.authority import Authority\n"
        "a = Authority.open(Path(sys.argv[1]), create=True)\n"
        "for n in range(5): a.issue(f'{sys.argv[2]}-{n}')\n"
        "print(a.operator_jwt())"
    )
    async with asyncio.timeout(30):
        started = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, str(tmp_path), str(each), cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            for each in range(3)
        ]
        said = [(await process.communicate())[0] for process in started]
    assert len(set(said)) == 1
    assert said[0]
    assert {user.name for user in Authority.open(tmp_path).users()} == {f"{p}-{n}" for p in range(3) for n in range(5)}


@pytest.mark.parametrize("name", ["account.seed", "users/time.creds", "scopes/agent.seed", "."])
def test_a_secret_that_others_can_read_is_not_used(authority: Authority, name: str) -> None:
    authority.issue("time")
    path = authority.keyring.path / name
    path.chmod(path.stat().st_mode | stat.S_IRGRP)
    with pytest.raises(ConfigError, match="others can read") as refused:
        authority.issue("time")
    assert f"chmod {'700' if path.is_dir() else '600'}" in refused.value.hint


def test_a_directory_of_somebody_else(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is the kernel's word in its place."""

    def denied(self: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(ConfigError, match="another user"):
        Authority.open(authority.keyring.path.parent)


def test_a_failed_write_leaves_what_was_there(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.issue("time")
    before = {path: path.read_bytes() for path in authority.keyring.path.rglob("*") if path.is_file()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left"):
        authority.issue("more", ("agent", "host"))
    assert {path: path.read_bytes() for path in authority.keyring.path.rglob("*") if path.is_file()} == before


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
    again = authority.issue("time")
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


def test_rotating_a_scopes_key(authority: Authority) -> None:
    authority.issue("time")
    old = token(authority, "time")

    def signers() -> list[str]:
        return [each["key"] for each in account(authority).nats["signing_keys"] if each["role"] == "agent"]

    assert authority.rotate_scope("agent") == ("time",)
    new = token(authority, "time")
    assert (new.subject, new.issuer != old.issuer) == (old.subject, True)
    assert set(signers()) == {old.issuer, new.issuer}
    authority.rotate_scope("agent", retire=True)
    assert signers() == [new.issuer]
    with pytest.raises(ConfigError, match="no scope"):
        authority.rotate_scope("unheard-of")


def test_rotating_the_operators_signing_key(authority: Authority) -> None:
    old = account(authority).issuer
    with pytest.raises(ConfigError, match="no new signing key"):
        authority.rotate_operator(retire=True)
    authority.rotate_operator()
    both = jwt.read(authority.operator_jwt(), "operator").nats["signing_keys"]
    assert account(authority).issuer == old
    authority.rotate_operator(retire=True)
    assert set(both) == {old, account(authority).issuer}
    assert jwt.read(authority.operator_jwt(), "operator").nats["signing_keys"] == [account(authority).issuer]
    assert jwt.read(authority.trust.system_jwt() or "", "account").issuer == account(authority).issuer


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
    with pytest.raises(ConfigError, match="was revoked"):
        authority.issue("far", public=key.public)


def test_a_damaged_index_is_not_taken_for_an_empty_one(authority: Authority) -> None:
    authority.issue("time")
    authority.keyring.write("users.json", "{}")
    with pytest.raises(ConfigError, match="damaged"):
        authority.issue("time")


def test_an_operator_that_was_made_elsewhere(tmp_path: Path) -> None:
    """With its signing key we sign; without, we say what its owner should sign. What the account said before stays."""
    operator, signing, owned, system = (keys.new_key(kind) for kind in (Kind.OPERATOR, Kind.OPERATOR, Kind.ACCOUNT, Kind.ACCOUNT))
    operator_jwt = jwt.sign_operator(operator, "ACME", system_account=system.public, signing_keys=[signing.public], issued=1)
    theirs = jwt.Account(owned.public, "AGENTS", [jwt.Scope(keys.new_key(Kind.ACCOUNT).public, "theirs", ["x"], ["x"])])
    base = json.loads(json.dumps(jwt.account_claims(theirs)).replace("made by the mesh", "made by ACME"))
    account_jwt = jwt.sign(signing, owned.public, "AGENTS", base, issued=1)

    with_key = Authority(tmp_path / "with")
    with_key.adopt(operator_jwt=operator_jwt, account_seed=owned.seed, operator_seed=signing.seed, account_jwt=account_jwt)
    with_key.issue("time")
    signed = jwt.read(with_key.account_jwt(), "account", issuers={signing.public})
    assert signed.name == "AGENTS"
    assert {"theirs", "agent"} <= {each["role"] for each in signed.nats["signing_keys"]}

    without = Authority(tmp_path / "without")
    with pytest.raises(ConfigError, match="are needed"):
        without.adopt(operator_jwt=operator_jwt)
    without.adopt(operator_jwt=operator_jwt, account_seed=owned.seed)
    assert without.issue("time").account_changed
    assert without.awaits_signature()
    with pytest.raises(ConfigError, match="cannot be signed here") as refused:
        without.account_jwt()
    assert "--account-template" in refused.value.hint
    wanted = jwt.read(without.account_template(), "account", issuers={owned.public})
    without.adopt(account_jwt=jwt.sign(signing, owned.public, "AGENTS", wanted.nats, issued=2))
    assert not without.issue("time").account_changed
    assert not without.awaits_signature()
    assert without.issue("time", ("agent", "host")).account_changed
    assert jwt.read(without.account_jwt(), "account").nats == wanted.nats
    assert system.public in without.server_config()

    nobody_hears = jwt.sign_operator(operator, "ACME", system_account="", signing_keys=[], issued=1)
    with pytest.raises(ConfigError, match="no system account"):
        Authority(tmp_path / "refused").adopt(operator_jwt=nobody_hears, account_seed=owned.seed)
    for given in (
        {"operator_seed": keys.new_key(Kind.OPERATOR).seed}, {"account_jwt": jwt.sign(owned, owned.public, "A", base, issued=1)},
        {"system_jwt": account_jwt}, {"system_creds": "nothing"},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            Authority(tmp_path / "refused").adopt(operator_jwt=operator_jwt, account_seed=owned.seed, **given)
    for there, said in ((Authority.open(tmp_path / "own", create=True), "made here"), (without, "another account")):
        with pytest.raises(ConfigError, match=said):
            there.adopt(operator_jwt=operator_jwt, account_seed=system.seed)
