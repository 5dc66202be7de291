"""A handshake session at the serving side: one host, one channel to the server, from `initialize` until one of them is gone.

What the server says in a session and not to a call (log messages, list changes, requests for sampling or elicitation) belongs to the call
that is under way if there is one only, or if the port knows; else it goes to the session's own reply subject: that of the `initialize`
call. Requests of the server keep their ids: nobody else is on this channel.
"""

from collections.abc import Callable

from bridge.channel import Channel
from bridge.ports.base import ServerPort
from mesh import clock
from mesh.errors import MeshError
from mesh.link.call import Call
from mesh.wire.jsonrpc import Frame


class Session:
    """Made for an `initialize` call. `key` is its reply subject, which names caller, connection and exchange."""

    def __init__(
        self,
        agent: str,
        call: Call,
        port: ServerPort,
        on_end: "Callable[[Session, str], None]",
        on_answer: "Callable[[Session, Frame], bool]",
    ) -> None:
        """`on_answer` is shown the server's answer to `initialize`, and says whether the host is to have it."""
        self.key = call.prefix + call.exchange
        self.heard_at = clock.monotonic()
        self.opener = call
        self.channel = Channel(agent, port, on_stray=self._on_stray, on_end=lambda reason: on_end(self, reason))
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
        call = self.channel.call_of(origin)
        if call is not None:
            call.emit(frame.raw)
        else:
            self.opener.say(frame.raw)
