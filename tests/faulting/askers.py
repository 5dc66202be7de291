"""Those who send and call: what they know of the fate of what they sent, they note."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from mesh import Mesh
from mesh.subjects import PRIORITIES
from tests.faulting.names import DEEDS, HAND, HEARD, TOOL, TOPIC, WORKER
from tests.faulting.notes import Notes, read_notes

PUBLISH_LIMIT: Final = 20.0
"""Seconds that `publish_message` tries."""

PACE: Final = 0.03
"""Seconds between two messages, or calls, of one task."""

COLLECTING: Final = 6.0
"""Seconds that a caller waits for a job of the one before it."""

AT_ONCE: Final = 4


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
                notes.write("acked", family="event", key=f"{HEARD} {TOPIC}.{deed} {part} {id}")

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
