"""Requests of the modern era to a server object of the SDK, each at the SDK's dispatcher level: a dict in, a dict out.

A stream of the SDK makes a model of every message, hands it through four tasks, and makes JSON of another model. A request of this era
stands alone, so none of that is needed: it is decoded here, runs in one task, and its result is encoded as the SDK would.

Source: MCP basic/index (what a request carries); `mcp.server.runner`, whose behaviour on a duplex stream this keeps.
"""

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import anyio
from mcp.server.connection import Connection, NotifyOnlyOutbound
from mcp.server.lowlevel.server import Server
from mcp.server.runner import ServerRunner, aclose_shielded, modern_error_data
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from mcp.shared.jsonrpc_dispatcher import progress_token_from_params
from mcp.shared.transport_context import TransportContext
from mcp_types import PARSE_ERROR, ErrorData, ProgressToken
from mcp_types.version import LATEST_MODERN_VERSION
from pydantic_core import to_json

from bridge.ports.base import OnFrame
from mesh.background import Background
from mesh.errors import Busy
from mesh.wire.jsonrpc import Frame, peek_final, scan

MOST_RUNNING: Final = 4_000
"""Requests at once, as many as an instance holds. The limit that is meant for servers is the agent's own."""

PATIENCE: Final = 3.0
"""Seconds for requests to end that are cancelled since the port is closed."""

_TRANSPORT: Final = TransportContext(kind="jsonrpc", can_send_request=False)


class Calls:
    """The requests that one port has at the server."""

    def __init__(self, server: Server[Any], lifespan_state: Any, on_frame: OnFrame) -> None:
        self._server = server
        self._lifespan_state = lifespan_state
        self._on_frame = on_frame
        self._contexts: dict[str | int, _Context] = {}
        self._running = Background()
        self._outbound = NotifyOnlyOutbound(_Context(self, None, None))

    def request(self, frame: Frame) -> None:
        """Run it. Raises Busy."""
        if len(self._running) >= MOST_RUNNING:
            raise Busy(f"{MOST_RUNNING} requests run at the server", retry_after=1.0)
        assert frame.id is not None
        try:
            params = json.loads(frame.raw)["params"]
        except (ValueError, RecursionError) as problem:  # a number that Python does not take, or nesting too deep for it
            self.say(_error(frame, ErrorData(code=PARSE_ERROR, message=f"Parse error: {problem}")), frame.id)
            return
        context = self._contexts[frame.id] = _Context(self, frame.id, progress_token_from_params(params))
        self._running.start(self._run(frame, params, context), f"{frame.method} at a local server")

    def notify(self, frame: Frame) -> None:
        """Hand a notification to the server; a cancellation ends its request first."""
        if (
            frame.method == "notifications/cancelled"
            and frame.cancels is not None
            and (of := self._contexts.get(frame.cancels)) is not None
        ):
            of.cancel()
        if len(self._running) < MOST_RUNNING:
            self._running.start(self._tell(frame), f"{frame.method} for a local server")

    async def close(self) -> None:
        self._running.cancel()
        await self._running.wait(PATIENCE)

    def say(self, raw: bytes, origin: str | int | None) -> None:
        """Hand over what the server says."""
        self._on_frame(peek_final(raw) or scan(raw), origin if isinstance(origin, str) else None)

    async def _run(self, frame: Frame, params: Mapping[str, Any], context: "_Context") -> None:
        assert frame.method is not None
        assert frame.id is not None
        with context.scope:
            try:
                result = await self._result(frame.method, params, context)
                raw = b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (_id(frame), result)
            except Exception as problem:
                raw = _error(frame, modern_error_data(problem))
            finally:
                context.ended = True
                if self._contexts.get(frame.id) is context:
                    del self._contexts[frame.id]
            if not context.cancelled:
                self.say(raw, context.id)

    async def _result(self, method: str, params: Mapping[str, Any], context: "_Context") -> bytes:
        route = classify_inbound_request({"method": method, "params": params})
        if isinstance(route, InboundLadderRejection):
            raise MCPError(code=route.code, message=route.message, data=route.data)
        connection = _Connection.from_envelope(
            route.protocol_version, route.client_info, route.client_capabilities, outbound=self._outbound
        )
        assert isinstance(connection, _Connection)
        try:
            result = await ServerRunner(self._server, connection, self._lifespan_state).on_request(context, method, params)
        finally:
            if connection.to_close:
                await aclose_shielded(connection)
        return to_json(result, inf_nan_mode="null")

    async def _tell(self, frame: Frame) -> None:
        assert frame.method is not None
        try:
            params = json.loads(frame.raw).get("params")
        except (ValueError, RecursionError):
            return
        connection = Connection.from_envelope(LATEST_MODERN_VERSION, None, None, outbound=self._outbound)
        try:
            runner = ServerRunner(self._server, connection, self._lifespan_state)
            await runner.on_notify(_Context(self, None, None), frame.method, params)
        finally:
            await aclose_shielded(connection)


class _Connection(Connection):
    """A connection that knows whether anything was put onto its exit stack: to unwind an empty one costs a tenth of a short call."""

    to_close = False

    @property
    def exit_stack(self) -> AsyncExitStack:
        self.to_close = True
        return self._exit_stack

    @exit_stack.setter
    def exit_stack(self, stack: AsyncExitStack) -> None:
        self._exit_stack = stack


class _Context:
    """What the SDK's kernel is given of a message, a `DispatchContext`: whence it came, and the way back for what is not its result.

    In this era a server asks nothing: what it wants to know it puts into its result.
    """

    __slots__ = ("_calls", "_requested", "_token", "cancelled", "ended", "id", "scope")

    def __init__(self, calls: Calls, id: str | int | None, token: ProgressToken | None) -> None:
        self.id = id
        self.scope = anyio.CancelScope()
        self.cancelled = False
        self.ended = False
        self._calls = calls
        self._token = token
        self._requested: anyio.Event | None = None

    @property
    def transport(self) -> TransportContext:
        return _TRANSPORT

    @property
    def can_send_request(self) -> bool:
        return False

    @property
    def request_id(self) -> str | int | None:
        return self.id

    @property
    def message_metadata(self) -> None:
        return None

    @property
    def cancel_requested(self) -> anyio.Event:
        if self._requested is None:
            self._requested = anyio.Event()
            if self.cancelled:
                self._requested.set()
        return self._requested

    def cancel(self) -> None:
        self.cancelled = True
        if self._requested is not None:
            self._requested.set()
        self.scope.cancel()

    async def send_raw_request(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if not self.ended:
            said = {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}
            self._calls.say(to_json(said, inf_nan_mode="null"), self.id)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._token is not None:
            said = {"progressToken": self._token, "progress": progress, "total": total, "message": message}
            await self.notify("notifications/progress", {key: value for key, value in said.items() if value is not None})


def _id(frame: Frame) -> bytes:
    """As it was written."""
    assert frame.id_span is not None
    return frame.raw[slice(*frame.id_span)]


def _error(frame: Frame, said: ErrorData) -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (_id(frame), said.model_dump_json(exclude_unset=True).encode())
