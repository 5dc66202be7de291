"""The servers of `tests/test_peers.py`: how each is started over each transport that it speaks, and what a client asks it."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import mcp_types as types
from mcp import Client

from tests.npm_peers import EVERYTHING
from tests.processes import ROOT

Step: TypeAlias = Callable[[Client], Awaitable[Any]]

BIN: Final = Path(sys.executable).parent
MODERN: Final = "2026-07-28"


@dataclass(frozen=True)
class Server:
    """Its command over stdio and over each transport on which it listens; `steps` is what it is asked."""

    name: str
    stdio: tuple[str, ...]
    steps: tuple[Step, ...]
    listens: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
