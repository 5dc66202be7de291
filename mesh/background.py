"""Work beside what runs, with an owner: its failures are told, and none outlives it."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Self

from mesh.errors import MeshError


class Background:
    """The tasks of one owner, who calls `end`, or has a block of it: what is left is cancelled and awaited then. A task may end its own
    owner: it is neither cancelled nor awaited by that. `len` counts those that run."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        _ = self.own(asyncio.create_task(work, name=name))

    def own(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """For who needs the task too, say to cancel it."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def cancel(self) -> None:
        """Wait for none."""
        for task in self._others():
            task.cancel()

    async def wait(self, seconds: float | None = None) -> list[str]:
        """Until all have ended by themselves, or so long. The names of those that have not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while others := self._others():  # one may start another as its last deed
                    await asyncio.wait(others)
        return [task.get_name() for task in self._others()]

    async def end(self, patience: float = 0.0) -> None:
        """Cancel what has not ended by itself within `patience` seconds, and wait for it. What could go on right now gets its turn first:
        what was handed to it is in its hands then."""
        await self.wait(patience)
        while others := self._others():
            await end_tasks(*others)

    def _others(self) -> set[asyncio.Task[None]]:
        return self._tasks - {asyncio.current_task()}

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        import structlog  # failures are rare, and `mesh --help` does not wait for it

        log = structlog.get_logger("mesh.background")
        if isinstance(error, MeshError):
            log.warning("a task failed", task=task.get_name(), why=str(error))
        else:
            log.error("a task failed", task=task.get_name(), exc_info=error)


async def end_tasks(*tasks: "asyncio.Future[Any] | None") -> None:
    """Cancel them and wait until they have ended. How, is for who has them to say."""
    there = [task for task in tasks if task is not None]
    for task in there:
        task.cancel()
    await asyncio.gather(*there, return_exceptions=True)
