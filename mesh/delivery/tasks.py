"""Tasks with an owner: their failures are told, and none outlives it."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final, Self

import structlog

_log: Final = structlog.get_logger("mesh.delivery")


class Tasks:
    """Tasks with an owner: what is left of them is cancelled and awaited at the end of the block."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end(0)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self.own(asyncio.create_task(work, name=name))

    def own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def end(self, patience: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._tasks:  # one may start another as its last deed
                    await asyncio.wait(self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task failed", task=task.get_name(), error=repr(error))
