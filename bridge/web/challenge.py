"""What a front says of itself as a protected resource, and to who may not ask: metadata, challenges, limits. Pure.

A client that comes without a token is told where the metadata is, and the metadata names the authorization servers whose tokens count
here: those of the configured issuers. For the mesh's own tokens there is none to name, since no server makes them (`mesh auth token`).

The resource is the front as a whole, or one path of it; a token may be for either.

Source: RFC 6750 (errors), RFC 9728 (metadata), MCP basic/authorization; draft-ietf-httpapi-ratelimit-headers-10; RFC 6585 (429).
"""

import json
import math
from collections.abc import Sequence
from typing import Final

from bridge.web.rules import Headers, Problem
from mesh.policy.rate import Rate
from mesh.wire import control

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"

INVALID_TOKEN: Final = "invalid_token"
INSUFFICIENT_SCOPE: Final = "insufficient_scope"

Header = tuple[bytes, bytes]


class Resource:
    """The front as a resource. `bases` are the URLs that it is reached under, the preferred one first; `issuers` those of outside
    tokens."""

    def __init__(self, bases: Sequence[str], issuers: Sequence[str] = ()) -> None:
        self._bases = {base.partition("://")[2].encode(): base for base in reversed(bases)}
        self._base = bases[0]
        self._issuers = list(issuers)

    def url(self, headers: Headers, path: str) -> str:
        """A path of this front, under the name that the client has used for it."""
        return self._bases.get(headers.get(b"host", b"").lower(), self._base) + path

    def metadata(self, headers: Headers, path: str) -> bytes:
        """The document for one path, or for all (an empty path)."""
        said: dict[str, object] = {"resource": self.url(headers, path), "bearer_methods_supported": ["header"], "resource_name": "mesh"}
        if self._issuers:
            said["authorization_servers"] = self._issuers
        return json.dumps(said).encode()

    def challenge(self, headers: Headers, path: str, error: str = "", description: str = "") -> Header:
        """`WWW-Authenticate`. Without an error: for who came without a token."""
        said = {"error": error, "error_description": description, "resource_metadata": self.url(headers, WELL_KNOWN + path)}
        pairs = ", ".join(f'{name}="{value}"' for name, value in said.items() if value)
        return b"www-authenticate", f"Bearer {pairs}".encode("ascii", "replace").replace(b"\\", b"").replace(b"\n", b" ")


def unauthorized(challenge: Header, message: str) -> Problem:
    return Problem(401, control.INVALID_REQUEST, f"Unauthorized: {message}", headers=(challenge,))


def too_many(message: str, wait: float, headers: tuple[Header, ...] = ()) -> Problem:
    data = {"mesh": "rate_limited", "retry_after": round(wait, 3)}
    return Problem(429, control.MESH_ERROR, f"Too Many Requests: {message}", data, headers=(retry_after(wait), *headers))


def retry_after(seconds: float) -> Header:
    return b"retry-after", b"%d" % max(1, math.ceil(seconds))


def policy(rate: Rate) -> Header:
    return b"ratelimit-policy", b'"caller";q=%d;w=%d' % (rate.count, rate.seconds)


def standing(left: int, full_in: float) -> Header:
    """How many requests the caller has left now, and when it has all of them again."""
    return b"ratelimit", b'"caller";r=%d;t=%d' % (left, math.ceil(full_in))
