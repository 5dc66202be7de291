"""The transports that nats-py uses below us: TCP, with TLS or without, and WebSocket for networks that let nothing else through.

nats-py's own WebSocket needs aiohttp; this one uses the library that the ports use too. The broker sends whole protocol lines, several in
one message; there is no fast lane there.
"""

import asyncio
import ssl
from typing import Any, Final, cast
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport, Transport
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

LAST_WORDS: Final = 0.5
"""Seconds that the end of a connection may take. A peer that is gone takes nothing any more, and says no goodbye as TLS has it; asyncio
would wait for thirty."""


class Tcp(TcpTransport):
    """Its end takes a moment, not as long as TCP or TLS have patience."""

    @property
    def secure(self) -> bool:
        return self._io_writer is not None and self._io_writer.get_extra_info("ssl_object") is not None

    def __bool__(self) -> bool:
        """nats-py would replace one that is false, as one is that was not connected yet."""
        return True

    async def connect_tls(self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int) -> None:
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)
        protocol = self._io_writer.transport.get_protocol() if self._io_writer is not None else None
        if protocol is not None:  # else asyncio warns of each end: half a connection is nothing that TLS has
            cast(Any, protocol)._over_ssl = True

    async def wait_closed(self) -> None:
        writer = self._io_writer
        if writer is None:
            return
        # A task of its own: a timeout around the writer's future would cancel that future, for everybody who ever waits for it.
        closed = asyncio.create_task(writer.wait_closed(), name="end of a connection")
        try:
            await asyncio.wait({closed}, timeout=LAST_WORDS)
        finally:
            if not closed.done():
                writer.transport.abort()
        await asyncio.wait({closed}, timeout=LAST_WORDS)
        if closed.done():
            closed.result()


class WebSocket(Transport):
    """One connection at a time; `connect` again after `close`. Raises OSError, whatever went wrong."""

    def __init__(self) -> None:
        self._socket: ClientConnection | None = None
        self._out: list[bytes] = []
        self._ended = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        await self._open(uri, None, connect_timeout)

    async def connect_tls(self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int) -> None:
        """nats-py asks a second time, with the host's name, where the broker says that it demands TLS: it has it by then."""
        if isinstance(uri, ParseResult):
            await self._open(uri, ssl_context, connect_timeout)
        elif self._socket is None or not self.secure:
            raise ConnectionError("the broker demands TLS: its address begins with wss://")

    async def _open(self, uri: ParseResult, context: ssl.SSLContext | None, seconds: float) -> None:
        self._out = []
        try:
            self._socket = await connect(
                uri.geturl(), ssl=context, open_timeout=seconds, close_timeout=LAST_WORDS,
                max_size=None, compression=None, proxy=None, ping_interval=None,
            )  # fmt: skip
        except WebSocketException as error:
            raise ConnectionError(f"no WebSocket: {error}") from None
        self._ended = False

    @property
    def secure(self) -> bool:
        return self._socket is not None and self._socket.transport.get_extra_info("ssl_object") is not None

    def write(self, payload: bytes) -> None:
        self._out.append(payload)

    def writelines(self, payload: list[bytes]) -> None:
        self._out += payload

    async def drain(self) -> None:
        out, self._out = self._out, []
        if out and self._socket is not None:
            try:
                await self._socket.send(b"".join(out))
            except ConnectionClosed as closed:
                raise ConnectionError(f"the WebSocket ended: {closed}") from None

    async def read(self, buffer_size: int) -> bytes:
        """One message of the WebSocket; nothing at its end."""
        return await self.readline()

    async def readline(self) -> bytes:
        assert self._socket is not None
        try:
            data = await self._socket.recv(decode=False)
        except ConnectionClosed:
            self._ended = True
            return b""
        return bytes(data)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.transport.close()

    async def wait_closed(self) -> None:
        if self._socket is not None:
            async with asyncio.timeout(LAST_WORDS):
                await self._socket.wait_closed()

    def at_eof(self) -> bool:
        return self._ended

    def __bool__(self) -> bool:
        return True
