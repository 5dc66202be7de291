"""What the tests of all agents as one share: a server that has everything, a host that says what it likes, and agents for them."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp_types import Completion, PromptReference, ResourceTemplateReference, TextContent
from pydantic import BaseModel

from bridge import serve
from bridge.gathered.gather import Gathered
from bridge.gathered.roster import Roster
from mesh import Mesh
from mesh.wire.jsonrpc import dumps
from tests.helpers import Bridge, Signals, bridges

MODERN = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}

BIN = Path(sys.executable).parent


class Answer(BaseModel):
    """What the host is asked for."""

    word: str


def studio() -> MCPServer[Any]:
    """A server of the SDK with everything, which changes when it is asked to."""
    server: MCPServer[Any] = MCPServer("studio", title="The studio", instructions="Makes things.")

    @server.tool()
    async def grow(name: str, ctx: Context[Any, Any]) -> str:
        """Have one more tool."""

        async def grown() -> str:
            return name

        server.add_tool(grown, name=name)
        await ctx.notify_tools_changed()
        return "grown"

    @server.tool()
    async def ask(ctx: Context[Any, Any]) -> str:
        """Ask the host for a word."""
        result = await ctx.elicit("Which word?", Answer)
        return result.data.word if result.action == "accept" else result.action

    @server.tool()
    async def work(steps: int, ctx: Context[Any, Any]) -> str:
        """Report progress."""
        for step in range(steps):
            await ctx.report_progress(step + 1, steps)
        return "done"

    @server.tool()
    async def touch(uri: str, ctx: Context[Any, Any]) -> str:
        """Say that a resource has changed."""
        await ctx.notify_resource_updated(uri)
        return "touched"

    @server.prompt()
    def greeting(name: str) -> str:
        """Greet somebody."""
        return f"Say hello to {name}"

    @server.resource("studio://motto")
    def motto() -> str:
        return "less"

    @server.resource("shared:///x")
    def shared() -> str:
        return "studio has shared:///x"

    @server.resource("studio://paint/{colour}")
    def paint(colour: str) -> str:
        return f"{colour} paint"

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion | None:
        if isinstance(ref, ResourceTemplateReference):
            return Completion(values=[ref.uri, f"{argument.value}ed"])
        if isinstance(ref, PromptReference):
            return Completion(values=[ref.name])
        return None

    return server


@contextmanager
def some_agents(broker: str) -> Iterator[list[Bridge]]:
    """Servers that others wrote, one of them under a name that no host takes, and one of the handshake era."""
    time, git = str(BIN / "mcp-server-time"), str(BIN / "mcp-server-git")
    with bridges(broker, ("time", [time]), ("git", [git]), ("library", "library"), ("clock.v2", [time])) as made:
        yield made


@asynccontextmanager
async def together(broker: str) -> AsyncIterator[Mesh]:
    """A studio on the mesh, and a participant that looks at all."""
    async with serve(studio(), name="studio", broker=broker), Mesh(name="host", broker=broker) as mesh:
        yield mesh


class Host:
    """A host without the SDK: it says what it likes, and notes what it hears."""

    def __init__(self, roster: Roster, **options: Any) -> None:
        self.heard: list[dict[str, Any]] = []
        self.signals = Signals()
        self.link = Gathered(roster, self._hear, **options)

    def _hear(self, raw: bytes) -> None:
        self.heard.append(json.loads(raw))
        self.signals.tell()

    def say(self, **message: Any) -> None:
        self.link.receive(dumps({"jsonrpc": "2.0", **message}))

    async def ask(self, id: Any, method: str, timeout: float = 10.0, **params: Any) -> dict[str, Any]:
        self.say(id=id, method=method, params=params)
        return await self.next(lambda message: message.get("id") == id and "method" not in message, timeout)

    async def next(self, wanted: Any, timeout: float = 10.0) -> dict[str, Any]:
        await self.signals.until(lambda: any(map(wanted, self.heard)), timeout)
        found: dict[str, Any] = next(filter(wanted, self.heard))
        self.heard.remove(found)
        return found

    async def greet(self, **capabilities: Any) -> dict[str, Any]:
        info = {"name": "test", "version": "1"}
        said = await self.ask("greet", "initialize", protocolVersion="2025-11-25", capabilities=capabilities, clientInfo=info)
        self.say(method="notifications/initialized")
        return said


@asynccontextmanager
async def hosted(mesh: Mesh, **options: Any) -> AsyncIterator[Host]:
    async with Roster(mesh) as roster:
        host = Host(roster, **options)
        try:
            yield host
        finally:
            await host.link.close()


def text(result: Any) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text
