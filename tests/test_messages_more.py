"""What messages can besides going to a name: many at once, settled by their ids, on topics, to all; and the trace that they carry."""

import asyncio
from typing import Any

import pytest

from mesh import Mesh
from mesh.broker import AgentMessage
from mesh.errors import ConfigError, MailboxFull, TooLarge
from mesh.link.jetstream import JetStream
from tests.message_world import AT_ONCE, Inbox, again, joined, letters, receiving, until, until_gone, waiting

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_many_are_stored_in_their_order(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh:
        ids = await mesh.messages.publish_messages(("many", "t", n) for n in range(600))
        async with receiving(plane, "many", inbox):
            await inbox.holds(600)
    assert (inbox.contents, [each.id for each in inbox.messages]) == (list(range(600)), ids)


async def test_of_many_those_for_which_there_is_no_room_are_told(plane: str) -> None:
    async with joined(plane) as mesh, joined(plane, "operator") as operator:
        js = JetStream(operator.connection)
        config = (await js.api("STREAM.INFO.MESSAGES_LOW"))["config"]
        await js.api("STREAM.UPDATE.MESSAGES_LOW", config | {"max_msgs_per_subject": 3})
        try:
            with pytest.raises(MailboxFull):
                await mesh.messages.publish_messages([("few", "t", n) for n in range(5)], priority="low")
        finally:
            await js.api("STREAM.UPDATE.MESSAGES_LOW", config)
    assert await waiting(plane, "few", "low") == 3


async def test_of_many_those_before_one_that_is_refused_are_stored(plane: str) -> None:
    """Or the first of them that is not is told."""
    async with joined(plane) as mesh, joined(plane, "operator") as operator:
        with pytest.raises(TooLarge):
            await mesh.messages.publish_messages([("part", "t", n) for n in range(5)] + [("part", "t", "x" * mesh.connection.max_payload)])
        assert await waiting(plane, "part") == 5
        js = JetStream(operator.connection)
        config = (await js.api("STREAM.INFO.MESSAGES_LOW"))["config"]
        await js.api("STREAM.UPDATE.MESSAGES_LOW", config | {"max_msgs_per_subject": 3})
        try:
            with pytest.raises(MailboxFull):
                await mesh.messages.publish_messages(
                    [("part", "t", n) for n in range(5)] + [("part", "t", "x" * mesh.connection.max_payload)], priority="low"
                )
        finally:
            await js.api("STREAM.UPDATE.MESSAGES_LOW", config)


async def test_many_with_one_id_are_refused(plane: str) -> None:
    async with joined(plane) as mesh:
        with pytest.raises(ConfigError):
            await mesh.messages.publish_messages([("same", "t", n) for n in range(3)], id="same")


@pytest.mark.parametrize(
    "said",
    [{"id": 7}, {"type": 7}, {"to": 7}, {"metadata": "x"}, {"metadata": [1]}, {"correlation_id": 7}, {"expires": float("nan")},
     {"expires": float("inf")}, {"expires": 1e12}],
)  # fmt: skip
async def test_what_no_receiver_could_read_is_not_sent(plane: str, said: dict[str, Any]) -> None:
    async with joined(plane) as mesh:
        with pytest.raises(ConfigError):
            await mesh.messages.publish_message(**{"to": "strict", "type": "t", **said})


async def test_messages_are_settled_by_their_ids_in_any_order(plane: str) -> None:
    inbox = Inbox()
    async with (
        joined(plane) as mesh,
        Mesh(name="desk", broker=plane, roles=("agent",)) as worker,
        worker.messages.subscribe_to_messages(inbox, ack="manual", backoff=AT_ONCE),
    ):
        for n in range(3):
            await mesh.messages.publish_message("desk", "t", n, id=f"m{n}")
        await inbox.holds(3)  # one worker, and nothing is settled yet
        assert await waiting(plane, "desk") == 3
        assert worker.messages.acknowledge_message("m2")
        assert worker.messages.retry_message(inbox.messages[0])
        assert worker.messages.acknowledge_message(inbox.messages[1])
        await inbox.holds(4)
        assert [each.delivery for each in inbox.messages] == [1, 1, 1, 2]
        assert worker.messages.acknowledge_message("m0")
        await until_gone(plane, "desk")
        assert not worker.messages.acknowledge_message("m0")


async def test_what_nobody_settles_in_time_comes_again(plane: str) -> None:
    inbox = Inbox()
    async with (
        joined(plane) as mesh,
        Mesh(name="slack", broker=plane, roles=("agent",)) as worker,
        worker.messages.subscribe_to_messages(inbox, ack="manual", backoff=AT_ONCE, handler_seconds=0.05),
    ):
        await mesh.messages.publish_message("slack", "t")
        [found] = await letters(plane, "slack")
    assert (found.letter.code, len(inbox.messages)) == ("failed", 6)


async def test_what_is_settled_by_its_id_answers_its_sender(plane: str) -> None:
    inbox = Inbox()
    async with (
        joined(plane) as mesh,
        Mesh(name="counter", broker=plane, roles=("agent",)) as worker,
        worker.messages.subscribe_to_messages(inbox, ack="manual"),
    ):
        sending = asyncio.create_task(mesh.messages.send_message("counter", "t", timeout=10))
        await inbox.holds(1)
        worker.messages.acknowledge_message(inbox.messages[0], {"ok": True})
        assert await sending == {"ok": True}


async def test_an_id_that_two_senders_chose_is_no_name(plane: str) -> None:
    inbox = Inbox()
    async with (
        joined(plane) as one,
        joined(plane, "second") as two,
        Mesh(name="mixed", broker=plane, roles=("agent",)) as worker,
        worker.messages.subscribe_to_messages(inbox, ack="manual"),
    ):
        for mesh in (one, two):
            await mesh.messages.publish_message("mixed", "t", id="1")
        await inbox.holds(2)
        with pytest.raises(ConfigError, match="2 messages"):
            worker.messages.acknowledge_message("1")
        assert all(worker.messages.acknowledge_message(each) for each in inbox.messages)
        await until_gone(plane, "mixed")


async def test_a_message_on_a_topic_goes_to_each_that_subscribed_also_while_it_was_away(plane: str) -> None:
    ada, bob = Inbox(), Inbox()
    roles = ("agent", "host")
    async with (
        joined(plane) as sender,
        Mesh(name="ada", broker=plane, roles=roles) as one,
        Mesh(name="bob", broker=plane, roles=roles) as two,
    ):
        options: dict[str, Any] = {"topics": ("build.*",), "broadcasts": True}
        async with one.messages.subscribe_to_messages(ada, **options):
            pass
        async with two.messages.subscribe_to_messages(bob, **options):
            await sender.messages.publish_message(
                topic="build.done", type="built", content={"n": 1}, correlation_id="c", metadata={"k": [1]}
            )
            await sender.messages.broadcast("notice", "all hands", priority="high")
            await sender.messages.publish_message("bob", "t", "direct")
            await bob.holds(3)
        async with one.messages.subscribe_to_messages(ada, **options):
            await ada.holds(2)
    assert sorted(map(str, bob.contents)) == ["all hands", "direct", "{'n': 1}"]
    built = next(each for each in ada.messages if each.type == "built")
    assert (built.content, built.sender, built.target, built.correlation_id, built.metadata) == (
        {"n": 1}, "sender", "build.done", "c", {"k": [1]},
    )  # fmt: skip
    notice = next(each for each in ada.messages if each.type == "notice")
    assert (notice.content, notice.target, notice.priority) == ("all hands", "any", "high")


async def test_a_broadcast_to_a_role_reaches_who_answers_to_it(plane: str) -> None:
    member, stranger = Inbox(), Inbox()
    async with (
        joined(plane) as sender,
        Mesh(name="mem", broker=plane, roles=("agent", "host", "club")) as one,
        Mesh(name="str", broker=plane, roles=("agent", "host")) as two,
        one.messages.subscribe_to_messages(member, roles=("club",), broadcasts=True),
        two.messages.subscribe_to_messages(stranger, broadcasts=True),
    ):
        await sender.messages.broadcast("t", "members", to="club")
        await sender.messages.broadcast("t", "everybody")
        await member.holds(2)
        await stranger.holds(1)
    assert (member.contents, stranger.contents) == (["members", "everybody"], ["everybody"])


async def test_a_dead_letter_tells_the_trace(plane: str) -> None:
    inbox = Inbox(*[ValueError("no")] * 6)
    async with joined(plane) as mesh, receiving(plane, "traced", inbox):
        await mesh.messages.publish_message("traced", "t", metadata={"traceparent": TRACE})
        [found] = await letters(plane, "traced")
    assert found.letter.trace == TRACE


async def test_the_order_of_one_sender_holds_over_senders_and_restarts_of_the_receiver(plane: str) -> None:
    """The promise of docs/guarantees.md: one sender, one name, one priority, one worker, no retry."""
    seen: list[AgentMessage] = []
    total = 300

    async def handle(message: AgentMessage) -> None:
        seen.append(message)

    async with joined(plane, "one") as one, joined(plane, "two") as two:
        sending = [asyncio.gather(*(each.messages.publish_message("line", "t", n) for n in range(total))) for each in (one, two)]
        for goal in range(50, 2 * total + 1, 50):
            async with receiving(plane, "line", handle, prefetch=32), asyncio.timeout(20):  # less than the lane's ack wait
                while len(seen) < goal:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        await asyncio.gather(*sending)
    for sender in ("one", "two"):
        first_seen = list(dict.fromkeys(each.content for each in seen if each.sender == sender))
        assert first_seen == list(range(total))


@pytest.mark.parametrize("stored_twice", [False, True])
async def test_what_comes_again_while_it_is_being_done_is_done_once(
    plane: str, monkeypatch: pytest.MonkeyPatch, stored_twice: bool
) -> None:
    """Delivered again, as the broker did not hear that somebody is at it; or stored again, as it forgot that it has it."""
    name = "busy-twice" if stored_twice else "busy"
    begun: list[AgentMessage] = []
    release, came_again = asyncio.Event(), asyncio.Event()

    async def handle(message: AgentMessage) -> None:
        begun.append(message)
        await release.wait()

    async with joined(plane) as sender, receiving(plane, name, handle, workers=2, handler_seconds=5) as taking:
        handling = taking.receiver.handling
        came = handling._again

        async def note(*args: Any) -> Any:
            goes_on = await came(*args)
            came_again.set()
            return goes_on

        monkeypatch.setattr(handling, "_again", note)
        await sender.messages.publish_message(name, "t", id="1")
        await until(lambda: begun)
        [held] = handling._running.values()
        if stored_twice:
            await JetStream(sender.connection).publish(sender.subjects.message(name, "sender", "normal"), begun[0].encode())
        else:
            await handling._js.nak(held.message)
        async with asyncio.timeout(10):
            await came_again.wait()
        assert held.delivery.deliveries == (1 if stored_twice else 2)  # what becomes of it is said of the newest
        release.set()
        await until_gone(plane, name)
    assert len(begun) == 1


async def test_what_was_stored_twice_is_not_given_up_while_it_is_being_done(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.delivery.handling.TWICE", 0.05)
    begun: list[AgentMessage] = []

    async def handle(message: AgentMessage) -> None:
        begun.append(message)
        await asyncio.sleep(1.5)

    async with joined(plane) as sender, receiving(plane, "long-twice", handle, workers=2, handler_seconds=3):
        await sender.messages.publish_message("long-twice", "t", id="1")
        await until(lambda: begun)
        for _ in range(3):
            await again(sender, "long-twice", begun[0])
        await until_gone(plane, "long-twice")
    assert len(begun) == 1
    async with joined(plane, "operator") as operator:
        assert await operator.messages.dead_letters.find(target="long-twice") == []
