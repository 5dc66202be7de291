"""`mesh stream`: lines in, messages out."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from bridge import serve
from tests.test_streams import echo, serving


async def started(url: str, *words: str, stdin: Any = asyncio.subprocess.PIPE) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "mesh", "stream", *words, "--broker", url)
    return await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=pipe, stderr=pipe)


async def upper(stream: Any) -> None:
    async for message in stream:
        await stream.send(message.upper())


async def test_lines_go_out_and_messages_are_printed(plane: str) -> None:
    async with asyncio.timeout(40), serving(plane, "cli-upper", upper=upper):
        command = await started(plane, "cli-upper", "upper")
        out, err = await command.communicate(b"one\ntwo\n")
        assert (command.returncode, out, err) == (0, b"ONE\nTWO\n", b"")


async def test_a_file_is_sent_too(plane: str, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("one\ntwo\n")
    async with asyncio.timeout(40), serving(plane, "cli-file", upper=upper):
        with (tmp_path / "lines").open() as file:
            command = await started(plane, "cli-file", "upper", stdin=file)
            out, err = await command.communicate()
        assert (command.returncode, out, err) == (0, b"ONE\nTWO\n", b"")


@pytest.mark.parametrize("stdin", ["</dev/null", "0<&-"])
async def test_a_stdin_without_lines_ends_our_direction(plane: str, stdin: str) -> None:
    async def greets(stream: Any) -> None:
        await stream.send(f"and {len([message async for message in stream])} lines")

    async with asyncio.timeout(40), serving(plane, "cli-empty", greets=greets):
        words = f'exec "$0" -m mesh stream cli-empty greets --broker {plane} {stdin}'
        pipe = asyncio.subprocess.PIPE
        command = await asyncio.create_subprocess_exec("sh", "-c", words, sys.executable, stdout=pipe, stderr=pipe)
        out, err = await command.communicate()
        assert (command.returncode, out, err) == (0, b"and 0 lines\n", b"")


async def test_who_serves_no_streams_is_said_in_words(plane: str) -> None:
    async with asyncio.timeout(40), serve(MCPServer("plain"), name="cli-plain", broker=plane):
        command = await started(plane, "cli-plain", "any", "--json")
        _, err = await command.communicate(b"")
        said = json.loads(err)
        assert (command.returncode, said["code"], said["message"]) == (1, "stream_refused", "'cli-plain' serves no streams")


@pytest.mark.parametrize("line", [b"\xff\xfe", b"x" * 1_100_000])
async def test_a_line_that_cannot_be_sent_ends_the_stream_and_is_told(plane: str, line: bytes) -> None:
    async with asyncio.timeout(40), serving(plane, "cli-bad", upper=upper):
        command = await started(plane, "cli-bad", "upper", "--json")
        _, err = await command.communicate(b'"fine"\n' + line + b"\n")
        assert command.returncode == 1
        assert "cannot be sent" in json.loads(err)["message"]


async def test_with_json_each_line_is_json(plane: str) -> None:
    async with asyncio.timeout(40), serving(plane, "cli-echo", echo=echo):
        command = await started(plane, "cli-echo", "echo", "--json")
        out, _ = await command.communicate(b'{"a": 1}\nplain\n')
        assert [json.loads(line) for line in out.splitlines()] == [{"a": 1}, "plain"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_ctrl_c_ends_the_stream(plane: str) -> None:
    async with asyncio.timeout(40), serving(plane, "cli-long", echo=echo) as server:
        command = await started(plane, "cli-long", "echo")
        assert command.stdin is not None
        assert command.stdout is not None
        command.stdin.write(b"here\n")
        assert await command.stdout.readline() == b"here\n"
        command.send_signal(signal.SIGINT)
        assert await command.wait() == 130
        while server.streams.ends.count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_is_refused_is_said_with_its_code(plane: str) -> None:
    async with asyncio.timeout(40), serving(plane, "cli-none", echo=echo):
        command = await started(plane, "cli-none", "other", "--json")
        _, err = await command.communicate(b"")
        assert command.returncode == 1
        assert json.loads(err)["code"] == "stream_refused"
