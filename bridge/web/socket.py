"""A host over WebSocket: one JSON-RPC message a text frame, both eras on one connection, as over stdio.

The specification has no such transport; this one follows what it asks of custom ones. The subprotocol is `mcp`; a client that offers others
only is refused, one that offers none is taken. The token comes in `Authorization`, with the handshake; a page in a browser cannot set
that header, and uses HTTP: in a subprotocol or in the address a token would end up in logs. Cancelling is the notification of that name;
closing the connection cancels all. The server pings every 20 seconds and closes when no pong comes. It closes with 1008 when the token
has expired, and with 1012 when a session is over, and a client begins anew.

Source: RFC 6455; MCP basic/transports, custom transports; ASGI WebSocket 2.4.
"""

import asyncio
from collections import deque
from typing import Final

from bridge.host_link import HostLink
from bridge.web.outlet import MOST_UNSENT, STALL, Message, Receive, Send, respond
from bridge.web.rules import Problem
from mesh import clock
from mesh.background import end_tasks
from mesh.errors import MeshError
from mesh.wire import control

SUBPROTOCOL: Final = "mcp"
SESSION_OVER: Final = 1012
"""Service restart: a client may connect again at once."""

TEXT_ONLY: Final = 1003
POLICY: Final = 1008
TRY_LATER: Final = 1013


class Socket:
    """One connection. `put` what the host is to hear; `run` until one side ends it."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.heard_at = clock.monotonic()
        """When something last went in or out."""
        self._receive = receive
        self._send = send
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._more = asyncio.Event()
        self._close: tuple[int, str] | None = None

    async def accept(self, scope: Message, problem: Problem | None) -> bool:
        """Answer the handshake: with what is wrong, or with yes."""
        await self._receive()
        offered = scope.get("subprotocols") or []
        if problem is None and offered and SUBPROTOCOL not in offered:
            problem = Problem(400, control.INVALID_REQUEST, "Bad Request: the subprotocol is mcp")
        if problem is not None:
            await respond(self._send_http, problem.status, list(problem.headers), problem.body())
            return False
        await self._send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if offered else None})
        return True

    async def _send_http(self, message: Message) -> None:
        await self._send({**message, "type": "websocket." + message["type"]})

    def put(self, raw: bytes) -> None:
        self._queue.append(raw)
        self._size += len(raw)
        if self._size > MOST_UNSENT and len(self._queue) > 1:
            self.end(TRY_LATER, "too much waits to be read")
        self._more.set()

    def on_over(self, problem: MeshError) -> None:
        self.end(SESSION_OVER, problem.code)

    def end(self, code: int, reason: str) -> None:
        """Close it, after what waits to be written."""
        self._close = self._close or (code, reason)
        self._more.set()

    async def run(self, link: HostLink) -> None:
        reading = asyncio.create_task(self._read(link), name="WebSocket in")
        writing = asyncio.create_task(self._write(), name="WebSocket out")
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await link.close()
            await end_tasks(reading, writing)

    async def _read(self, link: HostLink) -> None:
        while (message := await self._receive())["type"] == "websocket.receive":
            self.heard_at = clock.monotonic()
            text = message.get("text")
            if text is None:
                self.end(TEXT_ONLY, "messages are text")
                return
            link.receive(text.encode())

    async def _write(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._queue:
                raw = self._queue.popleft()
                self._size -= len(raw)
                self.heard_at = clock.monotonic()
                async with asyncio.timeout(STALL):
                    await self._send({"type": "websocket.send", "text": raw.decode()})
            if self._close is not None:
                code, reason = self._close
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                return
