"""Servers of the SDK of each era, put on the mesh in this process, and clients of both eras that talk to them over it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from bridge import mesh_transport
from bridge.app import expose, make_spec
from bridge.ports.local import LocalServer
from mesh import Mesh

MODERN = "2026-07-28"

NAMES = (f"agent{number}" for number in itertools.count(1))
"""Of agents: a module's tests share a broker."""


class Name(BaseModel):
    name: str


class Peers:
    """What the servers and clients of a test have seen."""

    def __init__(self) -> None:
        self.levels: list[str] = []
        self.subscribed: list[str] = []
        self.cancelled = asyncio.Event()
        self.begun = asyncio.Event()
        self.log: list[tuple[str, Any]] = []
        self.asked: list[str] = []
        self.heard: list[Any] = []
        self.signal = asyncio.Event()

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(5):
            while not true():
                self.signal.clear()
                await self.signal.wait()

    # the clients

    async def elicit(self, _: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        self.asked.append(f"elicitation: {params.message}")
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def sample(self, _: ClientRequestContext, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        self.asked.append("sampling")
        return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text="a poem"), model="m")

    async def roots(self, _: ClientRequestContext) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult.model_validate({"roots": [{"uri": "file:///r", "name": "r"}]})

    async def on_log(self, params: types.LoggingMessageNotificationParams) -> None:
        self.log.append((params.level, params.data))
        self.signal.set()

    async def on_message(self, message: Any) -> None:
        self.heard.append(message)
        self.signal.set()

    @property
    def changes(self) -> list[str]:
        return [message.method for message in self.heard if isinstance(message, types.Notification)]

    @asynccontextmanager
    async def client(
        self, broker: str, agent: str, mode: str, *, asks: bool = True, name: str = "host", **options: Any
    ) -> AsyncIterator[Client]:
        callbacks = (
            {"elicitation_callback": self.elicit, "sampling_callback": self.sample, "list_roots_callback": self.roots} if asks else {}
        )
        transport = mesh_transport(agent, broker=broker, name=name)
        options = {"logging_callback": self.on_log, "message_handler": self.on_message, "mode": mode, **callbacks, **options}
        async with Client(transport, **options) as client:
            yield client

    # a server of the handshake era

    def old_server(self) -> MCPServer:
        server = MCPServer("old", instructions="of old", version="7")

        @server.tool()
        async def add(a: int, b: int) -> int:
            return a + b

        @server.tool()
        async def ask(question: str, ctx: Context) -> str:
            answer = await ctx.elicit(question, Name)
            return f"{answer.action} {answer.data.name if answer.action == 'accept' else ''}"

        @server.tool()
        async def ask_thrice(ctx: Context) -> str:
            answers = [await ctx.elicit(f"question {number}", Name) for number in range(2)]
            both = await asyncio.gather(ctx.elicit("left", Name), ctx.elicit("right", Name))
            return " ".join(answer.data.name for answer in [*answers, *both] if answer.action == "accept")

        @server.tool()
        async def sample(ctx: Context) -> str:
            message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="write"))
            found = await ctx.session.create_message([message], max_tokens=10)
            return found.content.text if isinstance(found.content, types.TextContent) else ""

        @server.tool()
        async def roots(ctx: Context) -> str:
            return str((await ctx.session.list_roots()).roots[0].uri)

        @server.tool()
        async def chat(ctx: Context) -> str:
            await ctx.debug("quiet")
            await ctx.warning("loud")
            return "said"

        @server.tool()
        async def slow(ctx: Context) -> str:
            self.begun.set()
            try:
                await ctx.report_progress(1, 2, "begun")
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
            return ""

        @server.tool()
        async def change(ctx: Context) -> str:
            await ctx.session.send_tool_list_changed()
            await ctx.session.send_resource_updated("memo://1")
            return "changed"

        @server.resource("memo://1")
        def memo() -> str:
            return "a memo"

        low = server._lowlevel_server

        async def on_level(_: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
            self.levels.append(params.level)
            return types.EmptyResult()

        async def on_subscribe(_: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
            if str(params.uri) == "memo://none":
                raise ValueError("there is none")
            self.subscribed.append(f"+{params.uri}")
            self.signal.set()
            return types.EmptyResult()

        async def on_unsubscribe(_: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
            self.subscribed.append(f"-{params.uri}")
            self.signal.set()
            return types.EmptyResult()

        low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, on_level)
        low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, on_subscribe)
        low.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, on_unsubscribe)
        return server

    # a server of the modern era

    def new_server(self) -> MCPServer:
        server = MCPServer("new", instructions="of late", version="8")

        @server.tool()
        async def add(a: int, b: int) -> int:
            return a + b

        @server.tool()
        async def ask(ctx: Context) -> types.InputRequiredResult | str:
            if ctx.input_responses is None:
                return types.InputRequiredResult(
                    input_requests={
                        "who": types.ElicitRequest(
                            params=types.ElicitRequestFormParams(message="who?", requested_schema={"type": "object", "properties": {}})
                        ),
                        "where": types.ListRootsRequest(),
                        "what": types.CreateMessageRequest(
                            params=types.CreateMessageRequestParams(
                                messages=[types.SamplingMessage(role="user", content=types.TextContent(type="text", text="write"))],
                                max_tokens=5,
                            )
                        ),
                    },
                    request_state="secret",
                )
            found = ctx.input_responses
            who, where, what = found["who"], found["where"], found["what"]
            assert isinstance(who, types.ElicitResult)
            assert isinstance(where, types.ListRootsResult)
            assert isinstance(what, types.CreateMessageResult)
            assert isinstance(what.content, types.TextContent)
            return f"{who.content} {where.roots[0].uri} {what.content.text} {ctx.request_state}"

        @server.tool()
        async def again(ctx: Context) -> types.InputRequiredResult | str:
            """Only wants to be asked again, three times."""
            state = ctx.request_state or ""
            return "done" if len(state) == 3 else types.InputRequiredResult(request_state=state + "x")

        @server.tool()
        async def endless(ctx: Context) -> types.InputRequiredResult | str:
            return types.InputRequiredResult(input_requests={"roots": types.ListRootsRequest()})

        @server.tool()
        async def chat(ctx: Context) -> str:
            await ctx.debug("quiet")
            await ctx.warning("loud")
            return "said"

        @server.tool()
        async def slow(ctx: Context) -> str:
            self.begun.set()
            try:
                await ctx.report_progress(1, 2, "begun")
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
            return ""

        @server.tool()
        async def change(ctx: Context) -> str:
            await ctx.notify_tools_changed()
            await ctx.notify_resource_updated("memo://1")
            await ctx.notify_resource_updated("memo://2")
            return "changed"

        @server.resource("memo://1")
        def memo() -> str:
            return "a memo"

        low = server._lowlevel_server

        async def on_level(_: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
            raise AssertionError("the modern era has no such request")

        low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, on_level)
        return server


@asynccontextmanager
async def exposed(broker: str, agent: str, server: LocalServer) -> AsyncIterator[Any]:
    """An agent on the mesh; its registry entry's holder."""
    async with (
        server.entered(),
        Mesh(name=agent, broker=broker) as mesh,
        expose(mesh, make_spec(name=agent, python="in:process"), server.port) as presence,
    ):
        yield presence


def said(result: Any) -> str:
    assert isinstance(result, types.CallToolResult)
    assert not result.is_error, result
    assert isinstance(result.content[0], types.TextContent)
    return result.content[0].text
