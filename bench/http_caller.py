"""The thin client of streamable HTTP, the same for every server: bytes over kept connections, in either era, no library between.

In the handshake era it has one session, as a host has, and any number of requests on it at once, each on a connection of its own.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from bench import wire

Headers = dict[bytes, bytes]

MODERN: Final = b"2026-07-28"
HANDSHAKE: Final = b"2025-11-25"


@asynccontextmanager
async def http_caller(url: str, era: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Calls of the tool `echo` at an MCP endpoint. `era` is `modern` or `handshake`."""
    client = _Client(url)
    if era == "handshake":
        await client.begin_session()
    else:
        client.says = b"mcp-protocol-version: %b\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n" % MODERN
    request = wire.request if era == "modern" else wire.handshake_request
    numbers = itertools.count(1)

    async def call() -> None:
        status, _, body = await client.post(request(f"{wire.CALLER}.{next(numbers)}"))
        if status != 200:
            raise ValueError(f"HTTP {status}: {body[:200]!r}")
        wire.check(json.loads(body)["result"])

    try:
        yield call
    finally:
        client.close()


class _Client:
    """Requests to one endpoint, each on an idle connection or on a new one."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.says = b""
        """Header lines of every request."""
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n"
            "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"
        ).encode()
        self._all: list[_Connection] = []
        self._idle: list[_Connection] = []

    async def begin_session(self) -> None:
        _, headers, body = await self.post(wire.initialize(HANDSHAKE.decode()))
        if "result" not in json.loads(body):
            raise ValueError(f"no session: {body[:200]!r}")
        self.says = b"mcp-protocol-version: %b\r\n" % HANDSHAKE
        if (session := headers.get(b"mcp-session-id")) is not None:
            self.says += b"mcp-session-id: %b\r\n" % session
        await self.post(wire.INITIALIZED)

    async def post(self, body: bytes) -> tuple[int, Headers, bytes]:
        """Status, headers and the JSON of the answer, which of a stream is its last event."""
        if self._idle:
            connection = self._idle.pop()
        else:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port)
            self._all.append(connection)
        try:
            return await connection.send(b"%b%bcontent-length: %d\r\n\r\n%b" % (self._head, self.says, len(body), body))
        finally:
            if not connection.ended:
                self._idle.append(connection)

    def close(self) -> None:
        for connection in self._all:
            connection.close()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as its servers write it: a length or chunks, and a connection that stays."""

    def __init__(self) -> None:
        self.ended = False
        self._transport: asyncio.Transport
        self._data = b""
        self._answer: asyncio.Future[tuple[int, Headers, bytes]]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes) -> asyncio.Future[tuple[int, Headers, bytes]]:
        self._data = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        status, *lines = head.split(b"\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(b":") for line in lines)}
        if headers.get(b"transfer-encoding") == b"chunked":
            if not rest.endswith(b"0\r\n\r\n"):
                return
            rest = _unchunked(rest)
        elif len(rest) < int(headers.get(b"content-length", b"0")):
            return
        if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            rest = next((line[6:] for line in reversed(rest.splitlines()) if line.startswith(b"data: ") and line[6:]), b"")
        self._answer.set_result((int(status.split()[1]), headers, rest))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the server closed the connection: {exc}"))

    def close(self) -> None:
        self._transport.close()


def _unchunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
