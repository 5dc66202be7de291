"""Events over a real broker: published once, heard by durable and ephemeral subscriptions, in their lanes."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mesh.delivery import HandledInSqlite
from mesh.errors import BadExpression, ConfigError, Denied
from mesh.events import Event, Reject, Retry
from tests.event_world import Heard, hearing, joined, state
from tests.message_world import letters


async def test_a_durable_subscription_begins_where_it_was_made_and_goes_on_where_it_stood(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, joined(plane, "reader-a") as reader:
        await mesh.events.publish("build.done", "before")
        async with hearing(reader, "build.*", heard, "nightly"):
            id = await mesh.events.publish("build.done", {"n": 1}, subject="main", extensions={"traceparent": "00-x"})
            await heard.holds(1)
        event = heard.events[0]
        assert (event.id, event.publisher, event.topic, event.type) == (id, "publisher", "build.done", "build.done")
        assert (event.data, event.subject, event.extensions) == ({"n": 1}, "main", {"traceparent": "00-x"})
        await mesh.events.publish("build.failed", "while nobody listened")
        async with joined(plane, "reader-a") as again, hearing(again, "build.*", heard, "nightly"):
            await heard.holds(2)
    assert heard.data == [{"n": 1}, "while nobody listened"]


async def test_several_processes_share_a_durable_subscription_and_others_have_their_own(plane: str) -> None:
    shared, own, other = Heard(), Heard(), Heard()
    async with (
        joined(plane) as mesh,
        joined(plane, "pool") as one,
        joined(plane, "pool") as two,
        joined(plane, "lone") as three,
        hearing(one, "shared.>", shared, "s"),
        hearing(two, "shared.>", shared, "s"),
        hearing(two, "shared.>", own, "t"),
        hearing(three, "shared.>", other, "s"),
    ):
        for number in range(20):
            await mesh.events.publish(f"shared.{number % 3}.x", number)
        for each in (shared, own, other):
            await each.holds(20)
    assert sorted(shared.data) == sorted(own.data) == sorted(other.data) == list(range(20))


async def test_an_ephemeral_subscription_hears_what_comes_from_now_on_in_order(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh:
        await mesh.events.publish("now.a", "before")
        async with hearing(mesh, "now.>", heard):
            for number in range(30):
                await mesh.events.publish("now.a" if number % 2 else "now.b.c", number, priority=("low", "critical", "normal")[number % 3])
            await heard.holds(30)
    assert heard.data == list(range(30))


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("w.*", "w.a", True),
        ("w.*", "w.a.b", False),
        ("w.>", "w.a.b", True),
        ("w.>", "w", False),
        ("w.*.b", "w.a.b", True),
        ("*.a", "w.a", True),
        ("w.a", "w.A", False),
        ("w.ü", "w.ü", True),
        ("w", "w", True),
    ],
)
async def test_wildcards_are_whole_words(plane: str, pattern: str, topic: str, fits: bool) -> None:
    heard = Heard()
    async with joined(plane) as mesh, hearing(mesh, pattern, heard), hearing(mesh, ">", Heard()):
        await mesh.events.publish(topic, topic)
        if pattern not in (">", topic):
            await mesh.events.publish(pattern.replace("*", "x").replace(">", "x"), "last")
            await heard.signals.until(lambda: "last" in heard.data)
        else:
            await heard.holds(1)
    assert (topic in heard.data) is fits


async def test_priorities_have_consumers_of_their_own_when_they_are_first_used(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, hearing(mesh, "lanes.x", heard, "lanes") as subscription:
        await mesh.events.publish("lanes.x", 1)
        await heard.holds(1)
        assert {lane.priority for lane in subscription.receiver.lanes} == {"normal"}
        await mesh.events.publish("lanes.x", 2, priority="critical")
        await heard.holds(2)
        assert {lane.priority for lane in subscription.receiver.lanes} == {"normal", "critical"}
    assert heard.events[1].priority == "critical"


async def test_what_fails_comes_again_and_what_is_rejected_is_a_dead_letter_of_that_subscription_alone(plane: str) -> None:
    heard, other = Heard(ValueError("first"), Retry(after=0), Reject("not mine")), Heard()
    async with joined(plane) as mesh, hearing(mesh, "dead.x", heard, "failing"), hearing(mesh, "dead.x", other, "fine"):
        await mesh.events.publish("dead.x", "body")
        await heard.holds(3)
        await other.holds(1)
        assert [each.delivery for each in heard.events] == [1, 2, 3]
        [letter] = await letters(plane, "publisher")
    assert (letter.letter.code, letter.letter.reason, letter.letter.subscription) == ("rejected", "not mine", "failing")
    assert len(other.events) == 1


async def test_filters_and_transformations_are_functions_or_cel(plane: str) -> None:
    cel, plain, changed = Heard(), Heard(), Heard()

    def double(event: Event) -> Event:
        return event.with_data(event.data["n"] * 2)

    async with (
        joined(plane) as mesh,
        mesh.events.subscribe_with_filter("filter.x", "event.data.n > 2", cel, name="cel"),
        mesh.events.subscribe_with_filter("filter.x", lambda event: event.data["n"] < 2, plain),
        hearing(mesh, "filter.x", changed, transform=double),
    ):
        for number in range(4):
            await mesh.events.publish("filter.x", {"n": number})
        await changed.holds(4)
        await cel.holds(1)
        with pytest.raises(BadExpression):
            mesh.events.subscribe("filter.x", cel, filter="event.data.n >")
    assert (cel.data, plain.data, changed.data) == ([{"n": 3}], [{"n": 0}, {"n": 1}], [0, 2, 4, 6])


async def test_an_ephemeral_subscription_goes_on_whatever_its_handler_raises(plane: str) -> None:
    heard = Heard(ValueError("mine"), asyncio.CancelledError(), Reject("not mine"))
    async with joined(plane) as mesh, hearing(mesh, "goes.on", heard) as subscription:
        for number in range(4):
            await mesh.events.publish("goes.on", number)
        await heard.holds(4)
    assert (heard.data, subscription.broken) == ([0, 1, 2, 3], 3)


async def test_a_function_that_fails_on_one_event_fails_on_no_other(plane: str) -> None:
    """Of a durable subscription that is a failed attempt; an ephemeral one passes the event over."""
    durable, ephemeral = Heard(), Heard()

    def wanted(event: Event) -> bool:
        return bool(event.data["n"] > 0)

    async with (
        joined(plane, "picky") as mesh,
        hearing(mesh, "raises.x", durable, "raises", filter=wanted),
        hearing(mesh, "raises.x", ephemeral, filter=wanted) as passing,
    ):
        await mesh.events.publish("raises.x", {})
        await mesh.events.publish("raises.x", {"n": 1})
        await durable.holds(1)
        await ephemeral.holds(1)
        [letter] = await letters(plane, "picky")
    assert (letter.letter.code, letter.letter.deliveries, passing.broken) == ("failed", 6, 1)
    assert "KeyError('n')" in letter.letter.reason


async def test_an_id_may_be_used_on_each_topic(plane: str, tmp_path: Path) -> None:
    """What is heard of several topics, with each memory of what was done: also the one that is asked by the handler itself."""
    heard, done = Heard(), Heard()
    with HandledInSqlite(tmp_path / "done.db") as handled:

        async def once(event: Event) -> None:
            async with handled.once(event):
                await done(event)

        async with (
            joined(plane) as mesh,
            hearing(mesh, "order.*", heard, "in memory"),
            hearing(mesh, "order.*", once, "in sqlite", handled=handled),
        ):
            await mesh.events.publish("order.created", "created", id="order-1")
            await mesh.events.publish("order.paid", "paid", id="order-1")
            await mesh.events.publish("order.paid", "not again", id="order-1", priority="high")
            await mesh.events.publish("order.end", "end")
            for each in (heard, done):
                await each.holds(3)
        assert all(handled.seen(event.key) for event in done.events)
    for each in (heard, done):
        assert {"created", "end"} < set(each.data)
        assert len(each.data) == 3  # of the two others whichever came first


async def test_an_event_published_twice_is_heard_once(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, hearing(mesh, "twice.x", heard):
        for _ in range(3):
            assert await mesh.events.publish("twice.x", 1, id="same") == "same"
        await mesh.events.publish("twice.y", 1, id="same")
        await mesh.events.publish("twice.x", 2)
        await heard.holds(2)
    assert heard.data == [1, 2]


async def test_many_are_on_their_way_at_once(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, hearing(mesh, "window.x", heard, "window"):
        done = [await mesh.events.submit("window.x", number) for number in range(1000)]
        assert len(set(await asyncio.gather(*done))) == 1000
        await heard.holds(1000)
    assert heard.data == list(range(1000))


async def test_an_event_may_be_of_the_binary_mode_and_may_expire(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, hearing(mesh, "modes.x", heard):
        await mesh.events.publish("modes.x", {"a": 1}, binary=True, subject="é")
        await mesh.events.publish("modes.x", b"\x00", binary=True)
        await mesh.events.publish("modes.ttl", 1, ttl=1)
        await heard.holds(2)
        assert (heard.events[0].data, heard.events[0].subject, heard.events[1].data) == ({"a": 1}, "é", b"\x00")
        async with asyncio.timeout(10):
            while any(subject.endswith("modes.ttl") for subject in (await state(plane)).get("subjects") or {}):  # noqa: ASYNC110
                await asyncio.sleep(0.1)


async def test_broadcasts_reach_everybody_and_those_of_a_role(plane: str) -> None:
    all_, some, durable = Heard(), Heard(), Heard()
    async with (
        joined(plane) as mesh,
        joined(plane, "ordinary") as ordinary,
        joined(plane, "reviewer", "reviewers") as reviewer,
        ordinary.events.subscribe_to_broadcasts(all_),
        reviewer.events.subscribe_to_broadcasts(some, roles=("reviewers",)),
        reviewer.events.subscribe_to_broadcasts(durable, roles=("reviewers",), name="casts"),
    ):
        await mesh.events.broadcast("reviewers", "to some", priority="high")
        await mesh.events.broadcast("any", "to all", type="notice")
        await all_.holds(1)
        await some.holds(2)
        await durable.holds(2)
        with pytest.raises(Denied):
            async with ordinary.events.subscribe_to_broadcasts(all_, roles=("reviewers",), name="no"):
                pass
    assert (all_.data, some.data, sorted(durable.data)) == (["to all"], ["to some", "to all"], ["to all", "to some"])
    assert (all_.events[0].to, all_.events[0].type, some.events[0].to, some.events[0].topic) == ("any", "notice", "reviewers", "")


async def test_subscriptions_are_listed_and_deleted(plane: str) -> None:
    heard = Heard()
    async with joined(plane, "keeper") as mesh:
        async with hearing(mesh, "kept.x", heard, "one"), hearing(mesh, "kept.>", heard, "two"):
            pass
        await mesh.events.publish("kept.x", 1)
        found = {each["name"]: each for each in await mesh.events.subscriptions()}
        assert {name: (each["agent"], each["topic"], each["waiting"]) for name, each in found.items()} == {
            "one": ("keeper", "kept.x", 1),
            "two": ("keeper", "kept.>", 1),
        }
        with pytest.raises(ConfigError, match="hears"):
            async with hearing(mesh, "other.x", heard, "one"):
                pass
        await mesh.events.unsubscribe("one")
        with pytest.raises(ConfigError, match="no subscription"):
            await mesh.events.unsubscribe("one")
        assert [each["name"] for each in await mesh.events.subscriptions()] == ["two"]
        async with hearing(mesh, "kept.x", heard, "one"):  # and begins anew
            await mesh.events.publish("kept.x", 2)
            await heard.holds(1)
        assert heard.data == [2]


@pytest.mark.parametrize("topic", ["", "a..b", "a.*", ">", "a.", ".a"])
async def test_an_event_has_one_topic(plane: str, topic: str) -> None:
    async with joined(plane) as mesh:
        with pytest.raises(ConfigError):
            await mesh.events.publish(topic, 1)


async def test_a_subscription_that_is_deleted_while_it_is_open_begins_anew_and_says_so(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, hearing(mesh, "deleted.x", heard, "deleted") as subscription:
        await mesh.events.publish("deleted.x", 1)
        await heard.holds(1)
        with capture_logs() as said:
            await mesh.events.unsubscribe("deleted")
            await mesh.events.publish("deleted.x", "in between")
            subscription.receiver.look()
            async with asyncio.timeout(10):
                while not await mesh.events.subscriptions():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await mesh.events.publish("deleted.x", 2)
            await heard.holds(2)
    assert heard.data == [1, 2]
    assert [each["name"] for each in said if "deleted while it was open" in each["event"]] == ["deleted"]
