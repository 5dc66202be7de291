"""The SDK's server over any transport: `python -m tests.servers.peer stdio`, or `… http|sse|ws PORT`. Over WebSocket the loop is ours,
since the SDK has none: one JSON-RPC message a text frame.
"""

import asyncio
import socket
import sys
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

SUBPROTOCOL: Any = "mcp"


def make() -> MCPServer:
    """A server whose tools do one thing each. `cancelled` waits until `hang` was cancelled, `began` until it runs; each time anew."""
    server: MCPServer = MCPServer("peer")
    started, stopped = asyncio.Event(), asyncio.Event()

    @server.tool()
    async def echo(text: str) -> str:
        return text

    @server.tool()
    async def count(to: int, ctx: Context) -> str:
        for number in range(1, to + 1):
            await ctx.report_progress(number, to)
        return "counted"

    @server.tool()
    async def log(ctx: Context) -> str:
        await ctx.debug("quiet")
        await ctx.warning("loud")
        return "logged"

    @server.tool()
    async def fail() -> str:
        raise MCPError(-32123, "no", {"n": [1, {"deep": None}]})

    @server.tool()
    async def hang() -> str:
        stopped.clear()
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return ""

    @server.tool()
    async def began() -> str:
        await started.wait()
        started.clear()
        return "began"

    @server.tool()
    async def cancelled() -> str:
        await stopped.wait()
        return "cancelled"

    return server


async def over_websocket(server: MCPServer, connection: ServerConnection) -> None:
    into, read = anyio.create_memory_object_stream[SessionMessage | Exception](100)
    write, out = anyio.create_memory_object_stream[SessionMessage](100)
    low = server._lowlevel_server

    async def send() -> None:
        async for said in out:
            await connection.send(said.message.model_dump_json(by_alias=True, exclude_unset=True))

    serving = asyncio.create_task(low.run(read, write, low.create_initialization_options()))
    sending = asyncio.create_task(send())
    try:
        async for text in connection:
            await into.send(SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False)))
    except ConnectionClosed:
        pass
    finally:
        for task in (serving, sending):
            task.cancel()
        await asyncio.gather(serving, sending, return_exceptions=True)
        for stream in (into, read, write, out):
            stream.close()


async def listen(transport: str, port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    server = make()
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - what the test reads
    if transport == "ws":
        async with serve(lambda each: over_websocket(server, each), sock=listener, subprotocols=[SUBPROTOCOL], max_size=2**26):
            await asyncio.Event().wait()
    app = server.sse_app() if transport == "sse" else server.streamable_http_app()
    await uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none")).serve([listener])


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        make().run("stdio")
    else:
        asyncio.run(listen(sys.argv[1], int(sys.argv[2])))
