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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from bridge.mesh_tools import shapes
from bridge.mesh_tools.doing import Doing
from mesh import Mesh
from mesh.errors import MeshError
from mesh.policy.rights import matches
from mesh.policy.rights.compile import HEALTH_TOPIC
from mesh.subjects import EACH
from mesh.wire.jsonrpc import dumps


class MeshTools(Doing):
    """The tools of one participant."""

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


def _schema(model: type[BaseModel], mode: Any) -> dict[str, Any]:
    schema = model.model_json_schema(mode=mode)
    schema.pop("description", None)  # the model's docstring is for us
    return schema


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
