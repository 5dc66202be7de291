"""The mesh as a transport of the MCP SDK: `Client(mesh_transport("time"))` for one agent, `Client(mesh_transport())` for all as one.

What the SDK's streams carry is turned into bytes at this seam and nowhere else; behind it is the same `HostLink` that serves a host on
stdio.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from bridge.gathered.roster import Roster
from bridge.host_link import HostLink
from bridge.links import Links
from mesh import Mesh
from mesh.background import end_tasks

MOST_WAITING: Final = 10_000
"""Messages that may wait for the client to take them. One that takes none any more is treated as gone: nothing is dropped in silence."""


@asynccontextmanager
async def mesh_transport(
    agent: str | None = None,
    *,
    only_find: bool = False,
    mesh: Mesh | None = None,
    name: str | None = None,
    state_dir: str | Path | None = None,
    broker: str | None = None,
    credentials: str | Path | None = None,
    timeout: float | None = None,
) -> AsyncIterator[tuple[Any, Any]]:
    """A transport to `agent`, or without a name to all agents as one: read stream and write stream of SessionMessage.

    With `only_find` all agents show `find_tools` and `call_tool` alone. With `mesh` over that connection, else over one of its own.

    `timeout` in seconds for each request, started anew by its progress. Raises BrokerUnavailable, BrokerUnsuitable.
    """
    if mesh is None:
        async with (
            Mesh(name=name, state_dir=state_dir, broker=broker, credentials=credentials, timeout=timeout) as own,
            mesh_transport(agent, mesh=own, only_find=only_find, timeout=timeout) as streams,
        ):
            yield streams
        return
    if agent is None:
        async with (
            Links(mesh) as links,
            Roster(mesh) as roster,
            _streams(lambda hear: links.to_all(roster, hear, only_find=only_find, timeout=timeout), "all agents") as streams,
        ):
            yield streams
    else:
        async with Links(mesh) as links, _streams(lambda hear: links.to_one(agent, hear, timeout=timeout), agent) as streams:
            yield streams


@asynccontextmanager
async def _streams(make: Callable[[Callable[[bytes], None]], HostLink], to: str) -> AsyncIterator[tuple[Any, Any]]:
    """The SDK's streams before a host's link."""
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
            link.receive(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode())

    link = make(hear)
    speaker = asyncio.create_task(speak(), name=f"transport to {to}")
    try:
        yield read, write
    finally:
        await end_tasks(speaker)
        await link.close()
        for stream in (to_client, read, write, from_client):
            stream.close()
