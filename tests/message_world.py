"""What the tests of durable messages share: a handler that notes, a receiver, and ways to wait."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mesh import Mesh
from mesh.broker import AgentMessage
from mesh.link.jetstream import JetStream
from mesh.policy.retry import Backoff
from mesh.topology import LANES
from tests.helpers import Signals

AT_ONCE = Backoff(first=0.01, longest=0.02)


class Inbox:
    """A handler that notes what comes, and then does what it is told."""

    def __init__(self, *then: Any) -> None:
        self.messages: list[AgentMessage] = []
        self.signals = Signals()
        self.then = list(then)

    async def __call__(self, message: AgentMessage) -> Any:
        self.messages.append(message)
        self.signals.tell()
        what = self.then.pop(0) if self.then else None
        if isinstance(what, BaseException):
            raise what
        return what

    @property
    def contents(self) -> list[Any]:
        return [each.content for each in self.messages]

    async def holds(self, count: int, timeout: float = 10.0) -> None:
        await self.signals.until(lambda: len(self.messages) >= count, timeout)


@asynccontextmanager
async def receiving(url: str, name: str, handler: Any, **options: Any) -> AsyncIterator[Any]:
    options.setdefault("backoff", AT_ONCE)
    roles = options.get("roles", ())
    async with (
        Mesh(name=name, broker=url, roles=("agent", "host", *roles)) as mesh,
        mesh.messages.subscribe_to_messages(handler, **options) as taking,
    ):
        yield taking


@asynccontextmanager
async def joined(url: str, name: str = "sender") -> AsyncIterator[Mesh]:
    async with Mesh(name=name, broker=url) as mesh:
        yield mesh


async def waiting(url: str, target: str, priority: str = "normal") -> int:
    """How many messages the broker keeps for a name."""
    async with joined(url, "operator") as mesh:
        state = (
            await JetStream(mesh.connection).api(
                f"STREAM.INFO.{LANES[priority]}", {"subjects_filter": mesh.subjects.lane(target, priority)}
            )
        )["state"]
        return sum((state.get("subjects") or {}).values())


async def until(true: Callable[[], object], timeout: float = 10.0) -> None:
    """For what nobody tells."""
    async with asyncio.timeout(timeout):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_gone(url: str, target: str, priority: str = "normal") -> None:
    async with asyncio.timeout(10):
        while await waiting(url, target, priority):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def letters(url: str, target: str, count: int = 1, timeout: float = 15.0) -> list[Any]:
    """The dead letters of a name, once there are so many."""
    async with joined(url, "operator") as mesh, asyncio.timeout(timeout):
        while True:
            found = await mesh.messages.dead_letters.find(target=target)
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


async def again(mesh: Mesh, target: str, message: AgentMessage) -> None:
    """Store it once more, as a sender does whose broker forgot that it has it: without a deduplication id."""
    subject = mesh.subjects.message(target, "sender", message.priority)
    await JetStream(mesh.connection).publish(subject, message.encode())
