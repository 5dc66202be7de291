"""Who there is, as a catalogue that follows the registry. One for a process: all its hosts look at the same one.

The registry's live copy says when an entry changes, and when an instance comes or goes; heartbeats in between say nothing new. Changes are
gathered for `PAUSE` and make one new catalogue; whoever listens hears which lists differ from what they were. Nobody is asked anything,
so an agent that hangs delays no list. It holds what this participant may call (`mesh.link.reach`), and is made anew when its rights change.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Any, Final, Self

import structlog

from bridge.gathered.catalog import NAMED_BY, TAKEN_BY, TOOLS, Catalog, Offer, build
from bridge.gathered.find import Index
from bridge.mesh_tools.tools import MeshTools
from bridge.tasks.words import FORBIDDEN
from mesh import Mesh
from mesh.registry.directory import Agent, Directory
from mesh.subjects import CONTROL_PLANE, key_of
from mesh.topology import HEALTH
from mesh.wire.entries import InstanceEntry

PAUSE: Final = 0.1
"""Seconds for which changes are gathered: agents come in bunches, and each word of a change costs each host a round of lists."""

OnChange = Callable[[frozenset[str]], None]
"""Called with the kinds (`bridge.gathered.catalog`) whose lists have changed."""

_log = structlog.get_logger("bridge.gathered.roster")


class Roster:
    """`async with Roster(mesh) as roster` begins with a complete catalogue."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.tools = MeshTools(mesh, lambda: self.directory)
        self._offers: dict[str, tuple[InstanceEntry, Offer]] = {}
        self._alive: set[str] = set()
        self._listeners: list[OnChange] = []
        self._due: asyncio.TimerHandle | None = None
        self._directory: Directory | None = None
        self._current = _Current(build(()), self._own)
        self._stack = AsyncExitStack()

    @property
    def catalog(self) -> Catalog:
        return self._current.catalog

    @property
    def directory(self) -> Directory:
        """What it follows."""
        assert self._directory is not None
        return self._directory

    @property
    def index(self) -> Index:
        return self._current.index

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._directory = await stack.enter_async_context(self.mesh.directory(self._on_change))
            self._alive = {key_of(each.entry.agent, each.entry.instance) for who in self._directory.agents() for each in who.instances}
            stack.push_async_callback(self.tools.close)
            stack.callback(self.mesh.connection.on_renewed(self._on_renewed))
            self._make()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._due is not None:
            self._due.cancel()
        await self._stack.aclose()

    def listen(self, on_change: OnChange) -> Callable[[], None]:
        """Call `on_change` after each change; the function that is returned ends that."""
        self._listeners.append(on_change)
        return lambda: self._listeners.remove(on_change) if on_change in self._listeners else None

    def _on_change(self, what: str, key: str, _reason: str) -> None:
        """Called at each heartbeat too, so cheap: only a first one or a last one is a change."""
        if self._directory is None:
            return  # the first reading: `_make` follows it
        if what == HEALTH:
            there = self._directory.health(key) is not None
            if there is (key in self._alive):
                return
            (self._alive.add if there else self._alive.discard)(key)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(PAUSE, self._make)

    def _on_renewed(self) -> None:
        self._offers.clear()
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(PAUSE, self._make)

    def _make(self) -> None:
        self._due = None
        directory = self._directory
        assert directory is not None
        offers = [self._offer(agent) for agent in directory.agents() if agent.instances and self._visible(agent)]
        self._offers = {offer.agent: (entry, offer) for entry, offer in offers}
        before = self._current.catalog
        catalog = build((offer for _, offer in offers), before)
        changed = catalog.changed(before)
        if catalog.collisions != before.collisions:
            for each in catalog.collisions:
                _log.warning("several want one name", name=each.wanted, given={f"{a}: {own}": name for (a, own), name in each.given})
        self._current = _Current(catalog, self._own)
        if changed:
            for listener in list(self._listeners):
                try:
                    listener(changed)
                except Exception:  # one host must not keep the word from the others
                    _log.exception("a host could not be told of a change")

    def _own(self) -> list[bytes]:
        return [tool.raw for tool in self.tools.offered()]

    def _visible(self, agent: Agent) -> bool:
        """The control plane's tools are the mesh's own affairs."""
        return agent.name != CONTROL_PLANE and self.mesh.reach.anything_of(agent.name)

    def _offer(self, agent: Agent) -> tuple[InstanceEntry, Offer]:
        entry = agent.newest
        known = self._offers.get(agent.name)
        if known is not None and known[0] is entry:
            return known
        lists = {kind: self._within_reach(agent.name, kind, getattr(entry, kind)) for kind in NAMED_BY}
        lists[TOOLS] = tuple(
            _no_task(each) if entry.journal.mode("tools/call", each.get("name")) != "full" else each for each in lists[TOOLS]
        )
        return entry, Offer(agent.name, entry.title, entry.description, lists)

    def _within_reach(self, agent: str, kind: str, definitions: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        method, key, reach = TAKEN_BY[kind], NAMED_BY[kind], self.mesh.reach
        if reach.all_of(agent, method):
            return definitions
        return tuple(each for each in definitions if isinstance(name := each.get(key), str) and reach.may_call(agent, method, name))


def _no_task(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool whose bodies must not be stored is no task: a task is a job, which is kept at the broker."""
    execution = tool.get("execution")
    return {**tool, "execution": {**(execution if isinstance(execution, dict) else {}), "taskSupport": FORBIDDEN}}


class _Current:
    """A catalogue, and its index once somebody searches."""

    def __init__(self, catalog: Catalog, own: Callable[[], Iterable[bytes]]) -> None:
        """`own`: the definitions of the mesh's own tools."""
        self.catalog = catalog
        self._own = own

    @cached_property
    def index(self) -> Index:
        return Index(self.catalog, self._own())
