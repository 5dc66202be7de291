"""Messages that are sent later, over a real broker: in their sender's name, once each, through kills of broker and control plane."""

import asyncio
from typing import Any

import pytest

from mesh import Mesh, clock
from mesh.broker import schedules
from mesh.broker.schedules import MOST_SCHEDULES, Schedules, make_schedule
from mesh.delivery import write_letter
from mesh.errors import BadSchedule, BrokerUnavailable, Denied, NoSuchSchedule
from mesh.link.jetstream import JetStream
from mesh.subjects import CONTROL_PLANE
from mesh.topology import DUE, SCHEDULED, SCHEDULES, bucket_stream, bucket_subject
from tests.conftest import Broker
from tests.helpers import Background, control_plane, settled
from tests.message_world import Inbox, joined, letters, receiving


async def test_in_a_while_and_at_a_time(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane, "planner") as mesh, receiving(plane, "later", inbox):
        begun = clock.wall_ns()
        id = await mesh.messages.publish_message("later", "t", "delayed", delay=1.0, priority="high", correlation_id="c", metadata={"k": 1})
        await mesh.messages.publish_message("later", "t", "at", at=clock.iso(clock.wall_ns() + 1_500_000_000), expires=60)
        assert {each["content"] for each in await mesh.messages.list_schedules()} == {"delayed", "at"}
        await inbox.holds(2)
        delayed, at = sorted(inbox.messages, key=lambda each: each.content, reverse=True)
        assert (delayed.id, delayed.sender, delayed.target, delayed.priority) == (id, "planner", "later", "high")
        assert (delayed.correlation_id, delayed.metadata) == ("c", {"k": 1})
        assert delayed.sent_ns - begun >= 1e9
        assert at.deadline_ns is not None
        assert at.deadline_ns > at.sent_ns
        assert await mesh.messages.list_schedules() == []


async def test_again_and_again_until_it_is_cancelled(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane, "nagger") as mesh, receiving(plane, "nagged", inbox):
        every = await mesh.messages.schedule_message("nagged", "t", "every", every=1)
        cron = await mesh.messages.schedule_message("nagged", "t", "cron", cron="* * * * * *", id="my-cron")
        assert cron == "my-cron"
        await inbox.signals.until(lambda: inbox.contents.count("every") >= 2 and inbox.contents.count("cron") >= 2)
        shown = {each["id"]: each for each in await mesh.messages.list_schedules()}
        assert (shown[every]["every"], shown[cron]["cron"]) == (1, "* * * * * *")
        for id in (every, cron):
            await mesh.messages.cancel_schedule(id)
        assert await mesh.messages.list_schedules() == []
        ids = [each.id for each in inbox.messages]
        assert len(set(ids)) == len(ids)
        assert all(each.id.startswith((f"{every}-", "my-cron-")) and each.sender == "nagger" for each in inbox.messages)
        with pytest.raises(NoSuchSchedule):
            await mesh.messages.cancel_schedule(every)


async def test_one_with_the_same_id_takes_the_others_place(plane: str) -> None:
    async with joined(plane, "changer") as mesh:
        for content in ("first", "second"):
            await mesh.messages.publish_message("nobody", "t", content, delay=3600, id="same")
        assert [each["content"] for each in await mesh.messages.list_schedules()] == ["second"]
        await mesh.messages.cancel_schedule("same")


async def test_of_several_at_once_with_the_same_id_one_stays(plane: str) -> None:
    """And what a control plane that died has left of others goes with it."""
    async with joined(plane, "hasty") as mesh:
        await asyncio.gather(*(mesh.messages.publish_message("nobody", "t", n, delay=3600, id="same") for n in range(5)))
        assert len(await mesh.messages.list_schedules()) == 1
        await mesh.messages.cancel_schedule("same")
        assert await mesh.messages.list_schedules() == []


async def test_what_is_due_is_not_lost_where_its_dead_letter_cannot_be_kept_at_once(
    plane: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def write(*said: Any) -> None:
        tried.append(said[1])
        if len(tried) == 1:
            raise BrokerUnavailable("not now")
        await write_letter(*said)

    monkeypatch.setattr(schedules, "write_letter", write)
    broker.authority.issue("sacked", ("agent", "host"))
    async with joined(plane, "sacked") as mesh:
        await mesh.messages.publish_message("employer", "t", "last words", delay=1, id="once")
    broker.authority.issue("sacked", ("agent",))
    [letter] = await letters(plane, "employer")
    assert (letter.letter.code, letter.item.content, len(tried)) == ("denied", "last words", 2)


async def test_what_cannot_be_kept_is_refused(plane: str) -> None:
    async with joined(plane, "wrong") as mesh:
        for wrong in ({"every": 0}, {"cron": "61 9 * * *"}, {"cron": "0 9 * * *", "zone": "Mars/Olympus"}, {}):
            with pytest.raises(BadSchedule):
                await mesh.messages.schedule_message("a", "t", **wrong)
        with pytest.raises(BadSchedule):
            await mesh.messages.publish_message("a", "t", at="tomorrow")
        assert await mesh.messages.list_schedules() == []


async def test_a_sender_has_its_share(plane: str) -> None:
    async with joined(plane, "greedy") as mesh, joined(plane, CONTROL_PLANE) as control:
        schedules = Schedules(JetStream(control.connection), control.subjects, lambda *_: None)
        for number in range(MOST_SCHEDULES):
            await schedules.add("greedy", {"id": str(number), "to": "a", "type": "t", "every": 3600})
        with pytest.raises(BadSchedule):
            await mesh.messages.publish_message("a", "t", delay=3600)
        await mesh.messages.publish_message("a", "t", delay=3600, id="0")  # in another's place
        async with joined(plane, "modest") as other:
            await other.messages.publish_message("a", "t", delay=3600, id="mine")
            await other.messages.cancel_schedule("mine")
        state = JetStream(control.connection)
        await state.api(f"STREAM.PURGE.{bucket_stream(SCHEDULED)}", {"filter": bucket_subject(SCHEDULED, "greedy.>")})
        await state.api(f"STREAM.PURGE.{SCHEDULES}", {"filter": control.subjects.schedules_of("greedy")})


async def test_what_was_taken_twice_is_sent_once(plane: str) -> None:
    """A control plane that dies between sending and acknowledging leaves it to the next one."""
    inbox = Inbox()
    async with joined(plane, CONTROL_PLANE) as control:
        schedules = Schedules(JetStream(control.connection), control.subjects, lambda *_: None)
        schedule = make_schedule("forgetful", {"id": "twice", "to": "once-only", "type": "t", "content": 1, "at": "2026-01-31T12:00:00Z"})
        for number in (1, 2):
            await schedules._bucket.put(schedule.key, schedule.encode())
            await schedules._send(_due(control, schedule.token, number))
        await schedules._send(_due(control, schedule.token, 3))  # of which the bucket knows nothing any more
        async with receiving(plane, "once-only", inbox):
            await inbox.holds(1)
            await control.messages.publish_message("once-only", "t", "last")
            await inbox.holds(2)
    assert [(each.content, each.sender) for each in inbox.messages] == [(1, "forgetful"), ("last", CONTROL_PLANE)]


def _due(mesh: Mesh, token: str, number: int) -> Any:
    from mesh.link.connection import Message

    subject = f"{mesh.subjects.root}due.forgetful.{token}"
    reply = f"$JS.ACK.{SCHEDULES}.{DUE}.{number}.999999.1.1700000000000000000.0"
    return Message(subject, reply, b'{"id":"twice"}', {"Nats-Schedule-Next": "purge"})


async def test_who_may_send_there_no_more_sends_no_more(broker: Broker, plane: str) -> None:
    broker.authority.issue("dismissed", ("agent", "host"))
    async with joined(plane, "dismissed") as mesh:
        await mesh.messages.schedule_message("former", "t", "still here", every=1, id="tick")
    broker.authority.issue("dismissed", ("agent",))
    (letter, *_) = await letters(plane, "former")
    assert (letter.letter.code, letter.sender) == ("denied", "dismissed")
    async with joined(plane, "dismissed") as mesh:
        assert await mesh.messages.list_schedules() == []
        with pytest.raises(Denied):
            await mesh.messages.publish_message("former", "t", delay=1)


async def test_killed_broker_and_control_plane(broker: Broker) -> None:
    inbox = Inbox()
    with Background(lambda: control_plane(broker.url)):
        async with joined(broker.url, "patient") as mesh:
            for number in range(20):
                await mesh.messages.publish_message("survivor", "t", number, delay=2.0 + number / 20)
            broker.kill()
            await asyncio.to_thread(broker.wait_ready)
            await settled(mesh)
    with Background(lambda: control_plane(broker.url)):
        async with receiving(broker.url, "survivor", inbox):
            await inbox.holds(20, 20)
            async with joined(broker.url, "patient") as mesh:
                assert await mesh.messages.list_schedules() == []
                await mesh.messages.publish_message("survivor", "t", "last")
            await inbox.holds(21)
    assert sorted(inbox.contents[:-1]) == list(range(20))
