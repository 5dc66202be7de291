"""What a client of the SDK hears from a server, as a record: over each transport, directly and through the mesh.

`play` says a server's steps and notes all that comes, as it came off the wire, before the SDK makes objects of it.
"""

import asyncio
import contextlib
import copy
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeAlias

import anyio
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from bridge.tasks.words import CAPABILITY, EXTENSION
from tests.peer_servers import MODERN, Step
from tests.processes import ROOT

Transport: TypeAlias = AbstractAsyncContextManager[Any]

MODES: Final = {"handshake": "legacy", "modern": "auto"}
"""How the SDK's client is told the era. With `auto` it asks first what the server speaks."""

OF_AN_ERA: Final = ("resultType", "ttlMs", "cacheScope", "_meta")
"""What a result of one era has and the other has not."""

_ANY_UUID: Final = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
"""Servers name their sessions so."""


# ---- the transports of a client


def over_stdio(*argv: str) -> Transport:
    return stdio_client(StdioServerParameters(command=argv[0], args=list(argv[1:]), cwd=ROOT, env=dict(os.environ)))


def over_url(url: str) -> Transport:
    return sse_client(url) if url.endswith("/sse") else streamable_http_client(url)


@asynccontextmanager
async def over_websocket(url: str) -> AsyncIterator[Any]:
    """The SDK has none."""
    to_client, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](100)
    outgoing, from_client = anyio.create_memory_object_stream[SessionMessage](0)
    async with connect(url, subprotocols=[Subprotocol("mcp")], max_size=2**26) as websocket:

        async def hear() -> None:
            try:
                async for text in websocket:
                    await to_client.send(SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False)))
            except (ConnectionClosed, anyio.BrokenResourceError, anyio.ClosedResourceError):
                to_client.close()

        async def speak() -> None:
            async for said in from_client:
                await websocket.send(said.message.model_dump_json(by_alias=True, exclude_unset=True))

        tasks = [asyncio.create_task(hear()), asyncio.create_task(speak())]
        try:
            yield incoming, outgoing
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for stream in (to_client, incoming, outgoing, from_client):
                stream.close()


# ---- the record


@dataclass
class Record:
    """What a client heard. Everything as plain JSON."""

    version: str = ""
    opening: list[Any] = field(default_factory=list)
    """The answers before the first step."""
    answers: list[Any] = field(default_factory=list)
    """Results and errors, in order: the client asks one thing at a time."""
    progress: list[Any] = field(default_factory=list)
    logs: list[Any] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    """What the server asked the client for, whichever way it came."""

    def note(self, message: Mapping[str, Any]) -> None:
        if "result" in message and message["result"].get("resultType") != "input_required":
            self.answers.append(message["result"])
        elif "error" in message:
            self.answers.append({"error": message["error"]})
        elif message.get("method") == "notifications/progress":
            self.progress.append({key: value for key, value in message["params"].items() if key != "progressToken"})
        elif message.get("method") == "notifications/message":
            self.logs.append(message["params"])

    def plain(self) -> Self:
        """Without what one era only has, for a comparison over translation. Requests that only one has, have results without content."""
        answers = [found for each in self.answers if (found := _without(each, OF_AN_ERA))]
        return type(self)("", [], answers, self.progress, [], self.asked)


def without_tasks(got: Record) -> Record:
    """What a client heard, without what the mesh adds where a server has no tasks of its own: that any tool can be done as one. It must be
    there: in the opening, and in the handshake era at each tool."""
    got = copy.deepcopy(got)
    modern = got.version == MODERN
    (has,) = [opening["capabilities"] for opening in got.opening if "capabilities" in opening]
    if modern:
        assert has["extensions"].pop(EXTENSION) == {}
        if not has["extensions"]:
            del has["extensions"]
    else:
        assert has.pop("tasks") == CAPABILITY
    for tool in (tool for each in got.answers for tool in each.get("tools", ()) if not modern):
        assert tool.pop("execution") == {"taskSupport": "optional"}
    return got


def has_tasks(record: Record) -> bool:
    return any("tasks" in opening.get("capabilities", {}) for opening in record.opening)


def _without(found: Any, keys: Sequence[str]) -> Any:
    return {key: value for key, value in found.items() if key not in keys} if isinstance(found, dict) else found


class Tap:
    """A read stream of the SDK that is listened to."""

    def __init__(self, stream: Any, note: Callable[[Mapping[str, Any]], None]) -> None:
        self._stream = stream
        self._note = note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return self._heard(await self._stream.__anext__())

    async def receive(self) -> Any:
        return self._heard(await self._stream.receive())

    def _heard(self, item: Any) -> Any:
        if isinstance(item, SessionMessage):
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            self._note(json.loads(_ANY_UUID.sub("a-uuid", text)))
        return item


async def play(transport: Transport, era: str, steps: Sequence[Step]) -> Record:
    """Say the script, step by step, and note what came."""
    record = Record()

    @asynccontextmanager
    async def tapped() -> AsyncIterator[Any]:
        async with transport as (incoming, outgoing):
            yield Tap(incoming, record.note), outgoing

    def asked(kind: str, params: Any) -> None:
        record.asked.append((kind, _without(params.model_dump(mode="json", by_alias=True, exclude_unset=True), ("_meta",))))

    async def elicit(_: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked("elicitation", params)
        return types.ElicitResult(action="accept", content={"name": "Ada", "username": "ada", "email": "ada@example.org"})

    async def sample(_: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        asked("sampling", params)
        return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text="a poem"), model="m")

    async with (
        asyncio.timeout(40),
        Client(tapped(), mode=MODES[era], elicitation_callback=elicit, sampling_callback=sample, cache=None) as client,  # type: ignore[arg-type]
    ):
        record.version = client.protocol_version
        record.opening, record.answers = record.answers, []
        for step in steps:
            with contextlib.suppress(MCPError):  # noted as it came
                await step(client)
    return record
