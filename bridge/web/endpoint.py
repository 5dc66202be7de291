"""The MCP endpoint of HTTP and WebSocket: requests that passed the door, on their way to an agent and back.

Which era a request is of, its header says and its body must agree. A request of the modern era stands alone: a link of its own, one
response, and closing the connection cancels it. One of the handshake era belongs to a session (`session`). A WebSocket is a link.

What is wrong with a request is returned as a `Problem`, and nothing has been sent then; None says that it was served.

Source: MCP basic/transports; observable behaviour follows the Python SDK's server.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from bridge.connect import LASTING
from bridge.ports.param_headers import ParamCheck
from bridge.web import rules
from bridge.web.asked import Asked
from bridge.web.guests import Guest
from bridge.web.outlet import HeaderList, Message, Outlet, respond
from bridge.web.rules import Problem
from bridge.web.session import Session
from bridge.web.socket import POLICY, TRY_LATER, Socket
from mesh import clock
from mesh.errors import MalformedMessage, MeshError
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, scan

WINDOW: Final = 2.0
"""Seconds for which an answer of the modern era may still become JSON, and an error have its status."""

LONGEST_STREAM: Final = 86_400.0
"""Seconds after which a client takes its stream up anew. A token that expires before ends it then."""

SWEEP: Final = 5.0
"""Seconds between two looks for what is idle."""


class Endpoint:
    """All that hosts have open: requests, sessions, sockets. `close` ends them."""

    def __init__(self, *, params: ParamCheck, most_sessions: int, idle: float) -> None:
        """`idle`: seconds without a word, for sessions and sockets."""
        self._params = params
        self._most_sessions = most_sessions
        self._idle = idle
        self._sessions: dict[str, Session] = {}
        self._sockets: dict[Socket, Asked] = {}
        self._outlets: dict[Outlet, tuple[Asked, bool]] = {}
        """Responses of the modern era, and whether they last until somebody ends them."""
        self._ending: dict[Session, asyncio.Task[None]] = {}

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    async def run(self) -> None:
        """End what is idle, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP)
            before = clock.monotonic() - self._idle
            for session in list(self._sessions.values()):
                if not session.requests and session.idle_since < before:
                    session.end("nothing happened on it for long")
            now = clock.wall_ns() / 1e9
            for socket, asked in list(self._sockets.items()):
                if socket.heard_at < before:
                    socket.end(1001, "nothing happened on it for long")
                elif asked.until <= now:
                    socket.end(POLICY, "the token has expired")
            for outlet, (asked, lasts) in list(self._outlets.items()):
                if lasts and asked.until <= now:
                    outlet.end()

    async def close(self) -> None:
        for session in list(self._sessions.values()):
            session.end("the mesh is being stopped")
        for socket in list(self._sockets):
            socket.end(1001, "the mesh is being stopped")
        for outlet in list(self._outlets):
            outlet.end()
        if self._ending:
            await asyncio.wait(self._ending.values(), timeout=5.0)

    async def dismiss(self, guest: Guest) -> None:
        """A user is there no more: end all that is open for it."""
        ending = [session for session in self._sessions.values() if session.guest is guest]
        for session in ending:
            session.end("its user is not admitted any more")
        for socket, asked in list(self._sockets.items()):
            if asked.guest is guest:
                socket.end(POLICY, "this user is not admitted any more")
        for outlet, (asked, _) in list(self._outlets.items()):
            if asked.guest is guest:
                outlet.end()
        closing = [self._ending[session] for session in ending if session in self._ending]
        if closing:
            await asyncio.wait(closing, timeout=5.0)

    # HTTP

    async def post(self, asked: Asked, body: bytes, modern: bool) -> Problem | None:
        """A message. `modern`: its headers say that it is of that era."""
        try:
            frame = scan(body)
        except MalformedMessage as malformed:
            return rules.malformed(body, malformed.message)
        if frame.era is not None and not modern:
            return Problem(400, rules.HEADER_MISMATCH, "MCP-Protocol-Version does not match the request's _meta", id=rules.id_of(frame))
        if not modern:
            return await self._on_handshake(frame, asked)
        if rules.SESSION in asked.headers and frame.era is None:
            return Problem(400, control.INVALID_REQUEST, "Bad Request: Unsupported protocol version", id=rules.id_of(frame))
        return await self._on_modern(frame, asked)

    async def _on_handshake(self, frame: Frame, asked: Asked) -> Problem | None:
        if rules.SESSION not in asked.headers and frame.method == "initialize" and frame.kind is Kind.REQUEST:
            session = self._open_session(frame, asked)
        else:
            session = self._session(asked, rules.id_of(frame))
        if isinstance(session, Problem):
            return session
        if frame.kind is not Kind.REQUEST:
            session.tell(frame)
            session.idle_since = clock.monotonic()
            await respond(asked.send, 202, session.headers)
        elif session.busy:
            return Problem(503, control.MESH_ERROR, "too many requests of this session run", {"mesh": "busy"}, rules.id_of(frame))
        else:
            stream_first = rules.stream_first(asked.headers)
            await _served(session, session.post(frame, asked.receive, asked.send, stream_first=stream_first))
        return None

    async def _on_modern(self, frame: Frame, asked: Asked) -> Problem | None:
        if frame.kind is Kind.NOTIFICATION:
            if (problem := rules.version_problem(asked.headers[rules.VERSION].decode("latin-1"))) is None:
                # Accepted and dropped: this era defines none over HTTP, and a cancellation by a guessed id must not end another's work.
                await respond(asked.send, 202, [])
            return problem
        if frame.kind is not Kind.REQUEST:
            return Problem(400, control.INVALID_REQUEST, "Body must be a single JSON-RPC request or notification object")
        if (problem := rules.modern_problem(asked.headers, asked.pairs, frame)) is not None:
            return problem
        tool = asked.user.tool(asked.agent, frame)
        why = None if tool is None else self._params.problem(tool, frame, asked.pairs)
        if tool is not None and why is not None and asked.user.mesh.reach.may_call(tool[0], "tools/call", tool[1]):
            # To who may not call it, nothing is said of what the tool looks like: the call is denied below.
            return Problem(400, rules.HEADER_MISMATCH, why, id=rules.id_of(frame))
        try:
            link = asked.user.link(asked.agent, _drop, _ignore)
        except MeshError as error:
            return _unavailable(frame, error)
        outlet = Outlet(asked.receive, asked.send)
        self._outlets[outlet] = asked, frame.method in LASTING
        try:
            link.take(frame, outlet.put)
            await outlet.run(WINDOW, partial(_modern_answer, asked))
        finally:
            del self._outlets[outlet]
            await link.close()
        return None

    async def get(self, asked: Asked) -> Problem | None:
        """The session's own stream, or one that is taken up again."""
        if not rules.accepts(asked.headers)[1]:
            return Problem(406, control.INVALID_REQUEST, "Not Acceptable: Client must accept text/event-stream")
        session = self._session(asked)
        if isinstance(session, Problem):
            return session
        last = asked.headers.get(rules.LAST_EVENT)
        stream = session.resume(None if last is None else last.decode("latin-1"))
        if stream is not None:
            left = min(max(asked.until - clock.wall_ns() / 1e9, 0.0), LONGEST_STREAM)
            ending = asyncio.get_running_loop().call_later(left, session.hang_up, stream)
            try:
                await _served(session, session.listen(stream, asked.receive, asked.send))
            finally:
                ending.cancel()
            return None
        if last is None:
            return Problem(409, control.INVALID_REQUEST, "Conflict: Only one SSE stream is allowed per session")
        return Problem(400, control.INVALID_REQUEST, "Bad Request: nothing can be taken up behind this Last-Event-ID")

    async def delete(self, asked: Asked) -> Problem | None:
        """The client ends its session."""
        session = self._session(asked)
        if isinstance(session, Problem):
            return session
        session.end("its client has ended it")
        await respond(asked.send, 200, [])
        return None

    # sessions and sockets

    def _session(self, asked: Asked, id: bytes = b"null") -> Session | Problem:
        """The session that a request names; only with the agent and by the user that it was made for."""
        said = asked.headers.get(rules.SESSION)
        if said is None:
            return Problem(400, control.INVALID_REQUEST, "Bad Request: Missing session ID", id=id)
        session = self._sessions.get(said.decode("latin-1"))
        if session is None or session.agent != asked.agent or session.guest is not asked.guest:
            return Problem(404, control.INVALID_REQUEST, "Session not found", id=id)
        return session

    def _open_session(self, frame: Frame, asked: Asked) -> Session | Problem:
        if len(self._sessions) >= self._most_sessions and self._end_one(list(self._sessions.values())) is None:
            data = {"mesh": "busy", "retry_after": 10.0}
            return Problem(503, control.MESH_ERROR, f"{self._most_sessions} sessions are open", data, rules.id_of(frame))
        session = Session(asked.agent, asked.user, self._on_session_end, self._make_room, asked.denied)
        try:
            session.link = asked.user.link(asked.agent, session.on_message, session.on_over, self._make_room_at)
        except MeshError as error:
            return _unavailable(frame, error)
        self._sessions[session.id] = session
        asked.user.held += 1
        return session

    def _make_room_at(self, agent: str, refusal: bytes, then: Callable[[], None]) -> bool:
        """For a session of all agents together, one of which refuses it."""
        return rules.is_busy(refusal) and self._make_room(agent, then)

    def _make_room(self, agent: str | None, then: Callable[[], None]) -> bool:
        """For a session that an agent has no room for. One of all agents together holds room at each of them."""
        ending = self._end_one([each for each in self._sessions.values() if each.agent in (agent, None)])
        if ending is not None:
            ending.add_done_callback(lambda _: then())
        return ending is not None

    def _end_one(self, sessions: list[Session]) -> asyncio.Task[None] | None:
        """End the session whose client seems to have left longest ago. None where all seem to be there."""
        left = min((each for each in sessions if each.seems_left), key=lambda each: each.idle_since, default=None)
        if left is None:
            return None
        left.end("its client seems to have left, and its room was needed")
        return self._ending[left]

    def _on_session_end(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._ending[session] = task = asyncio.create_task(session.link.close(), name="end of a session")
        task.add_done_callback(partial(self._on_session_closed, session))

    def _on_session_closed(self, session: Session, _: asyncio.Task[None]) -> None:
        del self._ending[session]
        session.guest.held -= 1

    async def serve_socket(self, asked: Asked, scope: Message, problem: Problem | None) -> None:
        """A WebSocket, from its handshake to its end. `problem`: why it is not to be."""
        if problem is None and len(self._sockets) >= self._most_sessions:
            problem = Problem(503, control.MESH_ERROR, "too many WebSockets are open", {"mesh": "busy"})
        socket = Socket(asked.receive, asked.send)
        if not await socket.accept(scope, problem):
            return
        self._sockets[socket] = asked
        try:
            await socket.run(asked.user.link(asked.agent, socket.put, socket.on_over, self._make_room_at))
        except MeshError as error:
            await asked.send({"type": "websocket.close", "code": TRY_LATER, "reason": error.code})
        finally:
            del self._sockets[socket]


async def _served(session: Session, work: Coroutine[Any, Any, None]) -> None:
    session.requests += 1
    try:
        await work
    finally:
        session.requests -= 1
        session.idle_since = clock.monotonic()


def _modern_answer(asked: Asked, raw: bytes) -> tuple[int, HeaderList]:
    status = rules.status_of(raw)
    return status, [] if status == 200 else rules.headers_of(raw, status, asked.denied)


def _unavailable(frame: Frame, error: MeshError) -> Problem:
    return Problem(503, control.MESH_ERROR, error.message, {"mesh": error.code}, rules.id_of(frame))


def _drop(_: bytes) -> None:
    """A request of the modern era hears nothing but its own frames."""


def _ignore(_: MeshError) -> None:
    """It has no session either."""
