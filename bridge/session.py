"""A handshake session at the serving side: one host, one channel to the server, from `initialize` until one of them is gone.

What the server says in a session and not to a call (log messages, list changes, requests for sampling or elicitation) belongs to the call
that is under way if there is one only, or if the port knows; else it goes to the session's own reply subject: that of the `initialize`
call. Requests of the server keep their ids: nobody else is on this channel.

Frames may be lost while a connection to the broker is down. So a session keeps what it could not say then, and the requests that
the host has not answered; when the host is back it is told again (`Outgoing`). The calling side drops a request that it has already.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from bridge.channel import Channel
from bridge.ports.base import ServerPort
from mesh import clock
from mesh.errors import MeshError
from mesh.link.call import Call
from mesh.wire.jsonrpc import Frame, Kind

MOST_KEPT: Final = 100
"""Notifications that a session keeps to say them later. The oldest go first."""

MOST_ASKED: Final = 1_000
"""Unanswered requests of the server that a session knows. The oldest are forgotten first."""

Connected = Callable[[], bool]
"""Whether the broker can be reached now."""


class Outgoing:
    """What a session says to its host besides answers."""

    def __init__(self, opener: Call, connected: Connected) -> None:
        self._opener = opener
        self._connected = connected
        self._asked: OrderedDict[str | int | None, tuple[Call, bytes]] = OrderedDict()
        """Requests without an answer, by id, and the calls that they belong to."""
        self._unsaid: deque[bytes] = deque(maxlen=MOST_KEPT)
        self.cut = False
        """Whether something was to be said while the broker could not be reached."""

    def say(self, frame: Frame, call: Call | None = None) -> None:
        """As a frame of `call`, or of none."""
        call = call or self._opener
        self.cut = self.cut or not self._connected()
        if frame.kind is Kind.REQUEST:
            self._asked[frame.id] = (call, frame.raw)
            if len(self._asked) > MOST_ASKED:
                self._asked.popitem(last=False)
        elif frame.method == "notifications/cancelled":
            self._asked.pop(frame.cancels, None)
        if frame.kind is Kind.NOTIFICATION and self.cut:
            self._unsaid.append(frame.raw)
        else:
            self._send(call, frame.raw)

    def answered(self, frame: Frame) -> bool:
        """The host answers: whether to a request that waits for it. An answer may come twice."""
        return self._asked.pop(frame.id, None) is not None

    def say_again(self) -> None:
        """The host was away, or we were; both are there now."""
        self.cut = False
        for call, raw in list(self._asked.values()):
            self._send(call, raw)
        while self._unsaid:
            self._opener.say(self._unsaid.popleft())

    def _send(self, call: Call, raw: bytes) -> None:
        if call.ended:
            self._opener.say(raw)
        else:
            call.emit(raw)


class Session:
    """Made for an `initialize` call. `key` is its reply subject, which names caller, connection and exchange."""

    def __init__(
        self,
        agent: str,
        call: Call,
        port: ServerPort,
        connected: Connected,
        on_end: "Callable[[Session, str], None]",
        on_answer: "Callable[[Session, Frame], bool]",
    ) -> None:
        """`on_answer` is shown the server's answer to `initialize`, and says whether the host is to have it."""
        self.key = call.prefix + call.exchange
        self.heard_at = clock.monotonic()
        self.opener = call
        self.channel = Channel(agent, port, on_stray=self._on_stray, on_end=lambda reason: on_end(self, reason))
        self.outgoing = Outgoing(call, connected)
        self._on_answer = on_answer

    async def begin(self) -> None:
        """Reach the server, and pass `initialize`. Raises MeshError."""
        await self.channel.open()
        self.opener.holder = self
        self.channel.ride(self.opener.id, self.opener.frame.raw, self)

    def take(self, call: Call) -> None:
        self.channel.take(call)

    def cancel(self, call: Call, reason: str) -> None:
        """The host no longer waits for the answer to `initialize`."""
        self.channel.leave(call.id, reason)

    def pass_on(self, frame: Frame) -> None:
        """What the host says besides its requests."""
        if not frame.final or self.outgoing.answered(frame):
            self.channel.pass_on(frame)

    async def close(self, reason: str) -> None:
        await self.channel.close(reason)

    # the rider of `initialize`

    def on_frame(self, frame: Frame) -> None:
        self.opener.emit(frame.raw, named=frame.method == "notifications/progress")

    def on_final(self, frame: Frame) -> None:
        if self._on_answer(self, frame):
            self.opener.finish(frame.raw)

    def on_died(self, problem: MeshError) -> None:
        self.opener.refuse(problem)

    def _on_stray(self, frame: Frame, origin: str | None) -> None:
        self.outgoing.say(frame, self.channel.call_of(origin))
