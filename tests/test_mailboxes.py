"""How much waits for a name, over all its senders: shown, told to who sends too much, and advice only."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh.background import Background
from mesh.broker import mailboxes
from mesh.errors import MailboxFull
from mesh.topology import LANES
from tests.conftest import Broker
from tests.message_world import Inbox, joined, receiving, until, until_gone, waiting


async def test_all_that_waits_for_a_name_is_counted(plane: str) -> None:
    async with joined(plane) as sender, joined(plane, "other") as other, joined(plane, "operator") as operator:
        for mesh in (sender, other):
            for priority in LANES:
                await mesh.messages.publish_message("deep", "t", priority=priority)
        await other.messages.publish_message("deep", "t")
        box = await sender.messages.mailbox("deep")
        assert (box.lanes, box.waiting, box.listened) == ({"critical": 2, "high": 2, "normal": 3, "low": 2}, 9, False)
        assert (await operator.messages.mailboxes())["deep"] == box
        begun, release = asyncio.Event(), asyncio.Event()

        async def hold(_: Any) -> None:
            begun.set()
            await release.wait()

        async with receiving(plane, "deep", hold):
            await begun.wait()
            held = await sender.messages.mailbox("deep")
            release.set()
            assert (held.waiting, held.listened) == (9, True)  # in somebody's hands, it waits too
            for priority in LANES:
                await until_gone(plane, "deep", priority)
        assert (await sender.messages.mailbox("deep")).waiting == 0
        assert "deep" not in await operator.messages.mailboxes()


async def test_a_sender_is_slowed_by_what_all_have_sent(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on at once where somebody makes room."""
    monkeypatch.setattr(mailboxes, "MOST", 20)
    monkeypatch.setattr(mailboxes, "EVERY", 5)
    monkeypatch.setattr(mailboxes, "LOOK", 0.05)
    monkeypatch.setattr(mailboxes, "RATE", 0.01)  # nothing goes out within this test
    inbox = Inbox()
    async with joined(plane, "crowd") as others, joined(plane) as sender:
        await others.messages.publish_messages([("pond", "t", n) for n in range(30)], over="ignore")
        known = sender.messages._mailboxes
        await sender.messages.publish_message("pond", "t", "the first")
        await until(lambda: known._known["pond"].over)
        slow = asyncio.create_task(sender.messages.publish_message("pond", "t", "slow"))
        with pytest.raises(MailboxFull) as full:
            await sender.messages.publish_message("pond", "t", over="refuse")
        assert full.value.details == {"limit": 20, "waiting": 31}
        await sender.messages.publish_message("pond", "t", "ignores it", over="ignore")
        assert not slow.done()
        assert await waiting(plane, "pond") == 32
        async with receiving(plane, "pond", inbox):
            async with asyncio.timeout(10):
                await slow
            await inbox.holds(33)
        assert inbox.contents[-1] == "slow"
        await until(lambda: not known._known["pond"].over)
        assert known.sending("pond", "refuse") is None


async def test_who_gives_up_waiting_leaves_its_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "RATE", 50.0)

    async def look(_: str) -> mailboxes.Mailbox:
        return mailboxes.Mailbox({"normal": mailboxes.MOST + 1}, True)

    async with Background() as tasks:
        known = mailboxes.Mailboxes(look, look, tasks)
        known.sending("flood", "slow")
        await until(lambda: known._known["flood"].over)

        async def send() -> None:
            await (known.sending("flood", "slow") or asyncio.sleep(0))

        many = [asyncio.create_task(send()) for _ in range(1000)]  # twenty seconds' worth
        await asyncio.sleep(0)
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        async with asyncio.timeout(2):
            await send()


async def test_few_questions_are_asked(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    async with joined(plane) as sender:
        look = sender.messages._mailboxes._look_at

        async def count(name: str) -> mailboxes.Mailbox:
            asked.append(name)
            return await look(name)

        monkeypatch.setattr(sender.messages._mailboxes, "_look_at", count)
        for _ in range(4):
            await sender.messages.publish_messages([("lake", "t", n) for n in range(mailboxes.EVERY)])
            await until(lambda: not sender.messages._mailboxes._known["lake"].looking)
    assert 2 <= len(asked) <= 4


async def test_who_sends_to_many_may_ask_other_things_as_well(plane: str) -> None:
    """The control plane answers a participant 200 questions a minute."""
    async with joined(plane, "postman") as sender:
        await sender.messages.publish_messages([(f"door{number}", "t", number) for number in range(250)])
        await until(lambda: not any(each.looking for each in sender.messages._mailboxes._known.values()))
        for _ in range(20):
            assert await sender.messages.list_schedules() == []


async def test_who_sends_to_nobody_is_told_once(plane: str) -> None:
    async with joined(plane) as sender, receiving(plane, "listens", Inbox()):
        with capture_logs() as lines:
            for name in ("listens", "lissens"):
                for _ in range(2):
                    await sender.messages.publish_message(name, "t")
            await until(lambda: [each for each in lines if each["log_level"] == "warning"])
            await until_gone(plane, "listens")
    [warning] = [each for each in lines if each["log_level"] == "warning"]
    assert warning["to"] == "lissens"
    assert "mesh agents" in warning["hint"]


async def test_a_name_that_was_listened_under_is_known(plane: str) -> None:
    """Also while nobody is there, and without being an agent that can be called."""
    async with receiving(plane, "away", Inbox()):
        pass
    async with joined(plane) as sender:
        with capture_logs() as lines:
            await sender.messages.publish_message("away", "t")
            known = sender.messages._mailboxes._known["away"]
            await until(lambda: known.mailbox is not None and not known.looking)
            assert known.mailbox == mailboxes.Mailbox({"critical": 0, "high": 0, "normal": 1, "low": 0}, True)
    assert lines == []


async def test_without_a_control_plane_nobody_is_slowed(broker: Broker) -> None:
    async with joined(broker.url) as sender:
        assert sender.messages._mailboxes.sending("nobody", "slow") is None
        await until(lambda: not sender.messages._mailboxes._known["nobody"].looking)
        assert sender.messages._mailboxes.sending("nobody", "refuse") is None
