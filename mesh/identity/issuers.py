"""Tokens of outside identity providers: whose are believed, with which keys, and which mesh user each is.

A provider says who somebody is, never what they may do: a token names a participant of the mesh, and that one's own rights count. An
algorithm is one of those that were configured, and of the kind that the key is; so no public key can be taken for a shared secret.

Keys come as a JSON Web Key Set, from a file or from a URL (how that is fetched is handed in). They are kept for a while. A key that is not
known makes them be asked for again, but not more often than `AGAIN`: whoever sends made-up key ids must not turn us on the provider.

Source: RFC 7517; RFC 7518; RFC 8725.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import structlog

from mesh import clock
from mesh.crypto.bearer import Said
from mesh.errors import ConfigError, InvalidToken, MeshError
from mesh.subjects import CONTROL_PLANE, GATEWAY, OPERATOR

ALGORITHMS: Final = {"EdDSA": "OKP", "RS256": "RSA", "ES256": "EC"}
"""What a provider may sign with, and the kind of key (`kty`) that it takes."""

MOST_KEYS: Final = 100
LARGEST_SET: Final = 256 * 1024
"""Keys of one provider, and bytes of its set."""

FRESH: Final = 600.0
"""Seconds for which a set is believed without asking again."""

STALE: Final = 6 * 3600.0
"""Seconds for which it is believed while its provider does not answer."""

AGAIN: Final = 30.0
"""Seconds between two requests at least."""

NOT_FOR_OUTSIDERS: Final = frozenset({CONTROL_PLANE, GATEWAY, OPERATOR})
"""Participants that no provider can name: the mesh's own, and the one that may do everything."""

Fetch = Callable[[str], Awaitable[bytes]]
"""The body behind a URL, at most `LARGEST_SET` bytes. Raises MeshError."""

_log = structlog.get_logger("mesh.identity")


@dataclass(frozen=True, slots=True)
class Issuer:
    """A provider. `name` is its `iss`; `keys` a URL or a file; `claim` the one that holds the name of a mesh user."""

    name: str
    keys: str
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    claim: str = "sub"
    audience: str = ""
    """What its tokens must be for. Empty: the front itself, as for our own."""

    def __post_init__(self) -> None:
        if not self.algorithms or not set(self.algorithms) <= ALGORITHMS.keys():
            raise ConfigError(f"{self.name}: a token may be signed with {', '.join(ALGORITHMS)}, and with nothing else")
        if self.keys.startswith("http://"):
            raise ConfigError(f"{self.name}: keys come from a file or over https", hint="whoever can change them on their way is everybody")


class Provider:
    """One issuer, and its keys as they were last heard of. `fetch` is used where they are behind a URL."""

    def __init__(self, issuer: Issuer, fetch: Fetch) -> None:
        self.issuer = issuer
        self._fetch = fetch
        self._jws = jwt.PyJWS(algorithms=issuer.algorithms, options={"enforce_minimum_key_length": True})
        self._keys: list[tuple[str | None, str, jwt.PyJWK]] = []
        self._heard_at: float | None = None
        self._asked_at: float | None = None
        self._asking = asyncio.Lock()

    async def verify(self, token: str, said: Said) -> tuple[str, Mapping[str, Any]]:
        """The mesh user that it names, and its claims. Raises InvalidToken. Audience and times are not checked here."""
        if said.algorithm not in self.issuer.algorithms:
            raise InvalidToken("the token is signed with an algorithm that is not allowed here")
        key = await self._key(said)
        try:
            claims = json.loads(self._jws.decode(token, key=key, algorithms=[said.algorithm]))
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise InvalidToken("the token's signature is wrong") from None
        if not isinstance(claims, dict) or claims.get("iss") != self.issuer.name:
            raise InvalidToken("the token is of another issuer")
        name = claims.get(self.issuer.claim)
        if self.issuer.claim == "email" and claims.get("email_verified") is not True:
            raise InvalidToken("the token's issuer has not verified that address")
        if not isinstance(name, str) or not name or name in NOT_FOR_OUTSIDERS:
            raise InvalidToken("the token names no participant of this mesh")
        return name, claims

    async def _key(self, said: Said) -> jwt.PyJWK:
        await self._refresh(FRESH)
        key = self._find(said)
        if key is None:
            await self._refresh(AGAIN)
            key = self._find(said)
        if key is None:
            raise InvalidToken("the token is signed with a key that its issuer does not name")
        return key

    def _find(self, said: Said) -> jwt.PyJWK | None:
        """The key that is named; without a name, the only one of the token's algorithm."""
        fitting = [key for id, algorithm, key in self._keys if algorithm == said.algorithm and (said.key_id is None or id == said.key_id)]
        return fitting[0] if len(fitting) == 1 else None

    async def _refresh(self, oldest: float) -> None:
        """Ask for the keys where they are older than so many seconds."""
        async with self._asking:
            now = clock.monotonic()
            young = self._heard_at is not None and now - self._heard_at < oldest
            if young or (self._asked_at is not None and now - self._asked_at < AGAIN):
                return
            self._asked_at = now
            try:
                self._keys, self._heard_at = _read_set(await self._load(), self.issuer.algorithms), now
            except MeshError as problem:
                _log.warning("keys of an issuer could not be had", issuer=self.issuer.name, why=problem.message)
                if self._heard_at is not None and now - self._heard_at > STALE:
                    self._keys = []

    async def _load(self) -> bytes:
        where = self.issuer.keys
        return await self._fetch(where) if where.startswith("https://") else await asyncio.to_thread(_read_file, where)


def _read_file(where: str) -> bytes:
    try:
        with Path(where).open("rb") as file:
            return file.read(LARGEST_SET)
    except OSError as error:
        raise ConfigError(f"the keys {where} cannot be read: {error.strerror}") from None


def _read_set(raw: bytes, algorithms: tuple[str, ...]) -> list[tuple[str | None, str, jwt.PyJWK]]:
    """The keys of a set that can sign with these algorithms: id, algorithm, key. Raises ConfigError for what is no set."""
    try:
        said = json.loads(raw)["keys"]
        if not isinstance(said, list):
            raise TypeError("keys is no list")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError("this is no JSON Web Key Set") from None
    found = []
    for each in said[:MOST_KEYS]:
        if not isinstance(each, dict) or each.get("use", "sig") != "sig" or "d" in each:
            continue
        for algorithm in algorithms:
            if each.get("kty") != ALGORITHMS[algorithm] or each.get("alg", algorithm) != algorithm:
                continue
            try:
                key = jwt.PyJWK(each, algorithm)
            except (jwt.PyJWTError, ValueError, TypeError):
                continue  # of a curve or a form that this algorithm does not have
            found.append((each.get("kid"), algorithm, key))
    return found
