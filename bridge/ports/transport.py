"""The mesh as a transport of the MCP SDK: `Client(mesh_transport("time"))`.

What the SDK's streams carry is turned into bytes at this seam and nowhere else; behind it is the same `Connected` that serves a host on
stdio.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from bridge.connect import Connected
from mesh import Mesh

MOST_WAITING: Final = 10_000
"""Messages that may wait for the client to take them. One that takes none any more is treated as gone: nothing is dropped in silence."""


@asynccontextmanager
async def mesh_transport(
    agent: str,
    *,
    mesh: Mesh | None = None,
    name: str | None = None,
    state_dir: str | Path | None = None,
    broker: str | None = None,
    credentials: str | Path | None = None,
    timeout: float | None = None,
) -> AsyncIterator[tuple[Any, Any]]:
    """A transport to `agent`: read stream and write stream of SessionMessage. With `mesh` over that connection, else over one of its own.

    `timeout` in seconds for each request, started anew by its progress. Raises BrokerUnavailable, BrokerUnsuitable.
    """
    if mesh is None:
        async with (
            Mesh(name=name, state_dir=state_dir, broker=broker, credentials=credentials, timeout=timeout) as own,
            mesh_transport(agent, mesh=own, timeout=timeout) as streams,
        ):
            yield streams
        return
    to_client, read = anyio.create_memory_object_stream[SessionMessage | Exception](MOST_WAITING)
    write, from_client = anyio.create_memory_object_stream[SessionMessage](0)

    def hear(raw: bytes) -> None:
        try:
            to_client.send_nowait(SessionMessage(jsonrpc_message_adapter.validate_json(raw, by_name=False)))
        except anyio.WouldBlock:
            to_client.close()
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return

    async def speak() -> None:
        async for message in from_client:
            connected.receive(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode())

    connected = Connected(mesh, agent, hear, timeout=timeout)
    speaker = asyncio.create_task(speak(), name=f"transport to {agent}")
    try:
        yield read, write
    finally:
        speaker.cancel()
        await asyncio.gather(speaker, return_exceptions=True)
        await connected.close()
        for stream in (to_client, read, write, from_client):
            stream.close()
