"""FastMCP's `create_proxy` in front of a stdio server, over HTTP: `python bench/fastmcp_proxy.py PORT COMMAND…`, in the peer's own
environment. It is not imported by anything here."""

import sys

from fastmcp.client.transports import StdioTransport  # type: ignore[import-not-found]
from fastmcp.server import create_proxy  # type: ignore[import-not-found]

port, command, *arguments = sys.argv[1:]
proxy = create_proxy(StdioTransport(command, arguments), name="proxy")
proxy.run(transport="http", host="127.0.0.1", port=int(port), show_banner=False, log_level="ERROR")
