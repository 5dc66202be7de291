"""Messages to an agent, handed to tools of its server, which need know nothing of messages.

In mesh.toml `inbox = "take_message"` names the tool for all of them. Of `{"id", "sender", "type", "content", "priority", "sent",
"deadline"?, "correlation_id"?, "metadata", "delivery"}` it gets what its input schema has as properties; all, where it names none. What a
message does not say is null where the schema requires it, and left out elsewhere.
`answers = ["code_review"]` names tools for messages of the type of their name: the message is a call, and its content the arguments. Its
sender needs no right to call them, only to send. With `topics` messages on these are handed on in the same way, with
`broadcasts = true` those to all and to its roles.

The result is the answer, if the sender waits for one: the structured content, or else the text.

| the server                                     | the message                                |
|------------------------------------------------|--------------------------------------------|
| gives a result                                 | is done                                    |
| gives a result with `isError`                  | is tried again, and then is a dead letter  |
| dies, cannot be reached, is busy               | the same                                   |
| answers with an error (no such tool, arguments) | is a dead letter at once                  |
| has no tool for its type                       | is a dead letter at once                   |
"""

import itertools
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bridge.config import AgentSpec
from bridge.expose import Exposed
from bridge.facts import Facts
from bridge.jobs import JobRuns
from bridge.mesh_tools.letters import letter
from mesh import Mesh
from mesh.broker import AgentMessage, Reject
from mesh.errors import ConfigError
from mesh.jobs import JobError
from mesh.rpc import build_request
from mesh.wire.job import content_of


@asynccontextmanager
async def delivered(mesh: Mesh, exposed: Exposed, facts: Facts, spec: AgentSpec, workers: int) -> AsyncIterator[None]:
    """While the block lasts the agent's messages, those to its roles, on its topics and to all go to its tools, if it names any for them.

    Raises ConfigError where the server has no such tool, Denied.
    """
    if not spec.inbox and not spec.answers:
        yield
        return
    tools = {str(each.get("name")): each for each in facts.tools}
    for tool in filter(None, (spec.inbox, *spec.answers)):
        if tool not in tools:
            key = "inbox" if tool == spec.inbox else "answers"
            raise ConfigError(
                f"agent {exposed.agent!r}: {tool!r} of {key} is no tool of its server", hint=f"it has {', '.join(tools) or 'none'}"
            )
    taking = ToolInbox(exposed, tools.get(spec.inbox), spec.answers)
    async with mesh.messages.subscribe_to_messages(
        taking, roles=spec.roles, topics=spec.topics, broadcasts=spec.broadcasts, workers=workers
    ):
        yield


class ToolInbox:
    """The handler of one agent's messages."""

    def __init__(self, exposed: Exposed, tool: dict[str, Any] | None, answers: Collection[str] = ()) -> None:
        self._runs = JobRuns(exposed)
        self._tool = tool
        self._answers = answers
        self._numbers = itertools.count(1)

    async def __call__(self, message: AgentMessage) -> Any:
        request = build_request("inbox", "tools/call", self._params(message))
        errand = _Errand(f"inbox-{next(self._numbers)}", message.sender, message.target, request)
        try:
            result = await self._runs(errand)
        except JobError as problem:
            raise Reject(str(problem)) from None
        said = content_of(result)
        if result.get("isError"):
            raise ToolFailed(said or "the tool failed")
        return said

    def _params(self, message: AgentMessage) -> dict[str, Any]:
        """Which tool is called, and with what. Raises Reject."""
        if message.type in self._answers:
            if not isinstance(message.content, dict):
                raise Reject(f"the content of a message of type {message.type!r} is an object: the arguments of that tool")
            return {"name": message.type, "arguments": message.content}
        if self._tool is None:
            raise Reject(f"no tool takes messages of type {message.type!r}, but of these: {', '.join(self._answers)}")
        schema = self._tool.get("inputSchema")
        known, required = (schema.get("properties"), schema.get("required")) if isinstance(schema, dict) else (None, None)
        needed = required if isinstance(required, list) else ()
        said = {
            key: value for key, value in letter(message).items() if (not known or key in known) and (value is not None or key in needed)
        }
        return {"name": self._tool["name"], "arguments": said}


class ToolFailed(Exception):
    """The tool said so (`isError`)."""


@dataclass(frozen=True, slots=True)
class _Errand:
    """One call of the tool (`bridge.jobs.Errand`)."""

    id: str
    caller: str
    target: str
    request: bytes

    def progress(self, progress: Any, total: Any = None, message: str | None = None, /) -> None:
        """Nobody looks."""
