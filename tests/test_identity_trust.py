"""The files of an authority and the keys above its users: made once, read by their owner alone, rotated, or made elsewhere. No broker."""

import asyncio
import json
import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from mesh.crypto import jwt, keys
from mesh.crypto.keys import Kind
from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.policy.rights import Policy
from tests.cli_helpers import ROOT
from tests.issued import account, token


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path, create=True)


def test_what_is_made_at_first_is_found_again_and_nobody_else_can_read_it(authority: Authority, tmp_path: Path) -> None:
    again = Authority.open(tmp_path, create=True)
    assert again.trust.operator_jwt() == authority.trust.operator_jwt()
    assert again.account_jwt() == authority.account_jwt()
    assert again.server_config() == authority.server_config()
    authority.issue("time")
    for path in (tmp_path / "auth").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_operators_own_key_signs_nothing_but_itself(authority: Authority) -> None:
    operator = jwt.read(authority.trust.operator_jwt(), "operator")
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
        "print(a.trust.operator_jwt())"
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
    both = jwt.read(authority.trust.operator_jwt(), "operator").nats["signing_keys"]
    assert account(authority).issuer == old
    authority.rotate_operator(retire=True)
    assert set(both) == {old, account(authority).issuer}
    assert jwt.read(authority.trust.operator_jwt(), "operator").nats["signing_keys"] == [account(authority).issuer]
    assert jwt.read(authority.trust.system_jwt() or "", "account").issuer == account(authority).issuer


def test_a_directory_that_is_gone(authority: Authority) -> None:
    shutil.rmtree(authority.keyring.path)
    with pytest.raises(ConfigError, match="is not there"):
        authority.apply_policy(Policy())


def test_a_damaged_index_is_not_taken_for_an_empty_one(authority: Authority) -> None:
    authority.issue("time")
    whole = authority.keyring.read("users.json") or ""
    for damaged in ("{}", "", whole[:-9], whole.replace('"expires": null', '"expires": 1e999')):
        authority.keyring.write("users.json", damaged)
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
