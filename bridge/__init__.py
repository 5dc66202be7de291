"""The bridge: gives an MCP server, or a host, its place on the mesh.

    from bridge import mesh_transport, serve

`serve` puts an MCPServer object of the SDK on the mesh; `mesh_transport` lets the SDK's Client talk to an agent.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.app import serve
    from bridge.ports.transport import mesh_transport

__all__ = ["mesh_transport", "serve"]


def __getattr__(name: str) -> Any:
    """Load what is asked for and no more: a bridge for a command needs nothing of the SDK, and saves its 40 MB."""
    if name == "serve":
        from bridge.app import serve

        return serve
    if name == "mesh_transport":
        from bridge.ports.transport import mesh_transport

        return mesh_transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
