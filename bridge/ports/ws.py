"""The WebSocket port: an MCP server over WebSocket, one JSON-RPC message a text frame, both eras on one connection as over stdio.

The specification has no such transport; this one follows what it asks of custom ones, and is the same as the bridge's own front
(`bridge.web.socket`): the subprotocol is `mcp`, cancelling is the notification of that name, and closing the connection cancels all. The
connection is the session: where it ends the port ends. A binary frame that holds a message is taken too; we send text only.

Redirects and the environment's proxies are not followed and compression is not offered, for the reasons that `http_client` gives.

Source: RFC 6455; MCP basic/transports, custom transports.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Self

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from bridge.errors import ServerUnreachable
from bridge.lines import beginning
from bridge.ports import http_errors as errors
from bridge.ports.base import OnEnd, OnFrame
from bridge.ports.http_client import CLOSE_SECONDS, CONNECT_SECONDS
from bridge.ports.http_session import MOST_GARBAGE
from bridge.ports.http_wire import LARGEST_BODY
from mesh.errors import Busy, ConfigError, MalformedMessage, TooLarge
from mesh.wire.jsonrpc import Frame, scan

MOST_WAITING: Final = 64 * 1024 * 1024
MOST_MESSAGES: Final = 10_000
"""Bytes, and messages, that may wait for a server that does not read. Over it, a message is refused as busy."""

PING: Final = 20.0
PONG: Final = 40.0
"""Seconds between pings, and for the pong: a peer that vanished, or reads nothing, is found within a minute. A pong has to come through
behind 64 MiB."""

MOST_QUEUED: Final = 16
"""Frames that are read ahead of us. Then the server's sending is held back by TCP."""

OWN_HEADERS: Final = frozenset({"connection", "host", "origin", "upgrade"})
"""And all that begin with `Sec-WebSocket-`: the handshake's own."""

_log = structlog.get_logger("bridge.ws")


class WebSocketServer:
    """One MCP server at a ws:// or wss:// URL. Raises ConfigError for a URL or a header that cannot be used.

    `headers` go with the handshake (`Authorization`, mostly). `tls` is for a private authority or a client certificate.
    """

    def __init__(self, name: str, url: str, headers: Mapping[str, str] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        try:
            parsed = parse_uri(url)
        except (InvalidURI, ValueError):
            raise ConfigError(f"{name}: this is no URL of a WebSocket", hint="it begins with ws:// or wss:// and a host") from None
        for key in headers or {}:
            if key.lower() in OWN_HEADERS or key.lower().startswith("sec-websocket-"):
                raise ConfigError(f"{name}: the header {key} is not free to set: the port sets it")
        self.name = name
        self.url = url
        self.where = f"{parsed.host}:{parsed.port}"
        """For messages. The whole URL may hold secrets."""
        self.headers = dict(headers or {})
        self.tls = tls if parsed.secure else None

    def port(self) -> "WebSocketPort":
        """A new port to this server, which is a connection of its own. It is a `PortFactory`."""
        return WebSocketPort(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is shared between ports, so nothing is left to close."""


class WebSocketPort:
    """One connection to a `WebSocketServer`."""

    def __init__(self, server: WebSocketServer) -> None:
        self._server = server
        self._socket: ClientConnection | None = None
        self._on_frame: OnFrame | None = None
        self._on_end: OnEnd | None = None
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._garbage = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, on_frame: OnFrame, on_end: OnEnd) -> None:
        """Raises ServerUnreachable with what the handshake met."""
        server = self._server
        more: dict[str, Any] = {} if server.tls is None else {"ssl": server.tls}
        try:
            self._socket = await _Connect(
                server.url,
                subprotocols=[Subprotocol("mcp")],
                additional_headers=server.headers,
                user_agent_header="mesh-bridge",
                compression=None,
                proxy=None,
                open_timeout=CONNECT_SECONDS,
                ping_interval=PING,
                ping_timeout=PONG,
                close_timeout=CLOSE_SECONDS / 2,
                max_size=LARGEST_BODY,
                max_queue=MOST_QUEUED,
                **more,
            )
        except InvalidStatus as refused:
            answer = refused.response
            problem = errors.of_status(server.name, answer.status_code, answer.headers, bytes(answer.body or b""))
            raise ServerUnreachable(problem.message, hint=problem.hint, **problem.details) from None
        except (OSError, EOFError, WebSocketException) as broken:  # TimeoutError is one
            why = (broken.strerror if isinstance(broken, OSError) else None) or str(broken) or type(broken).__name__
            raise errors.unreachable(server.name, server.where, why) from None
        self._on_frame, self._on_end = on_frame, on_end
        self._tasks = [
            asyncio.create_task(self._read(self._socket), name=f"{server.name}: WebSocket in"),
            asyncio.create_task(self._write(self._socket), name=f"{server.name}: WebSocket out"),
        ]

    def send(self, frame: Frame) -> None:
        """Raises Busy at a bound, TooLarge for a message over 64 MiB. Each frame was read as UTF-8, so a text frame can hold it."""
        name, raw = self._server.name, frame.raw
        if self._on_frame is None:
            return  # its end is on its way, and ends what it holds
        if len(raw) > LARGEST_BODY:
            raise TooLarge(f"{name}: the message is over the size limit", limit=LARGEST_BODY)
        if self._size > MOST_WAITING or len(self._waiting) >= MOST_MESSAGES:
            raise Busy(f"{name} does not read what is sent to it", retry_after=1.0)
        self._waiting.append(raw)
        self._size += len(raw)
        self._more.set()

    async def close(self) -> None:
        """Close the connection. Takes two times `CLOSE_SECONDS` at most."""
        self._on_frame = self._on_end = None
        tasks, self._tasks = self._tasks, []
        if self._socket is None:
            return
        try:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._socket.close()
        finally:
            self._socket.transport.abort()
            self._waiting.clear()

    async def _read(self, socket: ClientConnection) -> None:
        try:
            while self._garbage <= MOST_GARBAGE:
                self._take(await socket.recv(decode=False))  # `scan` says what is no UTF-8
            why = "it sends much that is no message"
        except ConnectionClosed as closed:
            why = _describe(closed)
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._on_frame = None
            for task in self._tasks[1:]:
                task.cancel()
            socket.transport.abort()
            on_end(why)

    def _take(self, raw: bytes) -> None:
        try:
            frame = scan(raw)
        except MalformedMessage as problem:
            self._garbage += len(raw) or 1
            _log.warning("not a message", agent=self._server.name, why=str(problem), starts=beginning(raw))
            return
        if self._on_frame is not None:
            try:
                self._on_frame(frame, None)
            except Exception:  # not the server's fault: it is read on
                _log.exception("a message was not taken", agent=self._server.name, method=frame.method)

    async def _write(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reader meets the same end, and tells it
            while True:
                await self._more.wait()
                self._more.clear()
                while self._waiting:
                    raw = self._waiting.popleft()
                    await socket.send(raw, text=True)  # waits while the server does not read
                    self._size -= len(raw)


class _Connect(connect):
    """A redirect would carry the agent's headers to a place that nobody named: it is an error like any other status."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def _describe(closed: ConnectionClosed) -> str:
    if closed.rcvd is not None:
        return f"it closed the connection with {closed.rcvd.code} {closed.rcvd.reason[:100]}".rstrip()
    if closed.sent is not None:
        return f"the connection was closed with {closed.sent.code} {closed.sent.reason[:100]}".rstrip()
    return "the connection broke"
