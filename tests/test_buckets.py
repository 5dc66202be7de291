"""Buckets and their live copies against a real broker: markers, TTLs, lost messages, a broker that dies.

This module is long because buckets and their live copies are tested against each other, on one broker.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from mesh.errors import BrokerError, Refused
from mesh.link import buckets
from mesh.link.buckets import Bucket, Entry
from mesh.link.connection import Connection
from mesh.link.jetstream import JetStream
from mesh.link.reconcile import ensure
from mesh.link.view import BucketView
from mesh.topology import BucketSpec, bucket_stream, bucket_subject, reader_spec
from tests.conftest import Broker

BARE = True  # what is tested here is below all identities

_names = (f"b{number}" for number in itertools.count(1))


@pytest.fixture
async def js(broker: Broker):
    async with await Connection.open(broker.url, name="test") as connection:
        yield JetStream(connection)


def spec_of(name: str, **settings) -> BucketSpec:
    return BucketSpec(name=name, republish=(f"$KV.{name}.>", f"copy.{name}.>"), marker_ttl=1.0, **settings)


async def make(js, **settings) -> Bucket:
    name = next(_names)
    await ensure(js, spec_of(name, **settings).stream)
    return Bucket(js, name)


@pytest.fixture
async def bucket(js) -> Bucket:
    return await make(js)


class Watch:
    """The changes that a view tells, and a way to wait for a state of its copy."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, bytes | None, str]] = []
        self._changed = asyncio.Event()

    def __call__(self, key: str, entry: Entry | None, reason: str) -> None:
        self.changes.append((key, None if entry is None else entry.value, reason))
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


def view_of(js, bucket: Bucket, watch: Watch | None = None, *, keys: str = ">", **options) -> BucketView:
    return BucketView(
        js, bucket.name, live=f"copy.{bucket.name}.{keys}", make_reader=reader_maker(js, bucket, keys), on_change=watch, **options
    )


def reader_maker(js, bucket: Bucket, keys: str = ">") -> Callable[[], Awaitable[str]]:
    async def make_reader() -> str:
        spec = reader_spec(bucket.name, f"reader-{next(_names)}", (keys,))
        await ensure(js, spec)
        return spec.name

    return make_reader


def values(view: BucketView) -> dict[str, bytes]:
    return {key: entry.value for key, entry in view.entries.items()}


def is_at_end(view: BucketView, value: bytes) -> bool:
    return values(view).get("end") == value


# The bucket


async def test_what_was_put_is_there_and_what_was_deleted_is_not(bucket) -> None:
    async with asyncio.timeout(5):
        assert await bucket.get("a.1") is None
        revision = await bucket.put("a.1", b"x")
        entry = await bucket.get("a.1")
        assert (entry.key, entry.value, entry.revision) == ("a.1", b"x", revision)
        await bucket.put("b.1", b"y")
        assert await bucket.delete("a.1") == 3
        assert await bucket.get("a.1") is None
        assert list(await bucket.snapshot()) == ["b.1"]
        assert list(await bucket.snapshot("a.*")) == []


async def test_the_times_of_get_and_snapshot_agree(bucket) -> None:
    async with asyncio.timeout(5):
        await bucket.put("a.1", b"x")
        assert await bucket.get("a.1") == (await bucket.snapshot())["a.1"]


async def test_a_key_expires_and_can_be_created_again_over_its_marker(js, bucket) -> None:
    watch = Watch()
    async with asyncio.timeout(10), view_of(js, bucket, watch):
        await bucket.create("a.1", b"x", ttl=1)
        with pytest.raises(Refused):
            await bucket.create("a.1", b"y")
        await watch.until(lambda: ("a.1", None, "expired") in watch.changes)
        assert await bucket.get("a.1") is None
        await bucket.create("a.1", b"again", ttl=5)
        await bucket.delete("a.1")
        await bucket.create("a.1", b"and again")
        assert (await bucket.get("a.1")).value == b"and again"


async def test_a_revision_is_compared(bucket) -> None:
    async with asyncio.timeout(5):
        first = await bucket.put("a.1", b"1", revision=0)
        with pytest.raises(Refused):
            await bucket.put("a.1", b"2", revision=0)
        second = await bucket.put("a.1", b"2", revision=first)
        with pytest.raises(Refused):
            await bucket.delete("a.1", revision=first)
        await bucket.delete("a.1", revision=second)


async def test_of_many_creators_one_succeeds(bucket) -> None:
    async with asyncio.timeout(5):
        results = await asyncio.gather(*(bucket.create("a.1", b"%d" % number) for number in range(20)), return_exceptions=True)
        assert len([result for result in results if isinstance(result, int)]) == 1
        assert {type(result) for result in results} == {int, Refused}


async def test_a_missing_bucket_is_told(js) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(BrokerError, match="there is no bucket none"):
            await Bucket(js, "none").put("a", b"x")


async def test_a_full_bucket_refuses(js) -> None:
    bucket = await make(js, max_bytes=1000)
    async with asyncio.timeout(5):
        await bucket.put("a.1", b"x" * 500)
        with pytest.raises(BrokerError, match="maximum bytes exceeded"):
            await bucket.put("a.2", b"x" * 500)


# The view


async def test_a_view_begins_complete_and_follows(js, bucket) -> None:
    watch = Watch()
    async with asyncio.timeout(5):
        await bucket.put("a.1", b"1")
        await bucket.put("a.2", b"2")
        await bucket.delete("a.2")
        async with view_of(js, bucket, watch) as view:
            assert view.synced
            assert values(view) == {"a.1": b"1"}
            assert view.entries["a.1"] == await bucket.get("a.1")
            await bucket.put("b.1", b"3")
            await bucket.delete("a.1")
            await watch.until(lambda: values(view) == {"b.1": b"3"})
            assert view.entries["b.1"] == await bucket.get("b.1")
        assert watch.changes == [("a.1", b"1", "read"), ("b.1", b"3", "put"), ("a.1", None, "deleted")]
        assert not view.synced


async def test_an_empty_bucket_is_a_complete_copy_too(js, bucket) -> None:
    async with asyncio.timeout(5), view_of(js, bucket) as view:
        assert view.synced
        assert values(view) == {}


async def test_a_view_sees_what_its_filter_matches(js, bucket) -> None:
    watch = Watch()
    async with asyncio.timeout(5):
        await bucket.put("a.1", b"1")
        await bucket.put("b.1", b"2")
        async with view_of(js, bucket, watch, keys="a.*") as view:
            await bucket.put("b.2", b"3")
            await bucket.put("a.2", b"4")
            await watch.until(lambda: "a.2" in view.entries)
            assert values(view) == {"a.1": b"1", "a.2": b"4"}


async def test_copies_that_the_broker_did_not_make_are_not_believed(js, bucket) -> None:
    watch = Watch()
    name = bucket.name
    forged = {
        "Nats-Stream": f"KV_{name}",
        "Nats-Subject": f"$KV.{name}.a.9",
        "Nats-Sequence": "99",
        "Nats-Time-Stamp": "2026-01-01T00:00:00Z",
    }
    async with asyncio.timeout(5), view_of(js, bucket, watch) as view:
        await js.connection.publish(f"copy.{name}.a.1", b"forged")
        await js.connection.publish(f"copy.{name}.a.1", b"forged", headers=forged)
        await js.connection.publish(f"copy.{name}.a.9", b"forged", headers=forged | {"Nats-Stream": "KV_other"})
        await js.connection.flush()
        await bucket.put("a.1", b"true")
        await watch.until(lambda: "a.1" in view.entries)
        assert values(view) == {"a.1": b"true"}


async def test_a_change_that_was_not_told_is_found_by_the_next_reading(js, bucket) -> None:
    watch = Watch()
    async with asyncio.timeout(10):
        await bucket.put("a.1", b"1")
        await bucket.put("a.2", b"2")
        async with view_of(js, bucket, watch, refresh=0.3) as view:
            # A purge through the stream's API leaves no marker and is not republished.
            await js.api(f"STREAM.PURGE.{bucket_stream(bucket.name)}", {"filter": f"$KV.{bucket.name}.a.1"})
            await watch.until(lambda: "a.1" not in view.entries)
            assert watch.changes[-1] == ("a.1", None, "read")


async def test_a_reader_that_is_gone_is_made_anew(js, bucket) -> None:
    async with asyncio.timeout(10):
        await bucket.put("a.1", b"1")
        async with view_of(js, bucket) as view:
            stream = bucket_stream(bucket.name)
            (reader,) = (await js.api(f"CONSUMER.NAMES.{stream}"))["consumers"]
            await js.api(f"CONSUMER.DELETE.{stream}.{reader}")
            await view.resync()
            assert values(view) == {"a.1": b"1"}
            (other,) = (await js.api(f"CONSUMER.NAMES.{stream}"))["consumers"]
            assert other != reader


async def test_nothing_is_lost_or_brought_back_while_it_is_read_again(js, bucket) -> None:
    """A writer at work, and a view that reads again and again: at the end, and at each moment of rest, the copy is the bucket."""
    rng = random.Random(7)
    watch = Watch()
    async with asyncio.timeout(30), view_of(js, bucket, watch) as view:
        for round_ in range(10):
            reading = asyncio.create_task(view.resync())
            for _ in range(200):
                key = f"a.{rng.randrange(40)}"
                if rng.random() < 0.4:
                    await bucket.delete(key)
                else:
                    await bucket.put(key, b"%d" % rng.randrange(10**6))
            await reading
            await bucket.put("end", b"%d" % round_)
            await watch.until(partial(is_at_end, view, b"%d" % round_))
            assert dict(view.entries) == await bucket.snapshot()
        copy: dict[str, bytes] = {}
        for key, value, _ in watch.changes:
            if value is None:
                del copy[key]  # nothing is told to be gone that was not there
            else:
                copy[key] = value
        assert copy == values(view)


@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_after_a_kill_the_copy_is_the_bucket_again(broker, js, storage) -> None:
    bucket = await make(js, storage=storage)
    watch = Watch()
    lost = asyncio.Event()
    js.connection.on_down(lost.set)
    async with asyncio.timeout(30):
        for number in range(5):
            await bucket.put(f"a.{number}", b"before")
        async with view_of(js, bucket, watch) as view, await Connection.open(broker.url, name="other") as other:
            back = asyncio.Event()
            other.on_up(back.set)
            await asyncio.to_thread(broker.kill)
            await lost.wait()
            assert not view.synced
            assert len(view.entries) == 5  # as it was, and said to be old
            await asyncio.to_thread(broker.wait_ready)
            await back.wait()
            # A stream in memory is gone with its broker, settings and all. It is made anew, and its revisions begin at 1: lower than
            # what the view has seen.
            await ensure(JetStream(other), spec_of(bucket.name, storage=storage).stream)
            await Bucket(JetStream(other), bucket.name).put("a.0", b"after")
            await watch.until(lambda: view.entries.get("a.0", Entry("", b"", 0, 0)).value == b"after" and view.synced)
            expected = await bucket.snapshot()
            await watch.until(lambda: dict(view.entries) == expected)
            assert len(expected) == (5 if storage == "file" else 1)
            await bucket.delete("a.0")
            await watch.until(lambda: "a.0" not in view.entries)


async def test_a_key_that_expires_while_the_broker_is_away_is_gone_afterwards(broker, js, bucket) -> None:
    watch = Watch()
    async with asyncio.timeout(30):
        await bucket.put("a.1", b"1", ttl=1)
        await bucket.put("a.2", b"2")
        async with view_of(js, bucket, watch) as view:
            await asyncio.to_thread(broker.stop)
            await asyncio.sleep(1.1)  # real time is the subject here: the key's TTL runs in the broker
            assert "a.1" in view.entries
            await asyncio.to_thread(broker.start)
            await watch.until(lambda: "a.1" not in view.entries)
            assert values(view) == {"a.2": b"2"}


async def test_what_was_deleted_does_not_come_back_with_a_killed_broker(broker, js, monkeypatch) -> None:
    """The file store forgets, when it is killed, that a value gave way to a marker, if the marker is gone by then."""
    monkeypatch.setattr(buckets, "MARKER_SECONDS", 1)
    name = next(_names)
    for spec in (BucketSpec(name=name, max_age=5), BucketSpec(name=f"{name}once", max_age=0, written_once=True)):
        await ensure(js, spec.stream)
    bucket, once = Bucket(js, name), Bucket(js, f"{name}once", written_once=True)
    async with asyncio.timeout(30):
        for each in (bucket, once):
            await each.put("a.1", b"1")
            await each.put("a.1", b"2")
            await each.put("b.1", b"the block is not empty")
            await each.delete("a.1")
        for each in (bucket, once):
            there = True
            while there:
                await asyncio.sleep(0.05)
                asked = {"subjects_filter": bucket_subject(each.name, "a.1")}
                there = bool((await js.api(f"STREAM.INFO.{bucket_stream(each.name)}", asked))["state"].get("subjects"))
        back = asyncio.Event()
        js.connection.on_up(back.set)
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.wait_ready)
        await back.wait()
        assert "a.1" not in await bucket.snapshot()
        assert list(await once.snapshot()) == ["b.1"]


async def test_a_callback_that_raises_ends_nothing(js, bucket) -> None:
    def bad(*_: object) -> None:
        raise ZeroDivisionError

    async with asyncio.timeout(5):
        async with BucketView(js, bucket.name, live=f"copy.{bucket.name}.>", make_reader=reader_maker(js, bucket), on_change=bad) as view:
            await bucket.put("a.1", b"1")
            await view.resync()
            assert values(view) == {"a.1": b"1"}


async def test_a_view_leaves_nothing_behind(js, bucket) -> None:
    connection = js.connection
    before = len(connection._up), len(connection._down), len(connection._subscriptions)
    async with asyncio.timeout(5):
        async with view_of(js, bucket) as view:
            pass
        await view.close()
    assert (len(connection._up), len(connection._down), len(connection._subscriptions)) == before
