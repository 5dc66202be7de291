"""A handshake session lasts as long as its host gives signs of life."""

import asyncio

import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

from bridge import connect, mesh_transport, serve, sessions
from mesh import Mesh


@pytest.mark.proves("a session lives as long as its host gives signs of life")
async def test_signs_of_life_keep_a_session(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "SIGN_OF_LIFE", 0.1)
    monkeypatch.setattr(sessions, "SESSION_SILENCE", 0.6)
    server = MCPServer("patient")

    @server.tool()
    async def outlast() -> str:
        """Take longer than a silent session would last."""
        await asyncio.sleep(1.5)
        return "done"

    async with (
        asyncio.timeout(20),
        Mesh(name="patient", broker=plane) as mesh,
        serve(server, name="patient", mesh=mesh),
        Client(mesh_transport("patient", mesh=mesh), mode="legacy") as client,
    ):
        assert not (await client.call_tool("outlast", {})).is_error
