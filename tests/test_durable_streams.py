"""Durable streams: at the broker, through the end of both ends."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from mesh import Mesh
from mesh.errors import Busy, NoSuchAgent, RemoteError, StreamCancelled, StreamIdle, StreamLost
from mesh.link.jetstream import JetStream
from mesh.policy.stream_flow import WINDOW
from mesh.streams import DurableStream
from mesh.streams.flows import ABANDONED
from mesh.topology import STREAM_WINDOW, STREAMS
from tests.helpers import CUT_WARNINGS
from tests.test_streams import two, until

pytestmark = CUT_WARNINGS


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
            stream.end()
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
            stream.cancel("not wanted")
            await until(lambda: reasons)
        assert "not wanted" in str(reasons[0])


async def test_a_full_queue_holds_the_sender_up(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.streams.outflow.GROUP_BYTES", 0)  # each message is a write
    most = STREAM_WINDOW + WINDOW
    go = asyncio.Event()
    read: list[Any] = []

    async def slow(stream: DurableStream) -> None:
        await go.wait()
        async for message in stream:
            read.append(message)  # noqa: PERF401

    async with two(plane, "d-slow", slow=slow) as (_, mesh), await mesh.streams.open_durable("d-slow", "slow") as stream:

        async def flood() -> None:
            for number in range(most + 50):
                await stream.send(number)
            stream.end()

        flooding = asyncio.create_task(flood())
        await until(lambda: stream.sent == most)
        done, _ = await asyncio.wait((flooding,), timeout=0.3)
        assert not done
        go.set()
        await flooding
        await until(lambda: len(read) == most + 50)
        assert read == list(range(most + 50))


async def test_who_goes_on_takes_over_and_the_one_before_is_told(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.streams.inflow.LOOK_SECONDS", 0.5)
    async with two(plane, "d-over", echo=echo) as (_, mesh), await mesh.streams.open_durable("d-over", "echo", id="over") as first:
        await first.send("one")
        assert await first.receive() == "one"
        async with await mesh.streams.open_durable("d-over", "echo", id="over", taken=1) as second:
            await second.send("two")
            assert await second.receive() == "two"
            with pytest.raises(StreamLost, match="goes on"):
                await first.receive()
            second.end()
            with pytest.raises(StopAsyncIteration):
                await anext(second)


async def test_a_reading_that_is_given_up_loses_nothing(plane: str) -> None:
    async with two(plane, "d-up", echo=echo) as (_, mesh), await mesh.create_stream("d-up", "echo", durable=True) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await stream.receive()
        for number in range(50):
            await stream.send(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await stream.send(-1 - number)  # taken up, or not at all
        stream.end()
        heard = [message async for message in stream]
        assert [message for message in heard if message >= 0] == list(range(50))
        assert len(set(heard)) == len(heard)


async def test_who_goes_on_is_told_how_far_it_was(plane: str) -> None:
    """By the queue, while nobody reads it, and by the one who reads, when it is empty."""
    go, known = asyncio.Event(), dict[str, Any](id="far", durable=True)

    async def waits(stream: DurableStream) -> None:
        await go.wait()
        async for message in stream:
            await stream.send(message)

    async with two(plane, "d-far", waits=waits) as (_, mesh):
        async with await mesh.create_stream("d-far", "waits", **known) as stream:
            for number in range(1, 8):
                await stream.send(number)
        assert stream.sent == 7
        async with await mesh.create_stream("d-far", "waits", **known) as stream:
            assert stream.sent == 7
            await stream.send(8)
            go.set()
            assert [await stream.receive() for _ in range(8)] == list(range(1, 9))
        async with await mesh.create_stream("d-far", "waits", **known, taken=8) as stream:
            assert stream.sent == 8
            await stream.send(9)
            stream.end()
            assert [message async for message in stream] == [9]


async def test_who_reads_an_end_that_is_closed_elsewhere_is_told_and_takes_nobody_s_place(
    plane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.streams.inflow.LOOK_SECONDS", 0.2)
    async with two(plane, "d-shut", echo=echo) as (_, mesh):
        stream = await mesh.create_stream("d-shut", "echo", durable=True)
        reading = asyncio.create_task(stream.receive())
        await until(lambda: stream._in._pulls)
        await stream.close()
        with pytest.raises(StreamLost, match="closed"):
            await reading


async def test_what_cannot_be_stored_is_told_when_the_stream_is_left(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(stream: DurableStream) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("mesh.streams.outflow.GROUP_BYTES", 0)
    async with two(plane, "d-full", silent=silent) as (_, mesh):
        stream = await mesh.create_stream("d-full", "silent", durable=True)
        for number in range(STREAM_WINDOW + 2):
            await stream.send(number)
        with pytest.raises(StreamLost, match="not stored"):
            await stream.close(0.2)


async def test_a_stream_on_which_nobody_speaks_is_not_served_for_ever(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.streams.inflow.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("mesh.streams.inflow.ABANDONED", 0.2)
    ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def hears(stream: DurableStream) -> None:
        try:
            await stream.receive()
        except StreamIdle as problem:
            ended.set_result(problem)
            raise

    async with two(plane, "d-idle", hears=hears) as (_, mesh), await mesh.create_stream("d-idle", "hears", durable=True):
        assert "nothing was said" in str(await ended)


async def test_a_consumer_that_nobody_pulls_from_is_swept(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the broker, after a day; what lies there goes with the age of its stream."""
    async with Mesh(name="opener", broker=plane, roles=("host",)) as mesh, Mesh(name="operator", broker=plane) as looking:
        js = JetStream(looking.connection)
        name = (await mesh.request("mesh", "mesh/flow", {"from": "nobody", "stream": "swept"}))["consumer"]
        config = (await js.api(f"CONSUMER.INFO.{STREAMS}.{name}"))["config"]
        assert config["inactive_threshold"] == ABANDONED * 1e9
        assert (await js.api(f"STREAM.INFO.{STREAMS}"))["config"]["max_age"] == 7 * 86_400 * 10**9
        await mesh.request("mesh", "mesh/flow", {"from": "nobody", "stream": "swept", "end": True})


async def test_a_stream_that_its_opener_cannot_read_is_served_no_more(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these a caller may have so many: who tries again and again would soon have none left."""
    ends: list[str] = []

    async def listens(stream: DurableStream) -> None:
        try:
            await stream.receive()
        except StreamCancelled as problem:
            ends.append(problem.code)

    async with two(plane, "d-unread", listens=listens) as (_, mesh):
        with monkeypatch.context() as full:
            full.setattr("mesh.streams.flows.MOST_FLOWS", 0)
            with pytest.raises(Busy):
                await mesh.create_stream("d-unread", "listens", durable=True)
        await until(lambda: ends == ["stream_cancelled"])


async def test_who_serves_refuses_what_it_could_not_read(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.streams.serving.MOST_FLOWS", 1)
    async with two(plane, "d-many", echo=echo) as (_, mesh), await mesh.create_stream("d-many", "echo", durable=True) as first:
        with pytest.raises(Busy, match="serves 1"):
            await mesh.create_stream("d-many", "echo", durable=True)
        await first.send("x")
        assert await first.receive() == "x"


async def test_who_waits_for_one_who_is_away_asks_less_and_less_often(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time costs one of the 200 questions a minute that the control plane answers."""
    delays: list[float] = []
    tried = asyncio.Event()
    sleep = asyncio.sleep

    async def noted(seconds: float, result: Any = None) -> Any:
        delays.append(seconds)
        return await sleep(0, result)

    async def nobody() -> str:
        if len(delays) == 6:
            monkeypatch.undo()
            tried.set()
        raise NoSuchAgent("nobody is there")

    async with two(plane, "d-away", echo=echo) as (_, mesh), await mesh.create_stream("d-away", "echo", durable=True) as stream:
        assert stream.on_close is not None
        await stream.on_close()  # its own look
        monkeypatch.setattr("mesh.streams.durable.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": noted}))
        keeping = asyncio.create_task(stream.keep_served(nobody, lambda _: mesh.subjects.stream_frame("d-away", "x", "opener", "x"), ""))
        await tried.wait()
        keeping.cancel()
    assert delays == [2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
