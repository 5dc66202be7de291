"""Durable messages over a real broker: what was acknowledged is handled once, in its lane, or lies in the dead letters."""

import asyncio

import pytest

from mesh import Mesh
from mesh.broker import AgentMessage, Reject, Retry
from mesh.delivery.receiver import PREFETCH
from mesh.errors import CallTimeout, Denied, MailboxFull, RemoteError, TooLarge
from mesh.link.jetstream import JetStream
from tests.message_world import Inbox, joined, receiving, until, until_gone, waiting


async def test_a_message_waits_until_somebody_listens_and_is_handled_once(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh:
        id = await mesh.messages.publish_message("late", "review", {"pr": 7}, correlation_id="c", metadata={"k": "v"})
        async with receiving(plane, "late", inbox):
            await inbox.holds(1)
            await until_gone(plane, "late")
        async with receiving(plane, "late", inbox):
            await mesh.messages.publish_message("late", "review", "second")
            await inbox.holds(2)
    message = inbox.messages[0]
    assert (message.id, message.sender, message.target, message.type, message.content) == (id, "sender", "late", "review", {"pr": 7})
    assert (message.correlation_id, message.metadata, message.priority, message.delivery) == ("c", {"k": "v"}, "normal", 1)
    assert inbox.contents == [{"pr": 7}, "second"]


async def test_the_same_id_is_stored_once(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh:
        for _ in range(3):
            await mesh.messages.publish_message("once", "t", 1, id="a")
        await mesh.messages.publish_message("other", "t", 1, id="a")
    async with joined(plane) as again:  # another process of the same participant
        await again.messages.publish_message("once", "t", 1, id="a")
    assert (await waiting(plane, "once"), await waiting(plane, "other")) == (1, 1)
    async with receiving(plane, "once", inbox):
        await inbox.holds(1)
        await until_gone(plane, "once")
    assert inbox.contents == [1]


async def test_one_worker_keeps_the_order_of_a_lane(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh, receiving(plane, "ordered", inbox):
        await asyncio.gather(*(mesh.messages.publish_message("ordered", "t", n) for n in range(700)))
        await inbox.holds(700)
    assert inbox.contents == list(range(700))


async def test_the_first_message_of_a_priority_opens_its_lane(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh, receiving(plane, "lanes", inbox) as taking:
        assert [lane[:2] for lane in taking.receiver.lanes] == [("lanes", "normal")]
        for priority in ("critical", "low"):
            await mesh.messages.publish_message("lanes", "t", priority, priority=priority)
        await inbox.holds(2)
        assert sorted(inbox.contents) == ["critical", "low"]
        assert {lane.priority for lane in taking.receiver.lanes} == {"normal", "critical", "low"}


async def test_what_waits_in_other_lanes_is_found_at_the_start(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh:
        await mesh.messages.publish_message("early", "t", 1, priority="high")
        async with receiving(plane, "early", inbox):
            await inbox.holds(1)


async def test_members_of_a_role_share_its_messages(plane: str) -> None:
    one, two = Inbox(), Inbox()
    async with (
        joined(plane) as mesh,
        receiving(plane, "ada", one, roles=("librarians",)),
        receiving(plane, "bob", two, roles=("librarians",)),
    ):
        for n in range(20):
            await mesh.messages.publish_message("librarians", "t", n)
        await until(lambda: len(one.messages) + len(two.messages) >= 20)
        await until_gone(plane, "librarians")
    assert sorted(one.contents + two.contents) == list(range(20))
    assert {each.target for each in one.messages + two.messages} == {"librarians"}


async def test_a_failure_is_tried_again_after_a_backoff(plane: str) -> None:
    inbox = Inbox(ValueError("no"), Retry("busy", after=0.05), None)
    async with joined(plane) as mesh, receiving(plane, "failing", inbox):
        await mesh.messages.publish_message("failing", "t", 1)
        await inbox.holds(3)
        await until_gone(plane, "failing")
    assert [each.delivery for each in inbox.messages] == [1, 2, 3]


async def test_a_full_mailbox_is_told_at_once_and_others_have_room(plane: str) -> None:
    async with joined(plane) as mesh, joined(plane, "second") as other, joined(plane, "operator") as operator:
        js = JetStream(operator.connection)
        config = (await js.api("STREAM.INFO.MESSAGES_HIGH"))["config"]
        await js.api("STREAM.UPDATE.MESSAGES_HIGH", config | {"max_msgs_per_subject": 3})
        try:
            for n in range(3):
                await mesh.messages.publish_message("full", "t", n, priority="high")
            async with asyncio.timeout(2):
                with pytest.raises(MailboxFull) as caught:
                    await mesh.messages.publish_message("full", "t", 4, priority="high")
            await mesh.messages.publish_message("full", "t", 4, priority="normal")
            await mesh.messages.publish_message("elsewhere", "t", 4, priority="high")
            await other.messages.publish_message("full", "t", 4, priority="high")
        finally:
            await js.api("STREAM.UPDATE.MESSAGES_HIGH", config)
    assert (caught.value.code, caught.value.retryable) == ("mailbox_full", True)
    assert await waiting(plane, "full", "high") == 4


async def test_a_message_that_is_too_large_is_refused(plane: str) -> None:
    async with joined(plane) as mesh:
        with pytest.raises(TooLarge):
            await mesh.messages.publish_message("large", "t", "x" * mesh.connection.max_payload)


@pytest.mark.parametrize("flood", ["critical", "low"])
async def test_a_flood_in_one_lane_leaves_the_others_their_shares(plane: str, flood: str) -> None:
    inbox, name = Inbox(), f"flooded-{flood}"
    async with joined(plane) as mesh:
        for priority, count in (("normal", 40), (flood, 800)):
            await asyncio.gather(*(mesh.messages.publish_message(name, priority, n, priority=priority) for n in range(count)))

        async def handler(message: AgentMessage) -> None:
            await started.wait()
            await inbox(message)

        started = asyncio.Event()
        async with receiving(plane, name, handler, prefetch=PREFETCH) as taking:
            await until(lambda: taking.receiver.waiting >= 40 + PREFETCH - 1)
            started.set()
            await inbox.holds(840, 20)
    kept_its_share(inbox, flood, 40)


@pytest.mark.parametrize("flood", ["critical", "low"])
async def test_few_in_hand_are_shared_as_well(plane: str, flood: str) -> None:
    """Of a slow handler."""
    inbox, name = Inbox(), f"slowly-{flood}"
    async with joined(plane) as mesh:
        for priority, count in (("normal", 20), (flood, 120)):
            await mesh.messages.publish_messages([(name, priority, n) for n in range(count)], priority=priority)

        async def handler(message: AgentMessage) -> None:
            await inbox(message)
            await asyncio.sleep(0.02)

        async with receiving(plane, name, handler) as taking:
            await inbox.holds(100, 20)
            assert taking.receiver.waiting < 2 * 60
    kept_its_share(inbox, flood, 20)


def kept_its_share(inbox: Inbox, flood: str, normal: int) -> None:
    """So many normal messages were begun in their order, and before too many of the flood."""
    share = {"critical": 10 / 2, "low": 3 / 2}[flood]  # of how many messages one is a normal one
    last = [n for n, each in enumerate(inbox.messages) if each.type == "normal"][normal - 1]
    assert last <= normal * share * 1.2
    assert [each.content for each in inbox.messages if each.type == "normal"] == list(range(normal))


async def test_send_waits_for_what_the_handler_returns(plane: str) -> None:
    async with joined(plane) as mesh, receiving(plane, "answering", Inbox({"sum": 3}, Reject("never"))):
        assert await mesh.messages.send_message("answering", "add", [1, 2], timeout=10) == {"sum": 3}
        with pytest.raises(RemoteError, match="never") as caught:
            await mesh.messages.send_message("answering", "add", [1, 2], timeout=10)
        assert caught.value.data["mesh"] == "rejected"
        with pytest.raises(CallTimeout):
            await mesh.messages.send_message("nobody-there", "add", timeout=0.1)


async def test_who_may_not_send_is_told_at_once(plane: str) -> None:
    async with Mesh(name="mute", broker=plane, roles=("agent",)) as mesh:
        with pytest.raises(Denied):
            await mesh.messages.publish_message("anybody", "t")
        with pytest.raises(Denied):
            mesh.messages.subscribe_to_messages(Inbox(), roles=("somebody",))


async def test_what_is_in_hand_is_not_delivered_to_another(plane: str) -> None:
    """A handler that takes longer than the ack wait says in time that it is at it."""
    hold, inbox = asyncio.Event(), Inbox()

    async def handler(message: AgentMessage) -> None:
        await inbox(message)
        await hold.wait()

    async with joined(plane, "operator") as operator, joined(plane) as mesh:
        async with receiving(plane, "busy", Inbox()):
            pass
        js = JetStream(operator.connection)
        config = (await js.api("CONSUMER.INFO.MESSAGES_NORMAL.busy"))["config"] | {"ack_wait": 150_000_000}
        await js.api("CONSUMER.CREATE.MESSAGES_NORMAL.busy", {"stream_name": "MESSAGES_NORMAL", "config": config, "action": "update"})
        async with receiving(plane, "busy", handler), receiving(plane, "busy", inbox):
            await mesh.messages.publish_message("busy", "t")
            await inbox.holds(1)
            await asyncio.sleep(0.6)  # four times the ack wait
            assert len(inbox.messages) == 1
            hold.set()
        await until_gone(plane, "busy")


async def test_what_was_not_begun_goes_to_others_at_once(plane: str) -> None:
    first, second, stuck = Inbox(), Inbox(), asyncio.Event()

    async def handler(message: AgentMessage) -> None:
        await first(message)
        await stuck.wait()

    async with joined(plane) as mesh:
        async with receiving(plane, "leaving", handler, prefetch=8) as taking:
            for n in range(5):
                await mesh.messages.publish_message("leaving", "t", n)
            await until(lambda: taking.receiver.waiting >= 4)
            asyncio.get_running_loop().call_later(0.05, stuck.set)
        async with receiving(plane, "leaving", second):
            await second.holds(4, 5)
    assert (first.contents, sorted(second.contents)) == ([0], [1, 2, 3, 4])
