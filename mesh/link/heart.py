"""Heartbeats from a thread of their own, so that a busy second of the event loop starves none.

A heartbeat is a put into the health bucket with a time to live. It is sent while the event loop that it speaks for turns: a loop that
has not turned for `STALLED` seconds hangs, its beats stop, and the broker lets its key expire. So a computation that
blocks for a second is not a death, and a deadlock is one, known within six seconds: 1.5 until the beats stop, 4 until the key expires.

One thread serves all agents of a process. Each agent has a connection in it, since the broker lets nobody beat for another.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import structlog

from mesh import clock
from mesh.background import end_tasks
from mesh.errors import MeshError
from mesh.link.connection import Connection
from mesh.wire.entries import HEALTH_TTL_SECONDS, HEARTBEAT_SECONDS

STALLED: Final = 1.5
TICK: Final = 0.25

FAREWELL: Final = 1.0
"""Seconds to wait until the broker has read the last heartbeat."""

_log = structlog.get_logger("mesh.link")

Beat = Callable[[], bytes | None]
"""The value of the next heartbeat; None for none (the connection that it speaks for is down). Called in the thread: it only reads."""

OpenConnection = Callable[[], Awaitable[Connection]]
"""A connection with the rights of the agent whose heart beats. Called in the thread."""


@dataclass(frozen=True, slots=True)
class _Pulse:
    beat: Beat
    open_connection: OpenConnection


class Heart:
    """Make it in the event loop that it is to speak for; its methods are called there."""

    def __init__(self) -> None:
        self._pulses: dict[str, _Pulse] = {}
        self._turned = clock.monotonic()
        self._stopping = threading.Event()
        self._ticker: asyncio.Task[None] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._thread: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The thread's own, while it runs."""
        self._beating: dict[str, tuple[_Pulse, asyncio.Task[None]]] = {}
        """For the thread alone."""

    def add(self, subject: str, beat: Beat, open_connection: OpenConnection) -> None:
        """Send `beat()` to `subject` (a key of the health bucket) every second. The first heartbeat is the caller's to send."""
        self._pulses[subject] = _Pulse(beat, open_connection)
        if self._thread is None:
            self._ticker = asyncio.create_task(self._tick(), name="heart ticker")
            # Not the loop's own threads: there are six of them on two cores, and name look-ups and files need one too.
            self._executor = ThreadPoolExecutor(1, "heart")
            self._thread = asyncio.get_running_loop().run_in_executor(self._executor, self._run)

    async def remove(self, subject: str) -> None:
        """Send no more there. Once it returns the broker has read the last heartbeat (unless it is away): no late one undoes a farewell."""
        if self._pulses.pop(subject, None) is None or self._loop is None:
            return
        ending = asyncio.run_coroutine_threadsafe(self._finish(subject), self._loop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await asyncio.wrap_future(ending)

    async def close(self) -> None:
        """Send no more, and wait for the thread. Idempotent."""
        self._pulses.clear()
        if self._ticker is None or self._thread is None or self._executor is None:
            return
        self._ticker.cancel()
        self._stopping.set()
        await asyncio.gather(self._ticker, self._thread, return_exceptions=True)
        self._executor.shutdown(wait=False)
        self._ticker = self._thread = self._executor = None

    async def _tick(self) -> None:
        while True:
            self._turned = clock.monotonic()
            await asyncio.sleep(TICK)

    # in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._beat_all())
        except Exception:
            _log.exception("heartbeats ended")

    async def _beat_all(self) -> None:
        """A task for each pulse, while it is there: one whose connection cannot be opened delays no other."""
        self._loop, beating = asyncio.get_running_loop(), self._beating
        while not self._stopping.is_set():
            wanted = dict(self._pulses)
            for subject in [each for each, (pulse, _) in beating.items() if wanted.get(each) is not pulse]:
                await end_tasks(beating.pop(subject)[1])
            for subject, pulse in wanted.items():
                if subject not in beating and subject in self._pulses:
                    beating[subject] = pulse, asyncio.create_task(self._beat_on(subject, pulse), name=f"heartbeat {subject}")
            await asyncio.sleep(TICK)
        self._loop = None
        await end_tasks(*(task for _, task in beating.values()))

    async def _finish(self, subject: str) -> None:
        if (beating := self._beating.pop(subject, None)) is not None:
            await end_tasks(beating[1])

    async def _beat_on(self, subject: str, pulse: _Pulse) -> None:
        connection: Connection | None = None
        headers = {"Nats-TTL": f"{HEALTH_TTL_SECONDS}s"}
        try:
            while True:
                try:
                    if connection is None:
                        connection = await pulse.open_connection()
                    if clock.monotonic() - self._turned <= STALLED and (value := pulse.beat()) is not None:
                        connection.send(subject, value, headers=headers)
                except MeshError as error:
                    _log.debug("no heartbeat", error=str(error))
                await asyncio.sleep(HEARTBEAT_SECONDS)
        finally:
            if connection is not None:
                with contextlib.suppress(MeshError):
                    await connection.flush(FAREWELL)
                await connection.close()
