"""An MCP server on stdio with one tool, written with the SDK as anybody would: the child of both sides of a comparison."""

import anyio
from mcp.server import MCPServer

server = MCPServer("echo")


@server.tool()
async def echo(text: str) -> str:
    """Says it again."""
    return text


if __name__ == "__main__":
    anyio.run(server.run_stdio_async, backend_options={"use_uvloop": True})
