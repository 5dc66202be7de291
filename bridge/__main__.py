"""`mesh-bridge`: one MCP server onto the mesh (`serve`), or MCP hosts to it: one over stdio (`connect`), many over HTTP (`http`).

argparse, and imports where they are used: this process lives as long as its agent does, and should weigh little.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TextIO

import structlog

from mesh.errors import ConfigError, MeshError
from mesh.settings import Settings, make_settings

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
  claude mcp add time -- mesh-bridge connect time --state-dir /path/to/.mesh
"""

HTTP_HELP = """examples:
  mesh-bridge http --port 8600
  claude mcp add --transport http time http://127.0.0.1:8600/agents/time/mcp
"""

HTTP_PORT = 8600


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Exit codes: 0 in order, 1 an error (one line on stderr, or JSON with --json), 2 wrong usage, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    options = _parser().parse_args(words[:at])  # argparse would take the server's own options for ours
    options.command = words[at + 1 :]
    _configure_logging(options.verbose)
    try:
        return _run(options.run(options))
    except MeshError as error:
        if options.json:
            _say(json.dumps(error.as_dict()), sys.stderr)
        else:
            _say(f"error: {error}" + (f"\n  {error.hint}" if error.hint else ""), sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mesh-bridge", description="Puts an MCP server on the mesh, or connects an MCP host to it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
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
    serve.add_argument("--url-ca", metavar="FILE", help="the authority of an https:// or wss:// --url, PEM; default: this machine's")
    serve.add_argument("--python", default="", metavar="MODULE:NAME", help="an MCPServer object of the SDK")
    serve.add_argument("--role", action="append", default=[], help="a name that other agents may answer to as well; may be repeated")
    serve.add_argument("--journal", default="full", choices=["full", "metadata", "none"], help="what the journal holds of its calls")
    serve.add_argument("--tool-journal", action="append", default=[], metavar="TOOL=MODE", help="the same for one tool; may be repeated")
    serve.add_argument("--at-once", type=int, metavar="N", help="calls that may run at once; the others wait (default: 256)")
    serve.add_argument("--sessions", default="own", choices=["own", "shared"], help="a server for each handshake session, or one for all")
    serve.add_argument("--with-stdin", action="store_true", help="end when stdin does (for a parent process)")
    serve.set_defaults(run=_serve)

    connect = commands.add_parser(
        "connect",
        parents=[common],
        help="the stdio MCP server that a host starts",
        epilog=CONNECT_HELP,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    connect.add_argument("name", nargs="?", help="the agent (or role) that the host talks to; without it: all agents as one")
    connect.add_argument("--as", dest="caller", default="host", help="the host's own name on the mesh (default: host)")
    connect.add_argument("--find-only", action="store_true", help="without a name: show only find_tools and call_tool")
    connect.add_argument(
        "--print-config",
        nargs="?",
        const="claude-code",
        choices=["claude-code", "claude-desktop", "cursor"],
        help="print the entry for that host's configuration, and end",
    )
    connect.add_argument("--timeout", type=float, help="seconds for each request, started anew by its progress (default: 60)")
    connect.set_defaults(run=_connect)

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
    http.add_argument("--as", dest="caller", default="http", help="the name on the mesh of all who call this way (default: http)")
    http.set_defaults(run=_http)
    return parser


async def _serve(options: argparse.Namespace) -> int:
    from bridge.app import expose, make_spec, port_factory
    from mesh import Mesh

    spec = make_spec(
        name=options.name,
        command=tuple(options.command),
        url=options.url,
        transport=options.transport,
        headers=dict(_pair(each, "--header") for each in options.header),
        ca=options.url_ca,
        python=options.python,
        roles=tuple(options.role),
        journal=options.journal,
        sessions=options.sessions,
        **({} if options.at_once is None else {"at_once": options.at_once}),
        tools={tool: {"journal": mode} for tool, mode in (_pair(each, "--tool-journal") for each in options.tool_journal)},
    )

    def on_event(kind: str, agent: str, detail: str) -> None:
        if options.json:
            _say(json.dumps({"event": kind, "agent": agent, "detail": detail}), sys.stdout)
        else:
            _say(f"{agent} is on the mesh: {detail}" if kind == "ready" else f"{agent}: {kind} {detail}", sys.stderr)

    told = _told()
    watching = asyncio.create_task(_end_of_stdin(told), name="stdin") if options.with_stdin else None
    async with (
        port_factory(spec) as make_port,
        Mesh(settings=_settings(options, options.name), roles=("agent", *spec.roles)) as mesh,
        expose(mesh, spec, make_port, on_event=on_event),
    ):
        _settled()
        await told.wait()
    if watching is not None:
        watching.cancel()
    return 0


async def _connect(options: argparse.Namespace) -> int:
    settings = _settings(options, options.caller)
    if options.find_only and options.name is not None:
        raise ConfigError("--find-only is for all agents as one", hint="leave the name out")
    if options.print_config is not None:
        from bridge.host_config import advice, make_entry

        name, text = make_entry(options.print_config, settings, agent=options.name, only_find=options.find_only, timeout=options.timeout)
        _say(text, sys.stdout)
        _say(advice(options.print_config, name, text), sys.stderr)
        return 0

    from bridge.connect import Connected
    from bridge.gathered.gather import Gathered
    from bridge.gathered.roster import Roster
    from bridge.host_link import HostLink
    from bridge.ports.host import StdioHost
    from mesh import Mesh

    signals = _told()
    async with contextlib.AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh(settings=settings))
        port = StdioHost()
        link: HostLink
        if options.name is not None:
            link = Connected(mesh, options.name, port.send, timeout=options.timeout)
        else:
            roster = await stack.enter_async_context(Roster(mesh))
            link = Gathered(roster, port.send, only_find=options.find_only, timeout=options.timeout)
        told = asyncio.create_task(signals.wait(), name="signals")
        running = asyncio.create_task(port.run(link.receive), name="host")
        await asyncio.wait({told, running}, return_when=asyncio.FIRST_COMPLETED)
        await link.close()
        for task in (told, running):
            task.cancel()
        await asyncio.gather(told, running, return_exceptions=True)
    return 0


async def _http(options: argparse.Namespace) -> int:
    from bridge.config import make_http
    from bridge.web.server import serving

    spec = make_http(
        port=options.port,
        host=options.host,
        tls=_tls(options),
        behind_proxy=options.behind_proxy,
        hosts=tuple(options.allow_host),
        origins=tuple(options.allow_origin),
        caller=options.caller,
    )
    told = _told()
    async with serving(spec, _settings(options, options.caller)) as url:
        if options.json:
            _say(json.dumps({"event": "ready", "http": url}), sys.stdout)
        else:
            _say(f"agents are served at {url}/agents/NAME/mcp and /agents/NAME/ws", sys.stderr)
        _settled()
        await told.wait()
    return 0


def _tls(options: argparse.Namespace) -> "bool | dict[str, str | None]":
    """What [http] says as `tls`."""
    if options.tls_cert is None and options.tls_key is None and options.client_ca is None:
        return bool(options.tls)
    if options.tls_cert is None or options.tls_key is None:
        raise ConfigError("--tls-cert, --tls-key and --client-ca go together", hint="give certificate and key, and --client-ca if you like")
    return {"cert": options.tls_cert, "key": options.tls_key, "client_ca": options.client_ca}


def _settled() -> None:
    """The start is over. What it has made stays, so the collector need not go through it again and again; and since a call makes and drops
    some hundred objects, it need not look for cycles at every other call either."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _settings(options: argparse.Namespace, name: str) -> Settings:
    return make_settings(
        name=name,
        state_dir=options.state_dir,
        broker=options.broker,
        credentials=options.credentials,
        ca=options.ca,
        client_cert=options.client_cert,
    )


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{option} {text!r} has no '='")
    return key, value


def _told() -> asyncio.Event:
    """Set by SIGTERM or SIGINT, from now on."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


async def _end_of_stdin(told: asyncio.Event) -> None:
    reader = asyncio.StreamReader(limit=2**16)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(2**16):
        pass
    told.set()


def _run(main: Awaitable[int]) -> int:
    factory: Callable[[], Any] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)  # type: ignore[arg-type]


def _say(line: str, to: TextIO) -> None:
    to.write(line + "\n")
    to.flush()


def _configure_logging(verbose: bool) -> None:
    """stdout belongs to the protocol (connect) or to events (serve); logs go to stderr."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO if verbose else logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=os.fdopen(os.dup(2), "w", buffering=1)),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
