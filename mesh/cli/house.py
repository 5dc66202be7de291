"""What `mesh up` keeps running, and in which order: broker, control plane, HTTP front, agents. It ends in the reverse order.

Agents leave first, so that no call arrives while things end; the control plane sees them leave; and the broker ends last, with
everything stored. The state directory is locked all the time, with a broker of our own or without.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from mesh import clock
from mesh.cli import logging
from mesh.errors import CallError
from mesh.identity.authority import Authority
from mesh.identity.finding import roles_of
from mesh.identity.serving import server_trust
from mesh.link.server import EmbeddedServer
from mesh.link.state_dir import StateDir
from mesh.node import VERSION, Mesh
from mesh.registry.directory import Directory
from mesh.settings import RUNTIME_FILE, Settings, write_runtime
from mesh.subjects import CONTROL_PLANE, GATEWAY, OPERATOR

AGAIN: Final = 0.2
"""Seconds until an agent that was ready and does not answer is asked once more."""


@dataclass(frozen=True, slots=True)
class Ports:
    """None takes what nats-server.conf says, 0 a free one."""

    broker: int | None = None
    monitor: int | None = None
    websocket: int | None = None

    def beside(self) -> "Ports":
        """Free ports for what was not said, once the broker's own was: a second mesh on a machine must not stumble over them."""
        if self.broker is None:
            return self
        return Ports(self.broker, self.monitor or 0, self.websocket or 0)


class Hosted(Protocol):
    """What `bridge.app.host` yields."""

    @property
    def ready(self) -> tuple[str, ...]: ...

    async def wait_all_ready(self) -> None: ...


OnEvent = Callable[[str, str, str], None]
"""`(kind, who, detail)`. Who is an agent, or empty for the broker."""

MakeHost = Callable[[Settings, OnEvent], AbstractAsyncContextManager[Hosted]]

Look = Callable[[], dict[str, Any]]
"""What `/ready` says: `{"ready": bool, …}`."""

MakeFront = Callable[[Settings, Look], AbstractAsyncContextManager[str]]
"""Serves HTTP; yields its address."""


@dataclass(frozen=True, slots=True)
class House:
    """A mesh that runs. `facts` is what `mesh.json` says; `directory` who is there."""

    facts: dict[str, Any]
    state: StateDir
    directory: Directory
    hosted: Hosted
    mesh: Mesh

    async def wait_all_answer(self, names: Sequence[str]) -> None:
        """Wait until every agent was ready and has answered across the mesh. As long as it takes."""
        while True:
            await self.hosted.wait_all_ready()
            try:
                await asyncio.gather(*(self.mesh.target(name) for name in names))
            except CallError:
                await asyncio.sleep(AGAIN)  # it went again meanwhile; its events say why
            else:
                return


@asynccontextmanager
async def running(
    settings: Settings, ports: Ports, make_host: MakeHost, make_front: MakeFront | None, names: Sequence[str], on_event: OnEvent
) -> AsyncIterator[House]:
    """Start everything; yields once each agent came up or failed to. Raises BrokerError, ConfigError."""
    async with AsyncExitStack() as stack:
        state, facts = await _broker(stack, settings, ports, on_event)
        runtime = state.path / RUNTIME_FILE
        runtime.unlink(missing_ok=True)  # of a mesh that was killed
        logging.configure(file=state.path / logging.LOG_FILE)
        settings = settings.model_copy(update={"broker": facts["broker"], "state_dir": state.path})
        mesh = await stack.enter_async_context(Mesh(settings=settings.model_copy(update={"name": CONTROL_PLANE})))
        plane = await stack.enter_async_context(mesh.control_plane())
        hosted: Hosted | None = None

        def look() -> dict[str, Any]:
            ready = hosted.ready if hosted is not None else ()
            return {"ready": set(names) <= set(ready), "agents": {name: name in ready for name in names}}

        if make_front is not None:
            facts["http"] = await stack.enter_async_context(make_front(settings, look))
        stack.callback(runtime.unlink, missing_ok=True)
        write_runtime(state.path, facts)
        hosted = await stack.enter_async_context(make_host(settings, on_event))
        yield House(facts, state, plane.directory, hosted, mesh)


async def _broker(stack: AsyncExitStack, settings: Settings, ports: Ports, on_event: OnEvent) -> tuple[StateDir, dict[str, Any]]:
    """A broker to use, and where it is: our own, or the one that the settings name."""
    from os import getpid

    facts: dict[str, Any] = {"pid": getpid(), "started": clock.iso(clock.wall_ns()), "version": VERSION}
    if settings.broker:
        state = StateDir(Path(settings.state_dir))
        state.acquire()
        stack.callback(state.release)
        return state, {"broker": settings.broker, **facts}
    ports = ports.beside()
    authority = Authority.open(settings.state_dir, create=True, prefix=settings.prefix)
    for name in (CONTROL_PLANE, OPERATOR, GATEWAY, settings.name):
        if authority.credentials(name) is None:
            authority.issue(name, roles_of(name))  # before the broker starts: none of them then needs it to be told
    server = EmbeddedServer(
        settings.state_dir,
        trust=server_trust(authority),
        port=ports.broker,
        monitor_port=ports.monitor,
        websocket_port=ports.websocket,
        on_event=lambda kind, detail: on_event(kind, "", detail),
    )
    await stack.enter_async_context(server)
    where = {"broker": server.url, "monitor": server.monitor_url, "websocket": server.websocket_url}
    return server.state_dir, {key: url for key, url in where.items() if url} | facts
