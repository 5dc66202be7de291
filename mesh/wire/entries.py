"""What an instance says of itself: its entry in the registry, its heartbeat in the health bucket, its answer to a probe.

All three are JSON from another process, so they are read through models. Unknown fields are ignored: a newer bridge may say more.
"""

import json
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mesh.errors import MalformedMessage
from mesh.wire.jsonrpc import dumps

LONGEST_FILTER: Final = 2048
"""Characters of a subject: the broker keeps those of each consumer in memory, and takes 4,096 a line."""

JournalMode = Literal["full", "metadata", "none"]
"""full: the broker records calls and replies. metadata: the serving bridge writes a record without bodies. none: nothing is recorded."""

HEARTBEAT_SECONDS: Final = 1.0
HEALTH_TTL_SECONDS: Final = 4
"""Whole seconds (the broker takes no fractions). Three missed beats are a slow moment, four are a hung instance."""


class Wire(BaseModel):
    """What goes over the wire as JSON, and is read with `read`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def encode(self) -> bytes:
        try:
            return self.model_dump_json(exclude_defaults=True).encode()
        except ValueError:  # a lone surrogate in a server's own words: it goes as its escape
            return dumps(self.model_dump(mode="python", exclude_defaults=True))


T = TypeVar("T", bound=Wire)


class JournalPolicy(Wire):
    """Which calls of an agent the journal holds: the agent's `default`, and what differs for a tool."""

    default: JournalMode = "full"
    tools: dict[str, JournalMode] = {}

    def mode(self, method: str, name: str | None) -> JournalMode:
        if method == "tools/call" and name is not None:
            return self.tools.get(name, self.default)
        return self.default


class ProbeQuestion(Wire):
    """The body of a probe that asks for more than "are you there"."""

    about: str = ""
    """To the control plane: what it knows of this name."""
    session: str = ""
    """To an instance: the host behind this session (the reply subject of the exchange that opened it) is still there."""
    back: bool = False
    """It was away, and may have missed what was said."""


class ProbeAnswer(Wire):
    """What a caller must know of a target before its first call; from the control plane also what it knows of another name."""

    agent: str
    instance: str
    journal: JournalPolicy = JournalPolicy()
    instances: tuple[str, ...] = ()
    """All live instances of the name that was asked about (an agent or a role)."""
    close: tuple[str, ...] = ()
    """Where nobody has that name: the names that come close."""


class ReaderQuestion(Wire):
    """The params of `mesh/reader`: a reader of a bucket, as far as the asker may see it, or of a stream, from a sequence or a time on."""

    bucket: str = ""
    stream: str = ""
    filters: Annotated[tuple[Annotated[str, Field(max_length=LONGEST_FILTER)], ...], Field(max_length=16)] = ()
    """Subjects of the stream, which may not overlap; none: all."""
    start_seq: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    start_time_ns: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class LanesQuestion(Wire):
    """The params of `mesh/lanes`: of a name that the asker may answer to. Lanes in which messages wait need not be wanted."""

    target: Annotated[str, Field(min_length=1)]
    wanted: tuple[Literal["critical", "high", "normal", "low"], ...] = ()


class MailboxQuestion(Wire):
    """The params of `mesh/mailbox`: of a name to which the asker may send, or that it answers to. None: of all, for operators."""

    target: str = ""


class SubscribeQuestion(Wire):
    """The params of `mesh/subscribe`: a durable subscription of the asker's, to a topic (a pattern) or to the broadcasts to some roles. It
    is made if it is not there."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    topic: str | None = None
    roles: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=16)] = ()
    wanted: tuple[Literal["critical", "high", "normal", "low"], ...] = ()
    """Priorities. Those in which events wait need not be wanted."""


class UnsubscribeQuestion(Wire):
    """The params of `mesh/unsubscribe`. `agent` is whose it is, if not the asker's."""

    name: Annotated[str, Field(min_length=1)]
    agent: str = ""


class SubscriptionsQuestion(Wire):
    """The params of `mesh/subscriptions`: those of the asker, or of everybody."""

    all: bool = False


class Client(Wire):
    """The broker's own name for a connection: how a disconnect event is matched to an instance."""

    server: str
    id: int


class Loss(Wire):
    at_ns: int
    reason: str


class InstanceEntry(Wire):
    """One instance of an agent, as the registry holds it under `{agent}.{instance}`."""

    agent: str
    instance: str
    roles: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    version: str = ""
    protocol_versions: tuple[str, ...] = ()
    """The MCP revisions that the server speaks, newest first."""
    capabilities: dict[str, Any] = {}
    tools: tuple[dict[str, Any], ...] = ()
    """The server's own tool list (`Tool` of the MCP schema)."""
    prompts: tuple[dict[str, Any], ...] = ()
    resources: tuple[dict[str, Any], ...] = ()
    templates: tuple[dict[str, Any], ...] = ()
    """Its other lists, as it gave them, cut where they would not fit into one message."""
    journal: JournalPolicy = JournalPolicy()
    started_ns: int = 0
    host: str = ""
    pid: int = 0
    mesh_version: str = ""
    lost: Loss | None = None
    """Set by the control plane when the instance went without a word."""


class Health(Wire):
    """One heartbeat. It says how the instance is, and which connection of the broker it is."""

    agent: str
    instance: str
    state: Literal["up", "degraded"] = "up"
    """degraded: the bridge lives, its server does not (it is being restarted)."""
    client: Client
    running: Annotated[int, Field(ge=0)] = 0
    served: int = 0
    failed: int = 0


def read(model: type[T], raw: bytes) -> T:
    """`raw` as `model`. Raises MalformedMessage."""
    try:
        if b"\\u" in raw:  # pydantic's own reader refuses a lone surrogate
            return model.model_validate(json.loads(raw))
        return model.model_validate_json(raw)
    except (ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise MalformedMessage(f"this is no {model.__name__}: {why}", starts=raw[:80]) from None
