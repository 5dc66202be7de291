"""The mesh's own tools: a table. Each acts as the participant whose host calls it, with that participant's rights, and no others.

| tool | does | there where |
|---|---|---|
| send_message | a durable message, now or later; with `wait` also its answer | it may send to somebody |
| check_messages, acknowledge_message | what others have sent to it, and its events, until it says what became of each | always |
| list_schedules, cancel_schedule | what it sends later | it may send to somebody |
| publish_event | an event on a topic | it may publish |
| subscribe_events, unsubscribe_events | events of a topic, put beside its messages | it may hear some topic |
| submit_job, get_job, list_jobs, cancel_job | a call that outlives both sides | it may call somebody |
| list_agents | who is there, as far as it may know | always |

A tool's failure is a result with `isError`, whose text says the code and the next step, as MCP wants it for what a model can mend.
"""

import json
from typing import Any, Final

from pydantic import ValidationError

from bridge.mesh_tools import allowed, shapes
from bridge.mesh_tools.doing import Doing
from bridge.mesh_tools.hints import for_hosts
from bridge.mesh_tools.tool import Tool
from mesh.errors import MeshError


class MeshTools(Doing):
    """The tools of one participant."""

    @property
    def has_inbox(self) -> bool:
        """Whether anything can come."""
        return self.inbox.gets_messages or self.inbox.gets_events

    def offered(self) -> list[Tool]:
        """Those that this participant's rights allow."""
        return [tool for tool in TOOLS.values() if tool.when(self)]

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
            return _failure(f"{problem.code}: {problem.message}" + (f" ({for_hosts(problem.hint)})" if problem.hint else ""))
        said = tool.gives.model_validate(given).model_dump(mode="json", exclude_none=True)
        return {"content": [{"type": "text", "text": json.dumps(said, ensure_ascii=False)}], "structuredContent": said, "isError": False}


def _failure(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


_ALL: Final = (
    Tool(
        "send_message",
        "Send a message",
        "Send a durable message to an agent of the mesh, or to a role: it is kept until somebody has handled it. With wait it returns the "
        "answer. With delay, at, every or cron it is sent later, in your name.",
        shapes.SendMessage,
        shapes.Sent,
        Doing.send_message,
        allowed.sends,
        world=True,
    ),
    Tool(
        "check_messages",
        "Check messages",
        "The messages that others have sent to you, and the events of subscribe_events. Each stays until you say with acknowledge_message "
        "what became of it.",
        shapes.CheckMessages,
        shapes.Messages,
        Doing.check_messages,
        allowed.always,
        reads=True,
    ),
    Tool(
        "acknowledge_message",
        "Acknowledge a message",
        "Say what became of a message or an event of check_messages: handled (a message's sender may wait for an answer), to be tried "
        "again, or rejected.",
        shapes.Acknowledge,
        shapes.Acknowledged,
        Doing.acknowledge_message,
        allowed.always,
    ),
    Tool(
        "list_schedules",
        "List schedules",
        "The messages of yours that are sent later, or again and again.",
        shapes.Nothing,
        shapes.Schedules,
        Doing.list_schedules,
        allowed.sends,
        reads=True,
    ),
    Tool(
        "cancel_schedule",
        "Cancel a schedule",
        "Send a scheduled message no more.",
        shapes.ScheduleId,
        shapes.Done,
        Doing.cancel_schedule,
        allowed.sends,
        destroys=True,
    ),
    Tool(
        "publish_event",
        "Publish an event",
        "Tell everybody who subscribes to a topic that something has happened.",
        shapes.PublishEvent,
        shapes.Published,
        Doing.publish_event,
        allowed.publishes,
        world=True,
    ),
    Tool(
        "subscribe_events",
        "Subscribe to events",
        "Hear the events of a topic from now on: check_messages shows them, and each stays until you acknowledge it. With a name it is "
        "durable: subscribe again under that name later, and what came meanwhile is there.",
        shapes.SubscribeEvents,
        shapes.Subscribed,
        Doing.subscribe_events,
        allowed.hears,
    ),
    Tool(
        "unsubscribe_events",
        "Unsubscribe from events",
        "Hear the events of a subscription no more. What it had still to bring is lost to you.",
        shapes.UnsubscribeEvents,
        shapes.Unsubscribed,
        Doing.unsubscribe_events,
        allowed.hears,
        destroys=True,
    ),
    Tool(
        "submit_job",
        "Submit a job",
        "Have an agent's tool called, without waiting: the job goes on when you leave, and its result is kept. get_job collects it.",
        shapes.SubmitJob,
        shapes.Submitted,
        Doing.submit_job,
        allowed.calls,
        world=True,
    ),
    Tool(
        "get_job",
        "Look at a job",
        "How far a job of yours is, and its result once it is done; with wait, once it has ended.",
        shapes.GetJob,
        shapes.JobState,
        Doing.get_job,
        allowed.calls,
        reads=True,
    ),
    Tool(
        "list_jobs",
        "List jobs",
        "The jobs that you have submitted, as long as they are kept, without their results.",
        shapes.ListJobs,
        shapes.JobStates,
        Doing.list_jobs,
        allowed.calls,
        reads=True,
    ),
    Tool(
        "cancel_job",
        "Cancel a job",
        "Stop a job of yours, wherever it is.",
        shapes.JobId,
        shapes.Done,
        Doing.cancel_job,
        allowed.calls,
        again=True,
        destroys=True,
    ),
    Tool(
        "list_agents",
        "List agents",
        "Who is on the mesh, as far as you may see: name, roles, what it is for, its tools.",
        shapes.ListAgents,
        shapes.Agents,
        Doing.list_agents,
        allowed.always,
        reads=True,
    ),
)

TOOLS: Final = {tool.name: tool for tool in _ALL}
