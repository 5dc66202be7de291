"""What can be written behind `mesh-bridge`."""

import argparse

SERVE_HELP = """examples:
  mesh-bridge serve time -- mcp-server-time
  mesh-bridge serve docs --url http://127.0.0.1:9000/mcp --role librarian
  mesh-bridge serve attic --url http://127.0.0.1:9001/sse --transport sse
  mesh-bridge serve notes --python examples.notes:server
"""

CONNECT_HELP = """examples:
  mesh-bridge connect time
  mesh-bridge connect                 all agents as one: tools are named agent__tool
  mesh-bridge connect --find-only     the same for hosts with too many tools: find_tools and call_tool
  mesh-bridge connect --print-config cursor
  claude mcp add time -- /path/to/.venv/bin/mesh-bridge connect time --state-dir /path/to/.mesh
"""

HTTP_HELP = """examples:
  mesh-bridge http --port 8600
  mesh auth token local --audience http://127.0.0.1:8600
  mesh-bridge connect time --print-config claude-code --http http://127.0.0.1:8600
"""

HTTP_PORT = 8600


def make_parser() -> argparse.ArgumentParser:
    """`what` says what is to be done; each command has its own options."""
    parser = argparse.ArgumentParser(prog="mesh-bridge", description="Puts an MCP server on the mesh, or connects an MCP host to it.")
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state-dir", help="state directory of the running mesh (default: .mesh, or MESH_STATE_DIR)")
    common.add_argument("--broker", help="address of the broker, instead of the state directory's")
    common.add_argument("--credentials", help="a NATS .creds file")
    common.add_argument("--ca", help="the authority of a broker at tls:// or wss://, a PEM file")
    common.add_argument("--client-cert", help="our certificate with its key, one PEM file, for a broker that asks for one")
    common.add_argument("--json", action="store_true", help="events and errors as JSON, one a line")
    common.add_argument("--verbose", action="store_true", help="log more, to stderr")

    serve = commands.add_parser(
        "serve",
        parents=[common],
        help="put one MCP server on the mesh",
        epilog=SERVE_HELP,
        usage="mesh-bridge serve NAME [options] (-- COMMAND ... | --url URL | --python MODULE:NAME)",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    serve.add_argument("name", help="the agent's name")
    serve.add_argument("--url", default="", help="a server over streamable HTTP, or over WebSocket where it begins with ws:// or wss://")
    serve.add_argument("--transport", default="", choices=["http", "sse", "ws"], help="how --url is spoken to; sse: HTTP+SSE of 2024-11-05")
    serve.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="a header for --url, may be repeated")
    serve.add_argument(
        "--header-from", action="append", default=[], metavar="NAME=VARIABLE", help="the same, its value from the environment: for secrets"
    )
    serve.add_argument("--url-ca", metavar="FILE", help="the authority of an https:// or wss:// --url, PEM; default: this machine's")
    serve.add_argument("--python", default="", metavar="MODULE:NAME", help="an MCPServer object of the SDK")
    serve.add_argument("--role", action="append", default=[], help="a name that other agents may answer to as well; may be repeated")
    serve.add_argument("--journal", default="full", choices=["full", "metadata", "none"], help="what the journal holds of its calls")
    serve.add_argument("--tool-journal", action="append", default=[], metavar="TOOL=MODE", help="the same for one tool; may be repeated")
    serve.add_argument("--rate", metavar="RATE", help="what one caller may ask of it: 100/s, 5/min, 20/h (default: no limit)")
    serve.add_argument("--tool-rate", action="append", default=[], metavar="TOOL=RATE", help="the same for one tool; may be repeated")
    serve.add_argument("--at-once", type=int, metavar="N", help="calls that may run at once; the others wait (default: 256)")
    serve.add_argument("--inbox", default="", metavar="TOOL", help="hand the messages to this agent to a tool of its server")
    serve.add_argument(
        "--answer", action="append", default=[], metavar="TOOL", help="a tool for messages of the type of its name, as a call"
    )
    serve.add_argument("--topic", action="append", default=[], help="hand messages on this topic to its tools, too; may be repeated")
    serve.add_argument("--broadcasts", action="store_true", help="hand messages to all, and to all of its roles, to its tools, too")
    serve.add_argument("--streams", default="", metavar="MODULE:NAME", help="with --python: what serves its streams, by their types")
    serve.add_argument("--sessions", default="own", choices=["own", "shared"], help="a server for each handshake session, or one for all")
    serve.add_argument("--with-stdin", action="store_true", help="end when stdin does (for a parent process)")

    connect = commands.add_parser(
        "connect",
        parents=[common],
        help="the stdio MCP server that a host starts",
        epilog=CONNECT_HELP,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    connect.add_argument("name", nargs="?", help="the agent (or role) that the host talks to; without it: all agents as one")
    connect.add_argument("--as", dest="caller", help="the host's own name on the mesh (default: its credentials', MESH_NAME, or host)")
    connect.add_argument("--find-only", action="store_true", help="without a name: show only find_tools and call_tool")
    connect.add_argument(
        "--print-config",
        nargs="?",
        const="claude-code",
        choices=["claude-code", "claude-desktop", "cursor"],
        help="print the entry for that host's configuration, and end",
    )
    connect.add_argument(
        "--http", metavar="URL", help="with --print-config: an entry that comes over HTTP to this front, with a token from MESH_TOKEN"
    )
    connect.add_argument("--timeout", type=float, help="seconds for each request, started anew by its progress (default: 60)")

    http = commands.add_parser(
        "http",
        parents=[common],
        help="serve the agents over HTTP and WebSocket, on this machine",
        epilog=HTTP_HELP,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    http.add_argument("--port", type=int, default=HTTP_PORT, help=f"0 takes a free one (default: {HTTP_PORT})")
    http.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1); beyond loopback with TLS")
    http.add_argument("--tls", action="store_true", help="with the certificate of `mesh auth tls`, or that of --tls-cert")
    http.add_argument("--tls-cert", metavar="FILE", help="a certificate, PEM, whose key is in --tls-key")
    http.add_argument("--tls-key", metavar="FILE", help="its key, PEM")
    http.add_argument("--client-ca", metavar="FILE", help="clients must show a certificate of this authority, PEM")
    http.add_argument("--behind-proxy", action="store_true", help="no TLS beyond loopback either, because a proxy before it has it")
    http.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="may stand in Host besides loopback's; may be repeated"
    )
    http.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help="pages may come from there; may be repeated")
    http.add_argument("--url", default="", help="where clients reach it, if that is elsewhere: tokens are made for it")
    http.add_argument("--users", metavar="DIR", help="credentials of those whose tokens are taken (default: those of the state directory)")
    http.add_argument("--auth", default="token", choices=["token", "none"], help="none, on loopback only: all who come are `local`")
    http.add_argument("--rate", metavar="RATE", help="requests of one caller, as 100/s or 5/min (default: no limit)")
    return parser
