"""The rights of each participant, for the control plane: by the records of this state directory, and fresh after each change of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.policy.rights import Permissions

NOBODY = Permissions()


class RightsBook:
    """`book(name)` are the rights of a name; none for one that was issued nothing here."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._files = [authority.keyring.path / name for name in ("users.json", "policy.json")]
        self._read_at: tuple[int, ...] = ()
        self._look_up: Callable[[str], Permissions] = lambda _: NOBODY
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
            self._rights.clear()
            self._read_at = now
            try:
                self._look_up = self._authority.all_rights()
            except ConfigError:  # files that nobody can read say nothing of anybody
                self._look_up = lambda _: NOBODY
        if name not in self._rights:
            try:
                self._rights[name] = self._look_up(name)
            except ConfigError:
                self._rights[name] = NOBODY
        return self._rights[name]
