"""What the tests of jobs share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mesh import Mesh
from mesh.jobs import JobWorker, Work


class Hands:
    """A handler that notes what it gets, and does what it is told: a value, an exception, or something to call with the work."""

    def __init__(self, *then: Any) -> None:
        self.then = list(then)
        self.got: list[Work] = []
        self.stopped = 0
        self._changed = asyncio.Event()

    async def __call__(self, work: Work) -> Any:
        self.got.append(work)
        self._changed.set()
        what = self.then.pop(0) if self.then else {"echo": work.arguments}
        try:
            if isinstance(what, BaseException):
                raise what
            return await what(work) if callable(what) else what
        except asyncio.CancelledError:
            self.stopped += 1
            self._changed.set()
            raise

    async def until(self, true: Callable[["Hands"], object], timeout: float = 15) -> None:
        async with asyncio.timeout(timeout):
            while not true(self):
                self._changed.clear()
                await self._changed.wait()


async def forever(_: Work) -> Any:
    await asyncio.Event().wait()


@asynccontextmanager
async def worker(url: str, name: str, handler: Any, **options: Any) -> AsyncIterator[JobWorker]:
    roles = options.get("roles", ())
    async with Mesh(name=name, broker=url, roles=("agent", *roles)) as mesh, mesh.jobs.work(handler, **options) as working:
        yield working


@asynccontextmanager
async def joined(url: str, name: str = "boss") -> AsyncIterator[Mesh]:
    async with Mesh(name=name, broker=url) as mesh:
        yield mesh
