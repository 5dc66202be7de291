"""What was done, kept in the database in which it had its effect: effect and record are one transaction, so neither is there without the
other, whenever the process dies.

    with HandledInSqlite("orders.db") as handled:
        async def handle(message):
            async with handled.once(message) as db:
                db.execute("INSERT INTO orders VALUES (?)", (message.content["order"],))

        async with mesh.messages.subscribe_to_messages(handle, handled=handled):
            ...

A handler that does not use `once` has its record written behind it, as with any other `Handled`.

The record is bounded by age and by number, and swept as it grows. What was done longer ago is done again if it comes again.
"""

import asyncio
import contextlib
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol, Self

from mesh import clock
from mesh.delivery.handled import Key
from mesh.delivery.verdicts import AlreadyHandled
from mesh.errors import ConfigError

KEEP: Final = 8 * 86_400.0
"""Seconds. What waits goes after seven days."""

MOST: Final = 1_000_000
"""Records, about 60 MB."""

PATIENCE: Final = 30.0
"""Seconds to wait for another process that writes to the same database."""

SWEEP_EVERY: Final = 1000
"""Records written between two sweeps."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS mesh_handled (key BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mesh_handled_at ON mesh_handled (at);
"""


class Item(Protocol):
    """What a handler gets: a message, an event, a job."""

    @property
    def key(self) -> Key: ...


class HandledInSqlite:
    """`with` it. Several processes may share the file; it is in WAL mode, and each transaction is on the disk when it ends."""

    def __init__(self, path: Path | str, *, keep: float = KEEP, most: int = MOST) -> None:
        self._path = path
        self._keep = keep
        self._most = most
        self._turn = asyncio.Lock()
        self._ours: set[Key] = set()
        """Recorded by `once`, and not by `record` yet."""
        self._written = 0
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        """Raises ConfigError where the file is no database that can be written."""
        try:
            self._writer, self._reader = self._open(), self._open()
            self._writer.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self.close()
            raise ConfigError(f"{self._path} cannot be used as a database: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in (self._writer, self._reader):
            if each is not None:
                each.close()
        self._writer = self._reader = None

    def seen(self, key: Key) -> bool:
        # On a connection of its own: it must not see what a transaction of ours has written and may yet take back.
        return _opened(self._reader).execute("SELECT 1 FROM mesh_handled WHERE key = ?", (_digest(key),)).fetchone() is not None

    def record(self, key: Key) -> Awaitable[None] | None:
        if key in self._ours:
            self._ours.discard(key)
            return None
        return self._record(key)

    @asynccontextmanager
    async def once(self, item: Item | Key) -> AsyncIterator[sqlite3.Connection]:
        """One transaction, in which `item` is recorded already: write the effect there, and no commit. It is committed when the block ends,
        and rolled back where the block raises.

        Raises AlreadyHandled where it was done before, by whomever: let it out of the handler, and the message ends as done. One at a time
        has the database, so do not wait in the block for what takes long.
        """
        key = item if isinstance(item, tuple) else item.key
        db = _opened(self._writer)
        async with self._turn:
            try:
                await _in_thread(db.execute, "BEGIN IMMEDIATE")  # another process may have it
                inserted = db.execute("INSERT OR IGNORE INTO mesh_handled VALUES (?, ?)", (_digest(key), clock.wall_s())).rowcount
                if not inserted:
                    raise AlreadyHandled(f"{key[2]!r} of {key[1]!r} was done before")
                yield db
                self._sweep(db)
                await _in_thread(db.commit)
            except BaseException:
                if db.in_transaction:
                    db.rollback()
                raise
        self._ours.add(key)

    async def _record(self, key: Key) -> None:
        with contextlib.suppress(AlreadyHandled):
            async with self.once(key):
                pass
        self._ours.discard(key)

    def _sweep(self, db: sqlite3.Connection) -> None:
        self._written += 1
        if self._written % SWEEP_EVERY == 0:
            db.execute("DELETE FROM mesh_handled WHERE at < ?", (clock.wall_s() - self._keep,))
            too_many = "SELECT at FROM mesh_handled ORDER BY at DESC LIMIT 1 OFFSET ?"
            db.execute(f"DELETE FROM mesh_handled WHERE at < ({too_many})", (self._most - 1,))

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db


def _opened(db: sqlite3.Connection | None) -> sqlite3.Connection:
    if db is None:
        raise ConfigError("the record is closed", hint="use it inside its `with`")
    return db


def _digest(key: Key) -> bytes:
    return hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass")).digest()


async def _in_thread(work: Callable[..., Any], *args: Any) -> None:
    """Off the loop, and to its end, also when we are cancelled meanwhile: nobody else may have the connection before."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
