"""An event mesh for AI agents: MCP over NATS.

from mesh import Mesh

async with Mesh() as mesh:
    result = await mesh.call("time", "get_current_time", {"timezone": "Europe/Berlin"})
"""

from mesh.errors import MeshError
from mesh.node import Mesh

__all__ = ["Mesh", "MeshError"]
