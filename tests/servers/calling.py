"""A server whose tools call others, as whoever a plain `Mesh()` makes them: over stdio, or as `tests.servers.calling:server`."""

import os

from mcp.server.mcpserver import MCPServer

from mesh import Mesh
from mesh.errors import MeshError

server = MCPServer("calling")


@server.tool()
async def ask(agent: str, tool: str) -> str:
    """What became of it: `ok`, or the code of the error."""
    try:
        async with Mesh() as mesh:
            await mesh.call(agent, tool, {})
    except MeshError as error:
        return error.code
    return "ok"


@server.tool()
async def variables() -> dict[str, str]:
    """All that the environment says of the mesh."""
    return {name: value for name, value in os.environ.items() if name.startswith("MESH_")}


if __name__ == "__main__":
    server.run()
