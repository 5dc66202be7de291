"""What becomes of tasks: jobs of the participant that the host is (`mesh.jobs`). So another identity never finds them, and the same one
does after any restart.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

from bridge.tasks.task import Task, task_of
from bridge.tasks.whose import Called
from mesh import Mesh
from mesh.errors import CallTimeout, MeshError, NoSuchJob
from mesh.jobs import JobRecord

WAIT: Final = 60.0
"""Seconds of one wait for a result; there is another one as long as somebody waits."""

GIVING_UP: Final = 2.0
"""Seconds that the end of a host's links waits for the cancellations that it brings."""


class Desk:
    """Of one participant, for all its hosts. Where the control plane does not answer, all of it raises MeshError."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._given_up: set[asyncio.Task[Any]] = set()

    async def submit(self, called: Called, keep: int, attempts: int) -> Task:
        """A job that is done within `keep` seconds, and whose result is kept for as long. Raises MeshError: there is none then. Who is
        cancelled meanwhile leaves none either."""
        work = self._mesh.jobs.submit(called.agent, called.tool, called.arguments, keep=keep, deadline=keep, attempts=attempts)
        submitting = asyncio.create_task(work, name=f"submit {called.agent}/{called.tool}")
        try:
            return task_of(await asyncio.shield(submitting))
        except asyncio.CancelledError:
            self._own(self._withdraw(submitting))
            raise

    async def get(self, id: str) -> Task | None:
        """None for what is not there, and for what is another's, which operators could see."""
        try:
            job = await self._mesh.jobs.get(id)
        except NoSuchJob:
            return None
        return task_of(job) if job.caller == self._mesh.name else None

    async def all(self) -> list[Task]:
        """Without their results."""
        return [task_of(job) for job in await self._mesh.jobs.list()]

    async def wait(self, id: str, seconds: float = WAIT) -> Task | None:
        """Until it is over, or so long; then as it is. None as `get`."""
        try:
            return task_of(await self._mesh.jobs.wait(id, seconds))
        except CallTimeout:
            return await self.get(id)
        except NoSuchJob:
            return None

    async def watch(self, id: str) -> AsyncIterator[Task]:
        """As it is, and each change that is noticed, until it is over."""
        async for job in self._mesh.jobs.watch(id):
            yield task_of(job)

    async def cancel(self, id: str) -> None:
        await self._mesh.jobs.cancel(id)

    def give_up(self, id: str) -> None:
        """Nobody learnt of it: cancel it, and wait for nothing."""
        self._own(self._cancel(id))

    async def close(self) -> None:
        if self._given_up:
            await asyncio.wait(self._given_up, timeout=GIVING_UP)
        late = list(self._given_up)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="a task that nobody wants")
        self._given_up.add(task)
        task.add_done_callback(self._given_up.discard)

    async def _withdraw(self, submitting: "asyncio.Task[JobRecord]") -> None:
        with contextlib.suppress(MeshError):
            await self.cancel((await submitting).id)

    async def _cancel(self, id: str) -> None:
        with contextlib.suppress(MeshError):
            await self.cancel(id)
