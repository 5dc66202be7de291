"""What becomes of tasks, told to a host without its asking: in the session that made them, or on a listen that names them.

No host may rely on it, so it is bounded: of more tasks than `MOST_FOLLOWED` a session learns when it asks.

Source: MCP 2025-11-25, basic/utilities/tasks; the extension of 2026-07-28, task status notifications.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from bridge.eras.edit import add, cut, find, find_text
from bridge.eras.words import ACKNOWLEDGED
from bridge.tasks import told
from bridge.tasks.asked import id_of
from bridge.tasks.desk import Desk
from bridge.tasks.task import Task
from bridge.visible import Sink
from mesh.background import Background
from mesh.errors import Busy, MeshError
from mesh.wire.jsonrpc import Frame, dumps, scan

MOST_FOLLOWED: Final = 100
"""Tasks of a session at once."""

MOST_HEARD: Final = 200
"""Tasks of all listens of a host at once; one more listen is refused as busy."""

_log = structlog.get_logger("bridge.tasks")


class Follow:
    """Of one host."""

    def __init__(self, desk: Desk, send: Callable[[bytes], None]) -> None:
        self._desk = desk
        self._send = send
        self._following = Background()
        self._heard = 0

    def created(self, task: Task, token: bytes | None) -> None:
        """A session of the handshake era has made it. `token` is the JSON text of the token that it wants progress under."""
        if len(self._following) < MOST_FOLLOWED:
            self._following.start(self._tell_session(task, token), f"task {task.id}")

    async def listen(self, frame: Frame, ids: list[str], sink: Sink, take: Callable[[Frame, Sink], None] | None) -> None:
        """A listen of the modern era: until it is cancelled, or ends at the server that `take` leads to, for who wants to hear of more.
        Raises Busy."""
        if self._heard + len(ids) > MOST_HEARD:
            raise Busy(f"{self._heard} tasks are listened to", retry_after=1.0)
        self._heard += len(ids)
        try:
            await self._listen(frame, ids, sink, take)
        finally:
            self._heard -= len(ids)

    async def _listen(self, frame: Frame, ids: list[str], sink: Sink, take: Callable[[Frame, Sink], None] | None) -> None:
        begun, ended = asyncio.Event(), asyncio.Event()
        if take is not None:
            take(scan(_without_ids(frame.raw)), partial(_on_listened, ids, begun, ended, sink))
            await begun.wait()
        else:
            sink(told.listening(id_of(frame), ids), False)
        async with Background() as following:
            for id in ids:
                following.start(self._tell_listen(id, id_of(frame), sink), f"task {id}")
            await ended.wait()

    async def close(self) -> None:
        await self._following.end()

    async def _tell_session(self, task: Task, token: bytes | None) -> None:
        try:
            async for now in self._desk.watch(task.id):
                if token is not None and not now.over and now.progress is not None and now.progress != task.progress:
                    self._send(told.progressed(now, token))
                if now.status != task.status:
                    self._send(told.changed(now, modern=False))
                task = now
        except MeshError as problem:
            _log.info("a task is followed no more", task=task.id, why=str(problem))

    async def _tell_listen(self, id: str, listen: bytes, sink: Sink) -> None:
        try:
            async for now in self._desk.watch(id):
                sink(told.changed(now, modern=True, listen=listen), False)
        except MeshError as problem:
            _log.info("a task is followed no more", task=id, why=str(problem))


def _without_ids(raw: bytes) -> bytes:
    span = find(raw, "params", "notifications")
    return cut(raw, span[0], {"taskIds"}) if span is not None else raw


def _on_listened(ids: list[str], begun: asyncio.Event, ended: asyncio.Event, sink: Sink, raw: bytes, final: bool) -> None:
    """A frame of the listen at the server, whose first one says what of it is honoured."""
    if not final and not begun.is_set() and find_text(raw, "method") == ACKNOWLEDGED:
        span = find(raw, "params", "notifications")
        sink(add(raw, span[0], b'"taskIds":' + dumps(ids)) if span is not None else raw, False)
        begun.set()
        return
    sink(raw, final)
    if final:
        begun.set()
        ended.set()
