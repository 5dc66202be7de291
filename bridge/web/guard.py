"""Who may ask at all: Host and Origin, checked on every request. Pure.

A page in a browser can reach servers on loopback. By DNS rebinding it can even do so under its own name, and then it may read the answers.
The name that it used stands in `Host`, and where it comes from in `Origin`; no page can change either. Programs send no `Origin`.

Source: MCP basic/transports, security warning.
"""

import re
from collections.abc import Iterable
from typing import Final

LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
"""Names that mean this machine to everybody, so no page can have one of them as its own."""

MOST_KNOWN: Final = 1_000
"""Values of headers that were checked and found good, remembered."""

_host: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/\s]+)(:[0-9]{1,5})?").fullmatch
_origin: Final = re.compile(r"https?://([^/\s]+)").fullmatch


class Guard:
    """`hosts` are allowed in `Host`, with any port or, where one is given, with that one. `origins` are whole origins."""

    def __init__(self, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in (*LOOPBACK, *hosts))
        self._origins = frozenset(origin.lower() for origin in origins)
        self._good: set[tuple[bytes | None, bytes | None]] = set()

    def refusal(self, host: bytes | None, origin: bytes | None) -> tuple[int, str] | None:
        """None, or the status and the reason."""
        pair = (host, origin)
        if pair in self._good:
            return None
        if host is None or not self._is_host(host.decode("latin-1").lower()):
            return 421, "Misdirected Request: this Host is not served here"
        if origin is not None and not self._is_origin(origin.decode("latin-1").lower()):
            return 403, "Forbidden: this Origin may not ask here"
        if len(self._good) >= MOST_KNOWN:
            self._good.clear()
        self._good.add(pair)
        return None

    def _is_host(self, host: str) -> bool:
        match = _host(host)
        return match is not None and (host in self._hosts or match.group(1) in self._hosts)

    def _is_origin(self, origin: str) -> bool:
        if origin in self._origins:
            return True
        match = _origin(origin)
        host = _host(match.group(1)) if match is not None else None
        return host is not None and host.group(1) in LOOPBACK
