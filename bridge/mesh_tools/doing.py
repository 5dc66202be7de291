"""What the mesh's own tools do: each a method that takes what its model says and returns what its result's model takes. They act as the
participant whose host calls them. Each raises MeshError."""

import secrets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from bridge.mesh_tools import shapes
from bridge.mesh_tools.hints import for_hosts
from bridge.mesh_tools.inbox import Inbox
from mesh import Mesh, clock
from mesh.broker.mailboxes import MOST_NAMES, nobody_at, nobody_takes
from mesh.broker.sending import MessageOptions
from mesh.errors import BadSchedule, CallTimeout, MeshError, NoSuchAgent
from mesh.jobs import JobRecord
from mesh.policy.when import at_ns, read_span
from mesh.registry.directory import Directory
from mesh.subjects import CONTROL_PLANE


class Doing:
    """Of one participant. `close` it once."""

    def __init__(self, mesh: Mesh, directory: Callable[[], Directory]) -> None:
        self.mesh = mesh
        self.inbox = Inbox(mesh)
        self._directory = directory
        self._there: set[str] = set()

    async def close(self) -> None:
        await self.inbox.close()

    async def send_message(self, asked: shapes.SendMessage) -> Mapping[str, Any]:
        messages, said = self.mesh.messages, (asked.to, asked.type, asked.content)
        id = asked.id or secrets.token_hex(8)
        options: MessageOptions = {
            "id": id,
            "priority": asked.priority,
            "correlation_id": asked.correlation_id,
            "metadata": asked.metadata,
        }
        warning = await self._nobody(asked.to, nobody_at(asked.to, messages.mailbox, self.mesh.target))
        if asked.every is not None or asked.cron is not None:
            await messages.schedule_message(*said, every=asked.every, cron=asked.cron, expires=asked.expires, **options)
        elif asked.wait is not None and asked.delay is None and asked.at is None:
            try:
                return {"id": id, "answer": await messages.send_message(*said, timeout=asked.wait, **options), "warning": warning}
            except CallTimeout as problem:
                problem.hint = ". ".join(each for each in (warning, problem.hint) if each)
                raise
        else:
            delay = read_span(asked.delay) if isinstance(asked.delay, str) else asked.delay
            if asked.at is not None and at_ns(asked.at) < clock.wall_ns():
                raise BadSchedule(f"{asked.at} has passed", hint="leave at out to send it now")
            await messages.publish_message(*said, expires=asked.expires, delay=delay, at=asked.at, **options)
        return {"id": id, "warning": warning}

    async def check_messages(self, asked: shapes.CheckMessages) -> Mapping[str, Any]:
        held = await self.inbox.look(asked.wait)
        return {"messages": held[: asked.limit], "more": len(held) > asked.limit, "full": self.inbox.topics.full}

    async def acknowledge_message(self, asked: shapes.Acknowledge) -> Mapping[str, Any]:
        try:
            said = asked.model_dump(include={"sender", "topic", "answer", "reason"})
            self.inbox.held.settle(asked.id, asked.outcome, **said)
        except KeyError as several:
            which = ", ".join(f"of {sender}" + (f" on {topic}" if topic else "") for sender, topic in several.args[0])
            why = f"several have the id {asked.id!r}, say which sender and topic: {which}" if which else f"no message {asked.id!r} is held"
            raise MeshError(why, hint="check_messages shows those that are") from None
        return {"id": asked.id, "outcome": asked.outcome}

    async def list_schedules(self, _: shapes.Nothing) -> Mapping[str, Any]:
        return {"schedules": await self.mesh.messages.list_schedules()}

    async def cancel_schedule(self, asked: shapes.ScheduleId) -> Mapping[str, Any]:
        await self.mesh.messages.cancel_schedule(asked.id)
        return {"id": asked.id}

    async def publish_event(self, asked: shapes.PublishEvent) -> Mapping[str, Any]:
        options = asked.model_dump(include={"type", "priority", "subject", "id"})
        return {"id": await self.mesh.events.publish(asked.topic, asked.data, **options)}

    async def subscribe_events(self, asked: shapes.SubscribeEvents) -> Mapping[str, Any]:
        name = await self.inbox.topics.subscribe(asked.topic, asked.filter, asked.name)
        return {"subscription": name, "durable": asked.name is not None}

    async def unsubscribe_events(self, asked: shapes.UnsubscribeEvents) -> Mapping[str, Any]:
        await self.inbox.topics.unsubscribe(asked.subscription)
        return {"subscription": asked.subscription}

    async def submit_job(self, asked: shapes.SubmitJob) -> Mapping[str, Any]:
        options = asked.model_dump(include={"key", "deadline", "attempts", "keep"})
        job = await self.mesh.jobs.submit(asked.agent, asked.tool, asked.arguments, **options)
        look = nobody_takes(job, self.mesh.jobs, self.mesh.messages.mailbox, self.mesh.target)
        return {**_job(job), "warning": await self._nobody(job.target, look)}

    async def get_job(self, asked: shapes.GetJob) -> Mapping[str, Any]:
        if asked.wait:
            return _job(await self.mesh.jobs.wait(asked.id, asked.wait))
        return _job(await self.mesh.jobs.get(asked.id))

    async def list_jobs(self, asked: shapes.ListJobs) -> Mapping[str, Any]:
        return {"jobs": [_job(each) for each in await self.mesh.jobs.list(most=asked.limit)]}

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

    async def _nobody(self, name: str, look: Coroutine[Any, Any, NoSuchAgent | None]) -> str | None:
        """What is to be said of a name that nobody has. Of others it is remembered, and the control plane is asked no more."""
        if name in self._there:
            look.close()
            return None
        if (nobody := await look) is not None:
            return f"nobody is here as {name!r}, or ever listened under that name: it waits. {for_hosts(nobody.hint)}"
        if len(self._there) >= MOST_NAMES:
            self._there.clear()
        self._there.add(name)
        return None


def _job(job: JobRecord) -> dict[str, Any]:
    return job.as_dict()
