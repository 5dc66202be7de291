"""Servers over HTTP that are no part of the mesh: the SDK's own, and programs that others have written."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn

START: Final = 30.0
"""Seconds that one may take to listen."""


@asynccontextmanager
async def sdk_http() -> AsyncIterator[str]:
    """The same server object over the SDK's own streamable HTTP, as its documentation serves it."""
    from bench.stdio_server import server

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(server.streamable_http_app(), log_level="error", access_log=False, timeout_graceful_shutdown=1)
        running = uvicorn.Server(config)
        serving = asyncio.create_task(running.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        await _reachable(port)
        yield f"http://127.0.0.1:{port}/mcp"
        running.should_exit = True
        await serving


@asynccontextmanager
async def peer(path: str, *command: str) -> AsyncIterator[str]:
    """A program that serves HTTP on the port that stands for `{port}`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(*(each.replace("{port}", str(port)) for each in command), stdout=sys.stderr)
    try:
        await _reachable(port)
        yield f"http://127.0.0.1:{port}{path}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _reachable(port: int) -> None:
    async with asyncio.timeout(START):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
