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
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from bridge.arguments import make_parser
from mesh.background import end_tasks
from mesh.errors import ConfigError, MeshError
from mesh.settings import Settings, make_settings
from mesh.subjects import CONTROL_PLANE, GATEWAY

if TYPE_CHECKING:
    from mesh.cli.stopping import Stop


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Exit codes: 0 in order, 1 an error (one line on stderr, or JSON with --json), 2 wrong usage, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    options = make_parser().parse_args(words[:at])  # argparse would take the server's own options for ours
    options.command = words[at + 1 :]
    _configure_logging(options.verbose)
    try:
        return _run(COMMANDS[options.what](options))
    except MeshError as error:
        if options.json:
            _say(json.dumps(error.as_dict()), sys.stderr)
        else:
            _say(f"error: {error}" + (f"\n  {error.hint}" if error.hint else ""), sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _serve(options: argparse.Namespace) -> int:
    from bridge.app import expose, load_streams, make_spec, port_factory
    from mesh import Mesh
    from mesh.cli.stopping import Stop

    spec = make_spec(
        name=options.name,
        command=tuple(options.command),
        url=options.url,
        transport=options.transport,
        headers=dict(_pair(each, "--header") for each in options.header) | dict(_header_from(each) for each in options.header_from),
        ca=options.url_ca,
        python=options.python,
        roles=tuple(options.role),
        journal=options.journal,
        sessions=options.sessions,
        inbox=options.inbox,
        answers=tuple(options.answer),
        topics=tuple(options.topic),
        broadcasts=options.broadcasts,
        streams=options.streams,
        **({} if options.at_once is None else {"at_once": options.at_once}),
        rate=options.rate,
        tools=_tools(options),
    )

    def on_event(kind: str, agent: str, detail: str) -> None:
        if options.json:
            _say(json.dumps({"event": kind, "agent": agent, "detail": detail}), sys.stdout)
        else:
            _say(f"{agent} is on the mesh: {detail}" if kind == "ready" else f"{agent}: {kind} {detail}", sys.stderr)

    stop = Stop(patient=options.with_stdin)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stop.listening())
        if options.with_stdin:
            stack.push_async_callback(end_tasks, asyncio.create_task(_end_of_stdin(stop), name="stdin"))
        mesh = await stack.enter_async_context(Mesh(settings=_settings(options, options.name), roles=("agent", *spec.roles)))
        if options.python and not options.with_stdin:  # `mesh up` has said it, and what the agent's entry says
            os.environ.update(mesh.environment() | {"MESH_BROKER": mesh.settings.broker_url()})
        make_port = await stack.enter_async_context(port_factory(spec, mesh.environment()))
        await stack.enter_async_context(expose(mesh, spec, make_port, streams=load_streams(spec.streams), on_event=on_event))
        _settled()
        await stop.wait()
    return 0


def _tools(options: argparse.Namespace) -> dict[str, dict[str, str]]:
    """What is said of single tools."""
    found: dict[str, dict[str, str]] = {}
    for key, option, said in (("journal", "--tool-journal", options.tool_journal), ("rate", "--tool-rate", options.tool_rate)):
        for tool, value in (_pair(each, option) for each in said):
            found.setdefault(tool, {})[key] = value
    return found


async def _connect(options: argparse.Namespace) -> int:
    settings = _settings(options, options.caller, usually="host")
    if options.find_only and options.name is not None:
        raise ConfigError("--find-only is for all agents as one", hint="leave the name out")
    if options.name == CONTROL_PLANE:
        raise ConfigError(
            f"{CONTROL_PLANE!r} is no agent, but the control plane",
            hint="leave the name out: the mesh's own tools stand beside those of all agents",
        )
    if options.print_config is not None:
        from bridge.host_config import advice, make_entry, make_http_entry

        if options.http is not None:
            name, text = make_http_entry(options.print_config, options.http, agent=options.name)
            _say(text, sys.stdout)
            _say(advice(options.print_config, name, text), sys.stderr)
            _say(f"Before the host starts: export MESH_TOKEN=$(mesh auth token NAME --audience {options.http})", sys.stderr)
            return 0
        name, text = make_entry(options.print_config, settings, agent=options.name, only_find=options.find_only, timeout=options.timeout)
        _say(text, sys.stdout)
        _say(advice(options.print_config, name, text), sys.stderr)
        return 0

    from bridge.gathered.roster import Roster
    from bridge.links import Links
    from bridge.ports.host import StdioHost
    from mesh import Mesh

    signals = _told()
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh(settings=settings))
        port = StdioHost()
        links = await stack.enter_async_context(Links(mesh))
        if options.name is not None:
            link = links.to_one(options.name, port.send, timeout=options.timeout)
        else:
            roster = await stack.enter_async_context(Roster(mesh))
            link = links.to_all(roster, port.send, only_find=options.find_only, timeout=options.timeout)
        told = asyncio.create_task(signals.wait(), name="signals")
        running = asyncio.create_task(port.run(link.receive), name="host")
        await asyncio.wait({told, running}, return_when=asyncio.FIRST_COMPLETED)
        await link.close()
        await end_tasks(told, running)
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
        url=options.url,
        credentials=options.users,
        auth=options.auth,
        rate=options.rate,
    )
    told = _told()
    async with serving(spec, _settings(options, GATEWAY)) as url:
        if options.json:
            _say(json.dumps({"event": "ready", "http": url}), sys.stdout)
        else:
            _say(f"agents are served at {url}/agents/NAME/mcp and /agents/NAME/ws", sys.stderr)
            if options.auth == "token":
                _say(f"a host's token: mesh auth token NAME --audience {url}", sys.stderr)
            else:
                _say("WARNING: no token is asked for; every program of this machine may call every agent", sys.stderr)
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


def _settings(options: argparse.Namespace, name: str | None, usually: str | None = None) -> Settings:
    return make_settings(
        usually,
        name=name,
        state_dir=options.state_dir,
        broker=options.broker,
        credentials=options.credentials,
        ca=options.ca,
        client_cert=options.client_cert,
    )


def _header_from(text: str) -> tuple[str, str]:
    """A header whose value is in a variable: every user of the machine can read a command line."""
    name, variable = _pair(text, "--header-from")
    if variable not in os.environ:
        raise ConfigError(f"--header-from: there is no variable {variable!r}")
    return name, os.environ[variable]


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


async def _end_of_stdin(stop: "Stop") -> None:
    reader = asyncio.StreamReader(limit=2**16)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(2**16):
        pass
    stop.ask()


COMMANDS = {"serve": _serve, "connect": _connect, "http": _http}


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
