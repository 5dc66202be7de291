"""Bearer tokens at the door of a front: made by a participant out of its credentials, and verified against the credentials that the front
was given.

A front acts for nobody whose credentials it has not got. So a token of ours is checked against the key in its participant's file, and who
is taken out of that directory, revoked there, or given a new key, has no token any more. A token of an outside issuer names such a
participant. What the file cannot know (a revocation elsewhere) the broker says when the front connects for that user.

Verifying costs some 100 µs, more than the rest of the door together. So what was verified is remembered by its bytes until it expires, a
bounded number of them, and its participant's file is looked at again after a second.
"""

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from mesh import clock
from mesh.crypto.bearer import ALGORITHM, LONGEST, audiences, expiry, peek, sign_bearer, verify_bearer
from mesh.crypto.creds import Credentials, read_credentials
from mesh.crypto.keys import read_seed
from mesh.errors import ConfigError, InvalidToken
from mesh.identity.issuers import Provider
from mesh.subjects import CONTROL_PLANE, GATEWAY, escape, unescape

DEFAULT_LIFETIME: Final = timedelta(hours=12)

MOST_REMEMBERED: Final = 4_096
"""Tokens, and participants. The one that was used longest ago makes room."""

LOOK: Final = 1.0
"""Seconds after which a participant's file is looked at again."""

_NOBODY: Final = "the token is not signed by a participant that is known here"


def make_token(credentials: Credentials, audience: str, lifetime: timedelta = DEFAULT_LIFETIME) -> tuple[str, int]:
    """A token for the owner of these credentials, and when it expires, in seconds since 1970: with the credentials at the latest.

    Raises ConfigError where they have expired, or for a lifetime over 30 days.
    """
    now = clock.wall_s()
    expires = now + int(lifetime.total_seconds())
    if credentials.expires is not None:
        if credentials.expires <= now:
            name = unescape(credentials.name)
            raise ConfigError(f"the credentials of {name} have expired", hint=f"`mesh auth issue {name}` renews them")
        expires = min(expires, credentials.expires)
    if not 0 < expires - now <= LONGEST:
        raise ConfigError(f"a token counts for at most {LONGEST // 86_400} days", hint="make another one when it has expired")
    key = read_seed(credentials.seed)
    name = unescape(credentials.name)
    return sign_bearer(key, name, audience.rstrip("/"), issued=now, expires=expires, id=secrets.token_urlsafe(12)), expires


@dataclass(slots=True, eq=False)
class User:
    """A participant whose credentials the front was given."""

    name: str
    path: Path
    credentials: Credentials
    mark: tuple[int, ...]
    """Which content of the file it is."""
    looked_at: float


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who came with a token that counts until `expires`, in seconds since 1970, on these paths and below. An empty path is all of them."""

    user: User
    expires: float
    paths: tuple[str, ...]

    def serves(self, path: str) -> bool:
        return any(not each or path == each or path.startswith(each + "/") for each in self.paths)


class Verifier:
    """`users` is a directory with the `.creds` files of those that the front may act for; `bases` the URLs that it is reached under."""

    def __init__(self, users: Path, bases: Sequence[str], providers: Sequence[Provider] = ()) -> None:
        self._directory = users
        self._bases = tuple(base.rstrip("/") for base in bases)
        self._providers = {provider.issuer.name: provider for provider in providers}
        self._users: OrderedDict[str, User] = OrderedDict()
        self._known: OrderedDict[bytes, Bearer] = OrderedDict()

    def known(self, token: bytes) -> Bearer | None:
        """Who was verified with the same bytes before, and still counts."""
        bearer = self._known.get(token)
        if bearer is None:
            return None
        now = clock.monotonic()
        if clock.wall_ns() >= bearer.expires * 1e9 or (now - bearer.user.looked_at > LOOK and not self._same(bearer.user, now)):
            del self._known[token]
            return None
        return bearer

    async def verify(self, token: bytes) -> Bearer:
        """Whose it is. Raises InvalidToken, in words that its owner may read and nobody learns much from."""
        try:
            text = token.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidToken("this is no JSON Web Token") from None
        said = peek(text)
        provider = self._providers.get(str(said.claims.get("iss")))
        claims: Mapping[str, Any]
        if provider is not None:
            name, claims = await provider.verify(text, said)
            user, longest, wanted = self._user(name), None, provider.issuer.audience
        else:
            if said.algorithm != ALGORITHM:
                raise InvalidToken("the token is signed with an algorithm that is not allowed here")
            user, longest, wanted = self._user(str(said.claims.get("name", ""))), LONGEST, ""
            claims = verify_bearer(text, user.credentials.public)
        now = clock.wall_ns() / 1e9
        expires = expiry(claims, now, longest=longest)
        paths = (("",) if wanted in audiences(claims) else ()) if wanted else tuple(self._paths(claims))
        if not paths:
            raise InvalidToken("the token is for another audience")
        if user.credentials.expires is not None:
            expires = min(expires, user.credentials.expires)
            if expires <= now:
                raise InvalidToken("the credentials behind the token have expired")
        bearer = self._known[token] = Bearer(user, expires, paths)
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
        return bearer

    def _paths(self, claims: Mapping[str, Any]) -> set[str]:
        """Where a token counts, by its audience: this front as a whole, or what is below one path of it."""
        found = (each.rstrip("/") for each in audiences(claims))
        return {each[len(base) :] for each in found for base in self._bases if each == base or each.startswith(base + "/")}

    def _user(self, name: str) -> User:
        """Raises InvalidToken where the front has no credentials of that name; in the words of a wrong signature, so that names cannot be
        guessed."""
        now = clock.monotonic()
        user = self._users.get(name)
        if user is not None and self._same(user, now):
            return user
        self._users.pop(name, None)
        path = self._directory / f"{escape(name)}.creds"
        if not name or name in (CONTROL_PLANE, GATEWAY):
            raise InvalidToken(_NOBODY)
        try:
            mark = _mark(path)
            credentials = read_credentials(path)
        except (OSError, ConfigError):
            raise InvalidToken(_NOBODY) from None
        if credentials.name != escape(name):
            raise InvalidToken(_NOBODY)
        user = self._users[name] = User(name, path, credentials, mark, now)
        if len(self._users) > MOST_REMEMBERED:
            self._users.popitem(last=False)
        return user

    def _same(self, user: User, now: float) -> bool:
        """Whether the file still says what it said."""
        try:
            if _mark(user.path) == user.mark:
                user.looked_at = now
                return True
        except OSError:
            pass
        return False


def _mark(path: Path) -> tuple[int, ...]:
    said = path.stat()
    return said.st_ino, said.st_size, said.st_mtime_ns
