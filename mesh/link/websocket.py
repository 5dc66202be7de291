"""The broker over WebSocket, for networks that let nothing else through: a transport for nats-py, on the `websockets` library.

nats-py's own needs aiohttp. The broker sends whole protocol lines, several in one message; there is no fast lane here.
"""

import asyncio
import ssl
from typing import Final
from urllib.parse import ParseResult

from nats.aio.transport import Transport
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

CLOSE_SECONDS: Final = 1.0


class WebSocketTransport(Transport):
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
                uri.geturl(), ssl=context, open_timeout=seconds, close_timeout=CLOSE_SECONDS,
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
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.wait_closed()

    def at_eof(self) -> bool:
        return self._ended

    def __bool__(self) -> bool:
        return True
