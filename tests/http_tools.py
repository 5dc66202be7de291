"""An MCP server of the SDK's whose tools do one thing each that a transport has to carry, and an event store for it."""

import asyncio
from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.shared.message import ServerMessageMetadata
from mcp_types import CreateMessageRequest, CreateMessageRequestParams, CreateMessageResult, SamplingMessage, TextContent
from pydantic import BaseModel, Field


class Name(BaseModel):
    name: str


class Store(EventStore):
    """Keeps all events: the plainest that the SDK takes."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        stream = self.events[int(last_event_id) - 1][0]
        for number, (each, message) in enumerate(self.events, start=1):
            if number > int(last_event_id) and each == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Tools:
    """An MCP server, and what its tools do here."""

    def __init__(self) -> None:
        self.server = MCPServer("tools")
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go = asyncio.Event()
        self.sessions: list[Any] = []
        for tool in (self.echo, self.count, self.hang, self.greet, self.write, self.remember, self.regional, self.later, self.change):
            self.server.tool()(tool)

    async def echo(self, text: str) -> str:
        return text

    async def count(self, to: int, ctx: Context) -> str:
        for number in range(1, to + 1):
            await ctx.report_progress(number, to)
        return "counted"

    async def hang(self) -> str:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return ""

    async def greet(self, ctx: Context) -> str:
        found = await ctx.elicit("who?", Name)
        return f"hello {found.data.name}" if found.action == "accept" else found.action

    async def write(self, ctx: Context) -> str:
        message = SamplingMessage(role="user", content=TextContent(type="text", text="a poem"))
        asked = CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=10))
        found = await ctx.session.send_request(
            asked, CreateMessageResult, metadata=ServerMessageMetadata(related_request_id=ctx.request_id)
        )
        return found.content.text if isinstance(found.content, TextContent) else ""

    async def remember(self, ctx: Context) -> str:
        self.sessions.append(ctx.session)
        return "ok"

    async def regional(self, region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        return region

    async def later(self, ctx: Context) -> str:
        await ctx.close_sse_stream()
        await self.go.wait()
        return "after all"

    async def change(self, ctx: Context) -> str:
        await ctx.notify_tools_changed()
        return "changed"
