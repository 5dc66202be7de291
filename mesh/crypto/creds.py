"""Credentials: a user's JWT and the seed of its key in one file, as every NATS tool reads it. The whole file is a secret.

Source: docs.nats.io, "Creds"; the text is what `nsc` writes.
"""

import os
import re
import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesh.crypto import jwt
from mesh.crypto.keys import Kind, read_seed
from mesh.errors import ConfigError

_TEXT: Final = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.
NKEYs are sensitive and should be treated as secrets.

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------

*************************************************************
"""

_dashes: Final = "---"
_value: Final = re.compile(r"[A-Za-z0-9._=-]+").fullmatch

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
"""What a secret lets nobody but its owner do."""

LARGEST: Final = 64 * 1024
"""Bytes of a file that may be credentials. A JWT must pass through one control line of the protocol, 4 KB."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one user. `name` is as the JWT says it (on the mesh: escaped), `expires` in seconds since 1970, None for never."""

    jwt: str = field(repr=False)
    seed: str = field(repr=False)
    name: str
    public: str
    expires: int | None


def read_credentials(path: Path) -> Credentials:
    """A `.creds` file. Raises ConfigError where it cannot be read, where it is ours and others can read it too (as ssh refuses such a key),
    or where seed and JWT are not of one key. Its text is never repeated."""
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            text = file.read(LARGEST).decode()
    except OSError as error:
        raise ConfigError(f"the credentials {path} cannot be read: {error.strerror}", hint="`mesh auth list` shows who has some.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no NATS credentials file") from None
    if about.st_uid == os.getuid() and about.st_mode & OTHERS:
        raise ConfigError(
            f"others can read the credentials {path}: its mode is {stat.S_IMODE(about.st_mode):04o}",
            hint=f"`chmod 600 {shlex.quote(str(path))}`, and have new ones made if others use this machine: `mesh auth rotate`",
        )
    return parse_credentials(text, str(path))


def parse_credentials(text: str, where: str = "the text") -> Credentials:
    """The text of a `.creds` file; `where` names it in errors. Raises ConfigError."""
    lines = [line.strip() for line in text.splitlines()]
    found = [
        line
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False)
        if before.startswith(_dashes) and after.startswith(_dashes) and not line.startswith(_dashes) and _value(line)
    ]
    if len(found) != 2:
        raise ConfigError(f"{where} is no NATS credentials file", hint="It holds a user's JWT and the seed of its key.")
    token, seed = found
    try:
        claims, key = jwt.read(token, "user"), read_seed(seed)
    except ConfigError as error:
        raise ConfigError(f"{where} is no NATS credentials file: {error.message}") from None
    if key.kind is not Kind.USER or key.public != claims.subject:
        raise ConfigError(f"in {where} the seed is not the one of the JWT", user=claims.name)
    return Credentials(token, seed, claims.name, claims.subject, claims.expires)


def format_credentials(jwt: str, seed: str) -> str:
    return _TEXT.format(jwt=jwt, seed=seed)
