"""The interface of all ports. A port carries whole JSON-RPC messages, as bytes, and knows nothing of the mesh.

Two kinds: a **server port** is a way to one MCP server (or to one session with it); a **host port** is a way to one MCP host.
Both call back in the event loop, and both end exactly once.
"""

from collections.abc import Callable
from typing import Protocol

from mesh.wire.jsonrpc import Frame

OnFrame = Callable[[Frame, str | None], None]
"""A message from the server, and the id of the request that it belongs to where the port can tell (HTTP answers each request on its
own)."""

OnEnd = Callable[[str], None]
"""The server is gone, and why. Not called after `close`."""


class ServerPort(Protocol):
    """A way to one MCP server. Made closed; `open` it once."""

    async def open(self, on_frame: OnFrame, on_end: OnEnd) -> None:
        """Reach the server. Raises ServerUnreachable with the reason."""

    def send(self, frame: Frame) -> None:
        """Send one message. Never waits; raises Busy when the server does not take what is sent to it."""

    async def close(self) -> None:
        """End it within seconds, whatever the server does. Idempotent."""


class HostPort(Protocol):
    """A way to one MCP host."""

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Hand each message over until the host goes."""

    def send(self, raw: bytes) -> None:
        """Send one message to the host."""


class PortFactory(Protocol):
    """Makes a new port to the same server: the modern era shares one, each handshake session has its own."""

    def __call__(self) -> ServerPort: ...
