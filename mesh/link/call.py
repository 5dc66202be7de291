"""One call at the serving side, as its handler sees it. Its life is led by mesh.link.responder.

While a handler works on a call, the calls that it makes in turn end with it: `current` is a context variable, so it is there in the tasks
that the handler starts, and `time_left` bounds each exchange that is opened in them.
"""

from contextvars import ContextVar
from typing import Any, Final, Protocol

from mesh import clock
from mesh.errors import MeshError
from mesh.policy.memory import Peer
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps, error

BEHIND: Final = 0.25
"""Seconds by which what a call waits for ends after the call itself. So the caller's own deadline is what ends it and is what it is told;
deadlines are noticed up to 0.1 late (mesh.link.wheel)."""


class Owner(Protocol):
    """Who leads the lives of calls."""

    def announce(self, call: "Call") -> None:
        """Tell its caller who holds it."""

    def emit(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a frame that may be lost."""

    def finish(self, call: "Call", raw: bytes) -> None:
        """Send its final frame, and remember it."""


class Call:
    """One call that this instance holds. `finish`, `fail` or `drop` ends it; `emit` sends a frame before that."""

    __slots__ = (
        "_owner",
        "begun",
        "caller",
        "cancellation",
        "ended",
        "exchange",
        "frame",
        "heard_at",
        "holder",
        "id",
        "mode",
        "peer",
        "prefix",
        "slot",
        "started_ns",
        "target",
        "timeout",
    )  # fmt: skip

    def __init__(self, owner: Owner, frame: Frame, caller: str, target: str, prefix: str, exchange: str, peer: Peer) -> None:
        self._owner = owner
        self.frame = frame
        self.caller = caller
        self.target = target
        self.prefix = prefix
        self.exchange = exchange
        self.peer = peer
        self.id = str(frame.id)
        self.mode = "full"
        self.started_ns = 0
        self.heard_at = 0.0
        """When it began, or its last progress: its deadline counts from there."""
        self.timeout: float | None = None
        self.slot = -1
        self.ended = False
        self.cancellation: bytes | None = None
        """What its caller said to cancel it."""
        self.begun = False
        """Whether its handler has it, or it still waits."""
        self.holder: Any = None
        """For the handler: where it has put this call."""

    @property
    def time_left(self) -> float | None:
        """Seconds until its deadline; None where it has none, where progress may put it off, and after its end."""
        if self.ended or self.timeout is None or self.frame.token is not None:
            return None
        return max(0.0, self.heard_at + self.timeout - clock.monotonic())

    @property
    def series(self) -> str:
        """The token of the exchange that opened the session of this call, or empty."""
        return self.exchange.rpartition("-")[0]

    def announce(self) -> None:
        """Tell the caller now which instance holds this call: the first frame of a session, and of a call to a role."""
        self._owner.announce(self)

    def emit(self, raw: bytes, *, named: bool = False) -> None:
        """Send a frame. `named`: its body names the exchange (a progress notification does); otherwise a header does."""
        if not self.ended:
            if named:
                self.heard_at = clock.monotonic()
            headers = None if named else {control.EXCHANGE_HEADER: self.id}
            self._owner.emit(self.prefix + self.exchange, raw, headers)

    def say(self, raw: bytes) -> None:
        """Send a message on the reply subject also after the end: what a session that this call opened has to say."""
        self._owner.emit(self.prefix + self.exchange, raw, {control.EXCHANGE_HEADER: self.id})

    def finish(self, raw: bytes) -> None:
        """End it with the response `raw`, whose id is `self.id`."""
        if not self.ended:
            self._owner.finish(self, raw)

    def fail(self, code: int, message: str, data: Any = None) -> None:
        """End it with an error response."""
        self.finish(error(dumps(self.id), code, message, data))

    def refuse(self, problem: MeshError, **data: Any) -> None:
        """End it with an error of the mesh's own: `data.mesh` holds its stable code."""
        self.fail(control.MESH_ERROR, problem.message, {"mesh": problem.code, **({"hint": problem.hint} if problem.hint else {}), **data})


current: Final[ContextVar[Call | None]] = ContextVar("current call", default=None)
"""The call that is being worked on here. The responder sets it around `Handler.on_call`."""


def bounded(timeout: float | None) -> float | None:
    """`timeout` in seconds, or less if the call that is being worked on here has less time left."""
    call = current.get()
    left = None if call is None or timeout is None else call.time_left
    return timeout if left is None or timeout is None else min(timeout, round(left + BEHIND, 3))


class Handler(Protocol):
    """What stands behind a responder: a server behind a bridge, or a Python function."""

    def on_call(self, call: Call) -> None:
        """A new call. End it with `call.finish` or `call.fail`, now or later. It must not wait."""

    def on_cancel(self, call: Call, reason: str) -> None:
        """The caller no longer waits for this call. It is ended already; stop the work."""

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        """A notification, or an answer to a server's request, that a caller sent. `reply` is the reply subject of the exchange that it
        belongs to."""
