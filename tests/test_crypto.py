"""Keys, claims and credentials: NATS's own reader agrees with ours, what is forged is refused, and no error repeats a secret."""

import base64
import json
from pathlib import Path
from typing import Any

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.crypto import jwt, keys
from mesh.crypto.creds import format_credentials, parse_credentials, read_credentials
from mesh.crypto.keys import KeyPair, Kind
from mesh.errors import ConfigError

NOW = 1_800_000_000


@pytest.fixture(scope="module")
def account() -> KeyPair:
    return keys.new_key(Kind.ACCOUNT)


@pytest.fixture(scope="module")
def user() -> KeyPair:
    return keys.new_key(Kind.USER)


@pytest.mark.parametrize("kind", Kind)
def test_a_seed_gives_its_key_again(kind: Kind) -> None:
    key = keys.new_key(kind)
    assert keys.read_seed(key.seed) == key
    assert key.public[0] == kind
    assert key.seed[:2] == f"S{kind}"
    assert keys.kind_of(key.public) is kind
    assert key.seed not in f"{key!r} {key}"


@pytest.mark.parametrize("kind", [Kind.OPERATOR, Kind.ACCOUNT, Kind.USER])
def test_nats_reads_the_same_keys(kind: Kind) -> None:
    key = keys.new_key(kind)
    theirs = nkeys.from_seed(key.seed.encode())
    assert theirs.public_key.decode() == key.public
    assert theirs.verify(b"text", key.sign(b"text"))
    assert keys.verify(key.public, b"text", theirs.sign(b"text"))
    assert not keys.verify(key.public, b"other", theirs.sign(b"text"))
    assert not keys.verify(keys.new_key(kind).public, b"text", theirs.sign(b"text"))
    assert not keys.verify(key.public, b"text", b"short")


def test_a_curve_key_signs_nothing() -> None:
    curve = keys.new_key(Kind.CURVE)
    with pytest.raises(ConfigError):
        curve.sign(b"text")
    with pytest.raises(ConfigError):
        keys.verify(curve.public, b"text", b"")


def test_a_mistyped_seed_is_refused_and_not_repeated(user: KeyPair) -> None:
    for wrong in (user.seed[:-1], user.seed[:20] + "A" + user.seed[21:] + "B", user.public, user.seed.lower(), "", "ü", "S" * 58):
        with pytest.raises(ConfigError) as refused:
            keys.read_seed(wrong)
        assert not wrong or wrong not in json.dumps(refused.value.as_dict())


@given(st.one_of(st.text(), st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=.", max_size=70)))
def test_any_text_as_key_or_token_is_refused_cleanly(text: str) -> None:
    for reader in (keys.read_seed, keys.kind_of, parse_credentials, lambda each: jwt.read(each, "user")):
        with pytest.raises(ConfigError):
            reader(text)


def test_claims_come_back(account: KeyPair, user: KeyPair) -> None:
    signer = keys.new_key(Kind.ACCOUNT)
    token = jwt.sign_user(signer, user.public, "time", account=account.public, tags=("role:QA",), issued=NOW, expires=NOW + 60)
    claims = jwt.read(token, "user", issuers={signer.public}, now=NOW)
    assert (claims.issuer, claims.subject, claims.name, claims.issued, claims.expires) == (
        signer.public,
        user.public,
        "time",
        NOW,
        NOW + 60,
    )
    assert claims.nats["issuer_account"] == account.public
    assert claims.nats["tags"] == ["role:QA"]
    assert json.loads(_part(token, 0)) == {"typ": "JWT", "alg": "ed25519-nkey"}
    assert len(token) < 1024
    with pytest.raises(ConfigError, match="expired"):
        jwt.read(token, "user", now=NOW + 60)
    with pytest.raises(ConfigError, match="not trusted"):
        jwt.read(token, "user", issuers={account.public})
    with pytest.raises(ConfigError, match="not one of an account"):
        jwt.read(token, "account")


def test_forged_tokens_are_refused(account: KeyPair, user: KeyPair) -> None:
    token = jwt.sign_user(account, user.public, "time", issued=NOW)
    head, body, signature = token.split(".")
    claims: dict[str, Any] = json.loads(_part(token, 1))
    none = _b64({"typ": "JWT", "alg": "none"})
    other = keys.new_key(Kind.ACCOUNT).public
    endless = jwt.sign_user(account, user.public, "time", issued=NOW, expires=float("inf"))  # type: ignore[arg-type]
    by_user = jwt.sign_user(user, user.public, "time", issued=NOW)
    forged = (
        f"{none}.{body}.", f"{none}.{body}.{signature}", f"{_b64({'typ': 'JWT', 'alg': 'HS256'})}.{body}.{signature}",
        f"{head}.{_b64(claims | {'name': 'admin'})}.{signature}", f"{head}.{_b64(claims | {'iss': other})}.{signature}",
        f"{head}.{_b64(claims | {'iss': 7})}.{signature}", f"{head}.{_b64([])}.{signature}", f"{head}.{body}.", f"{head}.{body}", by_user,
        endless,
    )  # fmt: skip
    for each in forged:
        with pytest.raises(ConfigError) as refused:
            jwt.read(each, "user")
        assert each not in json.dumps(refused.value.as_dict())


def test_no_rule_means_nothing_rather_than_everything() -> None:
    template = jwt.Scope("A", "none", publish=(), subscribe=("a",)).as_claim()["template"]
    assert template["pub"] == {"deny": [">"]}
    assert template["sub"] == {"allow": ["a"]}


def test_credentials(account: KeyPair, user: KeyPair, tmp_path: Path) -> None:
    token = jwt.sign_user(account, user.public, "time", issued=NOW, expires=NOW + 60)
    path = tmp_path / "time.creds"
    path.touch(0o600)
    path.write_text(format_credentials(token, user.seed))
    found = read_credentials(path)
    assert (found.jwt, found.seed, found.name, found.public, found.expires) == (token, user.seed, "time", user.public, NOW + 60)
    assert user.seed not in repr(found)
    assert token not in repr(found)
    assert parse_credentials(path.read_text().replace("\n", "\r\n")) == found
    path.write_text(format_credentials(token, keys.new_key(Kind.USER).seed))
    with pytest.raises(ConfigError, match="not the one of the JWT"):
        read_credentials(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_credentials(tmp_path / "none.creds")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="no NATS credentials"):
        read_credentials(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_credentials_that_others_can_read_are_refused(account: KeyPair, user: KeyPair, tmp_path: Path, mode: int) -> None:
    """With what to type. As ssh: one that belongs to somebody else is theirs to guard."""
    path = tmp_path / "open.creds"
    path.write_text(format_credentials(jwt.sign_user(account, user.public, "time", issued=NOW, expires=NOW + 60), user.seed))
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"its mode is {mode:04o}") as refused:
        read_credentials(path)
    assert f"`chmod 600 {path}`" in refused.value.hint
    path.chmod(0o400)
    assert read_credentials(path).name == "time"


def _part(token: str, number: int) -> bytes:
    part = token.split(".")[number]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_sealed_text_is_read_by_its_receiver_alone_and_only_whole() -> None:
    one, other, third = (keys.new_key(Kind.CURVE) for _ in range(3))
    sealed = one.seal(b"text", other.public)
    assert b"text" not in sealed
    assert other.open(sealed, one.public) == b"text"
    for reader, peer, data in (
        (third, one.public, sealed), (other, third.public, sealed), (other, one.public, sealed[:-1]), (other, one.public, b""),
        (other, one.public, b"xkv1"), (other, one.public, b"text"), (other, "", sealed), (keys.new_key(Kind.USER), one.public, sealed),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            reader.open(data, peer)
