"""`mesh up`: a mesh on this machine, with the agents of a file, until Ctrl-C. mesh/cli/reports.py is what it shows; mesh/cli/house.py is
what it does."""

import asyncio
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mesh.cli import options
from mesh.cli.running import execute

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mesh.cli.house import Hosted, House, MakeFront, OnEvent
    from mesh.cli.reports import Report
    from mesh.settings import Settings

DEFAULT_FILE: Final = Path("mesh.toml")

EXAMPLES: Final = """\
Example: mesh up examples/quickstart.toml

Example: mesh up .mcp.json --state-dir /tmp/m --broker-port 0 --json
"""

_PORT: Final = "; 0 takes a free one"


def up(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="mesh.toml, or the mcpServers JSON of a host. Without it: mesh.toml from here, if there is one."
        ),
    ] = None,
    broker_port: Annotated[
        int | None, typer.Option("--broker-port", "--port", min=0, max=65535, metavar="N", help=f"For clients{_PORT}.", show_default="4222")
    ] = None,
    monitor_port: Annotated[
        int | None,
        typer.Option(
            "--monitor-port", min=0, max=65535, metavar="N", help="Monitoring. With --broker-port a free one.", show_default="8222"
        ),
    ] = None,
    websocket_port: Annotated[
        int | None,
        typer.Option(
            "--websocket-port", min=0, max=65535, metavar="N", help="WebSocket. With --broker-port a free one.", show_default="8080"
        ),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            "--http-port",
            min=0,
            max=65535,
            metavar="N",
            help=f"Serve the agents over HTTP and WebSocket, on this machine unless --listen says more{_PORT}.",
            show_default="that of [http] in FILE, or none",
        ),
    ] = None,
    http_auth: Annotated[
        str | None,
        typer.Option(
            "--http-auth",
            metavar="HOW",
            help="token; or none, on loopback only: then whoever reaches the port is `local`, who may call everybody.",
            show_default="token",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="For broker, WebSocket and HTTP; 0.0.0.0 is every address of this machine. Beyond loopback with TLS only: mesh auth tls.",
            show_default="127.0.0.1",
        ),
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="TLS on loopback too, with the certificate of `mesh auth tls`.")] = False,
    verify_clients: Annotated[
        bool,
        typer.Option("--verify-clients", help="TLS, and clients of the broker must show a certificate too: mesh auth tls --client NAME."),
    ] = False,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="HTTP without TLS beyond loopback, because a proxy before it has TLS.")
    ] = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Start the broker, the control plane and the agents of FILE. Ctrl-C ends them in order, twice at once."""
    if http_auth not in (None, "token", "none"):
        raise typer.BadParameter(f"{http_auth!r} is neither token nor none", param_hint="--http-auth")

    async def work() -> None:
        from bridge.app import host
        from bridge.config import HostFile, HttpSpec, MeshFile, read_file
        from mesh.cli import house, logging
        from mesh.cli.output import Output
        from mesh.cli.reports import JsonReport, TextReport
        from mesh.cli.stopping import Stop
        from mesh.policy.rights import Policy
        from mesh.settings import make_settings

        settings = make_settings(state_dir=state_dir, broker=broker)
        chosen = file or (DEFAULT_FILE if DEFAULT_FILE.is_file() else None)
        said = read_file(chosen) if chosen is not None else MeshFile()
        agents = said.agents
        http = said.http if http_port is None else (said.http or HttpSpec()).model_copy(update={"port": http_port})
        if http is not None:
            http = http.placed(listen, tls=tls or verify_clients, behind_proxy=behind_proxy)
            http = http if http_auth is None else http.model_copy(update={"auth": http_auth})
        names = sorted(agent.name for agent in agents)
        plan = house.Plan({agent.name: ("agent", *agent.roles) for agent in agents}, Policy.of(said.roles) if said.roles else None)
        ports = house.Ports(broker_port, monitor_port, websocket_port, listen, tls, verify_clients)
        logging.configure()
        out = Output(1)
        told = (
            JsonReport(out)
            if as_json
            else TextReport(
                out,
                names,
                option="" if state_dir is None else f" --state-dir {shlex.quote(str(state_dir))}",
                open_to=http.caller if http is not None and http.auth == "none" else None,
            )
        )

        def make_host(settings: "Settings", on_event: "OnEvent") -> "AbstractAsyncContextManager[Hosted]":
            return host(agents, settings, on_event)

        make_front: MakeFront | None = None
        if http is not None:
            from bridge.web.server import serving  # a web server takes a moment to load

            make_front = partial(serving, http)

        for name in said.left_out if isinstance(said, HostFile) else ():
            told.event("left out", name, "it is this mesh itself")
        stop = Stop()
        try:
            async with stop.listening(), house.running(settings, ports, make_host, make_front, plan, told.event) as mesh:
                told.started(mesh)
                announcing = asyncio.create_task(_announce(mesh, names, told), name="announcement")
                await stop.wait()
                announcing.cancel()
                told.stopping()
            told.stopped()
        finally:
            out.finish()

    execute(work, as_json=as_json, loop_factory=_loop_factory())


async def _announce(mesh: "House", names: "Sequence[str]", told: "Report") -> None:
    await mesh.wait_all_there(names)
    told.ready(mesh, names)


def _loop_factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    """uvloop's, where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def add_to(app: typer.Typer) -> None:
    app.command("up", epilog=EXAMPLES)(up)
