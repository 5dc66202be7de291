"""The front as a running server: uvicorn on one port, and behind it the participant `gateway` and those of its users.

Beyond this machine it listens with TLS only (`bridge.web.tls`).
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bridge.config import HttpSpec
from bridge.ports.param_headers import ParamCheck
from bridge.web.app import App, Look
from bridge.web.challenge import Resource
from bridge.web.door import Door
from bridge.web.endpoint import Endpoint
from bridge.web.guard import LOOPBACK, Guard
from bridge.web.guests import Guests
from bridge.web.one_write import OneWrite
from bridge.web.tls import Place, place_of
from mesh import Mesh
from mesh.errors import ConfigError, PortTaken
from mesh.identity.fetching import fetch_keys
from mesh.identity.issuers import Provider
from mesh.identity.keyring import DIRECTORY, USERS
from mesh.identity.tokens import Verifier
from mesh.link.address import is_loopback
from mesh.registry.directory import Directory
from mesh.settings import Settings
from mesh.subjects import GATEWAY
from mesh.topology import REGISTRY

MOST_CONNECTIONS: Final = 2_000
"""Connections at once; one more is answered with 503. Each open stream is one."""

KEEP_ALIVE: Final = 60.0
"""Seconds for which an idle connection stays. Longer than clients keep theirs, or they would send into one that is being closed."""

PING: Final = 20.0
"""Seconds between pings of a WebSocket, and for its pong."""

_log = structlog.get_logger("bridge.web")


@asynccontextmanager
async def serving(spec: HttpSpec, settings: Settings, look: Look | None = None) -> AsyncIterator[str]:
    """Serve until the block ends; yields the base URL. `look` says what `/ready` does; without it, whether the mesh is there.

    The front itself is the participant `gateway`. Raises ConfigError, PortTaken, BrokerUnavailable.
    """
    place = place_of(spec, settings.state_dir)
    context = None if place.tls is None else place.tls.context()
    listener = _listen(place, spec.port)
    try:
        async with AsyncExitStack() as stack:
            mesh = await stack.enter_async_context(Mesh(settings=settings.model_copy(update={"name": GATEWAY})))
            params = ParamCheck(lambda agent: _tools(directory, agent))
            directory = mesh.directory(lambda what, *_: params.forget() if what == REGISTRY else None)
            await stack.enter_async_context(directory)
            bases = _bases(spec, place, listener.getsockname()[1])
            guests = Guests(settings)
            stack.push_async_callback(guests.close)
            endpoint = Endpoint(params=params, most_sessions=spec.most_sessions, idle=spec.idle)
            guests.on_leave = endpoint.dismiss
            app = App(
                endpoint,
                look or (lambda: {"ready": mesh.connection.connected}),
                Guard((*spec.hosts, *place.names), spec.origins),
                _door(spec, settings, guests, bases),
                most_bytes=spec.most_bytes,
            )
            await stack.enter_async_context(_running(app, listener, spec, context, endpoint, guests))
            yield bases[0]
    finally:
        listener.close()


def _door(spec: HttpSpec, settings: Settings, guests: Guests, bases: Sequence[str]) -> Door:
    resource = Resource(bases, [each.issuer for each in spec.issuers])
    if spec.auth == "none":
        if not is_loopback(spec.host):
            raise ConfigError(f"HTTP without tokens is served on this machine only, not on {spec.host}", hint='leave auth = "none" out')
        _log.warning(
            "HTTP asks nobody for a token: whoever reaches it calls as a participant of the mesh", url=bases[0], caller=spec.caller
        )
        return Door(None, guests, resource, nobody=spec.caller, rate=spec.rate)
    providers = [Provider(each.as_issuer(), fetch_keys) for each in spec.issuers]
    verifier = Verifier(spec.credentials or settings.state_dir / DIRECTORY / USERS, bases, providers)
    return Door(verifier, guests, resource, rate=spec.rate)


def _bases(spec: HttpSpec, place: Place, port: int) -> list[str]:
    """The URLs of this front, the first one for clients: tokens are made for it. This machine has several names for itself."""
    url = place.url(port)
    names = (*LOOPBACK, *place.names)
    return list(dict.fromkeys([*([spec.url] if spec.url else []), url, *(f"{url.partition(':')[0]}://{name}:{port}" for name in names)]))


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
    app: App, listener: socket.socket, spec: HttpSpec, context: ssl.SSLContext | None, endpoint: Endpoint, guests: Guests
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
    sweeping = [asyncio.create_task(each.run(), name="HTTP sweeper") for each in (endpoint, guests)]
    try:
        await server.listens.wait()
        yield
    finally:
        for task in sweeping:
            task.cancel()
        for each in getattr(server, "servers", ()):
            each.close()
        await endpoint.close()
        server.should_exit = True
        await asyncio.gather(serving, *sweeping, return_exceptions=True)
