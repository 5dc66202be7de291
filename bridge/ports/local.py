"""The in-process port: an MCP server object of the SDK in this very process.

Requests of the modern era stand alone, and run at the SDK's dispatcher level (`bridge.ports.local_calls`). The handshake era is a session:
its first message begins one over a pair of memory streams, whose keeping is the SDK's, and everything after that goes there.

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
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import JSONRPCError, JSONRPCResponse, RequestId, jsonrpc_message_adapter
from pydantic import ValidationError

from bridge.ports.base import OnEnd, OnFrame
from bridge.ports.local_calls import PATIENCE, Calls
from mesh.errors import Busy
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, error, scan

MOST_WAITING: Final = 2_000
"""Messages of a session that may wait for the server to take them."""

_log = structlog.get_logger("bridge.local")


class LocalServer:
    """An `MCPServer` (or the SDK's low-level `Server`), entered once."""

    def __init__(self, server: "MCPServer[Any] | Server[Any]") -> None:
        self.server: Server[Any] = server._lowlevel_server if isinstance(server, MCPServer) else server
        self.lifespan_state: Any = None

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator["LocalServer"]:
        async with self.server.lifespan(self.server) as self.lifespan_state:
            yield self

    def port(self) -> "LocalPort":
        """A new port to this server. It is a `PortFactory`."""
        return LocalPort(self)


class LocalPort:
    """One connection to a `LocalServer`."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._calls: Calls | None = None
        self._session: _Session | None = None
        self._on_frame: OnFrame
        self._on_end: OnEnd

    async def open(self, on_frame: OnFrame, on_end: OnEnd) -> None:
        self._on_frame, self._on_end = on_frame, on_end
        self._calls = Calls(self._server.server, self._server.lifespan_state, on_frame)

    def send(self, frame: Frame) -> None:
        if self._calls is None:
            return  # not open, or closed
        modern = frame.era is not None and frame.method != "initialize"
        if self._session is None and (modern or frame.kind is not Kind.REQUEST):
            if frame.kind is Kind.REQUEST:
                self._calls.request(frame)
            elif frame.kind is Kind.NOTIFICATION:
                self._calls.notify(frame)
            return
        if self._session is None:
            self._session = _Session(self._server, self._on_frame, self._on_end)
        self._session.send(frame)

    async def close(self) -> None:
        calls, self._calls = self._calls, None
        if calls is not None:
            await calls.close()
        if self._session is not None:
            await self._session.close()


class _Session:
    """One session of the handshake era."""

    def __init__(self, server: LocalServer, on_frame: OnFrame, on_end: OnEnd) -> None:
        self._server = server
        self._on_frame = on_frame
        self._on_end = on_end
        self._inbound, read = anyio.create_memory_object_stream[tuple[Context, SessionMessage | Exception]](MOST_WAITING)
        self._read = ContextReceiveStream(read)
        self._write, self._outbound = anyio.create_memory_object_stream[SessionMessage](MOST_WAITING)
        self._tasks = [
            asyncio.create_task(self._serve(), name="local server"),
            asyncio.create_task(self._read_out(), name="local server's answers"),
        ]

    def send(self, frame: Frame) -> None:
        try:
            message = SessionMessage(jsonrpc_message_adapter.validate_json(frame.raw, by_name=False))
            self._inbound.send_nowait((copy_context(), message))  # the handler runs in it: what it calls ends with this call
        except ValidationError as problem:
            self._refuse(frame, problem)
        except anyio.WouldBlock:
            raise Busy("the server does not take what is sent to it", retry_after=1.0) from None
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # its end is on its way, and ends what it holds

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=PATIENCE)
        for stream in (self._inbound, self._read, self._write, self._outbound):
            stream.close()

    def _refuse(self, frame: Frame, problem: ValidationError) -> None:
        """The SDK cannot read it: half of a surrogate pair, nesting too deep for its parser."""
        why = problem.errors(include_url=False, include_input=False)[0]["msg"]
        if frame.kind is Kind.REQUEST and frame.id_span is not None:
            said = error(frame.raw[slice(*frame.id_span)], control.PARSE_ERROR, f"Parse error: {why}")
            self._on_frame(scan(said), frame.id if isinstance(frame.id, str) else None)
        else:
            _log.warning("a message that the server cannot read", method=frame.method, why=why)

    async def _serve(self) -> None:
        server = self._server.server
        try:
            await serve_dual_era_loop(
                server,
                self._read,
                self._write,
                lifespan_state=self._server.lifespan_state,
                init_options=server.create_initialization_options(),
            )
        except Exception as problem:
            _log.exception("the server failed")
            self._on_end(f"it failed: {problem}")
        else:
            self._on_end("it ended")

    async def _read_out(self) -> None:
        async for message in self._outbound:
            origin = _origin(message)
            raw = message.message.model_dump_json(by_alias=True, exclude_unset=True).encode()
            self._on_frame(scan(raw), origin if isinstance(origin, str) else None)


def _origin(message: SessionMessage) -> RequestId | None:
    """The request that something belongs to: the SDK knows, and says it to transports that answer each request on its own."""
    if isinstance(message.message, JSONRPCResponse | JSONRPCError):
        return message.message.id
    return message.metadata.related_request_id if isinstance(message.metadata, ServerMessageMetadata) else None
