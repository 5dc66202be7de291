"""One host on a child that several share, and a call of it that passes as it is while its answer is looked at."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from bridge.channel import Channel
from bridge.session import Connected, Outgoing
from mesh import clock
from mesh.errors import MeshError
from mesh.link.call import Call
from mesh.wire.jsonrpc import Frame, Kind, dumps


class Child(Protocol):
    """The shared one (`bridge.shared`)."""

    async def join(self, host: "SharedSession") -> Frame: ...
    def leave(self, host: "SharedSession", reason: str) -> None: ...
    def take(self, host: "SharedSession", call: Call) -> None: ...
    def pass_on(self, host: "SharedSession", frame: Frame) -> None: ...


class SharedSession:
    """One host on a shared child: what `bridge.session.Session` is on a child of its own."""

    def __init__(
        self,
        shared: Child,
        call: Call,
        connected: Connected,
        on_end: "Callable[[SharedSession, str], None]",
        on_answer: "Callable[[SharedSession, Frame], bool]",
    ) -> None:
        """`on_answer` is shown the server's answer to `initialize`, and says whether the host is to have it."""
        self.key = call.prefix + call.exchange
        self.heard_at = clock.monotonic()
        self.opener = call
        self.outgoing = Outgoing(call, connected)
        self.on_end = on_end
        self.level = ""
        self.uris: dict[str, None] = {}
        self.answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._shared = shared
        self._on_answer = on_answer

    async def begin(self) -> None:
        """Answer `initialize`. Raises MeshError."""
        self.opener.holder = self
        frame = await self._shared.join(self)
        if self.opener.ended:
            self.on_end(self, "cancelled before it began")
        elif self._on_answer(self, frame):
            self.opener.finish(frame.splice([(frame.id_span, dumps(self.opener.id))]))

    def take(self, call: Call) -> None:
        self._shared.take(self, call)

    def cancel(self, call: Call, reason: str) -> None:
        """The host no longer waits for the answer to `initialize`; it ends when the answer is there."""

    def pass_on(self, frame: Frame) -> None:
        """What the host says besides its requests."""
        if not frame.final or self.outgoing.answered(frame):
            self._shared.pass_on(self, frame)

    async def close(self, reason: str) -> None:
        self._shared.leave(self, reason)

    # the rider of the first `initialize`

    def on_frame(self, frame: Frame) -> None:
        self.opener.emit(frame.raw, named=frame.method == "notifications/progress")

    def on_final(self, frame: Frame) -> None:
        if not self.answer.done():
            self.answer.set_result(frame)

    def on_died(self, problem: MeshError) -> None:
        if not self.answer.done():
            self.answer.set_exception(problem)


class Relay:
    """A call that passes as it is; `on_answer` hears whether it had a result."""

    def __init__(self, call: Call, channel: Channel, on_answer: Callable[[bool], None]) -> None:
        self._call = call
        self._channel = channel
        self._on_answer = on_answer
        call.holder = self
        try:
            channel.ride(call.id, call.frame.raw, self)
        except MeshError as problem:
            self.on_died(problem)

    def on_frame(self, frame: Frame) -> None:
        self._call.emit(frame.raw, named=frame.method == "notifications/progress")

    def on_final(self, frame: Frame) -> None:
        self._on_answer(frame.kind is Kind.RESULT)
        self._call.finish(frame.raw)

    def on_died(self, problem: MeshError) -> None:
        self._on_answer(False)
        self._call.refuse(problem, **problem.details)

    def cancel(self, call: Call, reason: str) -> None:
        self._channel.leave(call.id, reason)
        self._on_answer(False)
