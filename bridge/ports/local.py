"""The in-process port: an MCP server object of the SDK in this very process, over a pair of memory streams.

The server's lifespan is entered once, by `LocalServer`, and shared by all its ports, as it would be under HTTP.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextvars import Context, copy_context
from typing import Any, Final

import anyio
import structlog
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.runner import serve_dual_era_loop
from mcp.shared._context_streams import ContextReceiveStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from bridge.ports.base import OnEnd, OnFrame
from mesh.errors import Busy
from mesh.wire.jsonrpc import Frame, scan

MOST_WAITING: Final = 2_000
"""Messages that may wait for the server to take them."""

_log = structlog.get_logger("bridge.local")


class LocalServer:
    """An `MCPServer` (or the SDK's low-level `Server`), entered once."""

    def __init__(self, server: "MCPServer[Any] | Server[Any]") -> None:
        self.server: Server[Any] = server._lowlevel_server if isinstance(server, MCPServer) else server
        self._lifespan_state: Any = None

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator["LocalServer"]:
        async with self.server.lifespan(self.server) as self._lifespan_state:
            yield self

    def port(self) -> "LocalPort":
        """A new port to this server. It is a `PortFactory`."""
        return LocalPort(self)

    async def serve(self, read: Any, write: Any) -> None:
        await serve_dual_era_loop(
            self.server, read, write, lifespan_state=self._lifespan_state, init_options=self.server.create_initialization_options()
        )


class LocalPort:
    """One connection to a `LocalServer`."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._inbound, read = anyio.create_memory_object_stream[tuple[Context, SessionMessage | Exception]](MOST_WAITING)
        self._read = ContextReceiveStream(read)
        self._write, self._outbound = anyio.create_memory_object_stream[SessionMessage](MOST_WAITING)
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, on_frame: OnFrame, on_end: OnEnd) -> None:
        self._tasks = [
            asyncio.create_task(self._serve(on_end), name="local server"),
            asyncio.create_task(self._read_out(on_frame), name="local server's answers"),
        ]

    def send(self, frame: Frame) -> None:
        try:
            message = SessionMessage(jsonrpc_message_adapter.validate_json(frame.raw, by_name=False))
            self._inbound.send_nowait((copy_context(), message))  # the handler runs in it: what it calls ends with this call
        except anyio.WouldBlock:
            raise Busy("the server does not take what is sent to it", retry_after=1.0) from None
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # its end is on its way, and ends what it holds

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in (self._inbound, self._read, self._write, self._outbound):
            stream.close()

    async def _serve(self, on_end: OnEnd) -> None:
        try:
            await self._server.serve(self._read, self._write)
        except Exception as error:
            _log.exception("the server failed")
            on_end(f"it failed: {error}")
        else:
            on_end("it ended")

    async def _read_out(self, on_frame: OnFrame) -> None:
        async for message in self._outbound:
            on_frame(scan(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode()), None)
