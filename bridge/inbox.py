"""Messages to an agent, handed to a tool of its server: `inbox = "tool"` in mesh.toml, for a server that knows nothing of messages.

Of `{"id", "sender", "type", "content", "priority", "sent", "deadline"?, "correlation_id"?, "metadata", "delivery"}` the tool gets what its
input schema has as properties; all, where it names none. Its result is the answer, if the sender waits for one: the structured content, or
else the text.

| the server                                     | the message                                |
|------------------------------------------------|--------------------------------------------|
| gives a result                                 | is done                                    |
| gives a result with `isError`                  | is tried again, and then is a dead letter  |
| dies, cannot be reached, is busy               | the same                                   |
| answers with an error (no such tool, arguments) | is a dead letter at once                  |
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bridge.expose import Exposed
from bridge.facts import Facts
from bridge.jobs import JobRuns
from bridge.mesh_tools.doing import letter
from mesh import Mesh
from mesh.broker import AgentMessage, Reject
from mesh.errors import ConfigError
from mesh.jobs import JobError
from mesh.rpc import build_request


@asynccontextmanager
async def delivered(mesh: Mesh, exposed: Exposed, facts: Facts, tool: str, roles: tuple[str, ...], workers: int) -> AsyncIterator[None]:
    """While the block lasts the agent's messages, and those to `roles`, go to `tool`; with an empty name nothing is done.

    Raises ConfigError where the server has no such tool, Denied.
    """
    if not tool:
        yield
        return
    found = next((each for each in facts.tools if each.get("name") == tool), None)
    if found is None:
        names = ", ".join(str(each.get("name")) for each in facts.tools)
        raise ConfigError(f"agent {exposed.agent!r}: inbox = {tool!r} is no tool of its server", hint=f"it has {names or 'none'}")
    async with mesh.messages.subscribe_to_messages(ToolInbox(exposed, found), roles=roles, workers=workers):
        yield


class ToolInbox:
    """The handler of one agent's messages."""

    def __init__(self, exposed: Exposed, tool: dict[str, Any]) -> None:
        self._runs = JobRuns(exposed)
        self._tool = tool
        self._numbers = itertools.count(1)

    async def __call__(self, message: AgentMessage) -> Any:
        schema = self._tool.get("inputSchema")
        known = schema.get("properties") if isinstance(schema, dict) else None
        said = {key: value for key, value in letter(message).items() if value is not None and (not known or key in known)}
        params = {"name": self._tool["name"], "arguments": said}
        errand = _Errand(f"inbox-{next(self._numbers)}", message.sender, message.target, build_request("inbox", "tools/call", params))
        try:
            result = await self._runs(errand)
        except JobError as problem:
            raise Reject(str(problem)) from None
        text = " ".join(str(each.get("text")) for each in result.get("content") or () if isinstance(each, dict) and "text" in each)
        if result.get("isError"):
            raise ToolFailed(text or "the tool failed")
        return result.get("structuredContent", text)


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
