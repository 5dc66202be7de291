"""The programs that take part: `python -m tests.faulting.parts ROLE PART BROKER DIRECTORY`, each in a process of its own.

Each says `ready` on stdout when it is, works until its stdin ends, lets what it awaits end, and ends. What it did stands in its notes. One
that is started again after a kill sends again, with the same ids, what its predecessor never knew the fate of.
"""

import asyncio
import contextlib
import os
import random
import secrets
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from mesh import Mesh, MeshError
from mesh.broker import AgentMessage, Reject
from mesh.policy.retry import Backoff
from mesh.subjects import PRIORITIES
from tests.faulting.notes import Notes, read_notes

WORKER: Final = "worker"
TOOL: Final = "tool"

PUBLISH_LIMIT: Final = 20.0
"""Seconds that `publish_message` tries."""

PACE: Final = 0.02
"""Seconds between two messages, or calls, of one task."""

AT_ONCE: Final = 4
LATE: Final = 1.0
"""Seconds after the acknowledgement in which the worker that cheats does its work."""

DEEDS: Final = ("fine",) * 90 + ("flaky",) * 6 + ("fail",) * 2 + ("reject",) * 2
"""What a message asks of its worker: to do it; to fail at the first attempt; at every one; to reject it."""


class Effects:
    """What workers did: one SQLite file for all of them. Effect and record are one transaction; the effects are counted, not keyed, so that
    a second one shows."""

    def __init__(self, directory: Path) -> None:
        self._base = sqlite3.connect(directory / "effects.sqlite", isolation_level=None, timeout=30)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=OFF")  # it is processes that die here, not the machine
        self._base.execute("CREATE TABLE IF NOT EXISTS handled (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self._base.execute("CREATE TABLE IF NOT EXISTS effects (key TEXT, pid INTEGER)")

    async def seen(self, key: tuple[str, ...]) -> bool:
        return self._base.execute("SELECT 1 FROM handled WHERE key = ?", (_text(key),)).fetchone() is not None

    async def record(self, key: tuple[str, ...]) -> None:
        """`do` has done it."""

    def do(self, key: tuple[str, ...]) -> None:
        with contextlib.suppress(sqlite3.IntegrityError):  # another worker was faster, while this one stood still
            self._base.execute("BEGIN IMMEDIATE")
            try:
                self._base.execute("INSERT INTO handled VALUES (?)", (_text(key),))
                self._base.execute("INSERT INTO effects VALUES (?, ?)", (_text(key), os.getpid()))
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")


def _text(key: tuple[str, ...]) -> str:
    return " ".join(key)


async def plane(broker: str, directory: Path, notes: Notes) -> AsyncIterator[None]:
    """The control plane."""
    async with Mesh(name="mesh", broker=broker) as mesh, mesh.control_plane():
        yield


async def worker(broker: str, directory: Path, notes: Notes, *, cheats: bool = False) -> AsyncIterator[None]:
    """Handles messages. One that `cheats` says so before it has done it."""
    effects = Effects(directory)
    seen: dict[str, int] = {}

    async def handle(message: AgentMessage) -> str:
        key, deed = (message.target, message.sender, message.id), message.content["deed"]
        attempt = seen[message.id] = seen.get(message.id, 0) + 1
        if deed == "reject":
            raise Reject("as it was asked to")
        if deed == "fail" or (deed == "flaky" and attempt == 1):
            raise ValueError("as it was asked to")
        if cheats:
            asyncio.get_running_loop().call_later(LATE, effects.do, key)
        else:
            effects.do(key)
        return message.id

    backoff = Backoff(first=0.1, longest=1.0)
    async with (
        Mesh(name=WORKER, broker=broker) as mesh,
        mesh.messages.subscribe_to_messages(handle, workers=4, handled=effects, backoff=backoff, prefetch=64),
    ):
        yield


async def cheat(broker: str, directory: Path, notes: Notes) -> AsyncIterator[None]:
    """A worker that the check must find out."""
    async for _ in worker(broker, directory, notes, cheats=True):
        yield


async def sender(broker: str, directory: Path, notes: Notes, part: str) -> AsyncIterator[None]:
    """Publishes messages, and notes which of them the broker has acknowledged."""
    run, chance = secrets.token_hex(3), random.Random()
    async with Mesh(name=part, broker=broker) as mesh:

        async def publish(id: str, priority: str, deed: str, expires: float | None) -> None:
            notes.write("try", id=id, priority=priority, deed=deed)
            work = mesh.messages.publish_message(WORKER, "work", {"deed": deed}, id=id, priority=priority, expires=expires)
            if await notes.within("publish_message", PUBLISH_LIMIT, work) is not None:
                notes.write("acked", family="message", key=f"{WORKER} {part} {id}")

        async def one(number: int) -> None:
            expires = 5.0 if chance.random() < 0.02 else None
            await publish(f"{run}-{number}", chance.choice(PRIORITIES), chance.choice(DEEDS), expires)

        for said in _unknown(directory, part):
            await publish(said["id"], said["priority"], said["deed"], None)
        async with _many(one):
            yield


def _unknown(directory: Path, part: str) -> list[dict[str, str]]:
    """What somebody of our name tried to send, and did not learn the fate of. The last ones of the one before us."""
    notes = list(read_notes(sorted(directory.glob(f"{part}.*.jsonl"), key=lambda path: path.stat().st_mtime)[-2:]))
    acked = {said["key"].rpartition(" ")[2] for said in notes if said["what"] == "acked"}
    return [said for said in notes if said["what"] == "try" and said["id"] not in acked][-20:]


async def caller(broker: str, directory: Path, notes: Notes, part: str) -> AsyncIterator[None]:
    """Calls a tool, and sends messages whose answer it waits for. Each await has its deadline."""
    run, chance = secrets.token_hex(3), random.Random()
    async with Mesh(name=part, broker=broker) as mesh:

        async def one(number: int) -> None:
            limit = chance.uniform(0.5, 6.0)
            if chance.random() < 0.6:
                await notes.within("call", limit, mesh.call(TOOL, "echo", {"text": "x"}, timeout=limit))
                return
            id = f"{run}-{number}"
            work = mesh.messages.send_message(WORKER, "work", {"deed": "fine"}, id=id, timeout=limit)
            if await notes.within("send_message", limit, work) == id:
                notes.write("acked", family="answer", key=f"{WORKER} {part} {id}")

        async with _many(one):
            yield


@asynccontextmanager
async def _many(one: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
    """Do it again and again, a few at once. At the end of the block what runs may end, and nothing begins."""
    leaving = asyncio.Event()
    numbers = iter(range(10**9))

    async def again() -> None:
        while not leaving.is_set():
            await one(next(numbers))
            await asyncio.sleep(PACE)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(again())
        yield
        leaving.set()


ROLES: Final[dict[str, Callable[..., AsyncIterator[None]]]] = {
    "plane": plane,
    "worker": worker,
    "cheat": cheat,
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
