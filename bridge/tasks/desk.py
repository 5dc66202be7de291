"""What becomes of tasks: jobs of the participant that the host is (`mesh.jobs`). So another identity never finds them, and the same one
does after any restart.

Hosts look once a second, as they are asked to, and the control plane answers one participant 200 questions a minute: so a task that is
looked at again is followed, and the broker's word on each change is what a look finds.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final

from bridge.tasks.task import Task, task_of
from bridge.tasks.whose import Called
from mesh import Mesh, clock
from mesh.background import Background, end_tasks
from mesh.errors import CallTimeout, MeshError, NoSuchJob, TooLarge
from mesh.jobs import JobRecord

WAIT: Final = 60.0
"""Seconds of one wait for a result; there is another one as long as somebody waits."""

GIVING_UP: Final = 2.0
"""Seconds that the end of a host's links waits for the cancellations that it brings."""

LOOKED: Final = 30.0
"""Seconds between two looks at a task within which it is followed."""

MOST_LOOKED: Final = 100
"""Tasks that are followed for who looks at them; of any more the control plane is asked each time."""

MOST_LARGE: Final = 1_000
"""Tools of which it is remembered that a result was too large for a job."""


class _Looked:
    """A task that somebody looks at."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.task: Task | None = None
        """As it is, once that is followed."""
        self.following: asyncio.Task[None] | None = None


class Desk:
    """Of one participant, for all its hosts. Where the control plane does not answer, all of it raises MeshError."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._given_up = Background()
        self._looked: dict[str, _Looked] = {}
        self._large: dict[tuple[str, str | None], None] = {}

    async def submit(self, called: Called, keep: int, attempts: int) -> Task:
        """A job that is done within `keep` seconds, and whose result is kept for as long. Raises MeshError: there is none then. Who is
        cancelled meanwhile leaves none either."""
        work = self._mesh.jobs.submit(called.agent, called.tool, called.arguments, keep=keep, deadline=keep, attempts=attempts)
        submitting = asyncio.create_task(work, name=f"submit {called.agent}/{called.tool}")
        try:
            return self._task(await asyncio.shield(submitting))
        except asyncio.CancelledError:
            self._own(self._withdraw(submitting))
            raise

    async def get(self, id: str) -> Task | None:
        """None for what is not there, and for what is another's, which operators could see."""
        looked = self._looked.get(id)
        if looked is not None and looked.task is not None:
            looked.at = clock.monotonic()
            return looked.task
        try:
            job = await self._mesh.jobs.get(id)
        except NoSuchJob:
            return None
        if job.caller != self._mesh.name:
            return None
        task = self._task(job)
        if not task.over:
            self._look(id, clock.monotonic())
        return task

    async def all(self) -> list[Task]:
        """Of their results only whether they say that the tool failed."""
        return [task_of(job) for job in await self._mesh.jobs.list()]

    async def wait(self, id: str, seconds: float = WAIT) -> Task | None:
        """Until it is over, or so long; then as it is. None as `get`."""
        try:
            return self._task(await self._mesh.jobs.wait(id, seconds))
        except CallTimeout:
            return await self.get(id)
        except NoSuchJob:
            return None

    async def watch(self, id: str) -> AsyncIterator[Task]:
        """As it is, and each change that is noticed, until it is over."""
        async for job in self._mesh.jobs.watch(id):
            yield self._task(job)

    async def cancel(self, id: str) -> None:
        await self._mesh.jobs.cancel(id)
        looked = self._looked.pop(id, None)  # what was heard of it is older
        if looked is not None and looked.following is not None:
            looked.following.cancel()

    def too_large(self, called: Called) -> bool:
        """Whether a result of this tool did not fit into a job, as far as is known here. That of a call may be of any size."""
        return (called.agent, called.tool) in self._large

    def give_up(self, id: str) -> None:
        """Nobody learnt of it: cancel it, and wait for nothing."""
        self._own(self._cancel(id))

    async def close(self) -> None:
        await self._given_up.end(GIVING_UP)
        await end_tasks(*(each.following for each in self._looked.values()))

    def _task(self, job: JobRecord) -> Task:
        data = (job.error or {}).get("data")
        if isinstance(data, dict) and data.get("mesh") == TooLarge.code:
            self._large[job.target, job.name] = None
            while len(self._large) > MOST_LARGE:
                del self._large[next(iter(self._large))]
        return task_of(job)

    def _look(self, id: str, now: float) -> None:
        """It is at work, and somebody has looked at it: who does so again will do so more often."""
        looked = self._looked.get(id)
        if looked is not None:
            if looked.following is None:
                looked.following = asyncio.create_task(self._follow(id, looked), name=f"how {id} stands")
            looked.at = now
            return
        if len(self._looked) >= MOST_LOOKED:
            for old in [each for each, one in self._looked.items() if one.following is None and now - one.at > LOOKED]:
                del self._looked[old]
        if len(self._looked) < MOST_LOOKED:
            self._looked[id] = _Looked(now)

    async def _follow(self, id: str, looked: _Looked) -> None:
        """Until it is over, or nobody looks at it any more."""
        try:
            while (left := looked.at + LOOKED - clock.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left), contextlib.aclosing(self._mesh.jobs.watch(id)) as jobs:
                        async for job in jobs:
                            looked.task = self._task(job)
                        return
        except MeshError:
            return  # who looks next is told
        finally:
            if self._looked.get(id) is looked:
                del self._looked[id]

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        self._given_up.start(work, "a task that nobody wants")

    async def _withdraw(self, submitting: "asyncio.Task[JobRecord]") -> None:
        with contextlib.suppress(MeshError):
            await self.cancel((await submitting).id)

    async def _cancel(self, id: str) -> None:
        with contextlib.suppress(MeshError):
            await self.cancel(id)
