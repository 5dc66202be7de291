"""A host's way to the mesh, with tasks in front of it.

Theory of operation
-------------------
Each message costs a look-up of its method, and a call a search for the one word that a call for tasks has in it; what is nobody's
here goes on as it came. A request that is answered here is held under its id until then, by a task of its own, since jobs are asked
for at the control plane. In the handshake era the session says whose tasks are: those of a server that announced them itself are
the server's. In the modern era each request stands alone, so the agent is asked once in a while.

A call of the modern era that may be a task is a job from its beginning. One that is done within `GRACE` is answered as if it had
been a call; else its host gets the task. In the handshake era the host says which it wants, and gets it at once.

Source: MCP 2025-11-25, basic/utilities/tasks; the extension `io.modelcontextprotocol/tasks` of 2026-07-28.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from bridge.connect import MOST_OPEN
from bridge.host_link import HostLink
from bridge.tasks import told
from bridge.tasks.asked import About, Asked, Listen, Page, Submit, id_of, mentions, read
from bridge.tasks.desk import Desk
from bridge.tasks.follow import Follow
from bridge.tasks.task import CANCELLED, Task
from bridge.tasks.whose import Whose
from bridge.tasks.words import ATTEMPTS, FORBIDDEN, PAGE
from bridge.visible import Sink
from mesh.background import end_tasks
from mesh.errors import Busy, CallTimeout, Denied, MailboxFull, MalformedMessage, MeshError, TooLarge
from mesh.rpc import error_of
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, error, scan

GRACE: Final = 1.0
"""Seconds that a call of the modern era may take without becoming a task: most do, and nobody need ask for their results."""

STOPPING: Final = 10.0
"""Seconds that a cancellation waits for the work to stop, in the handshake era, whose answer is the cancelled task."""

FEW: Final = 5
"""Tasks of a listen that are asked for one by one."""

NOT_STORED: Final = (Denied, MailboxFull, TooLarge)
"""After these there is no job."""

_log = structlog.get_logger("bridge.tasks")


class Tasked:
    """A `HostLink` in front of another one."""

    def __init__(self, link: HostLink, desk: Desk, whose: Whose, send: Callable[[bytes], None]) -> None:
        """`send` takes what belongs to no request, as that of `link` does."""
        self._link = link
        self._desk = desk
        self._whose = whose
        self._to_host: Sink = lambda raw, _: send(raw)
        self._ours = False
        """Whether the session of the handshake era has its tasks here."""
        self._held: dict[str | int | None, asyncio.Task[None]] = {}
        self._follow = Follow(desk, send)

    @property
    def over(self) -> MeshError | None:
        return self._link.over

    def receive(self, raw: bytes, to: Sink | None = None) -> None:
        try:
            frame = scan(raw)
        except MalformedMessage:
            self._link.receive(raw, to)  # which says what is wrong with it
            return
        self.take(frame, to)

    def take(self, frame: Frame, to: Sink | None = None) -> None:
        way = _WAYS.get(frame.method)
        if way is None or not way(self, frame, to):
            self._link.take(frame, to)

    async def close(self) -> None:
        await end_tasks(*self._held.values())
        await self._follow.close()
        await self._link.close()

    # what the server says of tasks

    def _on_initialize(self, frame: Frame, to: Sink | None) -> bool:
        def heard(raw: bytes, final: bool) -> None:
            if final:
                raw, self._ours = self._whose.opened(raw)
            sink(raw, final)

        sink = to or self._to_host
        self._ours = False
        self._link.take(frame, heard)
        return True

    def _on_discover(self, frame: Frame, to: Sink | None) -> bool:
        if not self._whose.announces:
            return False
        sink = to or self._to_host
        self._link.take(frame, lambda raw, final: sink(self._whose.discovered(raw) if final else raw, final))
        return True

    def _on_tools(self, frame: Frame, to: Sink | None) -> bool:
        if not self._ours or frame.era is not None or not self._whose.announces:
            return False
        sink = to or self._to_host
        self._link.take(frame, lambda raw, final: sink(self._whose.listed(raw) if final else raw, final))
        return True

    # what the host asks

    def _on_call(self, frame: Frame, to: Sink | None) -> bool:
        return mentions(frame) and self._on_asked(frame, to)

    def _on_listen(self, frame: Frame, to: Sink | None) -> bool:
        return b"taskIds" in frame.raw and self._on_asked(frame, to)

    def _on_asked(self, frame: Frame, to: Sink | None) -> bool:
        if frame.kind is not Kind.REQUEST or (frame.era is None and not self._ours) or (asked := read(frame)) is None:
            return False
        sink = to or self._to_host
        if frame.id in self._held:
            data = {"mesh": "refused"}
            sink(error(id_of(frame), control.INVALID_REQUEST, f"the id {id_of(frame).decode()} is in use", data), True)
        elif len(self._held) >= MOST_OPEN:
            sink(error_of(id_of(frame), Busy(f"{MOST_OPEN} requests are under way", retry_after=0.5)), True)
        else:
            task = asyncio.create_task(self._serve(frame, asked, to), name=f"{frame.method} of a host")
            self._held[frame.id] = task
            task.add_done_callback(partial(self._let_go, frame.id))
        return True

    def _on_cancelled(self, frame: Frame, _: Sink | None) -> bool:
        task = self._held.get(frame.cancels) if frame.cancels is not None else None
        if task is not None:
            task.cancel()
        return False  # a listen may be held on both sides, and who does not know the id does nothing

    def _let_go(self, id: str | int | None, task: asyncio.Task[None]) -> None:
        if self._held.get(id) is task:
            del self._held[id]

    async def _serve(self, frame: Frame, asked: Asked | bytes, to: Sink | None) -> None:
        sink = to or self._to_host
        try:
            if frame.era is not None and await self._whose.has_own():
                answer = None
            elif isinstance(asked, bytes):
                answer = asked
            elif isinstance(asked, Listen):
                ids = await self._ours_of(asked.ids)
                await self._follow.listen(frame, ids, sink, self._link.take if asked.others else None)
                return
            elif isinstance(asked, Submit):
                answer = await self._submit(frame, asked)
            elif isinstance(asked, Page):
                answer = await self._page(frame, asked)
            else:
                answer = await self._about(frame, asked)
        except MeshError as problem:
            answer = error_of(id_of(frame), problem)
        except Exception:
            _log.exception("a request for tasks failed", method=frame.method)
            answer = error(id_of(frame), control.INTERNAL_ERROR, "Internal error")
        self._held.pop(frame.id, None)
        if answer is None:
            self._link.take(frame, to)
        else:
            sink(answer, True)

    async def _submit(self, frame: Frame, asked: Submit) -> bytes | None:
        """None: it is no task, and goes on as a call."""
        called = self._whose.called(frame)
        if called is None:
            return None
        tool = await self._whose.tool(called)
        if tool is not None and tool.support == FORBIDDEN:
            return told.forbidden(id_of(frame), called.tool) if asked.must else None
        if not asked.must and (tool is None or (asked.askable and not tool.support) or self._desk.too_large(called)):
            return None
        try:
            task = await self._desk.submit(called, asked.keep, ATTEMPTS if tool is not None and tool.repeatable else 1)
        except NOT_STORED:
            if asked.must:
                raise
            return None  # nobody asked for a job, and a call may succeed
        try:
            if not asked.must:
                with suppress(MeshError):  # nobody can say how it stands: it is stored all the same
                    task = await self._desk.wait(task.id, GRACE) or task
        except asyncio.CancelledError:
            self._desk.give_up(task.id)
            raise
        if asked.must:
            token = frame.raw[slice(*frame.token_span)] if frame.token_span is not None else None
            self._follow.created(task, token)
        elif task.over:
            return told.outcome(id_of(frame), task, modern=True)
        return told.created(id_of(frame), task, modern=not asked.must)

    async def _about(self, frame: Frame, asked: About) -> bytes:
        id, modern = id_of(frame), frame.era is not None
        task = await self._find(asked.id)
        if asked.method == "tasks/result":
            while task is not None and not task.over:
                task = await self._desk.wait(task.id)
        if task is None:
            return told.not_found(id)
        if asked.method == "tasks/result":
            return told.outcome(id, task, modern)
        if asked.method == "tasks/cancel":
            return await self._cancel(id, task, modern)
        return told.acknowledged(id) if asked.method == "tasks/update" else told.got(id, task, modern)

    async def _cancel(self, id: bytes, task: Task, modern: bool) -> bytes:
        if not task.over:
            await self._desk.cancel(task.id)
        if modern:
            return told.acknowledged(id)
        if task.over or (now := await self._desk.wait(task.id, STOPPING)) is None:
            return told.too_late(id, task)
        if not now.over:
            raise CallTimeout("the work was asked to stop, and has not yet", hint="ask for the task in a while")
        return told.got(id, now, modern) if now.status == CANCELLED else told.too_late(id, now)

    async def _page(self, frame: Frame, asked: Page) -> bytes:
        tasks = sorted((task for task in await self._desk.all() if self._whose.shows(task)), key=_key)
        if asked.after is not None:
            tasks = [task for task in tasks if _key(task) > asked.after]
        page = tasks[:PAGE]
        return told.page(id_of(frame), page, _key(page[-1]) if len(tasks) > PAGE else None)

    async def _ours_of(self, ids: tuple[str, ...]) -> list[str]:
        """Those that are there: one question for each, or one for all."""
        if len(ids) <= FEW:
            return [id for id in ids if await self._find(id) is not None]
        shown = {task.id for task in await self._desk.all() if self._whose.shows(task)}
        return [id for id in ids if id in shown]

    async def _find(self, id: str) -> Task | None:
        task = await self._desk.get(id)
        return task if task is not None and self._whose.shows(task) else None


def _key(task: Task) -> str:
    """A task's place in lists, and the cursor behind it."""
    return f"{task.created} {task.id}"


_WAYS: Final[dict[str | None, Callable[[Tasked, Frame, Sink | None], bool]]] = {
    "tools/call": Tasked._on_call,
    "tools/list": Tasked._on_tools,
    "initialize": Tasked._on_initialize,
    "server/discover": Tasked._on_discover,
    "subscriptions/listen": Tasked._on_listen,
    "notifications/cancelled": Tasked._on_cancelled,
    **dict.fromkeys(("tasks/get", "tasks/list", "tasks/result", "tasks/update", "tasks/cancel"), Tasked._on_asked),
}
