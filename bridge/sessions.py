"""The handshake sessions of one bridge: opened, found again by their key, ended when the host is silent.

Whether a server that speaks the modern era has a handshake too is seen when the first session asks for it, on a channel of its own, and
remembered: a stream is locked to its era by the first request, so asking on the shared one would cost that. Where there is none, the
session is translated.
"""

import asyncio
from typing import Final

from bridge.facts import Facts
from bridge.ports.base import PortFactory
from bridge.session import Connected, Session
from bridge.shared import Shared
from bridge.shared_session import SharedSession
from bridge.translation.handshake import TranslatedSession, speaks_no_handshake
from mesh import clock
from mesh.background import Background
from mesh.errors import Busy, MeshError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind

MOST_SESSIONS: Final = 32
"""Handshake sessions at once, each with a channel (a child process) of its own."""

MOST_SHARED: Final = 1_000
"""The same where they share a child."""

AnySession = Session | SharedSession | TranslatedSession

SESSION_SILENCE: Final = 60.0
"""Seconds after which a session whose host has given no sign of life is ended. Hosts give one every 15."""


class Sessions:
    """All of them."""

    def __init__(self, agent: str, make_port: PortFactory, connected: Connected, *, shared: bool) -> None:
        """`shared`: those with a server that has a handshake share one child."""
        self._agent = agent
        self._connected = connected
        self._make_port = make_port
        self._sessions: dict[str, AnySession] = {}
        self._background = Background()
        self._shared = Shared(agent, make_port) if shared else None
        self._handshakes: bool | None = None
        """Whether the server has a handshake; None: not known."""
        self._closing = False

    def start(self) -> None:
        self._background.start(self._sweep(), f"sessions of {self._agent}")

    async def close(self) -> None:
        self._closing = True
        await self._background.end()
        await asyncio.gather(*(session.close("the bridge is being stopped") for session in list(self._sessions.values())))
        if self._shared is not None:
            await self._shared.close()

    def get(self, caller: str, reply: str) -> AnySession | None:
        """One of the caller's own."""
        session = self._sessions.get(reply)
        return session if session is not None and session.opener.caller == caller else None

    def open(self, call: Call, facts: Facts | None) -> None:
        """For an `initialize` call. `facts`: None where the server has not been reached yet."""
        most = MOST_SESSIONS if self._shared is None else MOST_SHARED
        if len(self._sessions) >= most:
            call.refuse(Busy(f"{self._agent} has {most} sessions and takes no more"), retry_after=10.0)
            return
        call.announce()
        if facts is not None and facts.modern and self._handshakes is False:
            self._begin(TranslatedSession(self._agent, call, self._make_port(), facts, self._connected, self.end), call)
        else:

            def on_answer(session: Session | SharedSession, frame: Frame) -> bool:
                return self._on_answer(session, frame, facts)

            if self._shared is not None:
                self._begin(SharedSession(self._shared, call, self._connected, self.end, on_answer), call)
            else:
                self._begin(Session(self._agent, call, self._make_port(), self._connected, self.end, on_answer), call)

    def heard(self, caller: str, reply: str, *, back: bool) -> None:
        """The host of a session gave a sign of life. `back`: it was away, and may have missed what was said."""
        if (session := self.get(caller, reply)) is not None:
            session.heard_at = clock.monotonic()
            if back or session.outgoing.cut:
                session.outgoing.say_again()

    def take(self, call: Call) -> None:
        """A call in a session."""
        session = self._sessions.get(call.prefix + call.series)
        if session is None:
            call.fail(control.INVALID_REQUEST, "this session is over", {"mesh": "session_lost", "hint": "begin a new one"})
        else:
            session.take(call)

    def end(self, session: AnySession, reason: str) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
            if not self._closing:
                self._background.start(session.close(reason), f"end of a session with {self._agent}")

    def end_of(self, caller: str, connection: str) -> None:
        """End all that one connection of a caller has opened."""
        for session in list(self._sessions.values()):
            if (session.opener.caller, session.opener.peer.connection) == (caller, connection):
                self.end(session, "its host is gone")

    def _begin(self, session: AnySession, call: Call) -> None:
        self._sessions[session.key] = session
        self._background.start(self._open(session, call), f"session of {call.caller} with {self._agent}")

    async def _open(self, session: AnySession, call: Call) -> None:
        try:
            await session.begin()
        except MeshError as problem:
            self.end(session, "it did not begin")
            call.refuse(problem)
        else:
            if call.ended and isinstance(session, Session):
                self.end(session, "cancelled before it began")

    def _on_answer(self, session: Session | SharedSession, frame: Frame, facts: Facts | None) -> bool:
        """Whether the host is to have the server's answer to `initialize`. If not, it gets a session that is translated."""
        if frame.kind is Kind.RESULT:
            self._handshakes = True
            return True
        if facts is None or not facts.modern or not speaks_no_handshake(frame):
            self.end(session, "the server refused it")
            return True
        self._handshakes = False
        self._background.start(session.close("it speaks no handshake"), f"end of a session with {self._agent}")
        self._begin(TranslatedSession(self._agent, session.opener, self._make_port(), facts, self._connected, self.end), session.opener)
        return False

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SESSION_SILENCE / 6)
            for session in list(self._sessions.values()):
                if clock.monotonic() - session.heard_at > SESSION_SILENCE:
                    self.end(session, "its host gave no sign of life")
