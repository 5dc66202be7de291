"""The windowed publisher against a real broker: every message ends, as an ack or as an error, and takes no slot with it."""

import asyncio
import itertools

import pytest

from mesh.errors import ApiError, BrokerUnavailable, MeshError, NoResponders, OutcomeUnknown, TooLarge
from mesh.link.connection import Connection
from mesh.link.jetstream import JetStream
from mesh.link.publisher import WindowedPublisher
from mesh.link.reconcile import ensure
from mesh.topology import StreamSpec
from tests.conftest import Broker

BARE = True  # what is tested here is below all identities

_names = (f"P{number}" for number in itertools.count(1))


@pytest.fixture
async def connection(broker: Broker):
    async with await Connection.open(broker.url, name="test") as connection:
        yield connection


@pytest.fixture
async def stream(connection) -> StreamSpec:
    return await make(connection)


async def make(connection, **settings) -> StreamSpec:
    """A stream that takes `{name}.>`."""
    name = next(_names)
    spec = StreamSpec(name=name, subjects=(f"{name}.>",), **settings)
    await ensure(JetStream(connection), spec)
    return spec


async def count(connection, spec: StreamSpec) -> int:
    return int((await JetStream(connection).api(f"STREAM.INFO.{spec.name}"))["state"]["messages"])


async def test_the_ack_names_the_place_in_the_stream(connection, stream) -> None:
    async with asyncio.timeout(5), WindowedPublisher(connection) as publisher:
        first = await publisher.publish(f"{stream.name}.a", b"1")
        second = await publisher.publish(f"{stream.name}.a", b"2")
    assert (first.stream, first.seq, first.duplicate, second.seq) == (stream.name, 1, False, 2)


async def test_the_same_msg_id_is_stored_once(connection, stream) -> None:
    async with asyncio.timeout(5), WindowedPublisher(connection) as publisher:
        first = await publisher.publish(f"{stream.name}.a", b"1", msg_id="x")
        second = await publisher.publish(f"{stream.name}.a", b"1", msg_id="x")
    assert second == first._replace(duplicate=True)


async def test_no_more_than_the_window_is_unacknowledged_and_leaving_waits_for_all(connection, stream) -> None:
    most = 0
    async with asyncio.timeout(10):
        async with WindowedPublisher(connection, window=16) as publisher:
            futures = []
            for _ in range(1000):
                futures.append(await publisher.submit(f"{stream.name}.a", b"x"))
                most = max(most, publisher.unacknowledged)
        assert most == 16
        assert [future.result().seq for future in futures] == list(range(1, 1001))


async def test_large_bodies_wait_for_the_socket(connection, stream) -> None:
    body = b"x" * 900_000
    async with asyncio.timeout(20):
        async with WindowedPublisher(connection) as publisher:
            futures = [await publisher.submit(f"{stream.name}.a", body) for _ in range(100)]
        assert len({future.result().seq for future in futures}) == await count(connection, stream) == 100


async def test_an_error_ack_is_an_error_and_gives_its_slot_back(connection) -> None:
    full = await make(connection, max_msgs=1, discard="new")
    async with asyncio.timeout(5), WindowedPublisher(connection, window=1) as publisher:
        await publisher.publish(f"{full.name}.a", b"1")
        for _ in range(3):
            with pytest.raises(ApiError, match="maximum messages exceeded") as caught:
                await publisher.publish(f"{full.name}.a", b"2", msg_id="m")
            assert caught.value.err_code == 10077


async def test_a_subject_of_no_stream_is_told(connection) -> None:
    async with asyncio.timeout(5), WindowedPublisher(connection, retry_for=0.3) as publisher:
        with pytest.raises(NoResponders):
            await publisher.publish("of.no.stream", b"1")
        with pytest.raises((NoResponders, BrokerUnavailable)):
            await publisher.publish("of.no.stream", b"1", msg_id="after a while")


async def test_a_stream_that_comes_later_gets_what_has_an_id(connection) -> None:
    async with asyncio.timeout(10), WindowedPublisher(connection) as publisher:
        future = await publisher.submit("later.a", b"1", msg_id="x")
        await ensure(JetStream(connection), StreamSpec(name="LATER", subjects=("later.>",)))
        assert (await future).stream == "LATER"


async def test_what_is_too_large_is_refused_and_gives_its_slot_back(connection, stream) -> None:
    async with asyncio.timeout(5), WindowedPublisher(connection, window=1) as publisher:
        for _ in range(3):
            with pytest.raises(TooLarge):
                await publisher.publish(f"{stream.name}.a", b"x" * (connection.max_payload + 1))
        await publisher.publish(f"{stream.name}.a", b"x")


async def test_a_missing_ack_is_unknown_without_an_id_and_asked_again_with_one(connection) -> None:
    mute = await make(connection, no_ack=True)
    async with asyncio.timeout(10), WindowedPublisher(connection, ack_timeout=0.2, retry_for=0.8) as publisher:
        with pytest.raises(OutcomeUnknown, match=r"no ack within 0\.2 s"):
            await publisher.publish(f"{mute.name}.a", b"1")
        with pytest.raises(BrokerUnavailable, match=r"0\.8 s"):
            await publisher.publish(f"{mute.name}.a", b"1", msg_id="x")
        assert await count(connection, mute) == 2


async def test_a_cancelled_caller_gives_its_slot_back(connection) -> None:
    mute = await make(connection, no_ack=True)
    async with asyncio.timeout(10), WindowedPublisher(connection, window=1, ack_timeout=0.2, retry_for=5.0) as publisher:
        task = asyncio.create_task(publisher.publish(f"{mute.name}.a", b"1", msg_id="x"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(OutcomeUnknown):
            await publisher.publish(f"{mute.name}.a", b"1")


async def test_leaving_by_an_exception_ends_the_rest_at_once(connection) -> None:
    mute = await make(connection, no_ack=True)
    async with asyncio.timeout(2):
        publisher = await WindowedPublisher(connection).__aenter__()
        futures = [await publisher.submit(f"{mute.name}.a", b"1", msg_id=str(number)) for number in range(3)]
        await publisher.__aexit__(ZeroDivisionError)
    for future in futures:
        with pytest.raises(OutcomeUnknown, match="closed"):
            future.result()


async def test_a_killed_broker_loses_and_doubles_nothing_that_has_an_id(broker, connection, stream) -> None:
    total = 4000
    async with asyncio.timeout(40):
        async with WindowedPublisher(connection, window=64, ack_timeout=2.0) as publisher:
            futures = []
            for number in range(total):
                if number in (1000, 2500):
                    await asyncio.to_thread(broker.kill)
                futures.append(await publisher.submit(f"{stream.name}.a", b"%d" % number, msg_id=f"{stream.name}-{number}"))
            acks = await asyncio.gather(*futures)
        assert sorted(ack.seq for ack in acks) == list(range(1, total + 1))
        assert await count(connection, stream) == total


async def test_a_killed_broker_leaves_nothing_hanging(broker, connection, stream) -> None:
    async with asyncio.timeout(30), WindowedPublisher(connection, window=32) as publisher:
        futures = [await publisher.submit(f"{stream.name}.a", b"x") for _ in range(32)]
        await asyncio.to_thread(broker.kill)
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert all(isinstance(result, (tuple, MeshError)) for result in results)
        assert publisher.unacknowledged == 0
        await asyncio.to_thread(broker.wait_ready)
        ack = await publisher.publish(f"{stream.name}.a", b"x", msg_id="after")
        assert ack.seq >= 1


async def test_a_broker_that_stays_away_is_told_in_time(broker) -> None:
    async with asyncio.timeout(30), await Connection.open(broker.url, name="test") as connection:
        spec = await make(connection)
        async with WindowedPublisher(connection, retry_for=1.0) as publisher:
            await asyncio.to_thread(broker.stop)
            try:
                with pytest.raises(BrokerUnavailable):
                    await publisher.publish(f"{spec.name}.a", b"x", msg_id="x")
                with pytest.raises(MeshError):
                    await publisher.publish(f"{spec.name}.a", b"x")
            finally:
                await asyncio.to_thread(broker.start)
