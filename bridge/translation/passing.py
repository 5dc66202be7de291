"""Modern requests on a handshake server that are not asked back: only their results need a word more.

They share the bridge's own channel, unless their client has declared that it can be asked: what such a server lists may depend on that, so
they go to a child that was initialized for this client. They do not own it: several of them, and a call that does, may be on it at once.
"""

from collections.abc import Callable

from bridge.channel import Channel
from bridge.eras.shapes import Wish, complete, lacking, to_handshake
from bridge.eras.words import MAY_ASK
from bridge.translation.pool import Child, Pool
from mesh.background import Background
from mesh.errors import MeshError
from mesh.link.call import Call
from mesh.wire.jsonrpc import Frame


class Passing:
    """One request on a channel."""

    def __init__(self, call: Call, channel: Channel, on_over: Callable[[], object] = lambda: None) -> None:
        self._call = call
        self._channel = channel
        self._on_over = on_over
        call.holder = self
        try:
            channel.ride(call.id, to_handshake(call.frame), self)
        except MeshError as problem:
            call.refuse(problem, **problem.details)
            on_over()

    def on_question(self, method: str) -> None:
        """The server asks what it may not ask, and nobody else can have caused it: the call cannot go on."""
        if self._call.frame.method in MAY_ASK:
            self._call.fail(*lacking(method))
            self.cancel(self._call, "its client cannot be asked")

    def on_frame(self, frame: Frame) -> None:
        self._call.emit(frame.raw, named=frame.method == "notifications/progress")

    def on_final(self, frame: Frame) -> None:
        self._call.finish(complete(self._call.frame.method or "", frame))
        self._on_over()

    def on_died(self, problem: MeshError) -> None:
        self._call.refuse(problem)
        self._on_over()

    def cancel(self, call: Call, reason: str) -> None:
        self._channel.leave(call.id, reason)
        self._on_over()


class Borrowing:
    """A call that waits for a child, and then is on it for as long as it lasts. The holder of its call until then."""

    def __init__(self, pool: Pool, call: Call, use: Callable[[Child], object]) -> None:
        self._pool = pool
        self._call = call
        self._use = use
        call.holder = self

    async def start(self, wish: Wish) -> None:
        try:
            child = await self._pool.borrow(self._call, wish)
        except MeshError as problem:
            self._call.refuse(problem, **problem.details)
            return
        if self._call.ended:
            self._pool.give_back(child)
        else:
            self._use(child)

    def cancel(self, call: Call, reason: str) -> None:
        """It is ended; `start` sees that."""


class Lent:
    """All requests that are on the children of a pool without owning them."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._background = Background()

    def take(self, call: Call, wish: Wish) -> None:
        def use(child: Child) -> None:
            Passing(call, child.channel, lambda: self._pool.give_back(child))

        self._begin(call, wish, use)

    def listen(self, call: Call, wish: Wish) -> None:
        def use(child: Child) -> None:
            child.listens.take(call, lambda: self._pool.give_back(child))

        self._begin(call, wish, use)

    async def close(self) -> None:
        await self._background.end()

    def _begin(self, call: Call, wish: Wish, use: Callable[[Child], object]) -> None:
        self._background.start(Borrowing(self._pool, call, use).start(wish), f"call {call.id}")
