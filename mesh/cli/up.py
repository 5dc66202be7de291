"""`mesh up`: a mesh on this machine, with the agents of a file, until Ctrl-C. Here is what it shows; mesh/cli/house.py is what it does.

With `--json` each event is one line on stdout:

| event | when |
|---|---|
| `{"event": "agent", "agent", "state", "detail"}` | an agent is starting, ready, failed (it is tried again), restarting, stopped |
| `{"event": "broker", "state", "detail"}` | the embedded broker died, was restarted, dropped something, has found something in its store |
| `{"event": "ready", "broker", "agents", …}` | once, when every agent answers |
| `{"event": "stopping"}`, `{"event": "stopped"}` | somebody asked for the end; all has ended |
"""

import asyncio
import json
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from mesh.cli import options
from mesh.cli.running import execute

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mesh.admin import ToolView
    from mesh.cli.house import Hosted, House, MakeFront, OnEvent
    from mesh.cli.output import Output
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


class Report:
    """What is told of a mesh while it runs. Nothing, here."""

    def __init__(self, out: "Output") -> None:
        self._out = out

    def event(self, kind: str, who: str, detail: str) -> None:
        """`who` is an agent, or empty for the broker."""

    def started(self, mesh: "House") -> None:
        """Each agent came up or failed to."""

    def ready(self, mesh: "House", names: "Sequence[str]") -> None:
        """Every agent is there."""

    def stopping(self) -> None:
        """Somebody asked for the end."""

    def stopped(self) -> None:
        """All has ended."""


class JsonReport(Report):
    """One line of JSON an event."""

    def event(self, kind: str, who: str, detail: str) -> None:
        if who:
            self._say("agent", agent=who, state=kind, detail=detail)
        else:
            self._say("broker", state=kind, detail=detail)

    def ready(self, mesh: "House", names: "Sequence[str]") -> None:
        rest = {key: value for key, value in mesh.facts.items() if key != "broker"}
        self._say("ready", broker=mesh.facts["broker"], agents=list(names), state_dir=str(mesh.state.path), **rest)

    def stopping(self) -> None:
        self._say("stopping")

    def stopped(self) -> None:
        self._say("stopped")

    def _say(self, event: str, **said: Any) -> None:
        self._out.write(json.dumps({"event": event, **said}, default=str) + "\n")


class TextReport(Report):
    """Lines as things happen, and once a table with what to type next."""

    def __init__(self, out: "Output", names: "Sequence[str]", *, option: str, open_to: str | None) -> None:
        """`open_to`: who everybody is that comes over HTTP; None where they bring tokens."""
        super().__init__(out)
        self._open_to = open_to
        self._names = names
        self._option = option
        """What the commands need to find this mesh from here: `` or ` --state-dir DIR`."""

    def event(self, kind: str, who: str, detail: str) -> None:
        if kind not in ("starting", "stopped"):
            self._print(f"{who or 'broker':<16} {kind:<12} {detail}".rstrip())

    def started(self, mesh: "House") -> None:
        from mesh import admin

        facts = mesh.facts
        self._print("")
        for what, where in (
            ("broker", facts["broker"]),
            ("monitoring", facts.get("monitor")),
            ("WebSocket", facts.get("websocket")),
            *(("HTTP", f"{facts['http']}/agents/{quote(name, safe='')}/mcp") for name in self._names if "http" in facts),
            ("state", mesh.state.path),
        ):
            if where:
                self._print(f"{what:<16} {where}")
        tools = admin.tools(mesh.directory)
        lines = ["agents --watch", "tools", *([_example(tools[0])] if tools else []), "journal --follow", "doctor"]
        self._print("\nIn another terminal:")
        for line in lines:
            name, _, rest = line.partition(" ")
            self._print(f"  mesh {name}{self._option}{' ' if rest else ''}{rest}")
        for name in mesh.hosted.ready[:1]:
            self._print(f"  mesh-bridge connect {shlex.quote(name)}{self._option}    (the command that an MCP host starts)")
        if "http" in facts and self._open_to is None:
            self._print(f"  mesh auth token local{self._option}    (for HTTP: Authorization: Bearer TOKEN)")
        elif "http" in facts:
            self._print(f"\nWARNING: HTTP asks for no token. Every program of this machine may call every agent, as {self._open_to!r}.")
        self._print("\nCtrl-C ends it.\n")

    def ready(self, mesh: "House", names: "Sequence[str]") -> None:
        if names:
            self._print(f"All of {', '.join(names)} answer.")

    def stopping(self) -> None:
        self._print("Ending in order; Ctrl-C once more ends at once.")

    def _print(self, text: str) -> None:
        from mesh.cli.render import plain

        self._out.write(plain(text, lines=True) + "\n")


def _example(tool: "ToolView") -> str:
    """A call to try, with the arguments that it needs."""
    required = tool.input_schema.get("required")
    words = [shlex.quote(tool.agent), shlex.quote(tool.name)]
    return " ".join(["call", *words, *(f"{name}=…" for name in (required if isinstance(required, list) else []))])


def _loop_factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    """uvloop's, where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def add_to(app: typer.Typer) -> None:
    app.command("up", epilog=EXAMPLES)(up)
