"""Real peers, each over each transport, and what a client of the SDK heard from them: directly, and through the mesh.

A `Script` is what the client says to a server. `play` says it over any transport and notes all that the client heard, as it came off the
wire, before the SDK made objects of it. What is compared is this record.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
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

from tests.npm_peers import EVERYTHING
from tests.processes import ROOT

Transport: TypeAlias = AbstractAsyncContextManager[Any]
Step: TypeAlias = Callable[[Client], Awaitable[Any]]

BIN: Final = Path(sys.executable).parent
MODERN: Final = "2026-07-28"
MODES: Final = {"handshake": "legacy", "modern": "auto"}
"""How the SDK's client is told the era. With `auto` it asks first what the server speaks."""

OF_AN_ERA: Final = ("resultType", "ttlMs", "cacheScope", "_meta")
"""What a result of one era has and the other has not."""

_ANY_UUID: Final = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
"""Servers name their sessions so."""


# ---- the servers


@dataclass(frozen=True)
class Server:
    """`argv` of it over stdio, and over each transport that listens, where `PORT` says on which port. `steps` is what it is asked."""

    name: str
    stdio: tuple[str, ...]
    steps: tuple[Step, ...]
    listens: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    modern: bool = True
    """Whether it speaks that era too."""


def tool(name: str, **arguments: Any) -> Step:
    async def call(client: Client) -> Any:
        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            """Makes the SDK ask for progress; what comes is noted on the wire."""

        return await client.call_tool(name, arguments, progress_callback=on_progress)

    return call


def prompt(name: str, **arguments: str) -> Step:
    return lambda client: client.get_prompt(name, arguments)


def read(uri: str) -> Step:
    return lambda client: client.read_resource(uri)


def complete(name: str, argument: str, value: str) -> Step:
    return lambda client: client.complete(types.PromptReference(type="ref/prompt", name=name), {"name": argument, "value": value})


LISTS: Final[tuple[Step, ...]] = (
    lambda client: client.list_tools(),
    lambda client: client.list_prompts(),
    lambda client: client.list_resources(),
    lambda client: client.list_resource_templates(),
)


async def handshake_only(client: Client) -> None:
    """What only that era has."""
    if client.protocol_version == MODERN:
        return
    await client.send_ping()
    await client.set_logging_level("debug")
    await client.subscribe_resource("test://watched-resource")
    await client.unsubscribe_resource("test://watched-resource")
    await client.send_roots_list_changed()


EVERYTHING_SERVER: Final = Server(
    "everything",
    (*EVERYTHING, "stdio"),
    (
        *LISTS,
        handshake_only,
        tool("echo", message="☃ \U0001f600"),
        tool("get-sum", a=1, b=2.5),
        tool("get-sum", a="no number", b=2),
        tool("get-tiny-image"),
        tool("get-annotated-message", messageType="error", includeImage=True),
        tool("get-structured-content", location="Chicago"),
        tool("get-resource-links", count=3),
        tool("trigger-long-running-operation", duration=0.1, steps=5),
        tool("trigger-sampling-request", prompt="a poem", maxTokens=10),
        tool("trigger-elicitation-request"),
        tool("no-such-tool"),
        prompt("simple-prompt"),
        prompt("args-prompt", city="Berlin", state="BE"),
        prompt("args-prompt"),
        complete("completable-prompt", "department", "E"),
        read("demo://resource/static/document/features.md"),
        read("demo://no/such/resource"),
    ),
    {"http": (*EVERYTHING, "streamableHttp"), "sse": (*EVERYTHING, "sse")},
    modern=False,
)

SDK_SERVER: Final = Server(
    "sdk",
    (sys.executable, "-m", "tests.servers.conformant", "stdio"),
    (
        *LISTS,
        handshake_only,
        *(
            tool(name)
            for name in (
                "test_simple_text",
                "test_image_content",
                "test_audio_content",
                "test_multiple_content_types",
                "test_error_handling",
            )
        ),
        tool("test_tool_with_logging"),
        tool("test_tool_with_progress"),
        tool("test_sampling", prompt="a poem"),
        tool("test_elicitation", message="who?"),
        prompt("test_prompt_with_arguments", arg1="one", arg2="two"),
        prompt("test_prompt_with_image"),
        read("test://static-binary"),
        read("test://template/123/data"),
        complete("test_prompt_with_arguments", "arg1", "par"),
    ),
    {"http": (sys.executable, "-m", "tests.servers.conformant", "http")},
)

TIME_SERVER: Final = Server(
    "time",
    (str(BIN / "mcp-server-time"), "--local-timezone", "UTC"),
    (
        LISTS[0],
        tool("convert_time", source_timezone="UTC", time="12:00", target_timezone="Asia/Kathmandu"),
        tool("convert_time", source_timezone="Nowhere", time="12:00", target_timezone="UTC"),
        tool("no_such_tool"),
    ),
)


def git_server(repository: Path) -> Server:
    at = str(repository)
    calls = (tool("git_log", repo_path=at), tool("git_status", repo_path=at), tool("git_show", repo_path=at, revision="HEAD"))
    return Server("git", (str(BIN / "mcp-server-git"),), (LISTS[0], *calls, tool("git_log", repo_path="/no/such/place")))


@asynccontextmanager
async def listening(server: Server, transport: str) -> AsyncIterator[str]:
    """The server as a process that listens; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = server.listens[transport]
    process = await asyncio.create_subprocess_exec(
        *argv, *([str(port)] if server is SDK_SERVER else []), cwd=ROOT, env={**os.environ, "PORT": str(port)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionError:
                    assert process.returncode is None, f"{argv} ended"
                    await asyncio.sleep(0.05)  # nobody tells us when it listens
                else:
                    writer.close()
                    await writer.wait_closed()
                    break
        yield f"http://127.0.0.1:{port}/{'sse' if transport == 'sse' else 'mcp'}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


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
