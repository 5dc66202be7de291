"""What was done is not done again: by who did it, by a pool mate, by who comes after."""

import asyncio
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest

from mesh import Mesh
from mesh.broker import HandledInBucket
from mesh.delivery import Key, handled_bucket
from mesh.delivery.handled_bucket import _digest
from mesh.link.jetstream import JetStream
from mesh.link.reader import read_stream
from mesh.topology import HANDLED, bucket_stream
from mesh.wire.event import Event, encode
from tests.message_world import Inbox, again, joined, until, until_gone


async def test_a_pool_mate_knows_what_was_done(plane: str) -> None:
    one, two = Inbox(), Inbox()
    roles = ("agent", "host", "crew")
    async with (
        joined(plane) as sender,
        Mesh(name="ada", broker=plane, roles=roles) as ada,
        Mesh(name="bob", broker=plane, roles=roles) as bob,
        ada.messages.handled_in_bucket(roles=("crew",)) as hers,
        bob.messages.handled_in_bucket(roles=("crew",)) as his,
    ):
        async with ada.messages.subscribe_to_messages(one, roles=("crew",), handled=hers):
            await sender.messages.publish_message("crew", "t", 1)
            await until_gone(plane, "crew")
        await until(lambda: len(his) == 1)
        async with bob.messages.subscribe_to_messages(two, roles=("crew",), handled=his):
            await again(sender, "crew", one.messages[0])
            await sender.messages.publish_message("crew", "t", 2)
            await two.holds(1)
            await until_gone(plane, "crew")
    assert (one.contents, two.contents, hers.twice, his.twice) == ([1], [2], 0, 0)


async def test_who_comes_after_knows_what_was_done(plane: str) -> None:
    one, two = Inbox(), Inbox()
    for inbox in (one, two):
        async with (
            joined(plane) as sender,
            Mesh(name="phoenix", broker=plane, roles=("agent",)) as mesh,
            mesh.messages.handled_in_bucket() as handled,
            mesh.messages.subscribe_to_messages(inbox, handled=handled),
        ):
            if one.messages:
                await again(sender, "phoenix", one.messages[0])
            await sender.messages.publish_message("phoenix", "t", len(one.messages))
            await inbox.holds(1)
            await until_gone(plane, "phoenix")
    assert (one.contents, two.contents) == ([0], [1])


async def test_the_record_is_written_before_the_message_is_acknowledged(plane: str) -> None:
    """And nobody waits for it: while one record is on its way, others are handled, and recorded together."""
    async with (
        joined(plane) as sender,
        joined(plane, "operator") as operator,
        Mesh(name="scribe", broker=plane, roles=("agent",)) as mesh,
        mesh.messages.handled_in_bucket() as handled,
    ):
        inbox = Inbox()
        await sender.messages.publish_messages([("scribe", "t", n) for n in range(300)])
        async with mesh.messages.subscribe_to_messages(inbox, handled=handled):
            await until_gone(plane, "scribe")
        async with aclosing(read_stream(operator.connection, bucket_stream(HANDLED), subjects=(f"$KV.{HANDLED}.scribe.*",))) as lists:
            records = [stored.body async for each in lists for stored in each]
    assert inbox.contents == list(range(300))
    digests = [record[at : at + 16] for record in records for at in range(0, len(record), 16)]
    assert len(digests) == len(set(digests)) == 300
    assert len(records) < 100


async def test_the_copy_forgets_the_oldest(plane: str) -> None:
    async with Mesh(name="short", broker=plane, roles=("agent",)) as mesh, mesh.messages.handled_in_bucket() as handled:
        handled._most = 10
        for n in range(12):
            record = handled.record(("short", "sender", str(n)))
            assert record is not None
            await record
        assert [await known(handled, ("short", "sender", str(n))) for n in (0, 1, 2, 11)] == [False, False, True, True]
        assert len(handled) == 10


async def test_what_two_did_shows(plane: str) -> None:
    key = ("both", "sender", "1")
    async with (
        Mesh(name="both", broker=plane, roles=("agent",)) as mesh,
        mesh.messages.handled_in_bucket() as one,
        mesh.messages.handled_in_bucket() as two,
    ):
        for each in (one, two):
            await known(each, key)
        for record in (one.record(key), two.record(key)):
            assert record is not None
            await record
        await until(lambda: one.twice == two.twice == 1)
        assert one.record(key) is None  # it need not be written again


async def known(handled: HandledInBucket, key: Key) -> bool:
    seen = handled.seen(key)
    return seen if isinstance(seen, bool) else await seen


async def test_what_was_done_before_is_read_before_anything_new_is_done(plane: str) -> None:
    """Without its start waiting for it; of much only the newest."""
    keys = [("old", "sender", str(n)) for n in range(40)]
    async with Mesh(name="old", broker=plane, roles=("agent",)) as mesh:
        async with mesh.messages.handled_in_bucket() as handled:
            for key in keys:  # each a batch of its own
                record = handled.record(key)
                assert record is not None
                await record
        async with mesh.messages.handled_in_bucket() as handled:
            said = handled.seen(keys[0])
            assert not isinstance(said, bool)
            assert await said
            assert not await known(handled, ("old", "sender", "new"))
            assert len(handled) == 40
        async with HandledInBucket(mesh.connection, mesh.subjects, ("old",), mesh.request, most=10) as handled:
            assert await known(handled, keys[-1])
            assert not await known(handled, keys[0])
            assert await handled._first() > 20
            assert len(handled) == 10


async def test_after_a_reconnection_what_went_missing_is_read_first(plane: str) -> None:
    key = ("back", "sender", "1")
    async with (
        Mesh(name="back", broker=plane, roles=("agent",)) as mesh,
        Mesh(name="back", broker=plane, roles=("agent",)) as mate,
        mesh.messages.handled_in_bucket() as handled,
        mate.messages.handled_in_bucket() as hers,
    ):
        await known(handled, key)
        record = hers.record(key)
        assert record is not None
        await record
        await until(lambda: len(handled) == 1)
        handled._known["back"].clear()  # as if its copy had been lost
        handled._read_on()
        said = handled.seen(key)
        assert not isinstance(said, bool)
        assert await said


async def test_where_nothing_can_be_read_after_a_reconnection_only_the_first_waits(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control plane is away, and nobody makes a reader."""
    monkeypatch.setattr(handled_bucket, "CATCH_UP", 0.3)
    inbox, waited = Inbox(), []
    async with joined(plane) as sender, Mesh(name="cut-off", broker=plane) as mesh, mesh.messages.handled_in_bucket() as handled:
        seen_then = handled._seen_then

        async def seen(key: Key) -> bool:
            waited.append(key)
            return await seen_then(key)

        async def read() -> None:
            await asyncio.Event().wait()

        async with mesh.messages.subscribe_to_messages(inbox, handled=handled):
            await sender.messages.publish_message("cut-off", "t", 0)
            await inbox.holds(1)
            monkeypatch.setattr(handled, "_read", read)
            monkeypatch.setattr(handled, "_seen_then", seen)
            handled._read_on()
            await sender.messages.publish_messages([("cut-off", "t", number) for number in range(1, 5)])
            await inbox.holds(5)
    assert len(waited) == 1


async def test_nobody_says_what_is_done_under_another_name(plane: str) -> None:
    """Who answers to a role too may write what is done under it, and no digest there counts for anybody's own messages."""
    roles = ("agent", "host", "gang")
    key = ("victim", "sender", "1")
    async with (
        Mesh(name="victim", broker=plane, roles=roles) as victim,
        Mesh(name="mate", broker=plane, roles=roles) as mate,
        victim.messages.handled_in_bucket(roles=("gang",)) as handled,
    ):
        await known(handled, key)
        await JetStream(mate.connection).publish(f"$KV.{HANDLED}.gang.batch", _digest(key) + b"what is no digest")
        await until(lambda: len(handled) == 2)
        assert not await known(handled, key)
    async with (
        Mesh(name="victim", broker=plane, roles=roles) as victim,
        victim.messages.handled_in_bucket(roles=("gang",)) as handled,
    ):
        assert not await known(handled, key)
        assert len(handled) == 2


async def test_only_a_copy_of_the_bucket_counts(plane: str) -> None:
    """Somebody has the broker put an answer on the subject of a copy, to swallow a message: it says no key."""
    async with (
        Mesh(name="careful", broker=plane, roles=("agent",)) as mesh,
        mesh.messages.handled_in_bucket() as handled,
        joined(plane) as evil,
    ):
        heard = asyncio.Event()
        await mesh.connection.subscribe(mesh.subjects.handled_by("careful"), lambda _: heard.set())
        await mesh.connection.flush()
        await evil.connection.publish(
            evil.subjects.message("careful", "sender", "low"), b"x", reply=f"{evil.subjects.root}handled.careful.batch"
        )
        async with asyncio.timeout(5):
            await heard.wait()
        assert len(handled) == 0


async def test_events_are_recorded_under_the_name_of_who_hears_them(plane: str) -> None:
    """And apart for each subscription."""
    heard: dict[str, list[Any]] = {"one": [], "two": []}

    async def hear(name: str, event: Event) -> None:
        heard[name].append(event.data)

    async with (
        joined(plane) as teller,
        Mesh(name="hearer", broker=plane, roles=("agent", "host")) as mesh,
        mesh.messages.handled_in_bucket() as handled,
        mesh.events.subscribe("done.once", partial(hear, "one"), name="one", handled=handled),
        mesh.events.subscribe("done.once", partial(hear, "two"), name="two", handled=handled),
    ):
        await teller.events.publish("done.once", {"n": 1}, id="the same")
        await until(lambda: len(handled) == 2)
        place = teller.subjects.event("sender", "normal", "done.once")
        async for event in teller.events.replay_events("done.once", 0):
            said = encode(event)
            await JetStream(teller.connection).publish(place, said.body, headers=said.headers)
        await teller.events.publish("done.once", {"n": 2})
        await until(lambda: len(handled) == 4)
    assert heard == {"one": [{"n": 1}, {"n": 2}], "two": [{"n": 1}, {"n": 2}]}
