"""`mesh publish` and `mesh events`, as a person runs them."""

import asyncio
import contextlib
import json
import os
import pty
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.cli_helpers import ENVIRONMENT, mesh, started
from tests.conftest import Broker
from tests.event_world import consumers, joined
from tests.message_world import until, waiting


async def test_what_is_published_is_replayed_listed_and_deleted(broker: Broker, plane: str, tmp_path: Path) -> None:
    for number in range(3):
        words = ("build.done", f"n:={number}", "who=me", "--priority", "high", "--type", "t")
        done = await mesh("publish", *words, "--json", *broker.options, cwd=tmp_path)
        assert done.code == 0, done.err
        assert json.loads(done.out)["id"]
    told = await mesh(
        "events", "replay", "build.>", "--from", "10m", "--filter", "event.data.n > 0", "--json", *broker.options, cwd=tmp_path
    )
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [(each["event"]["data"], each["priority"], each["publisher"]) for each in events] == [
        ({"n": number, "who": "me"}, "high", "local") for number in (1, 2)
    ]
    for _ in range(2):
        into = await mesh("events", "replay", "build.>", "--from", "10m", "--into", "student", "--id", "r", *broker.options, cwd=tmp_path)
        assert into.out.strip() == "3 events stored for student"
        assert into.err.startswith("no agent is here as 'student': the events wait for who listens there. ")
    assert await waiting(plane, "student", "low") == 3
    heard = await mesh("events", "subscriptions", "list", "--json", *broker.options, cwd=tmp_path)
    assert json.loads(heard.out) == []
    gone = await mesh("events", "subscriptions", "delete", "nightly", *broker.options, cwd=tmp_path)
    assert (gone.code, "no subscription" in gone.err) == (1, True)
    wrong = await mesh("events", "replay", "build.>", "--from", "yesterday", *broker.options, cwd=tmp_path)
    assert wrong.code == 2


async def listens(url: str, topic: str, before: set[str]) -> None:
    """Until somebody has a consumer for this topic that was not there before."""
    async with asyncio.timeout(30):
        while not any(topic in str(each["config"]) for name, each in (await consumers(url)).items() if name not in before):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("durable", [False, True])
async def test_listen_shows_what_comes_and_ends_after_so_many(broker: Broker, plane: str, tmp_path: Path, durable: bool) -> None:
    topic, before = f"listen-{durable}.x", set(await consumers(plane))
    named = ("--durable", "listener") if durable else ()
    words = ("events", "listen", f"listen-{durable}.*", *named, "--filter", "event.data > 0", "--count", "2", *broker.options)
    async with started(*words, "--json", cwd=tmp_path) as listening, joined(plane) as publisher:
        await listens(plane, f"listen-{durable}", before)
        for number in range(4):
            await publisher.events.publish(topic, number)
        out, err = await asyncio.wait_for(listening.communicate(), 30)
    assert (listening.returncode, err) == (0, b"")
    said = [json.loads(line) for line in out.splitlines()]
    assert [(each["event"]["data"], each["publisher"], each["topic"]) for each in said] == [
        (1, "publisher", topic),
        (2, "publisher", topic),
    ]
    if durable:  # it goes on where it stood
        rest = await mesh("events", "listen", "listen-True.*", *named, "--count", "1", *broker.options, cwd=tmp_path)
        assert rest.out.strip().endswith("publisher [normal] listen-True.x: 3")


async def test_listen_ends_when_nobody_reads_it(broker: Broker, plane: str, tmp_path: Path) -> None:
    """As of `| head -1`. What it could not print is not lost, and no dead letter."""
    before = set(await consumers(plane))
    async with (
        started("events", "listen", "head.x", "--durable", "head", *broker.options, cwd=tmp_path) as listening,
        joined(plane) as publisher,
    ):
        await listens(plane, "head", before)
        assert listening.stdout is not None
        await publisher.events.publish("head.x", 1)
        assert (await asyncio.wait_for(listening.stdout.readline(), 30)).endswith(b": 1\n")
        listening._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        await asyncio.sleep(0)  # it is closed in the next round of the loop
        await publisher.events.publish("head.x", 2)
        assert await asyncio.wait_for(listening.wait(), 30) == 0
    again = await mesh("events", "listen", "head.x", "--durable", "head", "--count", "1", *broker.options, cwd=tmp_path)
    assert again.out.endswith(": 2\n")


@pytest.mark.parametrize("into", [False, True])
async def test_a_replay_shows_on_a_terminal_how_far_it_is(broker: Broker, plane: str, tmp_path: Path, into: bool) -> None:
    topic = f"bar-{into}.x"
    async with joined(plane) as publisher:
        for number in range(2):
            await publisher.events.publish(topic, number)
            await asyncio.sleep(0.1)  # the rhythm that is replayed
    ours, its = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            shown.extend(os.read(ours, 65_536))

    words = ("events", "replay", topic, "--from", "10m", "--speed", "0.1", *(("--into", "pupil") if into else ()), *broker.options)
    try:
        asyncio.get_running_loop().add_reader(ours, read)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mesh", *map(str, words)),
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdin=its,
            stderr=its,
            stdout=its if into else PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        await until(lambda: b" of " in shown)
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        os.close(its)
    assert process.returncode == 0, shown
    assert b" % 1 of 2 read" in shown
    if not into:
        assert [line[-1:] for line in out.splitlines()] == [b"0", b"1"]
