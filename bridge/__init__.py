"""The bridge: gives an MCP server, or a host, its place on the mesh."""
