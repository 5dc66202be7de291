"""Reading a stream in order, once, over whatever happens to the broker, the consumer and the connection."""

import asyncio
import itertools
from contextlib import aclosing

import pytest

from mesh.errors import ApiError, BrokerUnavailable
from mesh.link.connection import Connection
from mesh.link.jetstream import STREAM_NOT_FOUND, JetStream
from mesh.link.publisher import WindowedPublisher
from mesh.link.pull import PullLoop
from mesh.link.reader import INACTIVE, Stored, read_stream
from mesh.link.reconcile import ensure
from mesh.topology import StreamSpec
from tests.conftest import Broker

BARE = True  # what is tested here is below all identities

_names = (f"R{number}" for number in itertools.count(1))


@pytest.fixture
async def js(broker: Broker):
    async with await Connection.open(broker.url, name="test") as connection:
        yield JetStream(connection)


async def make(js, **settings) -> str:
    """A stream that takes `{name}.>`."""
    name = next(_names)
    await ensure(js, StreamSpec(name=name, subjects=(f"{name}.>",), **settings))
    return name


async def fill(js, stream: str, count: int, *, start: int = 1, subject: str = "a") -> None:
    async with WindowedPublisher(js.connection) as publisher:
        numbers = range(start, start + count)
        futures = [await publisher.submit(f"{stream}.{subject}", b"%d" % number, msg_id=f"{stream}-{number}") for number in numbers]
    await asyncio.gather(*futures)


async def read(js, stream: str, **options) -> list[Stored]:
    return [message async for messages in read_stream(js.connection, stream, **options) for message in messages]


def seqs(messages: list[Stored]) -> list[int]:
    return [message.seq for message in messages]


async def test_everything_once_in_order_with_its_sequence_and_time(js) -> None:
    stream = await make(js)
    async with asyncio.timeout(20):
        await fill(js, stream, 10_000)
        messages = await read(js, stream)
    assert seqs(messages) == list(range(1, 10_001))
    assert [message.body for message in messages] == [b"%d" % number for number in range(1, 10_001)]
    assert messages == sorted(messages, key=lambda message: message.time_ns)
    assert messages[0].subject == f"{stream}.a"
    assert messages[0].headers == {"Nats-Msg-Id": f"{stream}-1"}


async def test_bounds_by_sequence_and_time_and_filters(js) -> None:
    stream = await make(js)
    async with asyncio.timeout(10):
        await fill(js, stream, 10)
        await fill(js, stream, 10, start=11, subject="b")
        await fill(js, stream, 10, start=21)
        everything = await read(js, stream)
        assert seqs(await read(js, stream, start_seq=28)) == [28, 29, 30]
        assert seqs(await read(js, stream, until_seq=3)) == [1, 2, 3]
        assert seqs(await read(js, stream, start_seq=12, until_seq=14)) == [12, 13, 14]
        assert seqs(await read(js, stream, start_seq=99)) == []
        assert seqs(await read(js, stream, start_time_ns=everything[24].time_ns)) == list(range(25, 31))
        assert seqs(await read(js, stream, subjects=(f"{stream}.b",))) == list(range(11, 21))
        assert seqs(await read(js, stream, subjects=(f"{stream}.b",), until_seq=25)) == list(range(11, 21))
        assert len(await read(js, stream, subjects=(f"{stream}.a", f"{stream}.b"))) == 30
        assert await read(js, stream, subjects=(f"{stream}.none",)) == []
        assert seqs(await read(js, stream, until_seq=20, follow=True)) == list(range(1, 21))


async def test_an_empty_stream_is_read_at_once_and_a_missing_one_is_told(js) -> None:
    async with asyncio.timeout(5):
        assert await read(js, await make(js)) == []
        with pytest.raises(ApiError) as caught:
            await read(js, "NONE")
        assert caught.value.err_code == STREAM_NOT_FOUND


async def test_following_gets_what_comes(js) -> None:
    stream = await make(js)
    async with asyncio.timeout(10):
        await fill(js, stream, 2)
        seen: list[int] = []
        async with aclosing(read_stream(js.connection, stream, follow=True)) as lists:
            async for messages in lists:
                seen += seqs(messages)
                if len(seen) == 2:
                    await fill(js, stream, 1, start=3)
                if len(seen) == 3:
                    break
        assert seen == [1, 2, 3]


async def test_leaving_early_removes_the_consumer(js) -> None:
    stream = await make(js)
    async with asyncio.timeout(10):
        await fill(js, stream, 5)
        before = len(js.connection._subscriptions)
        async with aclosing(read_stream(js.connection, stream, follow=True)) as lists:
            await anext(lists)
            assert len((await js.api(f"CONSUMER.NAMES.{stream}"))["consumers"]) == 1
        async with asyncio.timeout(INACTIVE / 2):
            while (await js.api(f"CONSUMER.NAMES.{stream}"))["consumers"]:
                pass  # the server works on requests side by side: the one to remove may still be waiting
        assert len(js.connection._subscriptions) == before


async def test_what_is_lost_on_the_way_is_read_again(js, monkeypatch) -> None:
    stream = await make(js)
    deliver = PullLoop._on_message
    lost: list[str] = []

    def lossy(self, message):
        if message.body == b"700" and not lost:
            lost.append(message.subject)
        else:
            deliver(self, message)

    monkeypatch.setattr(PullLoop, "_on_message", lossy)
    async with asyncio.timeout(10):
        await fill(js, stream, 1500)
        assert seqs(await read(js, stream)) == list(range(1, 1501))
    assert lost


async def test_a_consumer_that_is_taken_away_is_replaced(js) -> None:
    stream = await make(js)
    async with asyncio.timeout(10):
        await fill(js, stream, 3)
        seen: list[int] = []
        async with aclosing(read_stream(js.connection, stream, follow=True)) as lists:
            async for messages in lists:
                seen += seqs(messages)
                if seen[-1] == 3:
                    for name in (await js.api(f"CONSUMER.NAMES.{stream}"))["consumers"]:
                        await js.api(f"CONSUMER.DELETE.{stream}.{name}")
                    await fill(js, stream, 3, start=4)
                if seen[-1] == 6:
                    break
        assert seen == [1, 2, 3, 4, 5, 6]


async def test_a_killed_broker_costs_nothing_and_doubles_nothing(broker, js) -> None:
    stream = await make(js)

    async def write() -> None:
        await fill(js, stream, 3000)

    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        seen: list[int] = []
        kills = iter((500, 2000))
        next_kill = next(kills)
        async with aclosing(read_stream(js.connection, stream, follow=True)) as lists:
            async for messages in lists:
                seen += seqs(messages)
                if seen[-1] >= next_kill:
                    next_kill = next(kills, 10**9)
                    await asyncio.to_thread(broker.kill)
                    await asyncio.to_thread(broker.wait_ready)
                if seen[-1] == 3000:
                    break
    assert seen == list(range(1, 3001))


async def test_a_stream_that_is_made_anew_is_read_from_its_start(js) -> None:
    stream = await make(js, storage="memory")
    async with asyncio.timeout(10):
        await fill(js, stream, 5)
        seen: list[bytes] = []
        async with aclosing(read_stream(js.connection, stream, follow=True)) as lists:
            async for messages in lists:
                seen += [message.body for message in messages]
                if len(seen) == 5:
                    await js.api(f"STREAM.DELETE.{stream}")
                    await ensure(js, StreamSpec(name=stream, subjects=(f"{stream}.>",), storage="memory"))
                    await fill(js, stream, 3, start=6)
                if len(seen) == 8:
                    break
        assert seen == [b"%d" % number for number in range(1, 9)]


async def test_a_broker_that_stays_away_is_told_after_the_patience(broker) -> None:
    async with asyncio.timeout(20), await Connection.open(broker.url, name="test") as connection:
        js = JetStream(connection)
        stream = await make(js)
        await fill(js, stream, 1)
        async with aclosing(read_stream(connection, stream, follow=True, patience=0.5)) as lists:
            assert seqs(await anext(lists)) == [1]
            await asyncio.to_thread(broker.stop)
            try:
                with pytest.raises(BrokerUnavailable):
                    await anext(lists)
            finally:
                await asyncio.to_thread(broker.start)
