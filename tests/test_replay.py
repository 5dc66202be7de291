"""Replay over a real broker: what the stream still holds, in its order, at its rhythm or as fast as it goes, and into an agent."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mesh import clock
from mesh.errors import ConfigError, Denied, MailboxFull
from mesh.events import Event, replayed
from mesh.events.replay import WINDOW, tell_again
from mesh.topology import MOST_WAITING
from tests.conftest import Broker
from tests.event_world import joined
from tests.helpers import all_retrieved
from tests.message_world import Inbox, receiving, until


async def test_events_are_told_again_in_the_order_of_the_stream(plane: str) -> None:
    async with joined(plane) as mesh:
        start = clock.wall_ns()
        for number in range(10):
            await mesh.events.publish(f"again.{number % 2}", number, priority=("low", "critical")[number % 2])
        middle = clock.wall_ns()
        await mesh.events.publish("again.0", "later")
        replay = mesh.events.replay_events("again.*", start, middle)
        events = [event async for event in replay]
        assert [each.data for each in events] == list(range(10))
        assert [each.priority for each in events[:2]] == ["low", "critical"]
        assert all(start <= each.stored_ns <= middle and each.number for each in events)
        assert (replay.told, replay.share, replay.total) == (10, 1.0, 11)
        assert [each.data async for each in mesh.events.replay_events("again.1", start)] == [1, 3, 5, 7, 9]
        since = datetime.fromtimestamp(middle / 1e9, UTC)
        assert [each.data async for each in mesh.events.replay_events("again.>", since)] == ["later"]
        big = mesh.events.replay_events("again.>", start, filter="event.data == 3 || event.data == 4")
        assert [each.data async for each in big] == [3, 4]
        assert [each async for each in mesh.events.replay_events("nothing.>", start)] == []


async def test_the_original_rhythm_times_a_factor(plane: str) -> None:
    """The waits are asked for; whether a busy machine keeps them is not tested."""
    async with joined(plane) as mesh:
        start = clock.wall_ns()
        for number in range(3):
            await mesh.events.publish("pace.x", number)
            await asyncio.sleep(0.1)
        began = clock.monotonic()
        events = [event async for event in mesh.events.replay_events("pace.x", start, speed=0.5)]
        apart = (events[-1].stored_ns - events[0].stored_ns) / 1e9
        assert clock.monotonic() - began >= apart / 0.5 - 0.05
        for wrong in (0, -1, float("inf"), float("nan")):
            with pytest.raises(ConfigError):
                mesh.events.replay_events("pace.x", start, speed=wrong)
        with pytest.raises(ConfigError):
            mesh.events.replay_events("pace.x", start, start - 1)
        for never in (-1, 2**63, datetime(1969, 12, 31, tzinfo=UTC)):
            with pytest.raises(ConfigError, match="1970"):
                mesh.events.replay_events("a", never)
        with pytest.raises(ConfigError, match="zone"):
            mesh.events.replay_events("pace.x", datetime(2026, 1, 1))  # noqa: DTZ001


async def test_a_replay_can_be_left_and_goes_on_over_a_restart_of_the_broker(plane: str, broker: Broker) -> None:
    async with joined(plane) as mesh:
        start = clock.wall_ns()
        sent = [await mesh.events.submit("long.x", {"n": number, "fill": "x" * 4000}) for number in range(12_000)]
        await asyncio.gather(*sent)
        async with aclosing(mesh.events.replay_events("long.x", start)) as replay:
            async for event in replay:
                if event.data["n"] == 5:
                    break
        seen: list[int] = []
        async with aclosing(mesh.events.replay_events("long.x", start)) as replay:
            async for event in replay:
                seen.append(event.data["n"])
                if len(seen) == 500:
                    await asyncio.to_thread(broker.kill)
        assert seen == list(range(12_000))


async def test_a_replay_into_an_agent_is_a_message_of_who_tells_it(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh, joined(plane, "teller") as teller, receiving(plane, "student", inbox):
        start = clock.wall_ns()
        for number in range(5):
            await mesh.events.publish("lesson.x", {"n": number}, subject="main")
        for _ in range(2):  # broken off and begun again
            replay = teller.events.replay_events("lesson.>", start, filter=lambda event: event.data["n"] > 0)
            assert await teller.events.replay_into("student", replay, id="lesson-1") == 4
        await inbox.holds(4)
        events = [replayed(message) for message in inbox.messages]
        assert all(isinstance(each, Event) for each in events)
        assert [(each.data["n"], each.publisher, each.topic, each.replayed_by, each.subject) for each in events if each] == [
            (number, "publisher", "lesson.x", "teller", "main") for number in range(1, 5)
        ]
        assert all(start <= each.stored_ns for each in events if each)
        await mesh.messages.publish_message("student", "plain", 1)
        await inbox.holds(5)
        assert len(inbox.messages) == 5
        assert replayed(inbox.messages[-1]) is None


async def test_a_replay_into_an_agent_waits_for_room(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is more to replay than may wait there, and nobody listens at first. What waited for room comes in its order, too."""
    count, inbox = MOST_WAITING + 200, Inbox()
    async with joined(plane) as mesh:
        start = clock.wall_ns()
        done = [await mesh.events.submit("long.x", number) for number in range(count)]
        await asyncio.gather(*done)
        with monkeypatch.context() as patch:
            patch.setattr("mesh.events.replay.PATIENCE", 0.1)
            with all_retrieved(), pytest.raises(MailboxFull) as caught:
                await mesh.events.replay_into("reader", mesh.events.replay_events("long.x", start), id="all")
            assert caught.value.details["stored"] == MOST_WAITING
        replay = mesh.events.replay_events("long.x", start)
        again = asyncio.create_task(mesh.events.replay_into("reader", replay, id="all"))
        await until(lambda: replay.told > MOST_WAITING + WINDOW, 60)  # those are on their way, and no more are read
        async with receiving(plane, "reader", inbox):
            assert await asyncio.wait_for(again, 60) == count
            await inbox.holds(count, 60)
    assert [each.content["event"]["data"] for each in inbox.messages] == list(range(count))


async def test_what_waits_for_room_is_stored_in_its_order(plane: str) -> None:
    """The agent has room for some, and for some more a while after it was full: what was refused stands before what comes."""
    stored: list[int] = []
    room = 3 * WINDOW

    def make_room() -> None:
        nonlocal room
        room += WINDOW // 4

    async def submit(content: dict[str, Any], *, id: str) -> "asyncio.Future[str]":
        nonlocal room
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if room:
            room -= 1
            stored.append(content["event"]["data"])
            done.set_result(id)
            return done
        done.set_exception(MailboxFull("full"))
        asyncio.get_running_loop().call_later(0.01, make_room)
        return done

    async with joined(plane) as mesh:
        start = clock.wall_ns()
        await asyncio.gather(*[await mesh.events.submit("turn.x", number) for number in range(6 * WINDOW)])
        with all_retrieved():
            assert await tell_again(mesh.events.replay_events("turn.x", start), submit, "turns") == 6 * WINDOW
    assert stored == list(range(6 * WINDOW))


async def test_who_may_not_send_to_an_agent_replays_nothing_into_it(plane: str) -> None:
    async with joined(plane) as mesh:
        start = clock.wall_ns()
        await mesh.events.publish("mine.x", 1)
        from mesh import Mesh

        async with Mesh(name="restricted", broker=plane, roles=("agent",)) as other:
            with pytest.raises(Denied):
                await other.events.replay_into("student", other.events.replay_events("mine.x", start))


async def test_a_replay_tells_how_far_it_is(plane: str) -> None:
    async with joined(plane) as mesh:
        start = datetime.fromtimestamp(clock.wall_ns() / 1e9, UTC) - timedelta(seconds=1)
        for number in range(10):
            await mesh.events.publish("far.x", number)
        replay = mesh.events.replay_events("far.x", start)
        shares = [replay.share async for _ in replay]
        assert shares == pytest.approx([(number + 1) / 10 for number in range(10)])
