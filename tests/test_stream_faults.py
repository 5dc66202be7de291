"""Streams whose ends are killed, leave early or read slowly, and memory that is short: what is known of it, and what is lost."""

import asyncio
import sys
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.errors import StreamLost
from mesh.streams import Stream
from tests.helpers import CUT_WARNINGS
from tests.test_streams import silent, two, until

pytestmark = CUT_WARNINGS


async def test_a_slow_reader_reads_to_the_end_what_was_said_by_one_who_has_left(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.streams.serving.LEFT_SECONDS", 0.4)
    heard: list[int] = []
    ended = asyncio.Event()

    async def slow(stream: Stream) -> None:
        async for message in stream:
            await asyncio.sleep(0.1)
            heard.append(message)
        ended.set()

    async with two(plane, "f-slow", slow=slow) as (_, mesh):
        async with await mesh.create_stream("f-slow", "slow") as stream:
            for number in range(12):
                await stream.send(number)
        await ended.wait()
        assert heard == list(range(12))


async def test_a_handler_that_never_reads_does_not_keep_the_place_of_one_who_has_left(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.streams.serving.LEFT_SECONDS", 0.1)
    async with two(plane, "f-left", silent=silent) as (server, mesh):
        async with await mesh.create_stream("f-left", "silent") as stream:
            await stream.send("for nobody")
        await until(lambda: not server.streams.ends.count)


async def test_memory_of_all_streams_together_is_bounded_and_what_it_costs_comes_later(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.streams.ends.MOST_UNREAD", 100_000)
    go, heard = asyncio.Event(), list[list[bytes]]()

    async def waits(stream: Stream) -> None:
        await go.wait()
        heard.append([message async for message in stream])

    said = [bytes([number]) * 4_000 for number in range(60)]
    async with two(plane, "f-full", waits=waits) as (server, mesh):
        streams = [await mesh.create_stream("f-full", "waits") for _ in range(3)]
        for stream in streams:
            for message in said:
                await stream.send(message)
            stream.end()
        await until(lambda: server.streams.ends._unread > 100_000)
        await mesh.connection.flush()
        assert server.streams.ends._unread <= 100_000 + 3 * 36_000  # a frame each: the one that crosses the bound, and where nothing waits
        go.set()
        for stream in streams:
            await stream.received()
        await until(lambda: len(heard) == 3)
        assert heard == [said] * 3


async def test_who_serves_and_is_killed_is_known(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mesh.policy.stream_flow.KEEPALIVE", "mesh.streams.ends.KEEPALIVE", "mesh.policy.stream_flow.ABSENT"):
        monkeypatch.setattr(name, 0.3)
    script = """
import asyncio, sys
from mesh import Mesh
async def one(stream):
    await stream.send("one")
    await asyncio.Event().wait()
async def main():
    async with Mesh(name="f-kill", broker=sys.argv[1]) as mesh, mesh.streams.serve({"one": one}):
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", script, plane, stdout=asyncio.subprocess.PIPE, cwd=Path.cwd())
    try:
        assert server.stdout is not None
        assert await server.stdout.readline() == b"ready\n"
        async with (
            asyncio.timeout(20),
            Mesh(name="opener", broker=plane, roles=("host",)) as mesh,
            await mesh.create_stream("f-kill", "one") as stream,
        ):
            await until(lambda: stream.flow.waiting)
            server.kill()
            assert await stream.receive() == "one"  # what was said before is not lost
            with pytest.raises(StreamLost):
                await stream.receive()
    finally:
        if server.returncode is None:
            server.kill()
        await server.communicate()
