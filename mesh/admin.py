"""The read model: what there is on the mesh, as frozen snapshots. Whoever shows it (table, JSON, later a dashboard) shows these.

A figure is a field here before it is a column anywhere. Times in views are seconds, ages at the moment of the snapshot.
"""

from dataclasses import dataclass
from typing import Any, Final

from mesh import clock
from mesh.clock import iso
from mesh.errors import NoSuchAgent
from mesh.link.reach import Reach
from mesh.registry.directory import Agent, Directory, Instance
from mesh.subjects import CONTROL_PLANE
from mesh.wire.entries import InstanceEntry

HEALTHY: Final = "up"


@dataclass(frozen=True, slots=True)
class InstanceView:
    """One live instance. `healthy` is False where the bridge lives and its server does not."""

    id: str
    healthy: bool
    state: str
    age: float
    beat_age: float
    """Since its last heartbeat was stored. They come every second."""
    running: int
    served: int
    failed: int
    host: str
    pid: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "healthy": self.healthy,
            "state": self.state,
            "age": round(self.age, 3),
            "beat_age": round(self.beat_age, 3),
            "running": self.running,
            "served": self.served,
            "failed": self.failed,
            "host": self.host,
            "pid": self.pid,
        }


@dataclass(frozen=True, slots=True)
class LostView:
    """An instance that went without a word, within the last hour."""

    id: str
    at_ns: int
    ago: float
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "at": iso(self.at_ns), "ago": round(self.ago, 3), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class AgentView:
    """One name on the mesh. Title, description, version and tools are those of the instance that came last."""

    name: str
    title: str
    description: str
    version: str
    roles: tuple[str, ...]
    protocol_versions: tuple[str, ...]
    tools: int
    instances: tuple[InstanceView, ...]
    lost: tuple[LostView, ...]

    @property
    def healthy(self) -> bool:
        """Whether some instance of it can take a call."""
        return any(each.healthy for each in self.instances)

    @property
    def serves(self) -> bool:
        """Whether it is an MCP server, which somebody expects to be there. Others come to send, or to listen, and go."""
        return bool(self.protocol_versions)

    @property
    def last_lost(self) -> LostView | None:
        return self.lost[-1] if self.lost else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "version": self.version,
            "roles": list(self.roles),
            "protocol_versions": list(self.protocol_versions),
            "tools": self.tools,
            "healthy": self.healthy,
            "instances": [each.as_dict() for each in self.instances],
            "lost": [each.as_dict() for each in self.lost],
        }

    def outline(self) -> tuple[Any, ...]:
        """What does not change with time alone or with each call: two views with the same outline tell the same story."""
        said = (self.name, self.title, self.description, self.version, self.roles, self.protocol_versions, self.tools)
        return (*said, tuple((each.id, each.state, each.pid) for each in self.instances), tuple(each.id for each in self.lost))


@dataclass(frozen=True, slots=True)
class ToolView:
    """One tool of one agent, as its server described it."""

    agent: str
    name: str
    title: str
    description: str
    input_schema: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """`inputSchema` is spelled as in MCP, because it is MCP's."""
        return {
            "agent": self.agent,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
        }


def agents(directory: Directory, *, everything: bool = False, reach: Reach | None = None) -> tuple[AgentView, ...]:
    """All agents, by name; the control plane among them only if `everything` is asked for. With `reach` the tools are those within it."""
    now = clock.wall_ns()
    return tuple(_agent(each, now, reach) for each in directory.agents() if everything or each.name != CONTROL_PLANE)


def tools(directory: Directory, name: str | None = None, *, reach: Reach | None = None) -> tuple[ToolView, ...]:
    """The tools of all live agents, or of those that have this name or role; with `reach` those within it. Raises NoSuchAgent."""
    live = [each for each in directory.agents() if each.instances and each.name != CONTROL_PLANE]
    if name is not None:
        live = [each for each in live if name == each.name or name in each.roles]
        if not live:
            raise no_such_agent(directory, name)
    return tuple(_tool(each.name, said) for each in live for said in _tools(each, reach))


def no_such_agent(directory: Directory, name: str) -> NoSuchAgent:
    """The error that says who comes close."""
    close = directory.close_to(name)
    hint = f"did you mean {', '.join(close)}?" if close else "`mesh agents` shows who is there"
    return NoSuchAgent(f"nobody answers to {name!r}", hint=hint, close=list(close))


def _tools(agent: Agent, reach: Reach | None) -> tuple[dict[str, Any], ...]:
    said = agent.newest.tools
    if reach is None or reach.all_of(agent.name, "tools/call"):
        return said
    return tuple(each for each in said if reach.may_call(agent.name, "tools/call", str(each.get("name", ""))))


def _agent(agent: Agent, now: int, reach: Reach | None) -> AgentView:
    newest = agent.newest
    return AgentView(
        name=agent.name,
        title=newest.title,
        description=newest.description,
        version=newest.version,
        roles=agent.roles,
        protocol_versions=newest.protocol_versions,
        tools=len(_tools(agent, reach)),
        instances=tuple(view for each in agent.instances if (view := _instance(each, now)) is not None),
        lost=tuple(_lost(each, now) for each in sorted(agent.lost, key=lambda entry: entry.lost.at_ns if entry.lost else 0)),
    )


def _instance(instance: Instance, now: int) -> InstanceView | None:
    entry, health = instance.entry, instance.health
    if health is None:
        return None
    return InstanceView(
        id=entry.instance,
        healthy=health.state == HEALTHY,
        state=health.state,
        age=_seconds(now, entry.started_ns),
        beat_age=_seconds(now, instance.beaten_ns),
        running=health.running,
        served=health.served,
        failed=health.failed,
        host=entry.host,
        pid=entry.pid,
    )


def _lost(entry: InstanceEntry, now: int) -> LostView:
    at, reason = (entry.lost.at_ns, entry.lost.reason) if entry.lost else (0, "")
    return LostView(id=entry.instance, at_ns=at, ago=_seconds(now, at), reason=reason)


def _tool(agent: str, said: dict[str, Any]) -> ToolView:
    """What a server says of a tool is read with care: it is another process's JSON."""
    schema = said.get("inputSchema")
    return ToolView(
        agent=agent,
        name=str(said.get("name", "")),
        title=str(said.get("title") or ""),
        description=str(said.get("description") or ""),
        input_schema=schema if isinstance(schema, dict) else {},
    )


def _seconds(now: int, then: int) -> float:
    """Never below zero: the two clocks may be of two machines."""
    return max(0.0, (now - then) / 1e9)
