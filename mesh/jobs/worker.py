"""Who does jobs: when one comes for its names, it takes them from their stream, and gives each to `mesh.jobs.doing`.

`mesh.delivery` brings a job, keeps it in hand by a word to the broker every few seconds, and brings it to another worker when that word
stays out.

**Cheap for who never gets a job.** Until the first job comes there is one subscription to a name, on which the broker shows each job that
it stores, and one question to the control plane, whether some wait. Then the consumer is made and pulled from.
"""

import asyncio
import contextlib
from collections.abc import Collection, Hashable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, Self

import structlog

from mesh.background import end_tasks
from mesh.delivery import Lane, Receiver, consumer_config
from mesh.errors import Denied, MeshError
from mesh.jobs.asking import FIRST_DELAY, Asks
from mesh.jobs.desk import job_lane
from mesh.jobs.doing import Doing, Handler
from mesh.jobs.family import Forgetful, Item, JobFamily
from mesh.jobs.records import shown
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import JetStream
from mesh.subjects import Subjects
from mesh.wire.job import LONGEST_KEPT

LOOK_AGAIN: Final = 30.0
"""Seconds between two questions for a consumer, where nobody could say whether there is one. A job that comes asks at once."""

_log: Final = structlog.get_logger("mesh.jobs")


class JobWorker:
    """`async with` it: while it lasts, `handler` does the jobs to `targets`, `workers` of them at once."""

    def __init__(
        self, connection: Connection, subjects: Subjects, ask: Asks, targets: tuple[str, ...], handler: Handler, *, workers: int
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._ask = ask
        self._targets = targets
        self._workers = workers
        self._js = JetStream(connection)
        self._doing = Doing(self._js, ask, handler)
        self._noticed: set[Hashable] = set()
        self._look_now = asyncio.Event()
        self._receiver: Receiver[Item] | None = None
        self._receiving = AsyncExitStack()
        self._stack = AsyncExitStack()
        self.notices: Mapping[str, Hashable] = {subjects.jobs_to(target): target for target in targets}

    @property
    def working(self) -> bool:
        """Whether a job has come, so that there is a consumer to pull from."""
        return self._receiver is not None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for subject, target in self.notices.items():
                subscription = await self._connection.subscribe(subject, partial(self._notice, target))
                stack.push_async_callback(subscription.unsubscribe)
            stack.callback(self._connection.on_up(self._on_up))
            opening = asyncio.create_task(self._open(), name="the first job")
            stack.push_async_callback(self._close, opening)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _notice(self, target: Hashable, _: Message) -> None:
        if target not in self._noticed:
            self._noticed.add(target)
            self._look_now.set()

    def _on_up(self) -> None:
        self._look_now.set()
        self._doing.check()

    def _on_change(self, message: Message) -> None:
        if (said := shown(self._subjects, message)) is not None:
            self._doing.heard(said)

    async def _open(self) -> None:
        """Wait until there is something to pull from, and pull."""
        delay = FIRST_DELAY
        while True:
            self._look_now.clear()
            lanes, all_found = await self.find(self._noticed)
            if lanes:
                try:
                    await self._receive()
                    return
                except MeshError as problem:
                    _log.info("jobs cannot be received now", why=str(problem))
                    all_found = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if all_found else delay):
                    await self._look_now.wait()
            delay = FIRST_DELAY if all_found else min(LOOK_AGAIN, delay * 2)

    async def _receive(self) -> None:
        async with AsyncExitStack() as stack:
            for target in self._targets:
                subscription = await self._connection.subscribe(self._subjects.job_states_of(target), self._on_change)
                stack.push_async_callback(subscription.unsubscribe)
            receiver: Receiver[Item] = Receiver(
                self._js,
                self._subjects,
                JobFamily(self._subjects, self._doing.bury),
                self,
                self._doing.do,
                workers=self._workers,
                prefetch=self._workers,  # what waits here could run elsewhere
                handler_seconds=float(LONGEST_KEPT),
                handled=Forgetful(),
            )
            self._receiver = await stack.enter_async_context(receiver)
            self._receiving = stack.pop_all()

    async def _close(self, opening: "asyncio.Task[None]") -> None:
        await end_tasks(opening)
        await self._receiving.aclose()

    async def find(self, noticed: Collection[Hashable]) -> tuple[Collection[Lane], bool]:
        """As a `Source` of mesh.delivery. Where a consumer is there nobody is asked: so jobs go on while no control plane runs."""
        lanes, all_found = [], True
        for target in self._targets:
            spec = job_lane(self._subjects, target)
            try:
                there = await consumer_config(self._js, spec.stream, spec.name) is not None
                there = there or (await self._ask("lane", {"target": target, "wanted": target in noticed})).get("lane") is True
            except MeshError as problem:
                _log.info("nobody makes lanes for jobs now", target=target, why=str(problem))
                there, all_found = False, isinstance(problem, Denied) and all_found
            if there:
                lanes.append(Lane(target, "normal", spec.stream, spec.name))
        return lanes, all_found
