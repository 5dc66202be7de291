"""What was done, recorded in one transaction with its effect: neither is there without the other."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mesh.broker import AgentMessage, AlreadyHandled, HandledInSqlite
from mesh.errors import ConfigError
from tests.message_world import Inbox, again, joined, receiving, until_gone


def open_db(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE IF NOT EXISTS effects (content)")
    return db


def effects(path: Path) -> list[Any]:
    return [content for (content,) in open_db(path).execute("SELECT content FROM effects ORDER BY rowid")]


async def test_effect_and_record_are_one_transaction(plane: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    open_db(path)
    failures = [ValueError("after the effect was written")]
    with HandledInSqlite(path) as handled, HandledInSqlite(path) as other:

        async def handle(message: AgentMessage) -> None:
            async with handled.once(message) as db:
                db.execute("INSERT INTO effects VALUES (?)", (message.content,))
                await asyncio.sleep(0)
                if failures:
                    raise failures.pop()

        async with joined(plane) as sender:
            for each in (handled, other):  # the second time as another process
                async with receiving(plane, "clerk", handle, handled=each, workers=4):
                    for n in range(20):
                        message = AgentMessage(type="t", content=n, id=str(n), sent_ns=1, sender="sender", target="clerk")
                        await again(sender, "clerk", message)
                    await until_gone(plane, "clerk")
    assert sorted(effects(path)) == list(range(20))


async def test_the_same_at_once_is_done_once(tmp_path: Path) -> None:
    """In two processes, which do not know of each other's transaction until it ends."""
    path = tmp_path / "agent.db"
    open_db(path)
    key = ("clerk", "sender", "1")

    async def work(handled: HandledInSqlite) -> None:
        async with handled.once(key) as db:
            await asyncio.sleep(0.01)
            db.execute("INSERT INTO effects VALUES (1)")

    with HandledInSqlite(path) as one, HandledInSqlite(path) as two:
        said = await asyncio.gather(*(work(each) for each in (one, two, one)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in said) == ["AlreadyHandled", "AlreadyHandled", "NoneType"]
        assert (one.seen(key), two.seen(key), one.seen(("clerk", "sender", "2"))) == (True, True, False)
    assert effects(path) == [1]


async def test_what_is_not_committed_is_not_seen(tmp_path: Path) -> None:
    key = ("clerk", "sender", "1")
    with HandledInSqlite(tmp_path / "agent.db") as handled:

        async def cut_off() -> None:
            async with handled.once(key):
                assert not handled.seen(key)
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await cut_off()
        assert not handled.seen(key)
        async with handled.once(key):
            pass
        assert handled.seen(key)
        with pytest.raises(AlreadyHandled):
            async with handled.once(key):
                raise AssertionError("it was done")


async def test_a_handler_that_does_not_use_the_transaction_is_recorded_behind_it(plane: str, tmp_path: Path) -> None:
    inbox = Inbox()
    with HandledInSqlite(tmp_path / "agent.db") as handled:
        async with joined(plane) as sender, receiving(plane, "plain", inbox, handled=handled):
            for _ in range(2):
                await again(sender, "plain", AgentMessage(type="t", content=1, id="1", sent_ns=1))
            await until_gone(plane, "plain")
    assert inbox.contents == [1]


async def test_the_record_is_swept_by_age_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.delivery.handled_sqlite.SWEEP_EVERY", 1)
    now = 1_000_000
    monkeypatch.setattr("mesh.clock.wall_s", lambda: now)
    keys = [("clerk", "sender", str(n)) for n in range(6)]
    with HandledInSqlite(tmp_path / "agent.db", keep=100, most=3) as handled:
        for key in keys[:5]:
            async with handled.once(key):
                now += 1
        assert [handled.seen(key) for key in keys] == [False, False, True, True, True, False]
        now += 1000
        async with handled.once(keys[5]):
            pass
        assert [handled.seen(key) for key in keys] == [False] * 5 + [True]


async def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database at all, but long enough to be looked at" * 10)
    with pytest.raises(ConfigError, match="cannot be used"), HandledInSqlite(tmp_path / "text"):
        pass
