"""Events where something breaks: the broker, a subscriber, its rights; and the room that all share."""

import asyncio

import pytest

from mesh import Mesh
from mesh.errors import Denied
from mesh.events import Event, Reject, Subscriptions, retention
from mesh.events.retention import tidy, trim
from mesh.link.jetstream import JetStream
from mesh.subjects import Subjects
from mesh.topology import EVENTS, declare
from tests.conftest import Broker
from tests.event_world import Heard, consumers, hearing, joined, state
from tests.message_world import letters


class Everybody:
    """Rights, as the control plane looks at them: all, but for those who are `barred`."""

    def __init__(self, *barred: str) -> None:
        self.barred = barred

    def check_hears(self, caller: str, filter: str) -> None:
        if caller in self.barred:
            raise Denied(f"{caller} may not hear {filter}")

    def rules(self, caller: str) -> bool:
        return False


async def test_subscriptions_go_on_over_a_restart_of_the_broker(plane: str, broker: Broker) -> None:
    durable, now = Heard(), Heard()
    async with joined(plane) as mesh, hearing(mesh, "restart.x", durable, "restart"), hearing(mesh, "restart.x", now):
        for number in range(300):
            await mesh.events.publish("restart.x", number, id=str(number), priority=("normal", "high")[number % 2])
            if number in (100, 200):
                await asyncio.to_thread(broker.kill)
        await now.holds(300, 30)
        await durable.signals.until(lambda: len({each.data for each in durable.events}) == 300, 60)
    assert now.data == list(range(300))
    assert sorted(set(durable.data)) == list(range(300))


async def test_a_slow_subscriber_loses_nothing_and_holds_up_nobody(plane: str) -> None:
    released, slow, slow_now, fast = asyncio.Event(), Heard(), Heard(), Heard()

    async def stuck(event: Event) -> None:
        await released.wait()
        await slow(event)

    async def stuck_now(event: Event) -> None:
        await released.wait()
        await slow_now(event)

    async with (
        joined(plane) as mesh,
        hearing(mesh, "slow.x", stuck, "slow", prefetch=10),
        hearing(mesh, "slow.x", stuck_now),
        hearing(mesh, "slow.x", fast, "fast"),
    ):
        done = [await mesh.events.submit("slow.x", number) for number in range(3000)]
        await asyncio.gather(*done)
        await fast.holds(3000, 30)
        assert slow.events == slow_now.events == []
        released.set()
        await slow.holds(3000, 30)
        await slow_now.holds(3000, 30)
    assert slow.data == slow_now.data == fast.data == list(range(3000))


async def test_room_is_made_of_what_all_have_acknowledged_and_of_nothing_else(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, Mesh(name="operator", broker=plane) as operator:
        js = JetStream(operator.connection)
        await js.api(f"STREAM.PURGE.{EVENTS}")
        subscriptions = Subscriptions(js, Subjects(), Everybody())
        async with hearing(mesh, "room.a", heard, "room"):
            for number in range(100):
                await mesh.events.publish(
                    "room.b" if number < 50 else "room.a", "x" * 1000, priority="critical" if number == 60 else "normal"
                )
            await heard.holds(50)
            await _acknowledged(plane, "room", 0)
        info = await state(plane)
        assert await trim(js, subscriptions) == 0  # far from full
        # All was acknowledged: as much goes as makes room.
        gone = await trim(js, subscriptions, most_bytes=int(info["bytes"]))
        assert 30 <= gone <= 50
        for number in range(20):
            await mesh.events.publish("room.a", number)
        before = await state(plane)
        first_unread = int(before["last_seq"]) - 19
        assert await trim(js, subscriptions, most_bytes=1) == first_unread - int(before["first_seq"])
        assert (await state(plane))["messages"] == 20
        assert await trim(js, subscriptions, most_bytes=1) == 0
        async with hearing(mesh, "room.a", heard, "room"):
            await heard.holds(70)
        assert heard.data[50:] == list(range(20))


def test_room_is_made_before_a_fast_publisher_has_filled_it() -> None:
    """One publisher of large events stored 120 MB a second, and filled the stream between two looks when these were ten seconds apart."""
    room = next(spec.max_bytes for spec in declare("mesh").all_streams() if spec.name == EVENTS) * (1 - retention.FULL)
    assert room / 120e6 > 3 * retention.EVERY


async def test_room_is_made_of_a_publishers_crowd_on_one_topic_alone(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_EVENTS", 50)
    heard = Heard()
    async with joined(plane) as mesh, Mesh(name="operator", broker=plane) as operator:
        js = JetStream(operator.connection)
        await js.api(f"STREAM.PURGE.{EVENTS}")
        async with hearing(mesh, "crowd.a", heard, "crowd"):
            for number in range(45):
                await mesh.events.publish("crowd.a", number)
                if number % 9 == 0:
                    await mesh.events.publish("crowd.b", number)
            await heard.holds(45)
            await _acknowledged(plane, "crowd", 0)
        assert await trim(js, Subscriptions(js, Subjects(), Everybody())) > 0
        left = {subject.rpartition(".")[2]: count for subject, count in (await state(plane))["subjects"].items()}
        assert left["b"] == 5
        assert 25 <= left["a"] <= 35  # 30 are 0.6 of 50
        for number in range(20):
            await mesh.events.publish("crowd.a", number)
        unread = Subscriptions(js, Subjects(), Everybody())
        assert await trim(js, unread) > 0
        async with hearing(mesh, "crowd.a", heard, "crowd"):
            await heard.holds(65)
        assert heard.data[45:] == list(range(20))


async def test_what_waits_in_a_priority_that_was_never_read_stays_too(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, Mesh(name="operator", broker=plane) as operator:
        js = JetStream(operator.connection)
        async with hearing(mesh, "never.x", heard, "never"):
            pass
        await js.api(f"STREAM.PURGE.{EVENTS}")
        for number in range(5):
            await mesh.events.publish("never.x", number, priority="low")
        assert await trim(js, Subscriptions(js, Subjects(), Everybody()), most_bytes=1) == 0
        async with hearing(mesh, "never.x", heard, "never"):
            await heard.holds(5)


async def test_who_lost_the_right_loses_the_consumers_and_goes_on_where_it_stood_when_it_has_it_again(plane: str) -> None:
    heard = Heard()
    async with joined(plane, "fallen") as mesh, Mesh(name="mesh", broker=plane) as operator:
        js = JetStream(operator.connection)
        async with hearing(mesh, "lost.x", heard, "lost"):
            await mesh.events.publish("lost.x", 1)
            await heard.holds(1)
            await _acknowledged(plane, "lost", 0)
        await mesh.events.publish("lost.x", 2)
        mine = {each["name"] for each in (await consumers(plane)).values() if each["config"]["metadata"].get("mesh-owner") == "fallen"}
        assert len(mine) == 1
        await tidy(js, Subscriptions(js, Subjects(), Everybody("fallen")))
        assert not mine & (await consumers(plane)).keys()
        await tidy(js, Subscriptions(js, Subjects(), Everybody("fallen")))
        async with hearing(mesh, "lost.x", heard, "lost"):
            await heard.holds(2)
        assert heard.data == [1, 2]


async def test_a_dead_letter_sent_again_reaches_its_subscription_alone(plane: str) -> None:
    failing, fine, now = Heard(Reject("once")), Heard(), Heard()
    async with (
        joined(plane, "asker") as mesh,
        hearing(mesh, "again.x", failing, "failing"),
        hearing(mesh, "again.x", fine, "fine"),
        hearing(mesh, "again.x", now),
        Mesh(name="operator", broker=plane) as operator,
    ):
        await mesh.events.publish("again.x", "body", id="1")
        [letter] = await letters(plane, "asker")
        assert letter.type == "again.x"
        await operator.messages.dead_letters.edit(letter, "mended")
        [mended] = await letters(plane, "asker")
        await operator.messages.dead_letters.redrive(mended)
        await failing.holds(2)
        await mesh.events.publish("again.x", "last")
        for heard, count in ((failing, 3), (fine, 2), (now, 2)):
            await heard.holds(count)
    assert failing.data == ["body", "mended", "last"]
    assert fine.data == now.data == ["body", "last"]


async def test_who_only_hears_keeps_its_dead_letters(plane: str) -> None:
    heard = Heard(Reject("never"))
    async with Mesh(name="hearer", broker=plane, roles=("host",)) as mesh, hearing(mesh, "hearer.x", heard, "hearer"):
        await mesh.events.publish("hearer.x", 1)
        await heard.holds(1)
        [letter] = await letters(plane, "hearer")
        await mesh.events.publish("hearer.x", 2)
        await heard.holds(2)
    assert letter.type == "hearer.x"
    assert heard.data == [1, 2]


async def test_two_that_subscribe_at_once_get_the_same(plane: str) -> None:
    async with joined(plane, "twin") as one, joined(plane, "twin") as two:
        asked = {"name": "both", "topic": "both.>", "wanted": ["normal", "low"]}
        answers = await asyncio.gather(*(each.request("mesh", "mesh/subscribe", asked, timeout=5) for each in (one, two) * 5))
        assert [sorted(each["consumers"]) for each in answers] == [["low", "normal"]] * 10
        assert len({each["consumers"]["low"] for each in answers}) == 1


async def _acknowledged(url: str, subscription: str, pending: int) -> None:
    """Until the broker has the acknowledgements of a subscription."""

    async def left() -> int:
        found = [
            each for each in (await consumers(url)).values() if each["config"].get("metadata", {}).get("mesh-subscription") == subscription
        ]
        return sum(each["num_ack_pending"] + each["num_pending"] for each in found)

    async with asyncio.timeout(10):
        while await left() > pending:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
