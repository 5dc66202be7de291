"""`/health` and `/ready` over HTTP on loopback, for supervisors that ask this way.

Small on purpose: the HTTP port of the bridge takes its place. One request a connection, GET or HEAD, and nothing of it is used but
the path.

Source: RFC 9112.
"""

import asyncio
import contextlib
import errno
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from mesh.errors import ConfigError, PortTaken

HOST: Final = "127.0.0.1"
HEAD_BYTES: Final = 16 * 1024
SECONDS: Final = 5.0
"""For a whole request: who says nothing does not hold a connection."""

Look = Callable[[], dict[str, Any]]
"""What `/ready` says: `{"ready": bool, …}`."""


@asynccontextmanager
async def serving(port: int, look: Look) -> AsyncIterator[str]:
    """Serve until the block ends; yields the address. 0 takes a free port. Raises PortTaken."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError):
            async with asyncio.timeout(SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(respond(head, look))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, HOST, port, limit=HEAD_BYTES)
    except OSError as error:
        hint = "stop what listens there, or choose another port: `mesh up --http-port PORT`"
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} for HTTP is taken", hint=hint, port=port, listener="HTTP") from None
        raise ConfigError(f"cannot listen for HTTP on port {port}: {error.strerror}", hint=hint) from None
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def respond(head: bytes, look: Look) -> bytes:
    """The whole response to a request whose head is this. Pure but for `look`."""
    words = head.split(b"\r\n", 1)[0].split(b" ")
    method, path = (words[0], words[1].partition(b"?")[0]) if len(words) == 3 else (b"", b"")
    if not method or not words[-1].startswith(b"HTTP/1."):
        status, body = HTTPStatus.BAD_REQUEST, {"error": "no HTTP/1 request"}
    elif path not in (b"/health", b"/ready"):
        status, body = HTTPStatus.NOT_FOUND, {"error": "there is /health and /ready"}
    elif method not in (b"GET", b"HEAD"):
        status, body = HTTPStatus.METHOD_NOT_ALLOWED, {"error": "only GET and HEAD"}
    elif path == b"/health":
        status, body = HTTPStatus.OK, {"status": "ok"}
    else:
        said = look()
        status, body = (HTTPStatus.OK if said["ready"] else HTTPStatus.SERVICE_UNAVAILABLE), said
    raw = json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(raw)}",
        "Cache-Control: no-store",
        "Connection: close",
        *(["Allow: GET, HEAD"] if status is HTTPStatus.METHOD_NOT_ALLOWED else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == b"HEAD" else raw)
