"""What the tests of events share: a handler that notes, subscribers, and ways to wait."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mesh import Mesh
from mesh.events import Event
from mesh.link.jetstream import JetStream
from mesh.topology import EVENTS
from tests.helpers import Signals
from tests.message_world import AT_ONCE


class Heard:
    """A handler that notes what it hears, and then does what it is told."""

    def __init__(self, *then: Any) -> None:
        self.events: list[Event] = []
        self.signals = Signals()
        self.then = list(then)

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.signals.tell()
        what = self.then.pop(0) if self.then else None
        if isinstance(what, BaseException):
            raise what

    @property
    def data(self) -> list[Any]:
        return [each.data for each in self.events]

    async def holds(self, count: int, timeout: float = 10.0) -> None:
        await self.signals.until(lambda: len(self.events) >= count, timeout)


@asynccontextmanager
async def joined(url: str, name: str = "publisher", *roles: str) -> AsyncIterator[Mesh]:
    async with Mesh(name=name, broker=url, roles=("agent", "host", *roles)) as mesh:
        yield mesh


@asynccontextmanager
async def hearing(mesh: Mesh, topic: str, handler: Any, name: str | None = None, **options: Any) -> AsyncIterator[Any]:
    if name is not None:
        options.setdefault("backoff", AT_ONCE)
    async with mesh.events.subscribe(topic, handler, name=name, **options) as subscription:
        yield subscription


async def consumers(url: str) -> dict[str, dict[str, Any]]:
    """All consumers of EVENTS, by name."""
    async with Mesh(name="operator", broker=url) as mesh:
        page = await JetStream(mesh.connection).api(f"CONSUMER.LIST.{EVENTS}")
        return {each["name"]: each for each in page["consumers"] or []}


async def state(url: str) -> dict[str, Any]:
    async with Mesh(name="operator", broker=url) as mesh:
        return dict((await JetStream(mesh.connection).api(f"STREAM.INFO.{EVENTS}", {"subjects_filter": ">"}))["state"])
