"""A durable stream goes on by its id: where the broker knows it to be, or with an error that says why not."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.errors import StreamCancelled, StreamLost, StreamRefused
from mesh.streams import DurableStream
from tests.helpers import CUT_WARNINGS
from tests.test_durable_streams import echo
from tests.test_streams import serving, two, until

pytestmark = CUT_WARNINGS

SQUARES = """
import asyncio, sys
from mesh import Mesh

async def squares(stream):
    async for number in stream:
        await stream.send([number, number * number])

async def serve(url):
    async with Mesh(name="r-squarer", broker=url) as mesh, mesh.streams.serve({"squares": squares}):
        print("ready", flush=True)
        await asyncio.Event().wait()

async def ask(url):
    async with Mesh(name="opener", broker=url, roles=("host",)) as mesh:
        async with await mesh.create_stream("r-squarer", "squares", durable=True, id=sys.argv[3]) as stream:
            for number in range(20):
                await stream.send(number)
            for number in range(20):
                assert await stream.receive() == [number, number * number]
            print("ready", flush=True)
            await asyncio.Event().wait()

asyncio.run({"serve": serve, "ask": ask}[sys.argv[1]](sys.argv[2]))
"""


async def started(what: str, url: str, id: str = "") -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SQUARES, what, url, id, stdout=asyncio.subprocess.PIPE, cwd=Path.cwd()
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


async def killed(*processes: asyncio.subprocess.Process) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("taken", [20, 0], ids=["counted", "not counted"])
async def test_both_ends_are_killed_when_all_was_read_and_the_id_is_enough(plane: str, taken: int) -> None:
    """Who does not count what it has taken gets the last of it again, and nothing else."""
    async with asyncio.timeout(50), Mesh(name="opener", broker=plane, roles=("host",)) as mesh:
        id, server = f"killed {taken}", await started("serve", plane)
        await killed(await started("ask", plane, id), server)
        server = await started("serve", plane)
        try:
            async with await mesh.create_stream("r-squarer", "squares", durable=True, id=id, taken=taken) as stream:
                assert stream.sent == 20
                for number in range(stream.sent, 25):
                    await stream.send(number)
                stream.end()
                heard = [message[0] async for message in stream]
            assert heard[-5:] == list(range(20, 25))
            assert heard == (list(range(20, 25)) if taken else [*dict.fromkeys(heard)])
        finally:
            await killed(server)
        with pytest.raises(StreamRefused, match="is over"):
            await mesh.create_stream("r-squarer", "squares", durable=True, id=id)


async def test_what_has_ended_or_was_cancelled_is_over(plane: str) -> None:
    async with two(plane, "r-over", echo=echo) as (_, mesh):
        async with await mesh.create_stream("r-over", "echo", durable=True, id="ended") as stream:
            await stream.send("x")
            stream.end()
            assert [message async for message in stream] == ["x"]
        async with await mesh.create_stream("r-over", "echo", durable=True, id="cancelled") as stream:
            stream.cancel("not wanted")
            with pytest.raises(StreamCancelled, match="not wanted"):
                await stream.receive()
        for id in ("ended", "cancelled"):
            with pytest.raises(StreamRefused, match="is over") as problem:
                await mesh.create_stream("r-over", "echo", durable=True, id=id)
            assert "another id" in problem.value.hint


async def test_a_cancellation_wakes_who_reads(plane: str) -> None:
    async with two(plane, "r-woken", echo=echo) as (_, mesh), await mesh.create_stream("r-woken", "echo", durable=True) as stream:
        reading = asyncio.create_task(stream.receive())
        await until(lambda: stream._in._waits)
        stream.cancel("enough")
        with pytest.raises(StreamCancelled, match="enough"):
            await reading


async def test_an_end_that_nobody_waited_for_is_not_lost(plane: str) -> None:
    """Said once: leaving the stream sees to it, and saying it again does nothing."""
    heard: list[str] = []

    async def hears(stream: DurableStream) -> None:
        heard.extend([message async for message in stream])
        heard.append("the end")

    async with two(plane, "r-end", hears=hears) as (_, mesh):
        async with await mesh.create_stream("r-end", "hears", durable=True) as stream:
            await stream.send("x")
            stream.end()
            stream.end()
            assert stream.sent == 1
        await until(lambda: heard == ["x", "the end"])


async def test_what_was_answered_before_its_server_ended_is_read_without_it(plane: str) -> None:
    """Its handler has returned: nobody is asked to begin it again."""
    begun: list[str] = []

    async def returns(stream: DurableStream) -> None:
        begun.append(stream.id)
        await stream.send(await stream.receive())

    async with Mesh(name="opener", broker=plane, roles=("host",)) as mesh:
        async with serving(plane, "r-gone", returns=returns):
            async with await mesh.create_stream("r-gone", "returns", durable=True, id="rest") as stream:
                await stream.send("x")
                await stream.stored()
            known = {"with": "r-gone", "stream": "rest"}
            while not (await mesh.request("mesh", "mesh/flow", known))["heard"]["over"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with asyncio.timeout(20):
            async with await mesh.create_stream("r-gone", "returns", durable=True, id="rest") as stream:
                assert [message async for message in stream] == ["x"]
            with pytest.raises(StreamRefused, match="is over"):
                await mesh.create_stream("r-gone", "returns", durable=True, id="rest")
    assert begun == ["rest"]


async def test_who_served_and_was_killed_between_the_last_message_and_its_own_end_reads_the_end_again(plane: str) -> None:
    stuck = asyncio.Event()

    async def total(stream: DurableStream) -> None:
        numbers = [message async for message in stream]
        if not stuck.is_set():
            stuck.set()
            await asyncio.Event().wait()
        await stream.send(numbers)

    async with asyncio.timeout(40), Mesh(name="opener", broker=plane, roles=("host",)) as mesh:
        async with serving(plane, "r-total", total=total), await mesh.create_stream("r-total", "total", durable=True, id="total") as stream:
            await stream.send(1)
            await stream.stored()
            stream.end()
            await stuck.wait()
        async with serving(plane, "r-total", total=total), await mesh.create_stream("r-total", "total", durable=True, id="total") as stream:
            assert await stream.receive() == []  # the number it had taken, and had not noted
            with pytest.raises(StopAsyncIteration):
                await anext(stream)


async def test_a_message_is_done_when_its_answer_is_safe(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends before the broker has its answer gets the question again."""
    asked: list[str] = []
    served: list[DurableStream] = []

    async def answers(stream: DurableStream) -> None:
        served.append(stream)
        if len(served) == 1:
            monkeypatch.setattr(stream._out, "_write", asyncio.Event().wait)  # its answers go nowhere
        async for message in stream:
            asked.append(message)
            await stream.send(message.upper())

    async with asyncio.timeout(40), Mesh(name="opener", broker=plane, roles=("host",)) as mesh:
        for _ in range(2):
            async with (
                serving(plane, "r-safe", answers=answers),
                await mesh.create_stream("r-safe", "answers", durable=True, id="safe") as stream,
            ):
                if not asked:
                    await stream.send("x")
                    await until(lambda: served[0]._in._waits and asked)  # it has asked for the next one
                else:
                    assert await stream.receive() == "X"
    assert asked == ["x", "x"]


async def test_who_leaves_in_order_has_done_what_it_took(plane: str) -> None:
    async with two(plane, "r-left", echo=echo) as (_, mesh):
        async with await mesh.create_stream("r-left", "echo", durable=True, id="left") as stream:
            await stream.send("x")
            assert await stream.receive() == "x"
        with suppress(ZeroDivisionError):
            async with await mesh.create_stream("r-left", "echo", durable=True, id="left") as stream:
                await stream.send("y")
                assert await stream.receive() == "y"
                raise ZeroDivisionError
        async with await mesh.create_stream("r-left", "echo", durable=True, id="left") as stream:
            stream.end()
            assert [message async for message in stream] == ["y"]


async def test_more_than_was_said_cannot_have_been_taken(plane: str) -> None:
    async with two(plane, "r-more", echo=echo) as (_, mesh):
        async with await mesh.create_stream("r-more", "echo", durable=True, id="more") as stream:
            await stream.send("x")
            assert await stream.receive() == "x"
        for id, taken in (("more", 2), ("never was", 1)):
            with pytest.raises(StreamLost, match="as far as the broker knows") as problem:
                await mesh.create_stream("r-more", "echo", durable=True, id=id, taken=taken)
            assert problem.value.hint


async def test_a_role_is_told_who_has_the_stream(plane: str) -> None:
    async with (
        asyncio.timeout(40),
        Mesh(name="r-member", broker=plane, roles=("agent", "r-role")) as member,
        member.streams.serve({"echo": echo}, roles=("r-role",)),
        Mesh(name="opener", broker=plane, roles=("host",)) as mesh,
    ):
        async with await mesh.create_stream("r-role", "echo", durable=True, id="whose") as stream:
            await stream.send("x")
            assert await stream.receive() == "x"
        with pytest.raises(StreamRefused, match="one with 'r-member'"):
            await mesh.create_stream("r-role", "echo", durable=True, id="whose")
        async with await mesh.create_stream(stream.peer, "echo", durable=True, id="whose", taken=stream.taken) as stream:
            assert stream.sent == 1
