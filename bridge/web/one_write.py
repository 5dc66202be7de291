"""The head of a response and its body in one write.

The web server writes them one after the other, and on a loop that writes at once each is a system call that wakes the client: first for
half of an answer, and on a busy machine it then takes the processor from us who were about to write the rest.
"""

import asyncio
from typing import Any, Final

HEAD: Final = b"HTTP/1."
"""How a head begins, as no body of ours does."""


class OneWrite:
    """A transport that holds a head back until something follows, at most to the end of the event loop's turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(HEAD):
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)
