"""The files of `{state_dir}/auth`: written whole or not at all, readable by their owner alone, changed by one process at a time.

| file | what | secret |
|---|---|---|
| `operator.seed` | the operator's own key; signs nothing but `operator.jwt`, and may be kept elsewhere | yes |
| `operator-signing.seed` | the operator's key that signs accounts | yes |
| `account.seed`, `system.seed` | the keys of the accounts MESH and SYS | yes |
| `scopes/{scope}.seed` | the account's signing key for one set of roles | yes |
| `users/{name}.creds` | the credentials of one participant; the file's name is the escaped name | yes |
| `users/{name}.jwt` | instead, where the key was made elsewhere | no |
| `system.creds` | credentials in SYS, to tell a running broker what changed | yes |
| `operator.jwt`, `account.jwt`, `system.jwt` | what the broker is told | no |
| `untold` | that a broker was to be told something, and may not know it (mesh/identity/push.py) | no |
| `users.json` | who there is (mesh/identity/records.py) | no |
| `policy.json` | the policy in force (mesh/identity/scopes.py) | no |
| `policy.toml` | roles and what they may do, as people write them | no |
| `guests*` | whom outside its own participants a mesh believes (mesh/identity/outside.py) | seeds, the service's |
| `accounts/` | the broker's own copies of the accounts | no |
| `tls/` | a private authority, and certificates (mesh/identity/tls.py) | keys |

All but the broker's are 0600 in directories of 0700. A secret that others can read is refused rather than used: it may be known by now.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mesh.crypto.creds import OTHERS
from mesh.crypto.keys import KeyPair, Kind, new_key, read_seed
from mesh.errors import ConfigError, StateDirUnusable
from mesh.subjects import escape

DIRECTORY: Final = "auth"

USERS: Final = "users"
"""Where the participants' credentials are, below it."""

SECRET: Final = {".seed", ".creds", ".key"}


class Keyring:
    """The files below one directory. Paths are relative to it. Errors are ConfigError and StateDirUnusable, and never repeat a secret."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir.expanduser().resolve() / DIRECTORY

    def make(self) -> None:
        """The directories, if they are not there."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for each in (self.path, self.path / "scopes", self.path / USERS, self.path / "accounts"):
                each.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the files: other processes wait. The lock goes with the process, also by kill -9."""
        if self.secret("") is None:
            raise ConfigError(f"{self.path} is not there", hint="Restore it from a backup, or start anew: `mesh auth init`.")
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def has(self, name: str) -> bool:
        try:
            return (self.path / name).exists()
        except PermissionError:
            hint = "Ask its owner for credentials: `mesh auth issue NAME` makes a file."
            raise ConfigError(f"{self.path} belongs to another user", hint=hint, path=str(self.path)) from None

    def secret(self, name: str) -> Path | None:
        """The path of a secret file for those who read it themselves, None where there is none."""
        try:
            self._check(self.path / name)
        except FileNotFoundError:
            return None
        return self.path / name

    def read(self, name: str) -> str | None:
        """The text of a file, None where there is none."""
        path = self.path / name
        try:
            if path.suffix in SECRET:
                self._check(path)
            return path.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None

    def write(self, name: str, text: str) -> Path:
        """Whole or not at all, also when the power goes."""
        path = self.path / name
        new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(descriptor)
                new.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    new.unlink()
                raise
        except OSError as error:
            raise self._unusable(error) from None
        return path

    def remove(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def key(self, name: str, kind: Kind) -> KeyPair | None:
        """The key whose seed is in a file, None where there is none."""
        text = self.read(name)
        if text is None:
            return None
        try:
            key = read_seed(text)
        except ConfigError as error:
            raise ConfigError(f"{self.path / name}: {error.message}", hint=error.hint) from None
        if key.kind is not kind:
            raise ConfigError(f"{self.path / name} holds a seed of another kind of key than {kind.name.lower()}", public=key.public)
        return key

    def key_or_new(self, name: str, kind: Kind) -> KeyPair:
        """The key of a file, made where there is none. Only within `locked`."""
        return self.key(name, kind) or self.new_key(name, kind)

    def new_key(self, name: str, kind: Kind) -> KeyPair:
        key = new_key(kind)
        self.write(name, key.seed + "\n")
        return key

    def _check(self, path: Path) -> None:
        """Refuse what others can read. FileNotFoundError where there is nothing."""
        if path.stat().st_mode & OTHERS:
            what = "700" if path.is_dir() else "600"
            raise ConfigError(
                f"others can read {path}, which holds or guards secrets",
                hint=f"`chmod {what} {path}`. If others use this machine, renew what they may have read: `mesh auth rotate`.",
                path=str(path),
            )

    def _unusable(self, error: OSError) -> StateDirUnusable:
        return StateDirUnusable(
            f"{self.path} cannot be written: {error.strerror or error}",
            hint="Name another state directory, or make this one writable for you.",
            path=str(self.path),
        )


def creds_file(name: str) -> str:
    return f"{USERS}/{escape(name)}.creds"


def token_file(name: str) -> str:
    return f"{USERS}/{escape(name)}.jwt"
