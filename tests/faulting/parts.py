"""The programs that take part: `python -m tests.faulting.parts ROLE PART BROKER DIRECTORY`, each in a process of its own.

Each says `ready` on stdout when it is, works until its stdin ends, lets what it awaits end, and ends. What it did stands in its notes. One
that is started again after a kill sends again, with the same ids, what its predecessor never knew the fate of.
"""

import asyncio
import contextlib
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from mesh import Mesh, MeshError
from mesh.broker import AgentMessage, Reject
from mesh.delivery import AlreadyHandled, HandledInSqlite, Key
from mesh.jobs import Work
from mesh.policy.retry import Backoff
from mesh.wire.event import Event
from tests.faulting.askers import caller, sender
from tests.faulting.names import HAND, LISTENER, NAMED, TOPIC, WORKER
from tests.faulting.notes import Notes

BACKOFF: Final = Backoff(first=0.1, longest=1.0)

LATE: Final = 1.0
"""Seconds after the acknowledgement in which the worker that cheats does its work."""

INSERT: Final = "INSERT INTO effects VALUES (?, ?)"


class Effects:
    """What workers did: one SQLite file for all of them. Effect and record are one transaction (`HandledInSqlite`); the effects are
    counted, not keyed, so that a second one shows."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "effects.sqlite"
        with contextlib.closing(sqlite3.connect(self._file, timeout=30)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE IF NOT EXISTS effects (key TEXT, pid INTEGER)")
        self.handled = HandledInSqlite(self._file)

    async def do(self, key: Key) -> None:
        async with self.handled.once(key) as db:
            db.execute(INSERT, (" ".join(key), os.getpid()))

    def do_later(self, key: Key) -> None:
        """As nobody should: after it was said to be done."""
        with contextlib.closing(sqlite3.connect(self._file, timeout=30)) as db, db:
            db.execute(INSERT, (" ".join(key), os.getpid()))


class Obedience:
    """Does what it is asked to: a deed fails as often as it says."""

    def __init__(self) -> None:
        self._seen: Counter[Key] = Counter()

    def __call__(self, key: Key, deed: str) -> None:
        self._seen[key] += 1
        if deed == "reject":
            raise Reject("as it was asked to")
        if deed == "fail" or (deed == "flaky" and self._seen[key] == 1):
            raise ValueError("as it was asked to")


async def plane(broker: str, directory: Path, notes: Notes) -> AsyncIterator[None]:
    """The control plane."""
    async with Mesh(name="mesh", broker=broker) as mesh, mesh.control_plane():
        yield


async def worker(broker: str, directory: Path, notes: Notes, *, cheats: bool = False) -> AsyncIterator[None]:
    """Handles messages. One that `cheats` says so before it has done it."""
    effects, obey = Effects(directory), Obedience()

    async def handle(message: AgentMessage) -> str:
        obey(message.key, message.content["deed"])
        if cheats:
            asyncio.get_running_loop().call_later(LATE, effects.do_later, message.key)
        else:
            await effects.do(message.key)
        return message.id

    with effects.handled as handled:
        async with (
            Mesh(name=WORKER, broker=broker) as mesh,
            mesh.messages.subscribe_to_messages(handle, workers=4, handled=handled, backoff=BACKOFF, prefetch=64),
        ):
            yield


async def listener(broker: str, directory: Path, notes: Notes) -> AsyncIterator[None]:
    """Hears events, by a durable subscription that all of its kind share."""
    effects, obey = Effects(directory), Obedience()

    async def handle(event: Event) -> None:
        obey(event.key, event.data["deed"])
        await effects.do(event.key)

    with effects.handled as handled:
        async with (
            Mesh(name=LISTENER, broker=broker) as mesh,
            mesh.events.subscribe(f"{TOPIC}.>", handle, name=NAMED, workers=4, handled=handled, backoff=BACKOFF, prefetch=64),
        ):
            yield


async def cheat(broker: str, directory: Path, notes: Notes) -> AsyncIterator[None]:
    """A worker that the check must find out."""
    async for _ in worker(broker, directory, notes, cheats=True):
        yield


async def hand(broker: str, directory: Path, notes: Notes) -> AsyncIterator[None]:
    """Does jobs."""
    effects, obey = Effects(directory), Obedience()

    async def do(work: Work) -> str:
        key = (HAND, work.caller, work.nonce)
        obey(key, work.arguments["deed"])
        with contextlib.suppress(AlreadyHandled):  # an attempt before this one got so far
            await effects.do(key)
        return work.id

    with effects.handled:
        async with Mesh(name=HAND, broker=broker) as mesh, mesh.jobs.work(do, workers=4):
            yield


ROLES: Final[dict[str, Callable[..., AsyncIterator[None]]]] = {
    "plane": plane,
    "worker": worker,
    "cheat": cheat,
    "listener": listener,
    "hand": hand,
    "sender": sender,
    "caller": caller,
}


async def main(role: str, part: str, broker: str, directory: Path) -> None:
    """Play the role until stdin ends."""
    ended = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), sys.stdin)
    notes = Notes(directory, part)
    watching = asyncio.create_task(notes.watch_starvation(), name="starvation")
    arguments = (broker, directory, notes, *((part,) if role in ("sender", "caller") else ()))
    try:
        while True:
            try:
                async with asynccontextmanager(ROLES[role])(*arguments):
                    notes.write("ready")
                    sys.stdout.write("ready\n")
                    sys.stdout.flush()
                    await ended.read()
                    notes.write("leaving")
                break
            except MeshError as problem:  # it was started while the broker was away
                notes.write("not yet", why=str(problem))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await ended.read()
                        break
        notes.write("left")
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
