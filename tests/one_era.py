"""Server objects of the SDK that speak one era only, as ports reach them."""

import asyncio
import contextlib
from typing import Any

import anyio
from mcp.server.lowlevel.server import NotificationOptions
from mcp.server.runner import _serve_modern_stream, serve_loop
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from bridge.ports.base import OnEnd, OnFrame
from bridge.ports.local import LocalServer
from mesh.wire.jsonrpc import Frame, scan


class OneEra(LocalServer):
    """A server of one era: all that comes, of either, goes to `serve` over a pair of streams."""

    started = 0

    def port(self) -> "_StreamPort":  # type: ignore[override]
        return _StreamPort(self)

    async def serve(self, read: Any, write: Any) -> None:
        raise NotImplementedError


class HandshakeOnly(OneEra):
    """Answers everything of the modern era as a server that was written before it."""

    async def serve(self, read: Any, write: Any) -> None:
        self.started += 1
        options = self.server.create_initialization_options(NotificationOptions(tools_changed=True, resources_changed=True))
        await serve_loop(self.server, read, write, lifespan_state=self.lifespan_state, init_options=options)


class ModernOnly(OneEra):
    """Answers `initialize` with the error that names the modern revision."""

    async def serve(self, read: Any, write: Any) -> None:
        self.started += 1
        await _serve_modern_stream(self.server, read, write, lifespan_state=self.lifespan_state, raise_exceptions=False)


class _StreamPort:
    """As the SDK's own memory transport: what a server of one era says to requests of the other is its own affair."""

    def __init__(self, server: OneEra) -> None:
        self._server = server
        self._inbound, self._read = anyio.create_memory_object_stream[SessionMessage | Exception](100)
        self._write, self._outbound = anyio.create_memory_object_stream[SessionMessage](100)
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, on_frame: OnFrame, on_end: OnEnd) -> None:
        self._tasks = [asyncio.create_task(self._serve(on_end)), asyncio.create_task(self._read_out(on_frame))]

    def send(self, frame: Frame) -> None:
        with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # its end is on its way
            self._inbound.send_nowait(SessionMessage(jsonrpc_message_adapter.validate_json(frame.raw, by_name=False)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in (self._inbound, self._read, self._write, self._outbound):
            stream.close()

    async def _serve(self, on_end: OnEnd) -> None:
        await self._server.serve(self._read, self._write)
        on_end("it ended")

    async def _read_out(self, on_frame: OnFrame) -> None:
        async for message in self._outbound:
            on_frame(scan(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode()), None)
