"""What the mesh's own tools take and give: pydantic models, whose JSON schemas the hosts see. Times are ISO 8601, in UTC."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mesh.policy.when import SPAN

Priority = Literal["critical", "high", "normal", "low"]


WARNING = "There where nobody has the name or ever listened under it, so it may be misspelt: what is sent waits."


class Takes(BaseModel):
    """Arguments of a tool. What a tool does not know it refuses: a typing mistake would go unnoticed."""

    model_config = ConfigDict(extra="forbid")


class Gives(BaseModel):
    """A structured result."""


class Nothing(Takes):
    """No arguments."""


class SendMessage(Takes):
    to: str = Field(min_length=1, description="An agent's name, or a role: then one of those who answer to it gets it.")
    type: str = Field(min_length=1, description="What kind of message it is: a word that sender and receiver agree on.")
    content: Any = Field(None, description="What it says: any JSON.")
    priority: Priority = "normal"
    id: str | None = Field(None, min_length=1, description="Sent twice with the same id, it is handled once. Default: a new one.")
    correlation_id: str | None = Field(None, description="What it belongs to, or is the answer to.")
    metadata: dict[str, Any] = Field({}, description="Whatever else the receiver should know.")
    expires: float | None = Field(None, gt=0, description="Seconds after which nobody begins to handle it.")
    wait: float | None = Field(None, gt=0, le=300, description="Wait so many seconds until it was handled, and return the answer.")
    delay: Annotated[float, Field(ge=0)] | Annotated[str, Field(pattern=f"^{SPAN}$")] | None = Field(
        None, description="Send it in a while: 90s, 10m, 2h, 1d, or a number of seconds."
    )
    at: str | None = Field(None, description="Send it at this time, ISO 8601 with its zone.")
    every: int | None = Field(None, ge=1, description="Send it every so many seconds, until it is cancelled.")
    cron: str | None = Field(None, description="Send it as a cron line says, in UTC, until it is cancelled: 0 9 * * 1-5.")


class Sent(Gives):
    id: str = Field(description="The message's id; of one that is sent later, its schedule's.")
    answer: Any = Field(None, description="What its handler returned, with wait.")
    warning: str | None = Field(None, description=WARNING)


class CheckMessages(Takes):
    limit: int = Field(20, ge=1, le=100, description="Messages to show, the oldest first.")
    wait: float = Field(1.0, ge=0, le=50, description="Seconds to wait for the first one, where there is none.")


class Letter(Gives):
    id: str
    sender: str
    type: str
    content: Any = Field(None, description="What it says; not there where it says nothing.")
    priority: str
    sent: str
    deadline: str | None = None
    correlation_id: str | None = None
    metadata: dict[str, Any] = {}
    delivery: int = Field(1, description="Above 1: somebody may have begun with it before.")
    topic: str | None = Field(None, description="Of an event: its topic. Its sender is who published it, and its content what happened.")
    subscription: str | None = Field(None, description="Of an event: what brought it here.")


class Messages(Gives):
    messages: list[Letter] = Field(description="What waits for acknowledge_message; until then it is shown again.")
    more: bool = Field(description="Whether there are more.")
    full: list[str] = Field(
        [], description="Subscriptions to events that bring nothing more until some were acknowledged. Nothing is lost."
    )


class Acknowledge(Takes):
    id: str = Field(min_length=1, description="The message's id.")
    sender: str | None = Field(None, description="Its sender, where several have sent one of that id.")
    topic: str | None = Field(None, description="Of an event: its topic, where its sender has used the id on several.")
    outcome: Literal["done", "retry", "reject"] = Field(
        "done", description="done: it was handled. retry: it comes again, some times. reject: never again; it becomes a dead letter."
    )
    answer: Any = Field(None, description="What its sender gets, if it waits for an answer.")
    reason: str = Field("", description="Why it is to be tried again, or rejected.")


class Acknowledged(Gives):
    id: str
    outcome: str


class ScheduleId(Takes):
    id: str = Field(min_length=1, description="The schedule's id.")


class Schedules(Gives):
    schedules: list[dict[str, Any]] = Field(description="Messages of ours that are sent later, or again and again.")


class Done(Gives):
    id: str


class PublishEvent(Takes):
    topic: str = Field(min_length=1, description="Words with dots between them: builds.failed.")
    data: Any = Field(None, description="What happened: any JSON.")
    type: str | None = Field(None, description="The event's type, for those who filter by it.")
    priority: Priority = "normal"
    subject: str | None = Field(None, description="What it is about, within the topic.")
    id: str | None = Field(None, min_length=1, description="Published twice with the same id, it is kept once.")


class Published(Gives):
    id: str


class SubscribeEvents(Takes):
    topic: str = Field(min_length=1, description="Words with dots between them; * is any word, and a last > the rest: builds.*")
    filter: str | None = Field(
        None, min_length=1, description='Only events of which this is true: an expression in CEL, as in event.data.status == "unhealthy".'
    )
    name: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Makes it durable: said again later, it goes on where it stood. Default: from now on.",
    )


class Subscribed(Gives):
    subscription: str = Field(description="Its name, for unsubscribe_events.")
    durable: bool


class UnsubscribeEvents(Takes):
    subscription: str = Field(min_length=1, description="The subscription's name.")


class Unsubscribed(Gives):
    subscription: str


class SubmitJob(Takes):
    agent: str = Field(min_length=1, description="The agent, or role, that has the tool.")
    tool: str = Field(min_length=1, description="The tool's own name there.")
    arguments: dict[str, Any] = Field({}, description="Its arguments.")
    key: str | None = Field(None, min_length=1, description="Submitted twice with the same key, it is one job.")
    deadline: float | None = Field(None, gt=0, description="Seconds after which nobody works on it any more.")
    attempts: int = Field(3, ge=1, le=20, description="How often it is begun, should its workers die.")
    keep: int = Field(86_400, ge=1, description="Seconds for which its result is kept; ten minutes at least.")


class GetJob(Takes):
    id: str = Field(min_length=1, description="The job's id.")
    wait: float = Field(0, ge=0, le=300, description="Seconds to wait until it has ended.")


class ListJobs(Takes):
    limit: int = Field(20, ge=1, le=200, description="Jobs to show, the newest first.")


class JobId(Takes):
    id: str = Field(min_length=1, description="The job's id.")


class JobState(Gives):
    model_config = ConfigDict(extra="allow")

    id: str
    state: str = Field(description="queued, running, done, failed, cancelled or expired.")


class Submitted(JobState):
    warning: str | None = Field(None, description=WARNING)


class JobStates(Gives):
    jobs: list[JobState]


class ListAgents(Takes):
    role: str | None = Field(None, description="Only those who answer to this role.")


class AgentSaid(Gives):
    name: str
    title: str = ""
    description: str = ""
    roles: list[str] = []
    instances: int
    state: str = Field(description="up, or degraded: its server is being started anew.")
    tools: list[str] = Field([], description="Its tools, by their own names.")


class Agents(Gives):
    agents: list[AgentSaid]
