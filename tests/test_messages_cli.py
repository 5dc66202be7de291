"""`mesh send`, `mesh listen` and `mesh dlq`, as a person runs them."""

import asyncio
import json
from pathlib import Path
from typing import Any

from mesh import Mesh
from mesh.broker import AgentMessage, Reject
from mesh.link.jetstream import JetStream
from tests.cli_helpers import mesh, started
from tests.conftest import Broker


async def _reject(message: AgentMessage) -> None:
    raise Reject(f"no {message.content}")


async def _bury(broker: Broker, name: str, *contents: Any, unreadable: int = 0) -> None:
    """Dead letters of a name, each with one of these contents, behind those of what lies there already and cannot be read."""
    async with (
        Mesh(name="sender", broker=broker.url) as sender,
        Mesh(name=name, broker=broker.url) as receiver,
        receiver.messages.subscribe_to_messages(_reject),
    ):
        for content in contents:
            await sender.messages.publish_message(name, "t", content)
        async with asyncio.timeout(10):
            while len(await _letters(broker, name)) < unreadable + len(contents):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)


async def _letters(broker: Broker, name: str) -> list[Any]:
    async with Mesh(name="operator", broker=broker.url) as operator:
        return await operator.messages.dead_letters.find(target=name)


async def test_what_is_sent_is_heard(broker: Broker, plane: str, tmp_path: Path) -> None:
    broker.authority.issue("ear", ("agent",))
    async with started("listen", "--name", "ear", "--count", "2", "--json", *broker.options, cwd=tmp_path) as listening:
        sent = await mesh("send", "ear", "greet", '{"a": 1}', "--priority", "high", "--id", "i1", "--json", *broker.options, cwd=tmp_path)
        plain = await mesh("send", "ear", "greet", "hello", *broker.options, cwd=tmp_path)
        assert (sent.code, sent.json) == (0, {"id": "i1"})
        assert plain.code == 0
        async with asyncio.timeout(20):
            out, _ = await listening.communicate()
        heard = [json.loads(line) for line in out.decode().splitlines()]
    first, second = sorted(heard, key=lambda each: each["content"] == "hello")
    assert (first["id"], first["content"], first["priority"], first["sender"], first["target"]) == ("i1", {"a": 1}, "high", "local", "ear")
    assert (second["id"], second["content"]) == (plain.out.strip(), "hello")


async def test_what_nobody_reads_is_not_taken(broker: Broker, plane: str, tmp_path: Path) -> None:
    """`mesh listen | head -1` ends, and loses no message: what it could not show comes again."""
    broker.authority.issue("piped", ("agent",))
    async with Mesh(name="sender", broker=plane) as sender:
        await sender.messages.publish_message("piped", "t", "first")
        async with started("listen", "--name", "piped", *broker.options, cwd=tmp_path) as listening:
            assert listening.stdout is not None
            assert b"first" in await listening.stdout.readline()
            listening._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
            await asyncio.sleep(0)  # it is closed in the next round of the loop
            await sender.messages.publish_message("piped", "t", "second")
            async with asyncio.timeout(10):
                assert await listening.wait() == 0
        ended = await mesh("listen", "--name", "piped", "--count", "1", "--json", *broker.options, cwd=tmp_path)
    assert (ended.json["content"], ended.json["delivery"]) == ("second", 2)


async def test_mailboxes_are_shown(broker: Broker, plane: str, tmp_path: Path) -> None:
    async with Mesh(name="sender", broker=plane) as sender:
        await sender.messages.publish_messages([("postbox", "t", number) for number in range(3)])
        await sender.messages.publish_message("postbox", "t", priority="high")
    one = await mesh("mailbox", "postbox", "--json", *broker.options, cwd=tmp_path)
    lanes = {"critical": 0, "high": 1, "normal": 3, "low": 0}
    assert one.json == [{"name": "postbox", "lanes": lanes, "listened": False, "waiting": 4}]
    shown = await mesh("mailbox", "postbox", *broker.options, cwd=tmp_path)
    assert shown.out.splitlines()[0].endswith("waiting  was listened to"), "which says nothing of now"
    assert [line.split() for line in shown.out.splitlines() if "postbox" in line] == [["postbox", "0", "1", "3", "0", "4", "never"]]
    all_of_them = await mesh("mailbox", "--name", "operator", "--json", *broker.options, cwd=tmp_path)
    assert "postbox" in {each["name"] for each in all_of_them.json}
    denied = await mesh("mailbox", "--json", *broker.options, cwd=tmp_path)
    assert denied.error["code"] == "permission_denied"


async def test_who_writes_to_a_name_that_nobody_has_is_told_and_it_is_stored(broker: Broker, plane: str, tmp_path: Path) -> None:
    said = await mesh("send", "misspelt", "t", "x", "--json", *broker.options, cwd=tmp_path)
    assert said.code == 0
    assert said.json["id"]
    assert "no agent is here as 'misspelt'" in said.err
    waits = await mesh("send", "misspelt", "t", "x", "--wait", "--timeout", "0.2", *broker.options, cwd=tmp_path)
    assert (waits.code, "no agent is here as 'misspelt'" in waits.err, "error: " in waits.err) == (1, True, True)


async def test_what_is_sent_later(broker: Broker, plane: str, tmp_path: Path) -> None:
    for name in ("planner", "later"):
        broker.authority.issue(name, ("agent", "host"))
    as_planner = ("--name", "planner", *broker.options)
    async with started("listen", "--name", "later", "--count", "1", "--json", *broker.options, cwd=tmp_path) as listening:
        assert (await mesh("send", "later", "t", "soon", "--in", "1s", *as_planner, cwd=tmp_path)).code == 0
        async with asyncio.timeout(20):
            out, _ = await listening.communicate()
    heard = json.loads(out)
    assert (heard["sender"], heard["content"]) == ("planner", "soon")
    past = await mesh("send", "later", "t", "--at", "2020-01-01T00:00", *as_planner, cwd=tmp_path)
    assert (past.code, "that time has passed" in past.err) == (2, True)
    for number, when in enumerate(
        (("--every", "5m"), ("--cron", "0 9 * * 1-5", "--zone", "Europe/Berlin"), ("--at", "2100-01-01T00:00:00Z"))
    ):
        assert (await mesh("send", "later", "t", "x", "--id", f"s{number}", *when, *as_planner, cwd=tmp_path)).code == 0
    listed = await mesh("schedules", "list", "--json", *as_planner, cwd=tmp_path)
    assert {each["id"]: each.get("every") or each.get("cron") or each.get("at") for each in listed.json} == {
        "s0": 300, "s1": "0 9 * * 1-5", "s2": "2100-01-01T00:00:00.000000Z",
    }  # fmt: skip
    shown = (await mesh("schedules", "list", *as_planner, cwd=tmp_path)).out
    assert "every 300 s" in shown
    assert "cron 0 9 * * 1-5 Europe/Berlin" in shown
    for number in range(3):
        assert (await mesh("schedules", "cancel", f"s{number}", *as_planner, cwd=tmp_path)).code == 0
    gone = await mesh("schedules", "cancel", "s0", "--json", *as_planner, cwd=tmp_path)
    assert gone.code != 0
    assert "no_such_schedule" in gone.err
    for wrong in (
        ("--expires", "5", "--wait"),
        ("--in", "1s", "--zone", "Europe/Berlin"),
        ("--in", "soon"),
        ("--at", "10m"),
        ("--every", "1s", "--in", "1s"),
        ("--every", "0.5s"),
    ):
        assert (await mesh("send", "later", "t", *wrong, *as_planner, cwd=tmp_path)).code == 2


async def test_send_waits_for_an_answer(broker: Broker, plane: str, tmp_path: Path) -> None:
    async def add(message: AgentMessage) -> int:
        return sum(message.content)

    async with Mesh(name="adder", broker=plane) as adder, adder.messages.subscribe_to_messages(add):
        ended = await mesh("send", "adder", "add", "[1, 2]", "--wait", "--json", *broker.options, cwd=tmp_path)
    assert (ended.code, ended.json) == (0, 3)


async def test_a_priority_that_is_none_is_told(broker: Broker, plane: str, tmp_path: Path) -> None:
    ended = await mesh("send", "ear", "t", "--priority", "urgent", "--json", *broker.options, cwd=tmp_path)
    assert ended.error["code"] == "invalid_config"


async def test_dead_letters_are_listed_mended_and_sent_again(broker: Broker, plane: str, tmp_path: Path) -> None:
    await _bury(broker, "clinic", "one", "two")

    async def run(*words: object) -> Any:
        ended = await mesh("dlq", *words, "--json", *broker.options, cwd=tmp_path)
        assert ended.code == 0, ended
        return ended.json if ended.out else None

    one, two = await run("list", "--to", "clinic")
    assert (one["sender"], one["code"], one["reason"], one["message"]["content"]) == ("sender", "rejected", "no one", "one")
    assert await run("list", "--to", "clinic", "--from", "nobody") == []
    assert (await run("show", two["number"]))["message"]["id"] == two["message"]["id"]
    await run("edit", one["number"], "--content", '{"mended": true}')
    numbers = [each["number"] for each in await run("list", "--to", "clinic")]
    assert (len(numbers), one["number"] in numbers) == (2, False)
    assert sorted(await run("redrive", "--all", "--to", "clinic", "--rate", 50)) == sorted(numbers)
    assert await run("list", "--to", "clinic") == []
    heard: list[AgentMessage] = []
    done = asyncio.Event()

    async def take(message: AgentMessage) -> None:
        heard.append(message)
        if len(heard) == 2:
            done.set()

    async with asyncio.timeout(10), Mesh(name="clinic", broker=plane) as clinic, clinic.messages.subscribe_to_messages(take):
        await done.wait()
    assert sorted((each.sender, each.id, str(each.content)) for each in heard) == sorted(
        [("sender", one["message"]["id"], "{'mended': True}"), ("sender", two["message"]["id"], "two")]
    )


async def test_a_dead_letter_that_cannot_be_sent_again_holds_up_no_other(broker: Broker, plane: str, tmp_path: Path) -> None:
    async with Mesh(name="sender", broker=plane) as sender:
        for _ in range(2):
            await JetStream(sender.connection).publish(sender.subjects.message("ward", "sender", "normal"), b"no message")
    await _bury(broker, "ward", "well", unreadable=2)
    unreadable, other, well = [each.number for each in await _letters(broker, "ward")]
    ended = await mesh("dlq", "redrive", "--all", "--to", "ward", "--json", *broker.options, cwd=tmp_path)
    assert (ended.code, ended.json, json.loads(ended.err)["code"]) == (1, [well], "invalid_config")
    told = await mesh("dlq", "redrive", "--all", "--to", "ward", *broker.options, cwd=tmp_path)
    assert (told.code, told.out) == (1, "")
    assert f"the dead letter {unreadable} cannot be read" in told.err
    assert f"{other} stays" in told.err


async def test_dead_letters_are_dropped(broker: Broker, plane: str, tmp_path: Path) -> None:
    await _bury(broker, "bin", 1, 2)
    number = (await _letters(broker, "bin"))[0].number
    assert (await mesh("dlq", "drop", number, "--json", *broker.options, cwd=tmp_path)).json == [number]
    assert [each.item.content for each in await _letters(broker, "bin")] == [2]
    gone = await mesh("dlq", "show", number, "--json", *broker.options, cwd=tmp_path)
    assert gone.error["code"] == "no_such_dead_letter"
    unsaid = await mesh("dlq", "redrive", "--json", *broker.options, cwd=tmp_path)
    assert unsaid.error["code"] == "invalid_config"
    listed = await mesh("dlq", "list", *broker.options, cwd=tmp_path)
    assert (listed.code, "rejected" in listed.out) == (0, True)
