"""Streams between two participants, over a real broker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bench.crowd import Echo
from mesh import Mesh
from mesh.errors import Busy, ConfigError, NoSuchAgent, RemoteError, StreamCancelled, StreamIdle, StreamLost, StreamRefused, TooLarge
from mesh.streams import Stream
from mesh.streams.ends import MOST_EACH
from tests.helpers import CUT_WARNINGS, Proxy, back

pytestmark = CUT_WARNINGS


async def echo(stream: Stream) -> None:
    async for message in stream:
        await stream.send(message)


async def silent(stream: Stream) -> None:
    await asyncio.Event().wait()


async def count(stream: Stream) -> None:
    for number in range(stream.content):
        await stream.send(number)


async def until(condition: Callable[[], object]) -> None:
    """For what nobody tells of."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def read(stream: Stream) -> list[Any]:
    return [message async for message in stream]


@asynccontextmanager
async def serving(url: str, name: str, **handlers) -> AsyncIterator[Mesh]:
    async with Mesh(name=name, broker=url) as mesh, mesh.streams.serve(handlers):
        yield mesh


@asynccontextmanager
async def two(url: str, name: str, **handlers) -> AsyncIterator[tuple[Mesh, Mesh]]:
    """Who serves, and who opens."""
    async with asyncio.timeout(40), serving(url, name, **handlers) as server, Mesh(name="opener", broker=url, roles=("host",)) as opener:
        yield server, opener


async def test_bytes_text_and_json_go_both_ways_and_stay_what_they_were(plane):
    said = [b"\x00\xff", "grüße", {"a": [1, None]}, 3, "", b"", [True]]
    async with two(plane, "s-echo", echo=echo) as (_, mesh), await mesh.create_stream("s-echo", "echo") as stream:
        for message in said:
            await stream.send(message)
        stream.end()
        assert [message async for message in stream] == said


async def test_a_stream_knows_what_it_was_opened_with(plane):
    async with two(plane, "s-count", count=count) as (_, mesh), await mesh.create_stream("s-count", "count", content=3) as stream:
        assert (stream.peer, stream.type) == ("s-count", "count")
        assert await read(stream) == [0, 1, 2]
        with pytest.raises(StreamLost, match="all that it had to say"):
            await stream.receive()


@pytest.mark.parametrize("content", ['"two"\nlines\\', {"type": "other", "name": "ü"}, [{"type": 1}, "\x00"]])
async def test_a_stream_is_opened_with_whatever_json_can_say(plane, content):
    async def say(stream: Stream) -> None:
        await stream.send(stream.content)

    async with two(plane, "s-say", say=say) as (_, mesh), await mesh.create_stream("s-say", "say", content=content) as stream:
        assert await stream.receive() == content


async def test_half_close_leaves_the_way_back_open(plane):
    async def total(stream: Stream) -> None:
        await stream.send(sum([message async for message in stream]))

    async with two(plane, "s-total", total=total) as (_, mesh), await mesh.create_stream("s-total", "total") as stream:
        for number in range(1_000):
            await stream.send(number)
        stream.end()
        with pytest.raises(ConfigError):
            await stream.send(1)
        assert await stream.receive() == 499_500


async def test_a_fast_sender_waits_for_a_slow_reader(plane):
    said: list[int] = []
    release = asyncio.Event()

    async def slow(stream: Stream) -> None:
        await release.wait()
        said.extend([message async for message in stream])

    async with two(plane, "s-slow", slow=slow) as (_, mesh), await mesh.create_stream("s-slow", "slow", window=16) as stream:

        async def flood() -> None:
            for number in range(200):
                await stream.send(number)

        flooding = asyncio.create_task(flood())
        await stream.received()
        await until(lambda: not stream.flow.room)
        assert stream.flow.sent <= 16
        assert not flooding.done()
        release.set()
        await flooding
        await stream.close()
        await until(lambda: len(said) == 200)
        assert said == list(range(200))


async def test_bytes_count_too(plane):
    async with two(plane, "s-big", silent=silent) as (_, mesh), await mesh.create_stream("s-big", "silent", window_bytes=100_000) as stream:
        for _ in range(4):
            await stream.send(bytes(30_000))
        await stream.received()
        assert not stream.flow.room
        with pytest.raises(TooLarge):
            await stream.send(bytes(2_000_000))


async def test_the_error_of_a_handler_comes_after_what_it_said(plane):
    async def fails(stream: Stream) -> None:
        await stream.send("so far")
        raise ValueError("no further")

    async with two(plane, "s-fails", fails=fails) as (_, mesh), await mesh.create_stream("s-fails", "fails") as stream:
        assert await stream.receive() == "so far"
        with pytest.raises(RemoteError, match="no further"):
            await stream.receive()


async def test_cancelling_reaches_the_handler_and_its_reason_too(plane):
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def long(stream: Stream) -> None:
        await stream.send("begun")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set_result("stopped")

    async with two(plane, "s-long", long=long) as (server, mesh), await mesh.create_stream("s-long", "long") as stream:
        await stream.receive()
        stream.cancel("not needed")
        assert await ended == "stopped"
        with pytest.raises(StreamCancelled, match="not needed"):
            await stream.receive()
        await until(lambda: not server.streams.ends.count)


async def test_an_exception_in_the_block_cancels_the_stream(plane):
    reason: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def watch(stream: Stream) -> None:
        stream.on_over = None  # it wants to see for itself
        try:
            await stream.receive()
        except StreamCancelled as problem:
            reason.set_result(problem)

    async with two(plane, "s-watch", watch=watch) as (_, mesh):
        with pytest.raises(ZeroDivisionError):
            async with await mesh.create_stream("s-watch", "watch"):
                raise ZeroDivisionError("oops")
        assert "oops" in str(await reason)


async def test_a_stream_on_which_nothing_is_said_ends(plane):
    async with two(plane, "s-idle", silent=silent) as (_, mesh), await mesh.create_stream("s-idle", "silent", idle=0.3) as stream:
        with pytest.raises(StreamIdle):
            await stream.receive()


async def test_what_nobody_serves_is_refused(plane):
    async with two(plane, "s-none", echo=echo) as (_, mesh):
        with pytest.raises(StreamRefused, match="no streams of type 'other'") as refused:
            await mesh.create_stream("s-none", "other")
        assert "echo" in refused.value.hint
        with pytest.raises(NoSuchAgent):
            await mesh.create_stream("nobody-at-all", "echo")


async def test_one_caller_leaves_room_for_the_others(plane):
    async with two(plane, "s-many", silent=silent) as (server, mesh):
        streams = [await mesh.create_stream("s-many", "silent") for _ in range(MOST_EACH)]
        with pytest.raises(Busy):
            await mesh.create_stream("s-many", "silent")
        async with Mesh(name="another", broker=plane, roles=("host",)) as other:
            (await other.create_stream("s-many", "silent")).cancel()
        for stream in streams:
            stream.cancel()
            await stream.close()
        await until(lambda: not server.streams.ends.count)
        (await mesh.create_stream("s-many", "silent")).cancel()


@pytest.mark.parametrize("who", ["opener", "server"])
async def test_nothing_is_lost_or_doubled_when_either_side_is_cut_off(plane, who):
    async with Proxy(plane) as proxy:
        urls = {"opener": plane, "server": plane, who: proxy.url}
        async with (
            asyncio.timeout(50),
            serving(urls["server"], f"s-cut-{who}", echo=echo) as server,
            Mesh(name="opener", broker=urls["opener"], roles=("host",)) as mesh,
            await mesh.create_stream(f"s-cut-{who}", "echo", window=32) as stream,
        ):
            hearing = asyncio.create_task(read(stream))
            cut = {"opener": mesh, "server": server}[who]
            for turn in range(4):
                for number in range(500):
                    await stream.send(turn * 500 + number)
                if turn < 3:
                    await back(cut.connection, proxy.cut)
            stream.end()
            assert await hearing == list(range(2_000))


async def test_nothing_is_lost_or_doubled_over_a_restart_of_the_broker(broker, plane):
    async with two(plane, "s-restart", echo=echo) as (_, mesh), await mesh.create_stream("s-restart", "echo", window=64) as stream:
        hearing = asyncio.create_task(read(stream))
        for number in range(3_000):
            await stream.send(number)
            if number == 1_000:
                await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.wait_ready)
        stream.end()
        assert await hearing == list(range(3_000))


async def test_a_server_that_is_gone_is_known(plane):
    async with two(plane, "s-gone", silent=silent) as (server, mesh), await mesh.create_stream("s-gone", "silent") as stream:
        await server.connection._client.close()  # as by a kill: nothing is said any more
        server.connection._closing = True
        with pytest.raises(StreamLost):
            await stream.receive()


async def test_streams_and_calls_under_one_name(plane):
    async with (
        asyncio.timeout(20),
        Mesh(name="s-both", broker=plane) as server,
        server.present(Echo(), streams={"echo": echo}),
        Mesh(name="opener", broker=plane, roles=("host",)) as mesh,
    ):
        assert "content" in await mesh.call("s-both", "echo", {"text": "x"})
        async with await mesh.create_stream("s-both", "echo") as stream:
            await stream.send("here too")
            assert await stream.receive() == "here too"


async def test_an_opener_that_is_gone_is_known_and_its_handler_is_stopped(plane):
    async with two(plane, "s-left", silent=silent) as (server, mesh):
        await mesh.create_stream("s-left", "silent")
        await mesh.connection._client.close()
        mesh.connection._closing = True
        await until(lambda: not server.streams.ends.count)
