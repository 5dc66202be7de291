"""The mesh's own tools: a table. Each acts as the participant whose host calls it, with that participant's rights, and no others.

| tool | does | there where |
|---|---|---|
| send_message | a durable message, now or later; with `wait` also its answer | it may send to somebody |
| check_messages, acknowledge_message | what others have sent to it, until it says what became of it | always |
| list_schedules, cancel_schedule | what it sends later | it may send to somebody |
| publish_event | an event on a topic | it may publish |
| submit_job, get_job, list_jobs, cancel_job | a call that outlives both sides | it may call somebody |
| list_agents | who is there, as far as it may know | always |

A tool's failure is a result with `isError`, whose text says the code and the next step, as MCP wants it for what a model can mend.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from bridge.mesh_tools import shapes
from bridge.mesh_tools.inbox import Inbox
from mesh import Mesh, clock
from mesh.broker import AgentMessage, MessageOptions
from mesh.errors import MeshError
from mesh.jobs import JobRecord
from mesh.policy.rights import matches
from mesh.policy.rights.compile import HEALTH_TOPIC
from mesh.registry.directory import Directory
from mesh.subjects import CONTROL_PLANE, EACH
from mesh.wire.jsonrpc import dumps


class MeshTools:
    """The tools of one participant. `close` it once."""

    def __init__(self, mesh: Mesh, directory: Callable[[], Directory]) -> None:
        self.mesh = mesh
        self.inbox = Inbox(mesh)
        self._directory = directory

    async def close(self) -> None:
        await self.inbox.close()

    @property
    def has_inbox(self) -> bool:
        """Whether anybody can send it messages."""
        try:
            self.inbox.check()
        except MeshError:
            return False
        return True

    def offered(self) -> list["Tool"]:
        """Those that this participant's rights allow."""
        return [tool for tool in TOOLS.values() if tool.when(self.mesh)]

    async def call(self, name: str, arguments: Any) -> dict[str, Any]:
        """A CallToolResult, without era's members."""
        tool = TOOLS[name]
        try:
            given = await tool.run(self, tool.takes.model_validate(arguments if arguments is not None else {}))
        except ValidationError as problem:
            first = problem.errors()[0]
            where = ".".join(map(str, first["loc"]))
            return _failure(f"{name}: {where + ': ' if where else ''}{first['msg']}")
        except MeshError as problem:
            return _failure(f"{problem.code}: {problem.message}" + (f" ({problem.hint})" if problem.hint else ""))
        said = tool.gives.model_validate(given).model_dump(mode="json", exclude_none=True)
        return {"content": [{"type": "text", "text": json.dumps(said, ensure_ascii=False)}], "structuredContent": said, "isError": False}

    # what they do

    async def send_message(self, asked: shapes.SendMessage) -> Mapping[str, Any]:
        messages, said = self.mesh.messages, (asked.to, asked.type, asked.content)
        id = asked.id or secrets.token_hex(8)
        options: MessageOptions = {
            "id": id,
            "priority": asked.priority,
            "correlation_id": asked.correlation_id,
            "metadata": asked.metadata,
        }
        if asked.every is not None or asked.cron is not None:
            await messages.schedule_message(*said, every=asked.every, cron=asked.cron, expires=asked.expires, **options)
        elif asked.wait is not None and asked.delay is None and asked.at is None:
            return {"id": id, "answer": await messages.send_message(*said, timeout=asked.wait, **options)}
        else:
            await messages.publish_message(*said, expires=asked.expires, delay=asked.delay, at=asked.at, **options)
        return {"id": id}

    async def check_messages(self, asked: shapes.CheckMessages) -> Mapping[str, Any]:
        held = await self.inbox.look(asked.wait)
        return {"messages": [letter(each) for each in held[: asked.limit]], "more": len(held) > asked.limit}

    async def acknowledge_message(self, asked: shapes.Acknowledge) -> Mapping[str, Any]:
        self.inbox.check()
        try:
            self.inbox.settle(asked.id, asked.outcome, sender=asked.sender, answer=asked.answer, reason=asked.reason)
        except KeyError as several:
            senders = several.args[0]
            said = (
                f"several have sent a message {asked.id!r}: say which sender, {senders}" if senders else f"no message {asked.id!r} is held"
            )
            raise MeshError(said, hint="check_messages shows those that are") from None
        return {"id": asked.id, "outcome": asked.outcome}

    async def list_schedules(self, _: shapes.Nothing) -> Mapping[str, Any]:
        return {"schedules": await self.mesh.messages.list_schedules()}

    async def cancel_schedule(self, asked: shapes.ScheduleId) -> Mapping[str, Any]:
        await self.mesh.messages.cancel_schedule(asked.id)
        return {"id": asked.id}

    async def publish_event(self, asked: shapes.PublishEvent) -> Mapping[str, Any]:
        options = asked.model_dump(include={"type", "priority", "subject", "id"})
        return {"id": await self.mesh.events.publish(asked.topic, asked.data, **options)}

    async def submit_job(self, asked: shapes.SubmitJob) -> Mapping[str, Any]:
        options = asked.model_dump(include={"key", "deadline", "attempts", "keep"})
        return _job(await self.mesh.jobs.submit(asked.agent, asked.tool, asked.arguments, **options))

    async def get_job(self, asked: shapes.GetJob) -> Mapping[str, Any]:
        if asked.wait:
            return _job(await self.mesh.jobs.wait(asked.id, asked.wait))
        return _job(await self.mesh.jobs.get(asked.id))

    async def list_jobs(self, _: shapes.Nothing) -> Mapping[str, Any]:
        return {"jobs": [_job(each) for each in await self.mesh.jobs.list()]}

    async def cancel_job(self, asked: shapes.JobId) -> Mapping[str, Any]:
        await self.mesh.jobs.cancel(asked.id)
        return {"id": asked.id}

    async def list_agents(self, asked: shapes.ListAgents) -> Mapping[str, Any]:
        found = []
        for agent in self._directory().agents():
            unseen = agent.name == CONTROL_PLANE or not self.mesh.reach.anything_of(agent.name)
            if unseen or not agent.instances or (asked.role is not None and asked.role not in agent.roles):
                continue
            up = any(each.health is not None and each.health.state == "up" for each in agent.instances)
            entry = agent.newest
            tools = [name for tool in entry.tools if isinstance(name := tool.get("name"), str)]
            found.append(
                {
                    "name": agent.name,
                    "title": entry.title,
                    "description": entry.description,
                    "roles": list(agent.roles),
                    "instances": len(agent.instances),
                    "state": "up" if up else "degraded",
                    "tools": [name for name in tools if self.mesh.reach.may_call(agent.name, "tools/call", name)],
                }
            )
        return {"agents": found}


@dataclass(frozen=True)
class Tool:
    name: str
    title: str
    description: str
    takes: type[BaseModel]
    gives: type[BaseModel]
    run: Callable[[MeshTools, Any], Awaitable[Mapping[str, Any]]]
    when: Callable[[Mesh], bool]
    reads: bool = False
    """It changes nothing."""
    again: bool = False
    """Done twice is as done once."""
    destroys: bool = False
    world: bool = False
    """It reaches others."""

    @cached_property
    def raw(self) -> bytes:
        """Its definition, as `tools/list` has it."""
        hints: dict[str, Any] = {"readOnlyHint": self.reads, "openWorldHint": self.world}
        if not self.reads:
            hints |= {"destructiveHint": self.destroys, "idempotentHint": self.again}
        return dumps(
            {
                "name": self.name,
                "title": self.title,
                "description": self.description,
                "inputSchema": _schema(self.takes, "validation"),
                "outputSchema": _schema(self.gives, "serialization"),
                "annotations": hints,
            }
        )


def letter(message: AgentMessage) -> dict[str, Any]:
    """A message as a host sees it."""
    return {
        "id": message.id,
        "sender": message.sender,
        "type": message.type,
        "content": message.content,
        "priority": message.priority,
        "sent": clock.iso(message.sent_ns),
        "deadline": None if message.deadline_ns is None else clock.iso(message.deadline_ns),
        "correlation_id": message.correlation_id,
        "metadata": dict(message.metadata),
        "delivery": message.delivery,
    }


def _schema(model: type[BaseModel], mode: Any) -> dict[str, Any]:
    schema = model.model_json_schema(mode=mode)
    schema.pop("description", None)  # the model's docstring is for us
    return schema


def _new_id() -> str:
    return secrets.token_hex(8)


def _job(job: JobRecord) -> dict[str, Any]:
    return job.as_dict()


def _failure(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


def _always(_: Mesh) -> bool:
    return True


def _sends(mesh: Mesh) -> bool:
    """Whether some rule lets it send to somebody; where the broker does not say what it may, it may."""
    return _some(mesh, mesh.subjects.rights_send(EACH, mesh.name))


def _calls(mesh: Mesh) -> bool:
    """Whether it may have somebody's tools called as jobs."""
    return _some(mesh, mesh.subjects.rights_job(EACH, mesh.name))


def _publishes(mesh: Mesh) -> bool:
    """Whether it may publish on some topic, besides how it is itself."""
    subjects, me = mesh.subjects, mesh.name
    return _some(mesh, subjects.rights_publish(me, None), subjects.rights_publish(me, HEALTH_TOPIC))


def _some(mesh: Mesh, wanted: str, but: str = "") -> bool:
    rights = mesh.connection.rights
    return rights is None or any(each != but and (matches(wanted, each) or matches(each, wanted)) for each in rights.publish)


_ALL: Final = (
    Tool(
        "send_message",
        "Send a message",
        "Send a durable message to an agent of the mesh, or to a role: it is kept until somebody has handled it. With wait it returns the "
        "answer. With delay, at, every or cron it is sent later, in your name.",
        shapes.SendMessage,
        shapes.Sent,
        MeshTools.send_message,
        _sends,
        world=True,
    ),
    Tool(
        "check_messages",
        "Check messages",
        "The messages that others have sent to you. Each stays until you say with acknowledge_message what became of it.",
        shapes.CheckMessages,
        shapes.Messages,
        MeshTools.check_messages,
        _always,
        reads=True,
    ),
    Tool(
        "acknowledge_message",
        "Acknowledge a message",
        "Say what became of a message of check_messages: handled (its sender may wait for an answer), to be tried again, or rejected.",
        shapes.Acknowledge,
        shapes.Acknowledged,
        MeshTools.acknowledge_message,
        _always,
    ),
    Tool(
        "list_schedules",
        "List schedules",
        "The messages of yours that are sent later, or again and again.",
        shapes.Nothing,
        shapes.Schedules,
        MeshTools.list_schedules,
        _sends,
        reads=True,
    ),
    Tool(
        "cancel_schedule",
        "Cancel a schedule",
        "Send a scheduled message no more.",
        shapes.ScheduleId,
        shapes.Done,
        MeshTools.cancel_schedule,
        _sends,
        destroys=True,
    ),
    Tool(
        "publish_event",
        "Publish an event",
        "Tell everybody who subscribes to a topic that something has happened.",
        shapes.PublishEvent,
        shapes.Published,
        MeshTools.publish_event,
        _publishes,
        world=True,
    ),
    Tool(
        "submit_job",
        "Submit a job",
        "Have an agent's tool called, without waiting: the job goes on when you leave, and its result is kept. get_job collects it.",
        shapes.SubmitJob,
        shapes.JobState,
        MeshTools.submit_job,
        _calls,
        world=True,
    ),
    Tool(
        "get_job",
        "Look at a job",
        "How far a job of yours is, and its result once it is done; with wait, once it has ended.",
        shapes.GetJob,
        shapes.JobState,
        MeshTools.get_job,
        _calls,
        reads=True,
    ),
    Tool(
        "list_jobs",
        "List jobs",
        "The jobs that you have submitted, as long as they are kept.",
        shapes.Nothing,
        shapes.JobStates,
        MeshTools.list_jobs,
        _calls,
        reads=True,
    ),
    Tool(
        "cancel_job",
        "Cancel a job",
        "Stop a job of yours, wherever it is.",
        shapes.JobId,
        shapes.Done,
        MeshTools.cancel_job,
        _calls,
        again=True,
        destroys=True,
    ),
    Tool(
        "list_agents",
        "List agents",
        "Who is on the mesh, as far as you may see: name, roles, what it is for, its tools.",
        shapes.ListAgents,
        shapes.Agents,
        MeshTools.list_agents,
        _always,
        reads=True,
    ),
)

TOOLS: Final = {tool.name: tool for tool in _ALL}
