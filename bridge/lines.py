"""Lines of a stdio stream: newline-delimited JSON-RPC, with a bound on each line and on nonsense. Pure.

Source: MCP basic/transports, stdio: messages are delimited by newlines and must not contain any.
"""

import re
from typing import Final

LONGEST_LINE: Final = 64 * 1024 * 1024
"""Bytes of one message. The mesh's own limit for bodies is the same; what is longer is dropped up to its newline."""


class Lines:
    """Cuts a stream of bytes into lines. `feed` returns the complete ones; empty lines are left out."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self.dropped = 0
        """Bytes that were thrown away because their line was too long."""
        self._longest = longest
        self._parts: list[bytes] = []
        self._size = 0
        self._dropping = False

    def feed(self, data: bytes) -> list[bytes]:
        if not self._parts and data.count(b"\n") == 1 and data.endswith(b"\n") and not self._dropping and len(data) <= self._longest:
            line = data.rstrip(b"\r\n")  # one whole line: so it is almost always
            return [line] if line else []
        first, newline, rest = data.partition(b"\n")
        if not newline:
            self._keep(data)
            return []
        self._keep(first)
        lines = [] if self._dropping else [b"".join(self._parts)]
        self._parts, self._size, self._dropping = [], 0, False
        if rest:
            *whole, tail = rest.split(b"\n")
            for line in whole:
                if len(line) <= self._longest:
                    lines.append(line)
                else:
                    self.dropped += len(line)
            if tail:
                self._keep(tail)
        return [line for line in (each.rstrip(b"\r") for each in lines) if line]

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._longest and not self._dropping:
            self._dropping = True
            self.dropped += self._size - len(data)
            self._parts = []
        if self._dropping:
            self.dropped += len(data)
        elif data:
            self._parts.append(data)


def as_line(raw: bytes) -> bytes:
    """A message as one line. A newline in valid JSON is white space, so a space says the same."""
    if b"\n" in raw or b"\r" in raw:
        raw = raw.replace(b"\n", b" ").replace(b"\r", b" ")
    return raw + b"\n"


SHOWN: Final = 120
"""Bytes of what is no message that a log shows."""


def beginning(raw: bytes) -> str:
    """How something begins that is no message, for a log: text that a program prints, and nothing of JSON, which may be a damaged answer of
    a tool that is not to be recorded."""
    text = raw[:SHOWN].decode("utf-8", "replace")
    before = re.split(r'[{"]', text, maxsplit=1)[0]
    return text if before == text else f"{before}… ({len(raw)} bytes)"
