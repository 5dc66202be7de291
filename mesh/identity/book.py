"""The rights of each participant, for the control plane: by the records of this state directory, and fresh after each change of them.

The files are read and the policy is compiled once for each change, and not for each of a thousand participants.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.identity.records import User
from mesh.policy.rights import Permissions, expand

NOBODY = Permissions()


class RightsBook:
    """`book(name)` are the rights of a name; none for one that was issued nothing here."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._files = [authority.keyring.path / name for name in ("users.json", "policy.json")]
        self._read_at: tuple[int, ...] = ()
        self._users: Mapping[str, User] = {}
        self._scopes: Mapping[str, Permissions] = {}
        self._rights: dict[str, Permissions] = {}

    @classmethod
    def find(cls, state_dir: Path, prefix: str) -> Self | None:
        """None where the state directory holds no identities: then nothing is known of anybody."""
        try:
            return cls(Authority.open(state_dir, prefix=prefix))
        except ConfigError:
            return None

    def __call__(self, name: str) -> Permissions:
        now = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in self._files)
        if now != self._read_at:
            self._read_at = now
            self._rights.clear()
            self._read()
        if name not in self._rights:
            user = self._users.get(name)
            if user is None or user.revoked is not None:
                self._rights[name] = NOBODY
            else:
                self._rights[name] = expand(self._scopes[user.scope], name, user.memberships)
        return self._rights[name]

    def _read(self) -> None:
        """Files that cannot be read say nothing of anybody."""
        authority = self._authority
        self._users, self._scopes = {}, {}
        with suppress(ConfigError), authority.keyring.locked():
            known = authority.ledger.load()
            self._scopes = authority.scopes.compiled(authority.policy, known, authority.subjects)
            self._users = known.users
