"""Durable streams whose ends are killed or cut off, whose deliveries are lost, and whose role has other members."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.link.connection import Message
from mesh.streams import DurableStream
from mesh.topology import STREAMS
from tests.helpers import CUT_WARNINGS, Proxy, back
from tests.test_durable_streams import echo, operator
from tests.test_streams import serving, two, until

pytestmark = CUT_WARNINGS

END = """
import asyncio, json, sys
from pathlib import Path
from mesh import Mesh

async def serve(url, path):
    async def notes(stream):
        have = len(Path(path).read_text().splitlines())
        with Path(path).open("a") as file:
            async for message in stream:
                if stream.taken > have:
                    file.write(json.dumps(message) + "\\n")
                    file.flush()
                    have += 1
    async with Mesh(name="notes", broker=url) as mesh, mesh.streams.serve({"notes": notes}):
        print("ready", flush=True)
        await asyncio.Event().wait()

async def say(url, path):
    async with Mesh(name="writer", broker=url, roles=("host",)) as mesh:
        async with await mesh.streams.open_durable("notes", "notes", id="book") as stream:
            print("ready", flush=True)
            while stream.sent < 30_000:
                await stream.send(stream.sent + 1)
            stream.end()
            async for _ in stream:
                pass
            print("done", flush=True)

asyncio.run({"serve": serve, "say": say}[sys.argv[1]](*sys.argv[2:]))
"""


async def test_both_ends_are_killed_and_go_on_and_nothing_is_lost_or_doubled(plane: str, tmp_path: Path) -> None:
    script, notes = tmp_path / "end.py", tmp_path / "notes"
    script.write_text(END)
    notes.touch()

    async def started(what: str, path: Path) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, str(script), what, plane, str(path), stdout=pipe, cwd=Path.cwd())
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async with asyncio.timeout(55):
        for lines in (300, 3000, 9000):
            server = await started("serve", notes)
            writer = await started("say", notes)
            while len(notes.read_text().splitlines()) < lines:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for process in (server, writer):
                process.kill()
                await process.communicate()
        server = await started("serve", notes)
        writer = await started("say", notes)
        assert writer.stdout is not None
        assert await writer.stdout.readline() == b"done\n"
        await writer.wait()
        server.kill()
        await server.communicate()
    assert [json.loads(line) for line in notes.read_text().splitlines()] == list(range(1, 30_001))


async def test_a_delivery_that_was_lost_comes_before_what_follows_it(plane: str) -> None:
    """As by a connection that broke: the broker takes it for delivered, and goes on with the next one."""

    async def ten(stream: DurableStream) -> None:
        for number in range(10):
            await stream.send(number)
            await stream.stored()

    stolen: list[Message] = []
    async with (
        two(plane, "d-lost", ten=ten) as (_, mesh),
        await operator(plane) as thief,
        await mesh.create_stream("d-lost", "ten", durable=True) as stream,
    ):
        inbox = thief.connection.new_inbox()
        await thief.connection.subscribe(inbox, stolen.append, pulled=True)
        thief.connection.send(f"$JS.API.CONSUMER.MSG.NEXT.{STREAMS}.{stream._in._consumer}", b"3", inbox)
        await until(lambda: len(stolen) == 3)
        assert [message async for message in stream] == list(range(10))


@pytest.mark.parametrize("who", ["opener", "server"])
async def test_nothing_is_lost_or_doubled_when_either_side_is_cut_off(plane: str, who: str) -> None:
    async with Proxy(plane) as proxy:
        urls = {"opener": plane, "server": plane, who: proxy.url}
        async with (
            asyncio.timeout(50),
            serving(urls["server"], f"d-cut-{who}", echo=echo) as server,
            Mesh(name="opener", broker=urls["opener"], roles=("host",)) as mesh,
            await mesh.create_stream(f"d-cut-{who}", "echo", durable=True) as stream,
        ):
            said = [f"{number}{'x' * 20_000}" for number in range(600)]

            async def say() -> None:
                for message in said:
                    await stream.send(message)
                stream.end()

            saying = asyncio.create_task(say())
            cut = {"opener": mesh, "server": server}[who]
            heard: list[str] = []
            async for message in stream:
                heard.append(message)
                if len(heard) in (100, 250, 400):
                    await back(cut.connection, proxy.cut)
            await saying
            assert [each[:4].rstrip("x") for each in heard] == [each[:4].rstrip("x") for each in said]


async def test_one_who_serves_and_is_killed_goes_on_with_what_it_says_too(plane: str) -> None:
    """kill -9, again and again, of a process that keeps nothing but what it says."""
    script = """
import asyncio, sys
from mesh import Mesh
async def double(stream):
    async for number in stream:
        await stream.send([number, stream.taken, stream.sent])
async def main():
    async with Mesh(name="d-kill", broker=sys.argv[1]) as mesh, mesh.streams.serve({"double": double}):
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""

    async def started() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, plane, stdout=asyncio.subprocess.PIPE, cwd=Path.cwd())
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async with asyncio.timeout(50), Mesh(name="opener", broker=plane, roles=("host",)) as mesh:
        server = await started()
        try:
            async with await mesh.create_stream("d-kill", "double", durable=True) as stream:
                heard = set[int]()
                for turn in range(3):
                    for number in range(turn * 100, turn * 100 + 100):
                        await stream.send(number)
                    while len(heard) < turn * 100 + 100:
                        heard.add((await stream.receive())[0])
                        if turn and len(heard) == turn * 100 + 30:
                            server.kill()
                            await server.communicate()
                            server = await started()
                assert heard == set(range(300))
                assert stream.taken >= 300
        finally:
            server.kill()
            await server.communicate()


async def test_a_stream_to_a_role_stays_with_the_member_who_took_it(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said while that one is gone waits for it, whoever else has the role."""
    monkeypatch.setattr("mesh.streams.durable.SERVED_SECONDS", 0.1)

    @asynccontextmanager
    async def member(name: str) -> AsyncIterator[None]:
        async with (
            Mesh(name=name, broker=plane, roles=("agent", "d-role")) as mesh,
            mesh.streams.serve({"who": who}, roles=("d-role",)),
        ):
            yield

    async def who(stream: DurableStream) -> None:
        async for message in stream:
            await stream.send(message)

    async with asyncio.timeout(40), Mesh(name="opener", broker=plane, roles=("host",)) as mesh:
        async with member("d-one"):
            stream = await mesh.create_stream("d-role", "who", durable=True)
            await stream.send("a")
            assert await stream.receive() == "a"
        async with stream, member("d-two"):
            await stream.send("b")
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await stream.receive()
            async with member("d-one"):
                assert await stream.receive() == "b"
                assert stream.peer == "d-one"
