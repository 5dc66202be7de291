"""Putting servers on the mesh: one (`serve`, `mesh-bridge serve`), or all of a file in one process (`host`, which `mesh up` uses).

A bridge for a command or a URL shares the host's process. An agent written in Python gets a process of its own, since its code could block
the event loop of the others: it is `mesh-bridge serve NAME --python module:name`, watched and restarted like any child.
"""

import asyncio
import contextlib
import importlib
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import ValidationError

from bridge.apart import run_apart
from bridge.config import AgentSpec
from bridge.expose import Exposed
from bridge.http_spec import mistake
from bridge.inbox import delivered
from bridge.jobs import JobRuns, at_once
from bridge.ports.base import PortFactory
from bridge.ports.child import ChildPort, Children
from mesh import Mesh, clock
from mesh.background import Background, end_tasks
from mesh.errors import ConfigError, MeshError
from mesh.link.heart import Heart
from mesh.link.tls import ClientTls
from mesh.node import new_instance
from mesh.registry.presence import Presence
from mesh.settings import Settings
from mesh.streams import StreamHandler
from mesh.wire.entries import ProbeAnswer, ProbeQuestion, read

FIRST_DELAY: Final = 0.5
LAST_DELAY: Final = 30.0

OnEvent = Callable[[str, str, str], None]
"""`(kind, agent, detail)`: kind is starting, ready, failed, restarting or stopped."""

_log = structlog.get_logger("bridge")


@asynccontextmanager
async def expose(
    mesh: Mesh,
    spec: AgentSpec,
    make_port: PortFactory,
    *,
    streams: Mapping[str, StreamHandler] | None = None,
    on_event: OnEvent = lambda *_: None,
) -> AsyncIterator[Presence]:
    """One agent on a participant of its name, until the block ends; `streams` serve it by their types. Raises ServerUnreachable,
    BrokerError."""
    presence: Presence | None = None
    updates = Background()

    def on_server(kind: str, detail: str) -> None:
        if presence is None:
            return
        if kind == "changed" and exposed.facts is not None:
            entry = presence.entry.model_copy(update=exposed.facts.entry())
            updates.start(presence.update(entry), f"registry entry of {spec.name}")
            return
        presence.state = "up" if kind == "ready" else "degraded"
        on_event(kind, spec.name, detail)

    instance, children = new_instance(), Children(make_port)
    exposed = Exposed(
        spec.name,
        children,
        instance=instance,
        on_event=on_server,
        connected=lambda: mesh.connection.connected,
        sessions=spec.sessions,
        alone=not spec.url,
    )
    answer = ProbeAnswer(agent=spec.name, instance=instance, journal=spec.journal_policy).encode()

    def on_probe(caller: str, body: bytes) -> bytes:
        if body:
            with contextlib.suppress(MeshError):
                exposed.heard_session(caller, read(ProbeQuestion, body))
        return answer

    try:
        facts = await exposed.start()
        async with (
            mesh.present(
                exposed,
                agent=spec.name,
                instance=instance,
                roles=spec.roles,
                entry=facts.entry(),
                journal=spec.journal_policy,
                at_once=spec.at_once,
                limits=spec.limits,
                on_probe=on_probe,
                on_gone=exposed.on_gone,
                streams=streams,
            ) as presence,
            mesh.jobs.work(JobRuns(exposed), roles=spec.roles, workers=at_once(spec.at_once)),
            delivered(mesh, exposed, facts, spec, at_once(spec.at_once)),
        ):
            presence.count(children.pids)
            on_event("ready", spec.name, f"{len(facts.tools)} tools")
            yield presence
    finally:
        await updates.end()
        await exposed.close()


@asynccontextmanager
async def serve(
    server: Any,
    *,
    name: str,
    roles: Sequence[str] = (),
    journal: str = "full",
    tools: dict[str, Any] | None = None,
    inbox: str = "",
    answers: Sequence[str] = (),
    topics: Sequence[str] = (),
    broadcasts: bool = False,
    streams: Mapping[str, StreamHandler] | None = None,
    mesh: Mesh | None = None,
    state_dir: str | Path | None = None,
    broker: str | None = None,
    credentials: str | Path | None = None,
) -> AsyncIterator[Presence]:
    """Serve an `MCPServer` of the SDK, in this process, as the agent `name`, until the block ends.

        async with serve(server, name="notes"):
            await asyncio.Event().wait()

    `journal` is full, metadata or none; `tools` says it for single tools: `{"read_secret": {"journal": "none"}}`.
    `inbox` is the tool that messages to the agent are handed to, those on `topics`, and with `broadcasts` those to all; those of a type
    that is in `answers` go to the tool of that name. `streams` are served by their types. Raises BrokerUnavailable, ServerUnreachable,
    ConfigError.
    """
    from bridge.ports.local import LocalServer  # the SDK's server side is heavy, and a bridge for a command does without it

    said = {"inbox": inbox, "answers": tuple(answers), "topics": tuple(topics), "broadcasts": broadcasts}
    spec = make_spec(name=name, python="in:process", roles=tuple(roles), journal=journal, tools=tools or {}, **said)
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(LocalServer(server).entered())
        if mesh is None:
            held = ("agent", "host", *roles)  # its tools may call others
            mesh = await stack.enter_async_context(Mesh(name=name, state_dir=state_dir, broker=broker, credentials=credentials, roles=held))
        yield await stack.enter_async_context(expose(mesh, spec, local.port, streams=streams))


def make_spec(**fields: Any) -> AgentSpec:
    """An AgentSpec from arguments. Raises ConfigError."""
    try:
        return AgentSpec(**fields)
    except ValidationError as error:
        raise ConfigError(f"{fields.get('name') or 'the agent'}: {mistake(error, AgentSpec)}") from None


def load_streams(path: str) -> Mapping[str, StreamHandler] | None:
    """What serves streams, by their types; None for an empty path. Raises ConfigError."""
    found = load_python(path) if path else None
    if found is not None and not (isinstance(found, Mapping) and all(map(callable, found.values()))):
        raise ConfigError(f"{path} serves no streams", hint="it is a mapping of their types to functions: async def f(stream)")
    return found


def load_python(path: str) -> Any:
    """The object that `module:name` names. Raises ConfigError."""
    module, _, name = path.partition(":")
    sys.path.insert(0, os.curdir)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be loaded: {error}", hint="it is written module:name, importable from here") from None


@asynccontextmanager
async def port_factory(spec: AgentSpec, environment: Mapping[str, str] | None = None) -> AsyncIterator[PortFactory]:
    """The way to the server that `spec` names. A child has this environment, None: ours, and what `spec` says."""
    if spec.python:
        from bridge.ports.local import LocalServer

        async with LocalServer(load_python(spec.python)).entered() as local:
            yield local.port
    elif spec.url:
        from bridge.ports.remote import remote

        tls = None if spec.ca is None else ClientTls(spec.ca).context()
        async with remote(spec.name, spec.url, spec.speaks, spec.headers, tls=tls) as server:
            yield server.port
    else:
        argv, env = spec.argv(), {**(os.environ if environment is None else environment), **spec.env}
        yield lambda: ChildPort(spec.name, argv, env=env, cwd=spec.cwd)


class Host:
    """The bridges of one process. `ready` are the agents that answer now."""

    def __init__(self, agents: Sequence[AgentSpec], settings: Settings, on_event: OnEvent) -> None:
        self._agents = agents
        self._settings = settings
        self._on_event = on_event
        self._ready: set[str] = set()
        self._tried: dict[str, asyncio.Event] = {agent.name: asyncio.Event() for agent in agents}
        self._all_ready = asyncio.Event()
        if not agents:
            self._all_ready.set()

    @property
    def ready(self) -> tuple[str, ...]:
        return tuple(sorted(self._ready))

    async def wait_all_ready(self) -> None:
        """Wait until every agent answers. As long as it takes: the events say what is missing."""
        await self._all_ready.wait()

    async def run(self, heart: Heart) -> None:
        """Keep all agents on the mesh until cancelled."""
        async with asyncio.TaskGroup() as group:
            for agent in self._agents:
                settings = self._settings.model_copy(update={"name": agent.name})
                attempt = partial(run_apart, agent, settings, self.note) if agent.python else partial(self._bridge, agent, settings, heart)
                group.create_task(self._keep(agent.name, attempt), name=f"bridge of {agent.name}")

    async def wait_tried(self) -> None:
        await asyncio.gather(*(event.wait() for event in self._tried.values()))

    def note(self, kind: str, agent: str, detail: str) -> None:
        if kind == "ready":
            self._ready.add(agent)
        elif kind != "starting":
            self._ready.discard(agent)
        if kind in ("ready", "failed"):
            self._tried[agent].set()
        if len(self._ready) == len(self._agents):
            self._all_ready.set()
        self._on_event(kind, agent, detail)

    async def _keep(self, name: str, attempt: Callable[[], Awaitable[str]]) -> None:
        """Try again whenever an attempt ends, later and later, and soon again after a long good run. An attempt says, or raises, how it
        ended: one agent that fails, whatever its reason is, ends no other."""
        delay = FIRST_DELAY
        while True:
            since = clock.monotonic()
            self.note("starting", name, "")
            try:
                problem = await attempt()
            except (MeshError, TimeoutError) as error:
                hint = f" ({error.hint})" if isinstance(error, MeshError) and error.hint else ""
                problem = f"{str(error) or type(error).__name__}{hint}"
            except Exception as error:  # a mistake of ours
                _log.exception("the bridge failed", agent=name)
                problem = f"{type(error).__name__}: {error}"
            self.note("failed", name, problem)
            if clock.monotonic() - since > LAST_DELAY:
                delay = FIRST_DELAY
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(LAST_DELAY, delay * 2)

    async def _bridge(self, spec: AgentSpec, settings: Settings, heart: Heart) -> str:
        """Keep one on the mesh until it fails."""
        async with (
            Mesh(settings=settings, heart=heart, roles=("agent", *spec.roles)) as mesh,
            port_factory(spec, mesh.environment()) as make_port,
            expose(mesh, spec, make_port, on_event=self.note),
        ):
            await asyncio.Event().wait()
        return "it has ended"


@asynccontextmanager
async def host(agents: Sequence[AgentSpec], settings: Settings, on_event: OnEvent = lambda *_: None) -> AsyncIterator[Host]:
    """Put all agents on the mesh, in this process, until the block ends. Yields once each is ready or has failed its first start."""
    hosted = Host(agents, settings, on_event)

    heart = Heart()
    running = asyncio.create_task(hosted.run(heart), name="bridges")
    try:
        tried = asyncio.create_task(hosted.wait_tried(), name="first starts")
        await asyncio.wait({running, tried}, return_when=asyncio.FIRST_COMPLETED)
        tried.cancel()
        if running.done():
            running.result()
        yield hosted
    finally:
        await end_tasks(running)
        await heart.close()
        for agent in agents:
            on_event("stopped", agent.name, "")
