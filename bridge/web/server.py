"""The front as a running server: uvicorn on one port, a participant of the mesh behind it.

Beyond this machine it listens with TLS only (`bridge.web.tls`).
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bridge.config import HttpSpec
from bridge.connect import Connected
from bridge.gathered.gather import Gathered
from bridge.gathered.roster import Roster
from bridge.host_link import HostLink
from bridge.ports.param_headers import ParamCheck
from bridge.web.app import App, Look
from bridge.web.endpoint import Endpoint
from bridge.web.guard import Guard
from bridge.web.one_write import OneWrite
from bridge.web.tls import Place, place_of
from mesh import Mesh
from mesh.errors import ConfigError, MeshError, PortTaken
from mesh.registry.directory import Directory
from mesh.settings import Settings

MOST_CONNECTIONS: Final = 2_000
"""Connections at once; one more is answered with 503. Each open stream is one."""

KEEP_ALIVE: Final = 60.0
"""Seconds for which an idle connection stays. Longer than clients keep theirs, or they would send into one that is being closed."""

PING: Final = 20.0
"""Seconds between pings of a WebSocket, and for its pong."""


@asynccontextmanager
async def serving(spec: HttpSpec, settings: Settings, look: Look | None = None) -> AsyncIterator[str]:
    """Serve until the block ends; yields the base URL. `look` says what `/ready` does; without it, whether the mesh is there.

    Raises ConfigError, PortTaken, BrokerUnavailable.
    """
    place = place_of(spec, settings.state_dir)
    context = None if place.tls is None else place.tls.context()
    listener = _listen(place, spec.port)
    try:
        async with Mesh(settings=settings.model_copy(update={"name": spec.caller})) as mesh, Roster(mesh) as roster:
            params = ParamCheck(lambda agent: _tools(roster.directory, agent))
            roster.listen(params.forget)
            endpoint = Endpoint(
                partial(_make_link, roster), caller=lambda _: spec.caller, params=params, most_sessions=spec.most_sessions, idle=spec.idle
            )
            ready = look or (lambda: {"ready": mesh.connection.connected})
            app = App(endpoint, ready, Guard((*spec.hosts, *place.names), spec.origins), most_bytes=spec.most_bytes)
            async with _running(app, endpoint, listener, spec, context):
                yield place.url(listener.getsockname()[1])
    finally:
        listener.close()


def _make_link(
    roster: Roster, caller: str, agent: str | None, send: Callable[[bytes], None], on_over: Callable[[MeshError], None]
) -> HostLink:
    """A way to one agent, or to all of them as one. One participant calls for everybody, under one name."""
    return Gathered(roster, send, on_over=on_over) if agent is None else Connected(roster.mesh, agent, send, on_over=on_over)


def _tools(directory: Directory, name: str) -> tuple[Mapping[str, Any], ...]:
    """The tools of an agent, or of the first one that has that role."""
    agents = directory.agents()
    found = next((agent for agent in agents if agent.name == name), None) or next((agent for agent in agents if name in agent.roles), None)
    return found.newest.tools if found is not None else ()


def _listen(place: Place, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError, PortTaken."""
    listener = socket.socket(socket.AF_INET6 if place.version == 6 else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((place.host, port))
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        hint = "stop what listens there, or choose another port with --http-port PORT"
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"port {port} for HTTP is taken", hint=hint, port=port, listener="HTTP") from None
        raise ConfigError(f"cannot listen for HTTP on {place.host}:{port}: {error.strerror}", hint=hint) from None
    return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the program around it."""
        yield


class _Http(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWrite(transport))  # type: ignore[arg-type]


@asynccontextmanager
async def _running(
    app: App, endpoint: Endpoint, listener: socket.socket, spec: HttpSpec, context: ssl.SSLContext | None
) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="off",
        http=_Http,
        ws="websockets-sansio",
        ws_max_size=spec.most_bytes,
        ws_ping_interval=PING,
        ws_ping_timeout=PING,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=int(KEEP_ALIVE),
        timeout_graceful_shutdown=2,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    for name in ("uvicorn.error", "uvicorn.asgi", "websockets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the front logs what fails in it, and clients that misbehave are no news
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="HTTP server")
    sweeping = asyncio.create_task(endpoint.run(), name="HTTP sweeper")
    try:
        await server.listens.wait()
        yield
    finally:
        sweeping.cancel()
        for each in getattr(server, "servers", ()):
            each.close()
        await endpoint.close()
        server.should_exit = True
        await asyncio.gather(serving, sweeping, return_exceptions=True)
