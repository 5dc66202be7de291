"""What the tests of bearer tokens share: a participant, a verifier that has its credentials, and time that a test moves."""

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mesh import clock
from mesh.crypto import bearer
from mesh.crypto.creds import read_credentials
from mesh.crypto.keys import read_seed
from mesh.identity.authority import Authority
from mesh.identity.tokens import Verifier, make_token

BASE = "http://127.0.0.1:8600"
NAME = "qa manager"


class World:
    """A state directory with one participant, and a verifier that has its credentials."""

    def __init__(self, path: Path) -> None:
        self.authority = Authority.open(path, create=True)
        self.authority.issue(NAME, ("agent", "host"))
        self.users = self.authority.keyring.path / "users"
        self.verifier = Verifier(self.users, (BASE, "https://mesh.example/"))

    @property
    def credentials(self) -> Any:
        path = self.authority.credentials(NAME)
        assert path is not None
        return read_credentials(path)

    def token(self, audience: str = BASE, lifetime: timedelta = timedelta(hours=1)) -> bytes:
        return make_token(self.credentials, audience, lifetime)[0].encode()

    def signed(self, change: dict[str, Any]) -> bytes:
        """A token with other claims, but with the right signature. None takes a claim away."""
        now = clock.wall_ns() // 1_000_000_000
        key = read_seed(self.credentials.seed)
        claims: dict[str, Any] = {
            "iss": key.public,
            "sub": key.public,
            "name": NAME,
            "aud": BASE,
            "iat": now,
            "nbf": now,
            "exp": now + 60,
            "jti": "1",
        }
        claims = {name: value for name, value in (claims | change).items() if value is not None}
        return bearer._jws.encode(json.dumps(claims).encode(), key, algorithm="EdDSA").encode()  # type: ignore[arg-type]


class Clock:
    """Time that a test moves, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        wall_ns, monotonic = clock.wall_ns, clock.monotonic
        monkeypatch.setattr(clock, "wall_ns", lambda: wall_ns() + int(self.ahead * 1e9))
        monkeypatch.setattr(clock, "monotonic", lambda: monotonic() + self.ahead)


def text(value: Any) -> str:
    return base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).rstrip(b"=").decode()
