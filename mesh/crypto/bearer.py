"""Bearer tokens: JSON Web Tokens, and what must be true of one before it is believed. Pure.

Our own are signed by a participant with the key of its own credentials. An nkey is an Ed25519 key, so the signature is EdDSA, which every
JWT library knows; there is no other algorithm for them. Nobody issues these tokens but who holds the key, and who knows its public half
can check them.

Nothing here repeats a token or a claim in an error, and which of several checks failed is told only as far as it helps its owner.

Source: RFC 7519; RFC 8037 (EdDSA); RFC 8725 (what to check, and why).
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from mesh.crypto.jwt import NkeyAlgorithm
from mesh.crypto.keys import KeyPair
from mesh.errors import ConfigError, InvalidToken

ALGORITHM: Final = "EdDSA"

LARGEST: Final = 8 * 1024
"""Characters of a token. Identity providers' have two or three thousand."""

LEEWAY: Final = 10
"""Seconds by which two clocks may differ."""

LONGEST: Final = 30 * 86_400
"""Seconds that one of our own tokens may count: it cannot be called back but with its participant's credentials."""

_TYPES: Final = (None, "JWT", "at+jwt")

_jws: Final = jwt.PyJWS(algorithms=[])
_jws.register_algorithm(ALGORITHM, NkeyAlgorithm())


@dataclass(frozen=True, slots=True)
class Said:
    """What a token says of itself. Nothing is verified yet: it is for finding the key only."""

    algorithm: str
    key_id: str | None
    claims: Mapping[str, Any]


def sign_bearer(key: KeyPair, name: str, audience: str, *, issued: int, expires: int, id: str) -> str:
    """A token of the participant `name`, signed with its key, for `audience`: the URL of a front, or of one agent there. Times are seconds
    since 1970. Raises ConfigError for a life that no front would accept."""
    if not 0 < expires - issued <= LONGEST:
        raise ConfigError(f"a token counts for at most {LONGEST // 86_400} days", hint="make another one when it has expired")
    claims = {
        "iss": key.public, "sub": key.public, "name": name, "aud": audience, "iat": issued, "nbf": issued, "exp": expires, "jti": id,
    }  # fmt: skip
    text = json.dumps(claims, separators=(",", ":")).encode()
    return _jws.encode(text, key, algorithm=ALGORITHM, headers={"kid": key.public})  # type: ignore[arg-type]  # the algorithm's own kind of key


def peek(token: str) -> Said:
    """Header and claims of what looks like a token. Raises InvalidToken."""
    parts = token.split(".")
    if len(token) > LARGEST or len(parts) != 3:
        raise InvalidToken("this is no JSON Web Token")
    header, claims = _part(parts[0]), _part(parts[1])
    if header.get("typ") not in _TYPES or "crit" in header:
        raise InvalidToken("this is a JSON Web Token of another kind")
    key_id = header.get("kid")
    return Said(str(header.get("alg")), key_id if isinstance(key_id, str) else None, claims)


def verify_bearer(token: str, public: str) -> Mapping[str, Any]:
    """The claims of a token that the holder of the nkey `public` signed for itself. Raises InvalidToken. Audience and times are not
    checked here."""
    try:
        claims = json.loads(_jws.decode(token, key=public, algorithms=[ALGORITHM]))
    except (jwt.InvalidTokenError, ConfigError, ValueError, RecursionError):
        raise InvalidToken("the token is not signed by a participant that is known here") from None
    if not isinstance(claims, dict) or claims.get("iss") != public or claims.get("sub") != public:
        raise InvalidToken("the token is not signed by a participant that is known here")
    return claims


def expiry(claims: Mapping[str, Any], now: float, *, longest: int | None = LONGEST) -> float:
    """When the token counts no more, in seconds since 1970. Raises InvalidToken where that is past, or its time has not come, or it says
    nothing of it. `longest`: seconds for which it may have been made; None takes its issuer's word."""
    expires, issued, begins = (_time(claims.get(each)) for each in ("exp", "iat", "nbf"))
    if expires is None or (longest is not None and (issued is None or expires - issued > longest)):
        raise InvalidToken("the token does not say when it was made and when it expires, or counts for too long")
    if now >= expires + LEEWAY:
        raise InvalidToken("the token has expired")
    if max(issued or 0, begins or 0) > now + LEEWAY:
        raise InvalidToken("the token does not count yet")
    return expires + LEEWAY


def audiences(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """Whom the token is for."""
    said = claims.get("aud")
    return tuple(each for each in (said if isinstance(said, list) else [said]) if isinstance(each, str))


def _part(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise InvalidToken("this is no JSON Web Token") from None
    if not isinstance(found, dict):
        raise InvalidToken("this is no JSON Web Token")
    return found


def _time(said: Any) -> float | None:
    """A NumericDate. Raises InvalidToken for what is none."""
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < 1e12:
        raise InvalidToken("a time in the token is no number of seconds")
    return float(said)
