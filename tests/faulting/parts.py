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
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from mesh import Mesh, MeshError
from mesh.broker import AgentMessage, Reject
from mesh.delivery import AlreadyHandled, HandledInSqlite, Key
from mesh.events.subscribing import only
from mesh.jobs import Work
from mesh.policy.retry import Backoff
from mesh.subjects import PRIORITIES
from mesh.wire.event import Event
from tests.faulting.notes import Notes, read_notes

WORKER: Final = "worker"
LISTENER: Final = "listener"
HAND: Final = "hand"
TOOL: Final = "tool"

TOPIC: Final = "work"
NAMED: Final = "ledger"
HEARD: Final = only(LISTENER, NAMED)
"""What the subscription is called where it is to be told from others."""

PUBLISH_LIMIT: Final = 20.0
"""Seconds that `publish_message` tries."""

PACE: Final = 0.03
"""Seconds between two messages, or calls, of one task."""

COLLECTING: Final = 6.0
"""Seconds that a caller waits for a job of the one before it."""

AT_ONCE: Final = 4
BACKOFF: Final = Backoff(first=0.1, longest=1.0)

LATE: Final = 1.0
"""Seconds after the acknowledgement in which the worker that cheats does its work."""

INSERT: Final = "INSERT INTO effects VALUES (?, ?)"

DEEDS: Final = ("fine",) * 90 + ("flaky",) * 6 + ("fail",) * 2 + ("reject",) * 2
"""What a message asks of its worker: to do it; to fail at the first attempt; at every one; to reject it."""


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
        key = (HEARD, event.publisher, event.id)
        obey(key, event.data["deed"])
        await effects.do(key)

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


async def sender(broker: str, directory: Path, notes: Notes, part: str) -> AsyncIterator[None]:
    """Publishes messages and events, and notes which of them the broker has acknowledged."""
    run, chance = secrets.token_hex(3), random.Random()
    async with Mesh(name=part, broker=broker) as mesh:

        async def publish(id: str, priority: str, deed: str, expires: float | None) -> None:
            notes.write("try", family="message", id=id, priority=priority, deed=deed)
            work = mesh.messages.publish_message(WORKER, "work", {"deed": deed}, id=id, priority=priority, expires=expires)
            if await notes.within("publish_message", PUBLISH_LIMIT, work) is not None:
                notes.write("acked", family="message", key=f"{WORKER} {part} {id}")

        async def tell(id: str, priority: str, deed: str) -> None:
            notes.write("try", family="event", id=id, priority=priority, deed=deed)
            work = mesh.events.publish(f"{TOPIC}.{deed}", {"deed": deed}, id=id, priority=priority)
            if await notes.within("publish", PUBLISH_LIMIT, work) is not None:
                notes.write("acked", family="event", key=f"{HEARD} {part} {id}")

        async def one(number: int) -> None:
            id, priority, deed = f"{run}-{number}", chance.choice(PRIORITIES), chance.choice(DEEDS)
            if number % 3 == 0:
                await tell(id, priority, deed)
            else:
                await publish(id, priority, deed, 5.0 if chance.random() < 0.02 else None)

        for said in _unknown(directory, part):
            if said["family"] == "event":
                await tell(said["id"], said["priority"], said["deed"])
            else:
                await publish(said["id"], said["priority"], said["deed"], None)
        async with _many(one):
            yield


def _unknown(directory: Path, part: str) -> list[dict[str, str]]:
    """What somebody of our name tried to send, and did not learn the fate of. The last ones of the one before us."""
    notes = list(read_notes(sorted(directory.glob(f"{part}.*.jsonl"), key=lambda path: path.stat().st_mtime)[-2:]))
    acked = {said.get("id", said["key"].rpartition(" ")[2]) for said in notes if said["what"] == "acked"}
    return [said for said in notes if said["what"] == "try" and said["id"] not in acked][-20:]


def _uncollected(directory: Path, part: str) -> list[dict[str, str]]:
    """Jobs that somebody of our name submitted, and did not wait for to the end."""
    notes = list(read_notes(directory.glob(f"{part}.*.jsonl")))
    collected = {said["job"] for said in notes if said["what"] == "collected"}
    return [said for said in notes if said["what"] == "acked" and said["family"] == "job" and said["job"] not in collected][-20:]


async def caller(broker: str, directory: Path, notes: Notes, part: str) -> AsyncIterator[None]:
    """Calls a tool, submits jobs, and sends messages whose answer it waits for. Each await has its deadline."""
    run, chance = secrets.token_hex(3), random.Random()
    async with Mesh(name=part, broker=broker) as mesh:

        async def job(id: str, deed: str, limit: float) -> None:
            notes.write("try", family="job", id=id, deed=deed)
            submitted = await notes.within("submit", PUBLISH_LIMIT, mesh.jobs.submit(HAND, "work", {"deed": deed}, key=id))
            if submitted is not None:
                key = f"{HAND} {part} {submitted.nonce}"
                notes.write("acked", family="job", key=key, id=id, job=submitted.id)
                await collect(submitted.id, key, limit, "answer")

        async def collect(id: str, key: str, limit: float, family: str) -> None:
            ended = await notes.within("wait", limit, mesh.jobs.wait(id, limit))
            if ended is not None:
                notes.write("collected", job=id)
                if ended.state == "done":
                    notes.write("acked", family=family, key=key)

        async def take_over() -> None:
            """The jobs of the one before us: submitted again where it never learnt their fate, and waited for."""
            again = [job(said["id"], said["deed"], COLLECTING) for said in _unknown(directory, part)]
            wait = [collect(said["job"], said["key"], COLLECTING, "collection") for said in _uncollected(directory, part)]
            await asyncio.gather(*again, *wait)

        async def one(number: int) -> None:
            limit = chance.uniform(0.5, 6.0)
            if chance.random() < 0.6:
                await notes.within("call", limit, mesh.call(TOOL, "echo", {"text": "x"}, timeout=limit))
                return
            if number % 4 == 0:
                await job(f"{run}-{number}", chance.choice(DEEDS), limit)
                return
            id = f"{run}-{number}"
            work = mesh.messages.send_message(WORKER, "work", {"deed": "fine"}, id=id, timeout=limit)
            if await notes.within("send_message", limit, work) == id:
                notes.write("acked", family="answer", key=f"{WORKER} {part} {id}")

        async with _many(one, take_over()):
            yield


@asynccontextmanager
async def _many(one: Callable[[int], Awaitable[None]], *first: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do it again and again, a few at once. At the end of the block what runs may end, and nothing begins."""
    leaving = asyncio.Event()
    numbers = iter(range(10**9))

    async def again() -> None:
        while not leaving.is_set():
            await one(next(numbers))
            await asyncio.sleep(PACE)

    async with asyncio.TaskGroup() as group:
        for each in first:
            group.create_task(each)
        for _ in range(AT_ONCE):
            group.create_task(again())
        yield
        leaving.set()


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
