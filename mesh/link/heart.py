"""Heartbeats from a thread of their own, so that a busy second of the event loop starves none.

A heartbeat is a put into the health bucket with a time to live. It is sent while the event loop that it speaks for turns: a loop that
has not turned for `STALLED` seconds hangs, its beats stop, and the broker lets its key expire. So a computation that
blocks for a second is not a death, and a deadlock is one, known within six seconds: 1.5 until the beats stop, 4 until the key expires.

One thread and one connection serve all agents of a process.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from mesh import clock
from mesh.errors import MeshError
from mesh.link.connection import Connection
from mesh.wire.entries import HEALTH_TTL_SECONDS, HEARTBEAT_SECONDS

STALLED: Final = 1.5
TICK: Final = 0.25

_log = structlog.get_logger("mesh.link")

Beat = Callable[[], bytes | None]
"""The value of the next heartbeat; None for none (the connection that it speaks for is down). Called in the thread: it only reads."""


class Heart:
    """Start it in the event loop that it is to speak for; `add` and `remove` are called there."""

    def __init__(self, open_connection: Callable[[], Awaitable[Connection]]) -> None:
        self._open_connection = open_connection
        self._beats: dict[str, Beat] = {}
        self._turned = clock.monotonic()
        self._stopping = threading.Event()
        self._ticker: asyncio.Task[None] | None = None
        self._thread: asyncio.Task[None] | None = None

    def add(self, subject: str, beat: Beat) -> None:
        """Send `beat()` to `subject` (a key of the health bucket) every second. The first heartbeat is the caller's to send."""
        self._beats[subject] = beat
        if self._thread is None:
            self._ticker = asyncio.create_task(self._tick(), name="heart ticker")
            self._thread = asyncio.create_task(asyncio.to_thread(self._run), name="heart")

    def remove(self, subject: str) -> None:
        self._beats.pop(subject, None)

    async def close(self) -> None:
        """Send no more, and wait for the thread. Idempotent."""
        self._beats.clear()
        if self._ticker is None or self._thread is None:
            return
        self._ticker.cancel()
        self._stopping.set()
        await asyncio.gather(self._ticker, self._thread, return_exceptions=True)
        self._ticker = self._thread = None

    async def _tick(self) -> None:
        while True:
            self._turned = clock.monotonic()
            await asyncio.sleep(TICK)

    def _run(self) -> None:
        try:
            asyncio.run(self._beat_on())
        except Exception:
            _log.exception("heartbeats ended")

    async def _beat_on(self) -> None:
        connection: Connection | None = None
        while not self._stopping.is_set():
            try:
                if connection is None:
                    connection = await self._open_connection()
                self._send_all(connection)
            except MeshError as error:
                _log.debug("no heartbeat", error=str(error))
            for _ in range(round(HEARTBEAT_SECONDS / TICK)):
                if not self._stopping.is_set():
                    await asyncio.sleep(TICK)
        if connection is not None:
            await connection.close()

    def _send_all(self, connection: Connection) -> None:
        if clock.monotonic() - self._turned > STALLED:
            return
        headers = {"Nats-TTL": f"{HEALTH_TTL_SECONDS}s"}
        for subject, beat in list(self._beats.items()):
            value = beat()
            if value is not None:
                connection.send(subject, value, headers=headers)
