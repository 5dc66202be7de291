"""Errors of the bridge, below the mesh's own tree (mesh/errors.py).

MeshError
├── ServerUnreachable   the MCP server behind the bridge cannot be started or reached   server_unreachable
└── ServerDied          it ended while it held a call                                  server_died
"""

from mesh.errors import CallError, MeshError


class ServerUnreachable(MeshError):
    """The MCP server cannot be started or reached."""

    code = "server_unreachable"
    retryable = True


class ServerDied(CallError):
    """The MCP server ended while it held the call. Whether the call had an effect is not known."""

    code = "server_died"
