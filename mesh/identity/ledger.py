"""The records and the account's claims that follow from them: written together, once it is sure that a broker can be told the claims."""

from collections.abc import Mapping
from typing import Final

from mesh import clock
from mesh.crypto import jwt
from mesh.errors import ConfigError
from mesh.identity import records
from mesh.identity.keyring import Keyring
from mesh.identity.records import Records
from mesh.identity.scopes import Scopes
from mesh.identity.trust import ACCOUNT, Trust
from mesh.subjects import Subjects

USERS: Final = "users.json"
SIGNED: Final = "account.jwt"

LARGEST_ACCOUNT: Final = 256 * 1024
"""Bytes of an account's JWT. It is pushed as one message, and the broker takes 1 MB (1,000 scopes of ten rules are 967 kB)."""


class Ledger:
    """Over a Keyring. Everything here is called within `Keyring.locked`."""

    def __init__(self, keyring: Keyring, trust: Trust, scopes: Scopes, subjects: Subjects) -> None:
        self._keyring = keyring
        self._trust = trust
        self._scopes = scopes
        self._subjects = subjects

    def load(self) -> Records:
        return records.load(self._keyring.read(USERS), str(self._keyring.path / USERS))

    def account_jwt(self) -> str:
        """The claims as the records want them. The same text until something changes."""
        self.commit(self.load(), {})
        token = self._keyring.read(SIGNED)
        if token is None:
            self._trust.signing_key()  # says where it is, and what to do
            raise ConfigError(f"{self._keyring.path / SIGNED} is missing")
        return token.strip()

    def commit(self, known: Records, files: Mapping[str, str]) -> bool:
        """Write records, account and `files`, once it is sure that the account can be what they ask for. Whether the account changed."""
        account, stored = self.account(known), self._keyring.read(SIGNED)
        now = clock.wall_s()
        before = None if stored is None else jwt.read(stored.strip(), "account")
        token = None
        if self._trust.can_sign:
            signer = self._trust.signing_key()
            if changed := before is None or before.issuer != signer.public or before.nats != jwt.account_claims(account):
                # A server keeps the newer of two, and a second may be too long to tell which that is.
                token = jwt.sign_account(signer, account, issued=max(now, before.issued + 1 if before else 0))
        else:
            changed = before is None or jwt.lacks(before.nats, account)
        if token is not None and len(token) > LARGEST_ACCOUNT:
            raise ConfigError(
                f"the account's JWT would take {len(token)} bytes, and at most {LARGEST_ACCOUNT} can be told to a broker",
                hint="Use fewer combinations of roles, and rules with * instead of many names.", size=len(token), limit=LARGEST_ACCOUNT,
            )  # fmt: skip
        if (text := known.dump()) != self._keyring.read(USERS):
            self._keyring.write(USERS, text)
        self._scopes.save()
        if token is not None:
            self._keyring.write(SIGNED, token + "\n")
        for name, text in files.items():
            self._keyring.write(name, text)
        return changed

    def account(self, known: Records) -> jwt.Account:
        """What the account should say, by these records."""
        base = self._keyring.read("account-base.jwt")
        adopted = None if base is None else jwt.read(base.strip(), "account")
        return jwt.Account(
            self._trust.account_key().public,
            adopted.name if adopted else ACCOUNT,
            self._scopes.claims(known, self._subjects),
            known.revocations(clock.wall_s()),
            imports=[self._trust.disconnects(self._subjects.disconnects)],
            base=adopted.nats if adopted else {},
        )
