"""Messages that are not tried again: each lies in the dead letters once, with its reason."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mesh import Mesh, clock
from mesh.broker import Reject
from mesh.delivery import SUBSCRIPTION, keep_older
from mesh.errors import TooLarge
from mesh.link.jetstream import JetStream
from mesh.link.pull import PullLoop
from mesh.link.reader import read_message_at
from mesh.topology import ADVISORIES, EVENTS, GIVEN_UP, JOBS, LANES
from tests.event_world import Heard, consumers, hearing
from tests.message_world import Inbox, joined, letters, receiving, until, until_gone


async def test_after_the_last_attempt_it_is_a_dead_letter(plane: str) -> None:
    inbox = Inbox(*[ValueError(f"no {n}") for n in range(10)])
    async with joined(plane) as mesh, receiving(plane, "hopeless", inbox):
        await mesh.messages.publish_message("hopeless", "t", {"a": 1}, id="h1")
        [found] = await letters(plane, "hopeless")
        await until_gone(plane, "hopeless")
    assert len(inbox.messages) == 6
    assert (found.letter.code, found.letter.deliveries, found.item.sender, found.item.id) == ("failed", 6, "sender", "h1")
    assert [each.error for each in found.letter.attempts] == [f"ValueError('no {n}')" for n in range(6)]
    assert found.item.content == {"a": 1}


async def test_what_is_rejected_is_a_dead_letter_at_once(plane: str) -> None:
    inbox = Inbox(Reject("not mine"))
    async with joined(plane) as mesh, receiving(plane, "picky", inbox):
        await mesh.messages.publish_message("picky", "t")
        [found] = await letters(plane, "picky")
        await until_gone(plane, "picky")
    assert (found.letter.code, found.letter.reason, len(inbox.messages)) == ("rejected", "not mine", 1)


async def test_what_is_past_its_deadline_is_a_dead_letter_and_never_handled(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh:
        await mesh.messages.publish_message("slow", "t", expires=0.001)
        await asyncio.sleep(0.01)
        async with receiving(plane, "slow", inbox):
            [found] = await letters(plane, "slow")
    assert (found.letter.code, inbox.messages) == ("expired", [])


async def test_what_cannot_be_read_is_a_dead_letter_and_holds_up_nobody(plane: str) -> None:
    inbox = Inbox()
    async with joined(plane) as mesh, receiving(plane, "reader", inbox):
        js = JetStream(mesh.connection)
        await js.publish(mesh.subjects.message("reader", "sender", "normal"), b'{"id": 5}')
        await mesh.messages.publish_message("reader", "t", "fine")
        await inbox.holds(1)
        [found] = await letters(plane, "reader")
    assert (found.letter.code, found.item, found.letter.body) == ("malformed", None, b'{"id": 5}')


async def test_what_the_broker_itself_wrote_there_is_nobodys_message(plane: str) -> None:
    """A durable publish whose reply subject is the lane: the broker puts its acknowledgement there, under the sender's name."""
    inbox = Inbox()
    async with joined(plane) as mesh, receiving(plane, "aimed", inbox) as taking:
        await mesh.connection.publish(
            mesh.subjects.message("other-name", "sender", "low"), b"x", reply=mesh.subjects.message("aimed", "victim", "normal")
        )
        await until(lambda: taking.receiver.family.foreign)
        await until_gone(plane, "aimed")
        assert (inbox.messages, await letters(plane, "aimed", 0)) == ([], [])


async def test_a_receiver_that_ends_each_time_leaves_a_dead_letter(plane: str) -> None:
    """Nobody says a word: the control plane hears from the broker."""
    inbox = Inbox()
    async with joined(plane, "operator") as operator, joined(plane) as mesh:
        async with receiving(plane, "mortal", Inbox()):
            pass  # its lane is made
        await mesh.messages.publish_message("mortal", "t", "kept", id="m1")
        await ends_each_time(operator, LANES["normal"], "mortal")
        async with receiving(plane, "mortal", inbox):  # the broker looks when somebody pulls
            [found] = await letters(plane, "mortal")
            await until_gone(plane, "mortal")
    assert inbox.messages == []
    assert (found.letter.code, found.letter.deliveries, found.item.id, found.item.content) == ("undelivered", 2, "m1", "kept")


async def ends_each_time(operator: Mesh, stream: str, consumer: str) -> None:
    """Whoever pulls from this consumer ends before it says a word, twice; that is as often as it delivers."""
    js = JetStream(operator.connection)
    config = (await js.api(f"CONSUMER.INFO.{stream}.{consumer}"))["config"] | {"ack_wait": 100_000_000, "max_deliver": 2}
    await js.api(f"CONSUMER.CREATE.{stream}.{consumer}", {"stream_name": stream, "config": config, "action": "update"})
    async with asyncio.timeout(10), PullLoop(operator.connection, stream, consumer, batch=1) as pulls:
        for _ in range(2):
            [_message] = await pulls.take()
        await until_async(lambda: settled(js, stream, consumer))  # the broker looks while somebody pulls


async def settled(js: JetStream, stream: str, consumer: str) -> bool:
    return not (await js.api(f"CONSUMER.INFO.{stream}.{consumer}"))["num_ack_pending"]


async def handed_out(js: JetStream, stream: str, consumer: str, count: int) -> bool:
    return bool((await js.api(f"CONSUMER.INFO.{stream}.{consumer}"))["num_ack_pending"] == count)


async def nobody_asks(js: JetStream, stream: str, consumer: str) -> bool:
    return not (await js.api(f"CONSUMER.INFO.{stream}.{consumer}"))["num_waiting"]


async def until_async(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_job_that_the_broker_gives_up_is_a_dead_letter(plane: str) -> None:
    """Its consumer has no limit of its own; an operator may give it one."""
    async with joined(plane, "operator") as operator, joined(plane) as mesh, Mesh(name="toiler", broker=plane, roles=("agent",)) as toiler:
        await toiler.request("mesh", "mesh/jobs/lane", {"target": "toiler", "wanted": True}, timeout=5)
        job = await mesh.jobs.submit("toiler", "t", {"n": 1})
        await ends_each_time(operator, JOBS, "toiler")
        [found] = await letters(plane, "toiler")
        assert (found.letter.code, found.letter.deliveries, found.sender) == ("undelivered", 2, "sender")
        assert found.letter.subject == mesh.subjects.job("toiler", "sender", "tools/call", "t")
        seq = int(job.id.partition("-")[0])
        assert await read_message_at(JetStream(operator.connection), JOBS, seq) is None


async def test_an_event_that_the_broker_gives_up_is_a_dead_letter_of_that_subscription(plane: str) -> None:
    """And stays where it is, for all others."""
    other, again = Heard(), Heard()
    async with joined(plane, "operator") as operator, joined(plane) as mesh, joined(plane, "hearer") as hearer:
        async with hearing(hearer, "given.up", Heard(), "mortal"), hearing(hearer, "given.up", other, "other"):
            pass  # their consumers are made
        [mortal] = [
            name for name, each in (await consumers(plane)).items() if each["config"].get("metadata", {}).get(SUBSCRIPTION) == "mortal"
        ]
        await mesh.events.publish("given.up", {"n": 1}, id="e1")
        await ends_each_time(operator, EVENTS, mortal)
        [found] = await letters(plane, "hearer")
        assert (found.letter.code, found.letter.subscription, found.item.id) == ("undelivered", "mortal", "e1")
        await mesh.events.publish("given.up", {"n": 2})
        async with hearing(hearer, "given.up", other, "other"), hearing(hearer, "given.up", again, "mortal"):
            await other.holds(2)
            await again.holds(1)
    assert ([each["n"] for each in other.data], [each["n"] for each in again.data]) == ([1, 2], [2])


async def test_what_nobody_reads_is_a_dead_letter_before_its_stream_drops_it(plane: str) -> None:
    """The control plane looks by the age of a message. One that is in somebody's hands is left to them."""
    async with joined(plane, "operator") as operator, joined(plane) as mesh:
        js = JetStream(operator.connection)
        await mesh.messages.publish_message("away", "t", "old", id="a1", priority="low")
        before = clock.wall_ns()
        await mesh.messages.publish_message("away", "t", "young", priority="low")
        hold, inbox = asyncio.Event(), Inbox()

        async def handler(message: object) -> None:
            await inbox(message)  # type: ignore[arg-type]
            await hold.wait()

        await mesh.messages.publish_message("present", "t", priority="critical")
        async with receiving(plane, "present", handler):
            await inbox.holds(1)
            assert await keep_older(js, mesh.subjects, LANES["critical"], clock.wall_ns()) == 0
            hold.set()
            await until_gone(plane, "present", "critical")
        assert await keep_older(js, mesh.subjects, LANES["low"], before) >= 1
        [found] = await letters(plane, "away")
        assert (found.letter.code, found.item.id, found.item.content) == ("unread", "a1", "old")
        assert await keep_older(js, mesh.subjects, LANES["low"], before) == 0


async def test_what_its_receiver_took_along_is_a_dead_letter_if_nobody_comes_again(plane: str) -> None:
    """The broker delivers it again only to somebody who asks, and drops it for its age."""
    async with joined(plane, "operator") as operator, joined(plane) as mesh:
        js = JetStream(operator.connection)
        async with receiving(plane, "taken", Inbox()):
            pass  # its lane is made
        await mesh.messages.publish_messages([("taken", "t", number) for number in range(2)])
        async with PullLoop(operator.connection, LANES["normal"], "taken", batch=10) as pulls:
            await pulls.take()
            await until_async(lambda: handed_out(js, LANES["normal"], "taken", 2))
            assert await keep_older(js, mesh.subjects, LANES["normal"], clock.wall_ns(), quiet=0) == 0  # it asks for more
        await until_async(lambda: nobody_asks(js, LANES["normal"], "taken"))
        await mesh.messages.publish_message("taken", "t", 2)
        assert await keep_older(js, mesh.subjects, LANES["normal"], clock.wall_ns()) == 1  # the third; it may be busy with the others
        assert await keep_older(js, mesh.subjects, LANES["normal"], clock.wall_ns(), quiet=0) == 2
        found = await letters(plane, "taken", 3)
        assert sorted((each.letter.code, each.item.content) for each in found) == [("undelivered", 0), ("undelivered", 1), ("unread", 2)]


async def test_what_is_too_large_when_it_is_mended_stays_as_it_was(plane: str) -> None:
    async with joined(plane, "operator") as operator, joined(plane) as mesh:
        async with receiving(plane, "grows", Inbox(Reject("no"))):
            await mesh.messages.publish_message("grows", "t", "small")
            [kept] = await letters(plane, "grows")
        with pytest.raises(TooLarge):
            await operator.messages.dead_letters.edit(kept, "x" * mesh.connection.max_payload)
        assert [each.item.content for each in await letters(plane, "grows")] == ["small"]


async def test_what_was_given_up_unheard_is_a_dead_letter(plane: str) -> None:
    """The broker was killed before it had stored that it delivers no more, and others of that lane are done."""
    paused = {"pause_until": clock.iso(clock.wall_ns() + 60 * 10**9)}
    async with joined(plane, "operator") as operator, joined(plane) as mesh:
        js = JetStream(operator.connection)
        async with receiving(plane, "unheard", Inbox()):
            pass
        await mesh.messages.publish_message("unheard", "t", "given up")
        await js.api(f"CONSUMER.PAUSE.{ADVISORIES}.{GIVEN_UP}", paused)
        await ends_each_time(operator, LANES["normal"], "unheard")
        await js.api(f"STREAM.PURGE.{ADVISORIES}")
        await js.api(f"CONSUMER.PAUSE.{ADVISORIES}.{GIVEN_UP}", {})
        async with receiving(plane, "unheard", Inbox()):
            assert await keep_older(js, mesh.subjects, LANES["normal"], clock.wall_ns()) == 1
        [found] = await letters(plane, "unheard")
        assert (found.letter.code, found.item.content) == ("undelivered", "given up")
