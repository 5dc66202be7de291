"""What the broker of this machine is told at its start: where the operator's claims are, and what it should know of the accounts."""

import contextlib
from pathlib import Path
from typing import Final

from mesh.crypto import jwt, keys
from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.identity.push import UNTOLD
from mesh.identity.trust import ACCOUNT

STORE: Final = "jetstream"
"""Where the broker keeps the streams of each account, in the state directory: a directory named by the account's key."""


def server_trust(authority: Authority) -> dict[str, str]:
    """The variables of nats-server.conf. The broker's own copy of an account is replaced by a newer one: a policy may have changed while
    it did not run."""
    keyring = authority.keyring
    for token in (authority.account_jwt(), authority.trust.system_jwt()):
        if token is None:
            continue  # an adopted operator's: it is with the broker, or comes with the operator's own configuration
        claims = jwt.read(token.strip(), "account")
        name = f"accounts/{claims.subject}.jwt"
        there = keyring.read(name)
        if there is None or jwt.read(there.strip(), "account").issued < claims.issued:
            keyring.write(name, token.strip())
    keyring.remove(UNTOLD)
    return {"MESH_OPERATOR": str(keyring.path / "operator.jwt"), "MESH_ACCOUNTS": str(keyring.path / "accounts")}


def claim_streams(authority: Authority) -> list[str]:
    """Let streams from before there were identities, when the account was a name in a configuration, be those of the account now. The
    result says, for people, what was found in the store that is not of this account."""
    store = authority.keyring.path.parent / STORE
    old, own = store / ACCOUNT, store / authority.account_public()
    said = []
    if old.is_dir() and not own.exists():
        with contextlib.suppress(OSError):  # then it is told as another account's
            old.rename(own)
            said.append("what was stored before there were identities is there as before")
    said += [f"{each} holds streams of another account, which nobody can read now" for each in _accounts_in(store) if each != own]
    return said


def _accounts_in(store: Path) -> list[Path]:
    return [each for each in sorted(store.iterdir()) if each.is_dir() and _names_account(each.name)] if store.is_dir() else []


def _names_account(name: str) -> bool:
    try:
        return name == ACCOUNT or keys.kind_of(name) is keys.Kind.ACCOUNT
    except ConfigError:
        return False
