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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
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
async def port_factory(spec: AgentSpec) -> AsyncIterator[PortFactory]:
    """The way to the server that `spec` names."""
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
        argv = spec.argv()
        yield lambda: ChildPort(spec.name, argv, env=spec.env, cwd=spec.cwd)


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
                keep = self._keep_process(agent) if agent.python else self._keep_bridge(agent, heart)
                group.create_task(self._keep(agent.name, keep), name=f"bridge of {agent.name}")

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

    async def _keep(self, name: str, attempts: AsyncIterator[str]) -> None:
        """Each item of `attempts` is a failed attempt; try again, later and later, and soon again after a long good run."""
        delay, since = FIRST_DELAY, clock.monotonic()
        async for problem in attempts:
            self.note("failed", name, problem)
            if clock.monotonic() - since > LAST_DELAY:
                delay = FIRST_DELAY
            since = clock.monotonic()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(LAST_DELAY, delay * 2)

    async def _keep_bridge(self, spec: AgentSpec, heart: Heart) -> AsyncIterator[str]:
        settings = self._settings.model_copy(update={"name": spec.name})
        while True:
            self.note("starting", spec.name, "")
            try:
                async with (
                    port_factory(spec) as make_port,
                    Mesh(settings=settings, heart=heart, roles=("agent", *spec.roles)) as mesh,
                    expose(mesh, spec, make_port, on_event=self.note),
                ):
                    await asyncio.Event().wait()
            except (MeshError, TimeoutError) as problem:
                hint = f" ({problem.hint})" if isinstance(problem, MeshError) and problem.hint else ""
                yield f"{str(problem) or type(problem).__name__}{hint}"
            except Exception as problem:  # a mistake of ours in one bridge must not end the others
                _log.exception("the bridge failed", agent=spec.name)
                yield f"{type(problem).__name__}: {problem}"

    async def _keep_process(self, spec: AgentSpec) -> AsyncIterator[str]:
        while True:
            self.note("starting", spec.name, "")
            yield await run_apart(spec, self._settings, self.note)


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
