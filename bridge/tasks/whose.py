"""Whose tool a call is for, and whether that may be a task.

At one agent the bridge announces tasks in what the server says, where the server does not so itself. All agents as one are the bridge's own
server, and announce them by themselves (`bridge.gathered`), for every agent.

A tool must not be a task where its definition says so, and where the journal must not hold its bodies: a job is stored. It is tried a
second time only where its definition says that this does no harm.
"""

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from bridge.eras.edit import find_text
from bridge.gathered.catalog import TOOLS
from bridge.gathered.find import CALL_TOOL
from bridge.gathered.names import JOINT
from bridge.gathered.roster import Roster
from bridge.gathered.routing import Routed, route
from bridge.tasks import announce
from bridge.tasks.task import Task
from bridge.tasks.words import EXTENSION, FORBIDDEN, REVISION
from mesh import Mesh, clock
from mesh.background import end_tasks
from mesh.errors import Denied, MalformedMessage, MeshError, RemoteError
from mesh.wire.jsonrpc import Frame

FRESH: Final = 30.0
"""Seconds for which it is remembered what an agent says of tasks."""

ASK_SECONDS: Final = 5.0
"""For an agent to say it. Of one that does not, what it said before holds; if that is nothing, its tasks are the bridge's, which can be
collected while it is away."""

ASK_AGAIN: Final = 1.0
"""Seconds after which one that did not say it is asked again, if somebody wants to know."""

MOST_KNOWN: Final = 1_000
"""Agents of which it is remembered: over HTTP a host may name any."""

MOST_PAGES: Final = 100


class Called(NamedTuple):
    """A call of a tool."""

    agent: str
    tool: str
    arguments: dict[str, Any]


class Tool(NamedTuple):
    """What is known of a tool."""

    support: str = ""
    """`execution.taskSupport`, as it is or must be; "" where nothing is said."""
    repeatable: bool = False
    """Whether it says that a second run changes nothing more: `readOnlyHint` or `idempotentHint`. Who lies harms itself alone."""


class Whose(Protocol):
    """Of one host."""

    announces: bool
    """Whether `opened`, `discovered` and `listed` change anything."""

    def opened(self, raw: bytes) -> tuple[bytes, bool]:
        """The answer to an `initialize`, and whether the session's tasks are the bridge's."""

    def discovered(self, raw: bytes) -> bytes:
        """The answer to a `server/discover`."""

    def listed(self, raw: bytes) -> bytes:
        """A page of tools, in the handshake era."""

    async def has_own(self) -> bool:
        """Whether the server has tasks of its own in the modern era."""

    def called(self, frame: Frame) -> Called | None:
        """What a `tools/call` calls; None: no tool that is known."""

    async def tool(self, called: Called) -> Tool | None:
        """None where nobody could say. Raises MeshError where nobody is there: a call is refused then, and no job waits for somebody."""

    def shows(self, task: Task) -> bool:
        """Whether a task of this participant is one of what the host talks to."""


@dataclass(slots=True)
class Said:
    """What an agent says of tasks. `heard`: whether it ever did. `tools`: each tool that says something itself."""

    until: float = 0.0
    heard: bool = False
    own: bool = False
    tools: dict[str, Tool] = field(default_factory=dict)


class Known:
    """What agents say of tasks, for all hosts of one participant."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._said: dict[str, Said] = {}
        self._asking: dict[str, asyncio.Task[Said]] = {}

    async def of(self, agent: str) -> Said:
        said = self._said.get(agent)
        if said is not None and clock.monotonic() < said.until:
            return said
        task = self._asking.get(agent)
        if task is None:
            task = self._asking[agent] = asyncio.create_task(self._ask(agent), name=f"tasks of {agent}")
            task.add_done_callback(lambda _: self._asking.pop(agent, None))
        return await asyncio.shield(task)

    async def quiet(self, agent: str, tool: str) -> bool:
        """Whether the bodies of its calls must not be stored. Raises MeshError where nobody is there who could say it."""
        return (await self._mesh.target(agent)).journal.mode("tools/call", tool) != "full"

    async def close(self) -> None:
        await end_tasks(*self._asking.values())

    async def _ask(self, agent: str) -> Said:
        before = self._said.pop(agent, None) or Said()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                said = await self._hear(agent)
            said.until = clock.monotonic() + FRESH
        except (MeshError, TimeoutError):
            said = before
            said.until = clock.monotonic() + ASK_AGAIN
        self._said[agent] = said
        while len(self._said) > MOST_KNOWN:
            del self._said[next(iter(self._said))]
        return said

    async def _hear(self, agent: str) -> Said:
        said = Said(heard=True)
        try:
            found = await self._mesh.request(agent, "server/discover", timeout=ASK_SECONDS)
            capabilities = found.get("capabilities")
            extensions = capabilities.get("extensions") if isinstance(capabilities, dict) else None
            said.own = isinstance(extensions, dict) and EXTENSION in extensions
            if not said.own:
                said.tools = await self._tools(agent)
        except (RemoteError, Denied):
            pass  # it has said that it does not say, or we may not ask
        return said

    async def _tools(self, agent: str) -> dict[str, Tool]:
        found: dict[str, Tool] = {}
        cursor: dict[str, Any] = {}
        for _ in range(MOST_PAGES):
            page = await self._mesh.request(agent, "tools/list", cursor, timeout=ASK_SECONDS)
            tools = page.get("tools")
            for tool in tools if isinstance(tools, list) else ():
                if (said := said_by(tool)) != Tool():
                    found[str(tool.get("name"))] = said
            if not page.get("nextCursor"):
                break
            cursor = {"cursor": page["nextCursor"]}
        return found


class One:
    """One agent, or role."""

    announces = True

    def __init__(self, mesh: Mesh, agent: str, known: Known) -> None:
        self._mesh = mesh
        self._agent = agent
        self._known = known

    def opened(self, raw: bytes) -> tuple[bytes, bool]:
        return announce.in_initialize(raw)

    def discovered(self, raw: bytes) -> bytes:
        return announce.in_discover(raw)[0]

    def listed(self, raw: bytes) -> bytes:
        return announce.in_tools(raw, self._allowed())

    async def has_own(self) -> bool:
        return (await self._known.of(self._agent)).own

    def called(self, frame: Frame) -> Called | None:
        return _called(self._agent, frame)

    async def tool(self, called: Called) -> Tool | None:
        if await self._known.quiet(called.agent, called.tool):
            return Tool(FORBIDDEN)
        said = await self._known.of(called.agent)
        return said.tools.get(called.tool, Tool()) if said.heard else None

    def shows(self, task: Task) -> bool:
        return task.agent == self._agent

    def _allowed(self) -> Callable[[str], bool]:
        target = self._mesh.exchanges.targets.fresh(self._agent)
        return lambda tool: target is None or target.journal.mode("tools/call", tool) == "full"


class All:
    """All agents as one."""

    announces = False

    def __init__(self, roster: Roster, known: Known, *, only_find: bool = False) -> None:
        self._roster = roster
        self._known = known
        self._only_find = only_find

    def opened(self, raw: bytes) -> tuple[bytes, bool]:
        try:
            return raw, find_text(raw, "result", "protocolVersion") == REVISION
        except MalformedMessage:
            return raw, False

    def discovered(self, raw: bytes) -> bytes:
        return raw

    def listed(self, raw: bytes) -> bytes:
        return raw

    async def has_own(self) -> bool:
        return False

    def called(self, frame: Frame) -> Called | None:
        name = frame.name or ""
        if JOINT not in name and not (self._only_find and name == CALL_TOOL):
            return Called("", name, {})  # the mesh's own, or nobody's
        try:
            routed = route(frame, self._roster.catalog, only_find=self._only_find)
        except MalformedMessage:
            return None
        return _called(routed.agent, routed.frame) if isinstance(routed, Routed) else None

    async def tool(self, called: Called) -> Tool | None:
        if not called.agent or await self._known.quiet(called.agent, called.tool):
            return Tool(FORBIDDEN)
        item = self._roster.catalog[TOOLS].by_pair.get((called.agent, called.tool))
        return said_by(item.definition) if item is not None else None

    def shows(self, task: Task) -> bool:
        return True


def said_by(definition: Any) -> Tool:
    """What a tool's definition says of tasks, and of a second run."""
    execution, notes = (definition.get(key) for key in ("execution", "annotations")) if isinstance(definition, dict) else (None, None)
    said = execution.get("taskSupport") if isinstance(execution, dict) else None
    hints = notes if isinstance(notes, dict) else {}
    return Tool(said if isinstance(said, str) else "", any(hints.get(key) is True for key in ("readOnlyHint", "idempotentHint")))


def _called(agent: str, frame: Frame) -> Called | None:
    try:
        arguments = json.loads(frame.raw, parse_float=_finite)["params"].get("arguments", {})
    except ValueError:
        return None  # a job's request is written anew, and such a number cannot be
    return Called(agent, frame.name or "", arguments) if isinstance(arguments, dict) else None


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number
