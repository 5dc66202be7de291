"""Connecting: an MCP host talks to an agent of the mesh as if it were a local server.

Theory of operation
-------------------
Messages of the host come in as bytes, and go out on the mesh as the same bytes, but for what must be unique there: the request's id and its
progress token are cut out and the exchange's id is put in their place; on the way back the host's own return. So hosts whose ids
collide never meet.

Era: the host's. A request of the modern era stands alone and goes to any instance; only a retry with the answers that a call waits for goes
to the instance that its state names. `initialize` opens a session: the instance that takes it names itself in its first frame, and
everything else of the session goes there, on one subject, in order. What the server says in the session and to no request comes on the
session's own reply subject. While a session lasts, a sign of life goes to the instance every 15 seconds, and it outlasts an outage
(`bridge.standby`). It is over when its instance is gone, or says that it knows the session no more.

A list is shown as far as the host may call what is on it (`bridge.visible`).

Where it goes: what belongs to a request goes to that request's own sink, if it has one (over HTTP each request has a response of its own),
and everything else to the connection's `send`.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from bridge.eras.state import holder_of
from bridge.standby import Held, Standby, problem_that_ends
from bridge.visible import Sink, Visible
from mesh import Mesh
from mesh.background import Background
from mesh.errors import BrokerUnavailable, MalformedMessage, MeshError
from mesh.link.exchange import Channel, Exchange
from mesh.link.targets import Target
from mesh.rpc import error_of
from mesh.subjects import ANY
from mesh.wire import control
from mesh.wire.entries import ProbeQuestion
from mesh.wire.jsonrpc import Frame, Kind, dumps, error, scan

SIGN_OF_LIFE: Final = 15.0
"""Seconds. The serving side ends a session after four that it missed."""

MOST_OPEN: Final = 1_000
"""Requests of one host at once; one more is refused as busy."""

LASTING: Final = frozenset({"subscriptions/listen"})
"""Requests whose answer is a stream that lasts: no deadline ends them."""

_log = structlog.get_logger("bridge.connect")


@dataclass(slots=True, eq=False)
class Pending:
    """A request of the host: its own id and token as it wrote them, where its frames go, and the exchange, once there is one."""

    id: bytes
    token: bytes | None
    to: Sink
    streamed: bool
    """Whether its frames have a stream of their own, which ends with its response."""
    exchange: Exchange | None = None
    cancelled: str | None = None
    withdrawn: bool = False
    """The server has cancelled it, and the host was told so: no response follows."""


class Connected:
    """One host on one agent. `receive` takes what the host says; `send` is called with what it is to hear. A `HostLink`."""

    def __init__(
        self,
        mesh: Mesh,
        agent: str,
        send: Callable[[bytes], None],
        *,
        timeout: float | None = None,
        on_over: Callable[[MeshError], None] | None = None,
    ) -> None:
        """`timeout`: seconds for each request, started anew by its progress. Default: the mesh's. `on_over` is called when the host's
        session is over and the host did not end it."""
        self._mesh = mesh
        self._agent = agent
        self._send = send
        self._to_host: Sink = lambda raw, _: send(raw)
        self._on_over = on_over
        self._timeout = mesh.settings.timeout if timeout is None else timeout
        self._visible = Visible(mesh, agent, send)
        self._pending: dict[str | int, Pending] = {}
        self._session: Channel | None = None
        self._standby: Standby | None = None
        self._target: Target | None = None
        self._lost: MeshError | None = None
        self._alive: asyncio.Task[None] | None = None
        self._background = Background()

    @property
    def over(self) -> MeshError | None:
        return self._lost

    def receive(self, raw: bytes, to: Sink | None = None) -> None:
        """A message from the host. What is wrong with it is answered, and disturbs nothing else."""
        try:
            frame = scan(raw)
        except MalformedMessage as problem:
            (to or self._to_host)(error(b"null", control.PARSE_ERROR, problem.message, {"mesh": problem.code}), True)
            return
        self.take(frame, to)

    def take(self, frame: Frame, to: Sink | None = None) -> None:
        if self._standby is not None and self._standby.away and frame.era is None and frame.method != "initialize":
            self._standby.keep(Held(lambda: self.take(frame, to), lambda problem: self._refuse(frame, to or self._to_host, problem)))
        elif frame.kind is Kind.REQUEST:
            self._on_request(frame, to or self._to_host)
        elif frame.kind is Kind.NOTIFICATION:
            self._on_notification(frame)
        elif self._standby is not None:
            self._standby.answer(frame)

    async def close(self) -> None:
        """The host has left: cancel what it waits for, and end its session."""
        for pending in list(self._pending.values()):
            if pending.exchange is not None:
                pending.exchange.cancel("the host has left")
        if self._session is not None:
            self._mesh.exchanges.say(self._session, control.CLOSED, control.closed())
            self._leave_session(self._session)
        self._visible.close()
        await self._background.end()

    # from the host

    def _on_request(self, frame: Frame, to: Sink) -> None:
        assert frame.id is not None
        assert frame.id_span is not None
        id = frame.raw[slice(*frame.id_span)]
        if frame.id in self._pending:
            to(error(id, control.INVALID_REQUEST, f"the id {id.decode()} is in use", {"mesh": "refused"}), True)
            return
        if len(self._pending) >= MOST_OPEN:
            to(error(id, control.MESH_ERROR, f"{MOST_OPEN} requests are under way", {"mesh": "busy", "retry_after": 0.5}), True)
            return
        token = frame.raw[slice(*frame.token_span)] if frame.token_span is not None else None
        pending = self._pending[frame.id] = Pending(id, token, self._visible.through(frame, to), to is not self._to_host)
        if self._lost is not None and frame.era is None and frame.method != "initialize":
            self._fail(frame, self._lost)
            return
        if self._session is not None and frame.era is None:
            assert self._target is not None
            self._open(frame, pending, self._target, self._session)
            return
        # A retry with the answers that a call waits for goes to where it waits. Whether the state is genuine, only that instance can tell.
        agent, instance = holder_of(frame) or (self._agent, ANY)
        target = self._mesh.exchanges.targets.fresh(agent)
        if target is not None:
            self._open(frame, pending, target, None, instance)
        else:
            self._background.start(self._resolve_and_open(frame, pending, agent, instance), f"first request to {agent}")

    async def _resolve_and_open(self, frame: Frame, pending: Pending, agent: str, instance: str) -> None:
        try:
            target = await self._mesh.target(agent)
        except MeshError as problem:
            self._fail(frame, problem)
            return
        if pending.cancelled is None:
            self._open(frame, pending, target, None, instance)

    def _open(self, frame: Frame, pending: Pending, target: Target, session: Channel | None, instance: str = ANY) -> None:
        assert frame.method is not None
        if session is not None:
            instance = session.instance
        elif target.complete and instance not in target.instances:
            instance = ANY  # gone: another one answers that it knows nothing of that state
        try:
            exchange = self._mesh.exchanges.open(
                target,
                frame.method,
                frame.name,
                on_frame=lambda answer: self._on_frame(frame, pending, answer, session),
                on_failure=lambda problem: self._fail(frame, problem),
                timeout=None if frame.method in LASTING else self._timeout,
                renew=True,
                instance=instance,
                series=session.series if session is not None else None,
            )
            pending.exchange = exchange
            id = dumps(exchange.id)
            exchange.send(frame.splice([(frame.id_span, id), (frame.token_span, id)]))
        except MeshError as problem:
            self._fail(frame, problem)

    def _on_notification(self, frame: Frame) -> None:
        if frame.method == "notifications/cancelled":
            pending = self._pending.pop(frame.cancels, None) if frame.cancels is not None else None
            if pending is not None:
                self._visible.forget(frame.cancels)
                pending.cancelled = "cancelled by the host"
                if pending.exchange is not None:
                    said = frame.splice([(frame.cancels_span, dumps(pending.exchange.id))])
                    pending.exchange.cancel(pending.cancelled, said)
        elif self._session is not None and frame.method is not None:
            self._mesh.exchanges.say(self._session, frame.method, frame.raw)
        elif frame.method is not None:
            note = self._mesh.subjects.note(self._agent, self._mesh.name, frame.method)
            try:
                self._mesh.connection.send(note, frame.raw)
            except MeshError as problem:
                _log.warning("a notification was not sent", agent=self._agent, why=str(problem))

    # to the host

    def _on_frame(self, request: Frame, pending: Pending, frame: Frame, session: Channel | None) -> None:
        if frame.method is not None and frame.method.startswith(control.OWN):
            return
        if session is None:
            if request.method == "initialize" and frame.kind is Kind.RESULT and pending.exchange is not None:
                self._begin_session(pending.exchange)
        elif frame.kind is Kind.ERROR and session is self._session and (said := problem_that_ends(frame.raw)) is not None:
            self._on_session_lost(said)
        if session is not None and self._standby is not None and not self._standby.is_new(frame):
            return
        edits = [(frame.id_span, pending.id)] if frame.final else []
        if frame.token_span is not None and pending.token is not None:
            edits.append((frame.token_span, pending.token))
        if frame.subscription_span is not None:
            edits.append((frame.subscription_span, pending.id))
        if frame.method == "notifications/cancelled" and pending.exchange is not None and frame.cancels == pending.exchange.id:
            if pending.streamed:
                return  # its stream ends with the error that follows
            pending.withdrawn = True
            edits.append((frame.cancels_span, pending.id))
        if frame.final and request.id is not None:
            self._pending.pop(request.id, None)
            if pending.withdrawn:
                return
        pending.to(frame.splice(edits), frame.final)

    def _fail(self, request: Frame, problem: MeshError) -> None:
        pending = self._pending.pop(request.id, None) if request.id is not None else None
        if pending is not None:
            pending.to(error_of(pending.id, problem), True)

    def _refuse(self, frame: Frame, to: Sink, problem: MeshError) -> None:
        """A message that cannot be sent, and never was."""
        if frame.kind is Kind.REQUEST and frame.id_span is not None:
            to(error_of(frame.raw[slice(*frame.id_span)], problem), True)
        else:
            _log.warning("a message was not sent", agent=self._agent, method=frame.method, why=str(problem))

    def _begin_session(self, exchange: Exchange) -> None:
        if self._session is not None:
            self._leave_session(self._session)
        self._session = self._mesh.exchanges.open_channel(exchange, self._on_session_frame, self._on_session_lost)
        self._standby = Standby(self._mesh, self._session, self._on_session_lost)
        self._target, self._lost = exchange.target, None
        self._alive = self._background.own(asyncio.create_task(self._show_life(), name=f"session with {self._agent}"))

    def _leave_session(self, session: Channel) -> None:
        self._mesh.exchanges.close_channel(session)
        self._session = None
        if self._alive is not None:
            self._alive.cancel()
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.close()

    def _on_session_frame(self, frame: Frame) -> None:
        if self._standby is not None and self._standby.is_new(frame):
            self._send(frame.raw)

    def _on_session_lost(self, problem: MeshError) -> None:
        _log.warning("the session is over", agent=self._agent, why=str(problem))
        if self._session is not None:
            self._leave_session(self._session)
        self._lost = problem
        if self._on_over is not None:
            self._on_over(problem)

    async def _show_life(self) -> None:
        session = self._session
        assert session is not None
        subject = self._mesh.subjects.probe(session.agent, session.instance, self._mesh.name)
        question = ProbeQuestion(session=session.reply).encode()
        while True:
            await asyncio.sleep(SIGN_OF_LIFE)
            with contextlib.suppress(BrokerUnavailable):  # `Standby` sees to that
                self._mesh.connection.send(subject, question)
