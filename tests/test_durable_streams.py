"""Durable streams: at the broker, through the end of both ends."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.errors import RemoteError, StreamCancelled, StreamLost
from mesh.link.jetstream import JetStream
from mesh.streams import DurableStream
from mesh.topology import STREAM_WINDOW, STREAMS
from tests.helpers import CUT_WARNINGS
from tests.test_streams import two, until

pytestmark = CUT_WARNINGS

END = """
import asyncio, json, sys
from pathlib import Path
from mesh import Mesh

async def serve(url, path):
    async def notes(stream):
        with Path(path).open("a") as file:
            async for message in stream:
                if stream.taken > len(Path(path).read_text().splitlines()):
                    file.write(json.dumps(message) + "\\n")
                    file.flush()
    async with Mesh(name="notes", broker=url) as mesh, mesh.streams.serve({"notes": notes}):
        print("ready", flush=True)
        await asyncio.Event().wait()

async def say(url, path):
    known = int(Path(path).read_text() or 0) if Path(path).exists() else 0
    async with Mesh(name="writer", broker=url, roles=("host",)) as mesh:
        async with await mesh.streams.open_durable("notes", "notes", id="book", sent=known) as stream:
            print("ready", flush=True)
            while stream.sent < 3000:
                await stream.send(stream.sent + 1)
                if stream.sent % 50 == 0:
                    Path(path).write_text(str(stream.sent))
            await stream.end()
            async for _ in stream:
                pass
            print("done", flush=True)

asyncio.run({"serve": serve, "say": say}[sys.argv[1]](*sys.argv[2:]))
"""


async def echo(stream: DurableStream) -> None:
    async for message in stream:
        await stream.send(message)


async def left(mesh: Mesh) -> tuple[int, int]:
    """Messages and consumers that the broker has of durable streams."""
    state = (await JetStream(mesh.connection).api(f"STREAM.INFO.{STREAMS}"))["state"]
    return state["messages"], state["consumer_count"]


async def operator(url: str) -> Mesh:
    return Mesh(name="operator", broker=url)


async def test_both_ways_to_the_end_and_nothing_is_left(plane: str) -> None:
    said = [b"\x00", "x", {"a": 1}, *range(100)]
    async with two(plane, "d-echo", echo=echo) as (_, mesh), await operator(plane) as looking:
        async with await mesh.create_stream("d-echo", "echo", durable=True) as stream:
            for message in said:
                await stream.send(message)
            await stream.end()
            assert [message async for message in stream] == said
        async with asyncio.timeout(10):
            while await left(looking) != (0, 0):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_errors_and_cancelling(plane: str) -> None:
    reasons: list[BaseException] = []

    async def fails(stream: DurableStream) -> None:
        await stream.send(await stream.receive())
        raise ValueError("no further")

    async def waits(stream: DurableStream) -> None:
        try:
            await stream.receive()
        except StreamCancelled as problem:
            reasons.append(problem)

    async with two(plane, "d-fails", fails=fails, waits=waits) as (_, mesh):
        async with await mesh.streams.open_durable("d-fails", "fails") as stream:
            await stream.send(1)
            assert await stream.receive() == 1
            with pytest.raises(RemoteError, match="no further"):
                await stream.receive()
        async with await mesh.streams.open_durable("d-fails", "waits") as stream:
            await stream.cancel("not wanted")
            await until(lambda: reasons)
        assert "not wanted" in str(reasons[0])


async def test_a_full_queue_holds_the_sender_up(plane: str) -> None:
    go = asyncio.Event()
    read: list[Any] = []

    async def slow(stream: DurableStream) -> None:
        await go.wait()
        async for message in stream:
            read.append(message)  # noqa: PERF401

    async with two(plane, "d-slow", slow=slow) as (_, mesh), await mesh.streams.open_durable("d-slow", "slow") as stream:

        async def flood() -> None:
            for number in range(STREAM_WINDOW + 50):
                await stream.send(number)
            await stream.end()

        flooding = asyncio.create_task(flood())
        await until(lambda: stream.sent == STREAM_WINDOW)
        done, _ = await asyncio.wait((flooding,), timeout=0.3)
        assert not done
        go.set()
        await flooding
        await until(lambda: len(read) == STREAM_WINDOW + 50)
        assert read == list(range(STREAM_WINDOW + 50))


async def test_who_goes_on_takes_over_and_the_one_before_is_told(plane: str) -> None:
    async with two(plane, "d-over", echo=echo) as (_, mesh), await mesh.streams.open_durable("d-over", "echo", id="over") as first:
        await first.send("one")
        assert await first.receive() == "one"
        async with await mesh.streams.open_durable("d-over", "echo", id="over", sent=1, taken=1) as second:
            await second.send("two")
            assert await second.receive() == "two"
            with pytest.raises(StreamLost, match="goes on"):
                await first.receive()
            await second.end()
            with pytest.raises(StopAsyncIteration):
                await anext(second)


async def test_both_ends_are_killed_and_go_on_and_nothing_is_lost_or_doubled(plane: str, tmp_path: Path) -> None:
    script, notes, known = tmp_path / "end.py", tmp_path / "notes", tmp_path / "known"
    script.write_text(END)
    notes.touch()

    async def started(what: str, path: Path) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, str(script), what, plane, str(path), stdout=pipe, cwd=Path.cwd())
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async with asyncio.timeout(55):
        for lines in (300, 900):
            server = await started("serve", notes)
            writer = await started("say", known)
            while len(notes.read_text().splitlines()) < lines:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for process in (server, writer):
                process.kill()
                await process.communicate()
        server = await started("serve", notes)
        writer = await started("say", known)
        assert writer.stdout is not None
        assert await writer.stdout.readline() == b"done\n"
        await writer.wait()
        server.kill()
        await server.communicate()
    assert [json.loads(line) for line in notes.read_text().splitlines()] == list(range(1, 3001))
