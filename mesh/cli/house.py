"""What `mesh up` keeps running, and in which order: broker, control plane, HTTP front, agents. It ends in the reverse order.

Agents leave first, so that no call arrives while things end; the control plane sees them leave; and the broker ends last, with
everything stored. The state directory is locked all the time, with a broker of our own or without.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from mesh import admin, clock
from mesh.cli import logging
from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.identity.finding import roles_of
from mesh.identity.keeper import Keeper
from mesh.identity.serving import server_trust
from mesh.link.server import EmbeddedServer
from mesh.link.state_dir import StateDir
from mesh.node import VERSION, Mesh
from mesh.policy.rights import Policy
from mesh.registry.directory import Directory
from mesh.settings import RUNTIME_FILE, Settings, write_runtime
from mesh.subjects import CONTROL_PLANE, GATEWAY, OPERATOR

AGAIN: Final = 0.02
"""Seconds until an agent that is ready and not yet seen is looked for again."""


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
class Plan:
    """What a file asks for: its agents, with the roles of each, and what roles may do. Without a policy the one that counts stays."""

    agents: Mapping[str, tuple[str, ...]]
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class House:
    """A mesh that runs. `facts` is what `mesh.json` says; `directory` who is there."""

    facts: dict[str, Any]
    state: StateDir
    directory: Directory
    hosted: Hosted

    async def wait_all_there(self, names: Sequence[str]) -> None:
        """Wait until every agent is ready and the broker has a heartbeat of it. As long as it takes."""
        while True:
            await self.hosted.wait_all_ready()
            if all(map(self.directory.instances_of, names)):
                return
            await asyncio.sleep(AGAIN)  # it went again meanwhile, and its events say why; or the heartbeat is on its way


@asynccontextmanager
async def running(
    settings: Settings, ports: Ports, make_host: MakeHost, make_front: MakeFront | None, plan: Plan, on_event: OnEvent
) -> AsyncIterator[House]:
    """Start everything; yields once each agent came up or failed to. Raises BrokerError, ConfigError."""
    async with AsyncExitStack() as stack:
        state, facts = await _broker(stack, settings, ports, plan, on_event)
        runtime = state.path / RUNTIME_FILE
        runtime.unlink(missing_ok=True)  # of a mesh that was killed
        logging.configure(file=state.path / logging.LOG_FILE)
        settings = settings.model_copy(update={"broker": facts["broker"], "state_dir": state.path})
        mesh = await stack.enter_async_context(Mesh(settings=settings.model_copy(update={"name": CONTROL_PLANE})))
        plane = await stack.enter_async_context(mesh.control_plane())
        _keep_identities(stack, settings, plan, plane.directory)
        hosted: Hosted | None = None

        def look() -> dict[str, Any]:
            ready = hosted.ready if hosted is not None else ()
            return {"ready": set(plan.agents) <= set(ready), "agents": {name: name in ready for name in plan.agents}}

        if make_front is not None:
            facts["http"] = await stack.enter_async_context(make_front(settings, look))
        stack.callback(runtime.unlink, missing_ok=True)
        write_runtime(state.path, facts)
        hosted = await stack.enter_async_context(make_host(settings, on_event))
        yield House(facts, state, plane.directory, hosted)


def _keep_identities(stack: AsyncExitStack, settings: Settings, plan: Plan, directory: Directory) -> None:
    """Where this machine holds the keys: renew what expires, and let rules that are patterns follow the tools that there are."""
    try:
        authority = Authority.open(settings.state_dir, prefix=settings.prefix)
    except ConfigError:
        return
    if not authority.keyring.has("account.seed"):
        return

    def tools() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for tool in admin.tools(directory):
            found.setdefault(tool.agent, []).append(tool.name)
        return found

    task = asyncio.create_task(Keeper(authority, settings.broker_url(), plan.policy, tools).run(), name="keeper of identities")
    stack.push_async_callback(_end, task)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _identities(settings: Settings, plan: Plan) -> Authority:
    """Everybody who is known beforehand, before the broker starts: then it need not be told of any of them."""
    authority = Authority.open(settings.state_dir, create=True, prefix=settings.prefix)
    if plan.policy is not None:
        authority.apply_policy(plan.policy.resolve({}, lenient=True))
    known = {user.name: user for user in authority.users()}
    always = {name: roles_of(name) for name in (CONTROL_PLANE, OPERATOR, GATEWAY, settings.name) if name not in known}
    for name, roles in {**always, **plan.agents}.items():
        user = known.get(name)
        if user is None or (user.revoked is None and set(user.roles) != set(roles)):
            authority.issue(name, roles)
    return authority


async def _broker(
    stack: AsyncExitStack, settings: Settings, ports: Ports, plan: Plan, on_event: OnEvent
) -> tuple[StateDir, dict[str, Any]]:
    """A broker to use, and where it is: our own, or the one that the settings name."""
    from os import getpid

    facts: dict[str, Any] = {"pid": getpid(), "started": clock.iso(clock.wall_ns()), "version": VERSION}
    if settings.broker:
        state = StateDir(Path(settings.state_dir))
        state.acquire()
        stack.callback(state.release)
        return state, {"broker": settings.broker, **facts}
    ports = ports.beside()
    server = EmbeddedServer(
        settings.state_dir,
        trust=server_trust(_identities(settings, plan)),
        port=ports.broker,
        monitor_port=ports.monitor,
        websocket_port=ports.websocket,
        on_event=lambda kind, detail: on_event(kind, "", detail),
    )
    await stack.enter_async_context(server)
    where = {"broker": server.url, "monitor": server.monitor_url, "websocket": server.websocket_url}
    return server.state_dir, {key: url for key, url in where.items() if url} | facts
