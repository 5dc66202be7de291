"""`mesh stream`: a stream to an agent, from a shell or a script: lines in, messages out."""

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from mesh.background import end_tasks
from mesh.cli import options
from mesh.cli.messages import read_content
from mesh.cli.running import execute, joined
from mesh.errors import TooLarge


def stream(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Name of an agent, or a role.", show_default=False)],
    type: Annotated[str, typer.Argument(metavar="TYPE", help="A type of stream that it serves.", show_default=False)],
    content: Annotated[
        str | None, typer.Option("--content", metavar="CONTENT", help="What it is opened with: JSON, or else text.", show_default=False)
    ] = None,
    window: Annotated[int, typer.Option("--window", min=1, metavar="N", help="Messages that may be on their way unread.")] = 256,
    idle: Annotated[float, typer.Option("--idle", min=0.001, metavar="S", help="End it after so many seconds without a message.")] = 300.0,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Open a stream to an agent. Each line of stdin is sent as text, with --json as JSON; what the agent says is printed. The end of stdin
    ends our direction, Ctrl-C both."""

    async def work() -> None:
        from mesh.streams import Stream

        async def say(stream: Stream) -> None:
            try:
                async for line in _lines(stream.longest):
                    text = line.decode().rstrip("\r\n")
                    await stream.send(read_content(text) if as_json else text)
                stream.end()
            except (ValueError, TooLarge, OSError) as problem:  # a line too long, or no text: nothing of what follows would be in its place
                stream.cancel(f"a line of stdin cannot be sent: {problem}")

        async with (
            joined(state_dir, broker, name, credentials, quiet=as_json) as mesh,
            await mesh.create_stream(agent, type, content=read_content(content), window=window, idle=idle) as opened,
        ):
            saying = asyncio.create_task(say(opened), name="lines of stdin")
            try:
                async for message in opened:
                    show(message, as_json)
            finally:
                await end_tasks(saying)

    execute(work, as_json=as_json)


async def _lines(longest: int) -> AsyncIterator[bytes]:
    """Of stdin, or none where it is closed. Raises ValueError for a line of more than `longest` bytes, OSError."""
    if sys.stdin is None:
        return
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or sys.stdin.isatty()):  # asyncio reads no other files; they keep nobody waiting
        while line := sys.stdin.buffer.readline(longest + 1):
            if len(line) > longest:
                raise ValueError(f"it has more than {longest} bytes")
            yield line
        return
    lines = asyncio.StreamReader(limit=longest)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        yield line


def show(message: Any, as_json: bool) -> None:
    """One message, as a line. Bytes with --json: `{"bytes": HEX}`."""
    from mesh.cli.render import plain, print_text

    if as_json:
        print_text(json.dumps({"bytes": message.hex()} if isinstance(message, bytes) else message))
    elif isinstance(message, str | bytes):
        print_text(plain(message if isinstance(message, str) else message.decode("utf-8", "replace")))
    else:
        print_text(json.dumps(message, ensure_ascii=False))


def add_to(app: typer.Typer) -> None:
    app.command("stream", epilog='Example: mesh stream qa-manager test_execution --content \'{"suite": "unit"}\'')(stream)
