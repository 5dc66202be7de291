"""A stream as its user has it: `async with`, `send`, `async for`, `end`, `cancel`."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol, Self

from mesh import clock
from mesh.errors import CallError, ConfigError, StreamCancelled, StreamIdle, StreamLost, StreamRefused, TooLarge
from mesh.policy.stream_flow import CANCELLED, LEFT, OVERHEAD, Flow, Item, Kind, State
from mesh.streams.messages import decode, decode_error, encode, encode_error

DRAIN_SECONDS: Final = 10.0
"""For the other end to receive what was said, when a stream is left."""

_ERRORS: Final = {kind.code: kind for kind in (StreamLost, StreamIdle, StreamRefused, StreamCancelled)}


class Owner(Protocol):
    """Who carries the frames of a stream (`mesh.streams.ends`)."""

    @property
    def longest(self) -> int:
        """Bytes of a frame."""

    def touch(self, stream: "Stream") -> None:
        """It has something to say, or other times to be looked at."""

    def release(self, stream: "Stream") -> None:
        """Nobody holds it any more."""


class Stream:
    """One end. `peer` is who is at the other one, `type` and `content` what the stream was opened with. Messages are bytes, text or JSON;
    they arrive as what they were sent as, in order, each once. One task reads at a time.

    Left in order (`async with`), what was said is received by the other end, which then reads an end. Left by an exception, it is
    cancelled.
    """

    def __init__(self, owner: Owner, flow: Flow, *, id: str, peer: str, type: str, content: Any, key: str) -> None:
        self.id = id
        self.peer = peer
        self.type = type
        self.content = content
        self.key = key
        """The subject on which its frames come."""
        self.out = ""
        """The subject on which its frames go out; empty until the other end is known."""
        self.flow = flow
        self.number = ""
        """Its owner's name for it. The id may be the peer's word, and stands in no subject but as an escaped token."""
        self.slot = -1
        self.scheduled = float("inf")
        self.counted = 0
        """Unread bytes that its owner has counted."""
        self.opened_by = ""
        self.on_over: Callable[[], object] | None = None
        """Called when it ends before its time, by whichever end."""
        self._owner = owner
        self._wakers: list[asyncio.Future[None]] = []
        self._read_end: RemoteEnd | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self.cancel("its reader gave up" if issubclass(kind, asyncio.CancelledError | GeneratorExit) else f"{kind.__name__}: {error}")
        await self.close()

    @property
    def longest(self) -> int:
        """Bytes of the longest message that can be sent."""
        return self._owner.longest - OVERHEAD

    # saying

    async def send(self, message: Any) -> None:
        """Say bytes, text or any JSON. Waits while the other end has a window of messages that nobody has read.

        Raises StreamLost, StreamIdle, StreamCancelled, StreamRefused, TooLarge, ConfigError.
        """
        item = encode(message)
        if len(item.body) > self.longest:
            raise TooLarge(f"the message has {len(item.body)} bytes", limit=self.longest)
        flow = self.flow
        while not flow.room and flow.abort is None:
            await self._change()
        self._check_says()
        flow.push(item.kind, item.body, clock.monotonic())
        self._owner.touch(self)

    def end(self) -> None:
        """Half close: we say nothing more. What the other end says can still be read."""
        self._last(Kind.END, b"")

    def fail(self, message: str, data: Any = None) -> None:
        """As `end`, and tell why: the other end's reading raises RemoteError with `message` and `data`, after all that was said before."""
        self._last(Kind.ERROR, encode_error(message, data))

    def cancel(self, reason: str = "") -> None:
        """End both directions at once; both ends get StreamCancelled with `reason`."""
        if not self.flow.settled:
            self.flow.give_up(CANCELLED, reason)
            self.changed()
            self._owner.touch(self)

    async def received(self, timeout: float = DRAIN_SECONDS) -> None:
        """Wait until the other end has received all that was said (it may not have read it). Raises StreamLost, and as `send`."""
        try:
            async with asyncio.timeout(timeout):
                while not self.flow.all_received and self.flow.abort is None:
                    await self._change()
        except TimeoutError:
            raise StreamLost(f"{self.peer!r} did not confirm what was said within {timeout:g} s") from None
        if self.flow.abort is not None and self.flow.abort.code != LEFT:
            raise self._error()

    async def close(self) -> None:
        """End our direction, see that it is received, and read no more. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            with suppress(CallError):
                if self.flow.abort is None:
                    self.end()
                    await self.received()
        finally:
            if not self.flow.settled:
                self.flow.give_up(LEFT, "the other end has left")
                self._owner.touch(self)
            self._owner.release(self)

    # hearing

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        item = await self._next()
        if item is None:
            raise StopAsyncIteration
        return decode(item)

    async def receive(self) -> Any:
        """The next message, as `async for` gives it. Raises StreamLost at the end."""
        item = await self._next()
        if item is None:
            raise StreamLost("the other end has said all that it had to say")
        return decode(item)

    async def _next(self) -> Item | None:
        flow = self.flow
        while True:
            if self._read_end is not None:
                if self._read_end.error is not None:
                    raise self._read_end.error
                return None
            item = flow.take(clock.monotonic())
            if item is not None:
                if flow.has_outgoing:
                    self._owner.touch(self)
                if item.kind is Kind.END or item.kind is Kind.ERROR:
                    self._read_end = RemoteEnd(decode_error(item.body) if item.kind is Kind.ERROR else None)
                    continue
                return item
            if flow.abort is not None:
                raise self._error()
            await self._change()

    # inside

    def changed(self) -> None:
        """Wake who waits: something came, or there is room, or it is over."""
        if self.on_over is not None and self.flow.abort is not None:
            over, self.on_over = self.on_over, None
            over()
        wakers, self._wakers = self._wakers, []
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)

    async def _change(self) -> None:
        waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wakers.append(waker)
        await waker

    def _last(self, kind: Kind, body: bytes) -> None:
        if self.flow.abort is None and self.flow.state in (State.OPEN, State.THEIRS_ENDED):
            self.flow.push(kind, body, clock.monotonic())
            self._owner.touch(self)

    def _check_says(self) -> None:
        if self.flow.abort is not None:
            raise self._error()
        if self.flow.state not in (State.OPEN, State.THEIRS_ENDED):
            raise ConfigError("nothing can be said on a stream after its end()")

    def _error(self) -> CallError:
        assert self.flow.abort is not None
        code, message = self.flow.abort.code, self.flow.abort.message
        return _ERRORS.get(code, StreamLost)(f"the stream with {self.peer!r} is over: {message or code}", stream=self.id)


class RemoteEnd:
    """That the other end's last message was read."""

    def __init__(self, error: CallError | None) -> None:
        self.error = error
