"""An event mesh for AI agents: MCP over NATS.

from mesh import Mesh

async with Mesh() as mesh:
    result = await mesh.call("time", "get_current_time", {"timezone": "Europe/Berlin"})
"""

from typing import TYPE_CHECKING, Any

from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh.node import Mesh

__all__ = ["Mesh", "MeshError"]


def __getattr__(name: str) -> Any:
    """`Mesh` when it is asked for. It brings the broker's client and the models, without which `mesh --help` starts four times as fast."""
    if name == "Mesh":
        from mesh.node import Mesh

        return Mesh
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
