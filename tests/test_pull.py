"""The pull loop against a real broker: acks, bounds, refusals, silence, and a broker that dies."""

import asyncio
import itertools
import os
import signal
from contextlib import suppress

import pytest

from mesh.errors import BrokerUnavailable
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import JetStream, parse_delivery
from mesh.link.publisher import WindowedPublisher
from mesh.link.pull import PullLoop
from mesh.link.reconcile import ensure
from mesh.topology import ConsumerSpec, StreamSpec
from tests.conftest import Broker

BARE = True  # what is tested here is below all identities

_names = (f"L{number}" for number in itertools.count(1))


@pytest.fixture
async def js(broker: Broker):
    async with await Connection.open(broker.url, name="test") as connection:
        yield JetStream(connection)


@pytest.fixture
async def stream(js) -> str:
    """A stream that takes `{name}.>`, with a consumer `c`."""
    name = next(_names)
    await ensure(js, StreamSpec(name=name, subjects=(f"{name}.>",), retention="workqueue"))
    await ensure(js, ConsumerSpec(stream=name, name="c", ack_wait=1.0, max_ack_pending=10_000))
    return name


async def fill(js, stream: str, count: int, *, start: int = 0, body: bytes = b"") -> None:
    async with WindowedPublisher(js.connection) as publisher:
        numbers = range(start, start + count)
        futures = [await publisher.submit(f"{stream}.a", body or b"%d" % number, msg_id=f"{stream}-{number}") for number in numbers]
    await asyncio.gather(*futures)


async def take(js, pulls: PullLoop, count: int, *, ack: bool = True) -> list[Message]:
    taken: list[Message] = []
    while len(taken) < count:
        for message in await pulls.take():
            taken.append(message)
            if ack:
                await js.ack(message)
    return taken


async def unacknowledged(js, stream: str) -> int:
    return int((await js.api(f"CONSUMER.INFO.{stream}.c"))["num_ack_pending"])


async def test_all_come_in_order_and_are_acknowledged(js, stream) -> None:
    async with asyncio.timeout(20):
        await fill(js, stream, 5000)
        async with PullLoop(js.connection, stream, "c", batch=100) as pulls:
            taken = await take(js, pulls, 5000)
        assert [message.body for message in taken] == [b"%d" % number for number in range(5000)]
        while (await js.api(f"STREAM.INFO.{stream}"))["state"]["messages"]:
            pass  # the server works on acks side by side with requests
        assert (pulls.refusals, pulls.resets, pulls.foreign) == (0, 0, 0)


async def test_no_more_is_asked_for_than_there_is_room(js, stream) -> None:
    async with asyncio.timeout(10):
        await fill(js, stream, 500)
        async with PullLoop(js.connection, stream, "c", batch=50, resume=False) as pulls:
            first = await pulls.take()
            assert len(first) <= 50
            await fill(js, stream, 1, start=500)  # a round trip, in which the server sends what it was asked for
            assert await unacknowledged(js, stream) <= 100


async def test_what_is_put_back_comes_again_after_its_delay_and_what_is_terminated_never(js, stream) -> None:
    reasons: asyncio.Queue[Message] = asyncio.Queue()
    await js.connection.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{stream}.c", reasons.put_nowait)
    async with asyncio.timeout(10), PullLoop(js.connection, stream, "c") as pulls:
        await fill(js, stream, 1)
        (message,) = await take(js, pulls, 1, ack=False)
        await js.nak(message, delay=0.3)
        before = asyncio.get_running_loop().time()
        (again,) = await take(js, pulls, 1, ack=False)
        assert 0.25 < asyncio.get_running_loop().time() - before < 0.9
        assert parse_delivery(again.reply).deliveries == 2
        await js.term(again, "no such tool")
        assert b'"reason":"no such tool"' in (await reasons.get()).body


async def test_work_in_progress_is_not_delivered_again(js, stream) -> None:
    async with asyncio.timeout(10), PullLoop(js.connection, stream, "c") as pulls:
        await fill(js, stream, 1)
        (message,) = await take(js, pulls, 1, ack=False)
        for _ in range(4):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await pulls.take()
            await js.in_progress(message)
        await js.ack(message)


async def test_what_nobody_took_goes_to_others_at_once(js, stream) -> None:
    """Also what comes while the loop is left: a receiver that ends holds up nothing for its `ack_wait`."""
    config = (await js.api(f"CONSUMER.INFO.{stream}.c"))["config"] | {"ack_wait": 3600 * 10**9}
    await js.api(f"CONSUMER.CREATE.{stream}.c", {"stream_name": stream, "config": config, "action": "update"})
    async with PullLoop(js.connection, stream, "c", batch=50, holds=True) as pulls:
        await fill(js, stream, 20)
        [*first] = await pulls.take()
        await fill(js, stream, 200, start=20)  # they are on their way
    for message in pulls.left():
        js.connection.send(message.reply, b"-NAK")
    async with asyncio.timeout(20), PullLoop(js.connection, stream, "c", batch=1000) as others:
        taken = await take(js, others, 220 - len(first))
    assert {message.body for message in taken} == {b"%d" % number for number in range(220)} - {message.body for message in first}


async def test_a_consumer_that_comes_later_is_pulled_from(js, stream) -> None:
    async with asyncio.timeout(10), PullLoop(js.connection, stream, "later", heartbeat=0.2) as pulls:
        await js.api(f"CONSUMER.DELETE.{stream}.c")
        await fill(js, stream, 1)
        await ensure(js, ConsumerSpec(stream=stream, name="later"))
        await take(js, pulls, 1)
        assert pulls.refusals + pulls.resets >= 1


async def test_a_consumer_that_is_gone_ends_a_loop_that_does_not_resume(js, stream) -> None:
    async with asyncio.timeout(10), PullLoop(js.connection, stream, "c", resume=False) as pulls:
        await fill(js, stream, 1)
        await take(js, pulls, 1)
        await js.api(f"CONSUMER.DELETE.{stream}.c")
        with pytest.raises(BrokerUnavailable, match="Consumer Deleted"):
            await pulls.take()


async def test_an_empty_consumer_ends_a_loop_until_empty(js, stream) -> None:
    async with asyncio.timeout(10):
        await fill(js, stream, 1234)
        async with PullLoop(js.connection, stream, "c", batch=100, resume=False, until_empty=True) as pulls:
            assert sum([len(messages) async for messages in pulls]) == 1234


async def test_a_sender_cannot_pass_its_message_off_as_a_status(js, stream) -> None:
    async with asyncio.timeout(5), PullLoop(js.connection, stream, "c") as pulls:
        await js.publish(f"{stream}.a", b"", headers={"Status": "409", "Description": "Consumer Deleted", "Nats-Pending-Messages": "0"})
        assert len(await take(js, pulls, 1)) == 1
        assert pulls.refusals == 0


async def test_what_was_not_asked_for_is_dropped(js, stream) -> None:
    async with asyncio.timeout(5), PullLoop(js.connection, stream, "c") as pulls:
        other = next(_names)
        await ensure(js, StreamSpec(name=other, subjects=(f"{other}.>",)))
        await ensure(js, ConsumerSpec(stream=other, name="x"))
        await js.publish(f"{other}.a", b"forged")
        # Somebody who knows our inbox pulls from a consumer of their own into it.
        await js.connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{other}.x", b"1", reply=f"{pulls._inbox}.0")
        await fill(js, stream, 1)
        assert [message.body for message in await take(js, pulls, 1)] == [b"0"]
        assert pulls.foreign == 1


async def test_large_messages_are_bounded_by_bytes(js, stream) -> None:
    async with asyncio.timeout(20):
        await fill(js, stream, 60, body=b"x" * 500_000)
        async with PullLoop(js.connection, stream, "c", max_bytes=2_000_000) as pulls:
            largest = 0
            taken = 0
            while taken < 60:
                messages = await pulls.take()
                largest = max(largest, len(messages))
                taken += len(messages)
                for message in messages:
                    await js.ack(message)
        assert largest <= 4
        assert pulls.refusals == 0


async def test_a_killed_broker_is_pulled_from_again(broker, js, stream) -> None:
    async with asyncio.timeout(40), PullLoop(js.connection, stream, "c", batch=100) as pulls:
        await fill(js, stream, 1000)
        seen = {message.body for message in await take(js, pulls, 300)}
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.wait_ready)
        while len(seen) < 1000:
            for message in await pulls.take():
                seen.add(message.body)
                with suppress(BrokerUnavailable):  # then it comes again
                    await js.ack(message)
        assert pulls.resets >= 1


async def test_a_silent_broker_is_noticed_and_asked_again(broker, js, stream) -> None:
    async with asyncio.timeout(20), PullLoop(js.connection, stream, "c", heartbeat=0.2) as pulls:
        await fill(js, stream, 1)
        await take(js, pulls, 1)
        os.kill(broker.server.pid, signal.SIGSTOP)
        try:
            while pulls.resets < 2:  # noqa: ASYNC110 - nothing tells of a reset, and the timeout bounds this
                await asyncio.sleep(0.05)
        finally:
            os.kill(broker.server.pid, signal.SIGCONT)
        await fill(js, stream, 1, start=1)
        await take(js, pulls, 1)


async def test_a_silent_broker_ends_a_loop_that_does_not_resume(broker, js, stream) -> None:
    async with asyncio.timeout(20), PullLoop(js.connection, stream, "c", heartbeat=0.2, resume=False) as pulls:
        await js.connection.flush()
        os.kill(broker.server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(BrokerUnavailable, match="silent"):
                await pulls.take()
        finally:
            os.kill(broker.server.pid, signal.SIGCONT)


async def test_a_loop_leaves_nothing_behind(js, stream) -> None:
    connection = js.connection
    before = len(connection._up), len(connection._down), len(connection._subscriptions)
    async with PullLoop(connection, stream, "c"):
        pass
    assert (len(connection._up), len(connection._down), len(connection._subscriptions)) == before
    await js.connection.flush()
    assert await unacknowledged(js, stream) == 0


@pytest.mark.parametrize(
    "reply",
    ["$JS.ACK.S.c.2.7.9.1795366470427245785.4", "$JS.ACK.domain.ACCHASH.S.c.2.7.9.1795366470427245785.4.random"],
)
def test_both_forms_of_ack_subjects_are_read(reply) -> None:
    assert parse_delivery(reply) == ("S", "c", 2, 7, 9, 1795366470427245785, 4)
