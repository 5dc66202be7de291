"""One host's way to one of many agents: a `Connected`, and for a host of the handshake era a session, opened when it is first needed.

The session is begun with the host's own `initialize`, so the agent sees the host's capabilities, and may ask it for sampling,
elicitation and roots. Requests wait while it is being opened. When it is over, the next request opens another: a request in a session that
is known to be over never left, so nothing runs twice.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final

from bridge.connect import Connected
from bridge.visible import Sink
from mesh import Mesh
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error, scan

MOST_WAITING: Final = 1_000
"""Requests that wait for a session to be opened."""

OWN_PREFIX: Final = "mesh/"
"""Of the ids of our own requests, beside those of the host."""

Hear = Callable[["AgentLink", bytes], None]
"""What an agent says that belongs to no request."""

MakeRoom = Callable[[str, bytes, Callable[[], None]], bool]
"""An agent has refused a session: whether another one ends so that it has room, and what to do when it has."""


class AgentLink:
    """`take` requests, `tell` notifications, `close` once. Without a greeting every request stands alone."""

    def __init__(
        self,
        mesh: Mesh,
        agent: str,
        greeting: bytes | None,
        *,
        hear: Hear,
        on_open: Callable[["AgentLink"], None],
        on_over: Callable[["AgentLink"], None],
        timeout: float | None,
        make_room: MakeRoom | None = None,
    ) -> None:
        """`greeting` is the host's `initialize`. `on_open` is called when a session is there, before anything else is sent in it."""
        self.agent = agent
        self._greeting = greeting
        self._on_open = on_open
        self._make_room = make_room
        self._opening = False
        self._open = False
        self._waiting: list[tuple[Frame, Sink]] = []
        self._numbers = itertools.count(1)
        self._connected = Connected(mesh, agent, lambda raw: hear(self, raw), timeout=timeout, on_over=lambda _: on_over(self))

    @property
    def open(self) -> bool:
        """Whether there is a session."""
        return self._open and self._connected.over is None

    def take(self, frame: Frame, to: Sink) -> None:
        """A request of the host, under the agent's own names."""
        if self._greeting is None or frame.era is not None or self.open:
            self._connected.take(frame, to)
        elif len(self._waiting) >= MOST_WAITING:
            data = {"mesh": "busy", "retry_after": 1.0}
            to(error(_id(frame), control.MESH_ERROR, f"{MOST_WAITING} requests wait for a session with {self.agent}", data), True)
        else:
            self._waiting.append((frame, to))
            self.begin()

    def begin(self) -> None:
        """Open a session, if there is none and the host is of that era."""
        if self._greeting is None or self._opening or self.open:
            return
        self._opening, self._open = True, False
        self._greet()

    def cancel(self, frame: Frame) -> None:
        """The host no longer waits for what `frame.cancels` names."""
        for each in self._waiting:
            if each[0].id == frame.cancels:
                self._waiting.remove(each)
                return
        self._connected.take(frame)

    def tell(self, raw: bytes) -> None:
        """A notification or an answer in the session; nothing, where there is none."""
        if self.open:
            self._connected.receive(raw)

    def post(self, method: str, params: dict[str, Any], to: Sink | None = None) -> None:
        """A request of our own in the session that is there."""
        raw = dumps({"jsonrpc": "2.0", "id": self._own_id(), "method": method, "params": params})
        self._connected.receive(raw, to or _ignore)

    async def ask(self, method: str, params: dict[str, Any]) -> None:
        """The same, until it is answered, in whatever way."""
        done = asyncio.Event()
        self.post(method, params, lambda _, final: done.set() if final else None)
        await done.wait()

    async def close(self) -> None:
        self._opening = False
        self._waiting.clear()
        await self._connected.close()

    def _own_id(self) -> str:
        return f"{OWN_PREFIX}{next(self._numbers)}"

    def _greet(self) -> None:
        if self._greeting is not None and self._opening:
            frame = scan(self._greeting)
            edits = [(frame.id_span, dumps(self._own_id())), (frame.token_span, b'"mesh"')]
            self._connected.receive(frame.splice(edits), self._on_greeted)

    def _on_greeted(self, raw: bytes, final: bool) -> None:
        if not final:
            return
        frame = scan(raw)
        if frame.kind is Kind.ERROR and self._make_room is not None and self._make_room(self.agent, raw, self._greet):
            return
        self._opening = False
        waiting, self._waiting = self._waiting, []
        if frame.kind is Kind.ERROR:
            for request, to in waiting:
                to(frame.splice([(frame.id_span, _id(request))]), True)
            return
        self._open = True
        self._connected.receive(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        self._on_open(self)
        for request, to in waiting:
            self._connected.take(request, to)


def _id(frame: Frame) -> bytes:
    assert frame.id_span is not None
    return frame.raw[slice(*frame.id_span)]


def _ignore(_raw: bytes, _final: bool) -> None:
    return
