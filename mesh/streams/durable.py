"""A durable stream: each direction is a queue at the broker, which outlives both ends.

What is said together is one message of the queue (`mesh.streams.outflow`), on `flow.{to}.{from}.{stream}`; a queue that is full holds the
sender up. It is acknowledged when its reader has asked for what follows it, and the broker has what the reader said until then: so a
reader that dies gets it again, up to a window of messages where that much was written at once, and no answer is lost. Messages are numbered
from 1, and numbers make each come once: to a reader that lives, and to one that has noted how far it was (`taken`).

Each message says in a header how far its direction is. The broker copies the headers to MARKS, where the last ones stay when the queue was
read. So who opens the stream again asks the control plane how far both directions are, and tells the one who serves.

The end of a direction stays in its queue until its reader has ended too: who is killed between the two, reads it again.

Who opened the stream sees to it that it is served: as long as the server's process is gone, it is asked for again, until it has ended its
direction and read the other, or its handler has returned. Where a role was asked, the stream stays with the member who took it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Self

from mesh.delivery import Store
from mesh.errors import CallError, MalformedMessage, MeshError, NoResponders, StreamCancelled, StreamLost, TooLarge
from mesh.link.connection import Connection
from mesh.policy.stream_flow import OVERHEAD, Item, Kind
from mesh.streams.inflow import Inflow
from mesh.streams.messages import decode, decode_error, encode, encode_error
from mesh.streams.outflow import Outflow
from mesh.streams.stream import DRAIN_SECONDS, RemoteEnd
from mesh.subjects import CONTROL_PLANE, Subjects
from mesh.wire.letter import ROOM

FLOW_SECONDS: Final = 5.0

LEAVE_SECONDS: Final = 2.0
"""For the broker to take what was said, when a stream is left by an exception."""

SERVED_SECONDS: Final = 2.0
AWAY_SECONDS: Final = 20.0
"""Between two looks of who opened it: does anybody serve it? Longer each time that nobody is there who could, as each time costs a question
to the control plane."""

THERE: Final = b"?"
"""On the subject of a stream's frames: asks the broker whether anybody listens, and nobody answers."""

Ask = Callable[..., Awaitable[dict[str, Any]]]


class DurableStream:
    """One end. As `Stream`; what was said, an end or a cancellation too, is safe once `stored` has returned, or the `async with` has ended
    without an error. Left by an exception it is not cancelled: somebody goes on with its id."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        store: Store,
        ask: Ask,
        *,
        id: str,
        me: str,
        peer: str,
        type: str,
        content: Any,
        sent: int = 0,
        ended: bool = False,
        taken: int = 0,
    ) -> None:
        self.id = id
        self.peer = peer
        self.type = type
        self.content = content
        self.on_close: Callable[[], Awaitable[None]] | None = None
        self._connection = connection
        self._ask = ask
        self._out = Outflow(store, subjects.flow(peer, me, id), f"stream {peer}", sent=sent, ended=ended)
        self._in = Inflow(connection, id, subjects.flow(me, peer, id), self._consumer, self._out.when_stored, taken=taken)
        self._read_end: RemoteEnd | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.close()
        else:
            with suppress(MeshError):
                await self._leave(LEAVE_SECONDS)

    @property
    def sent(self) -> int:
        """How many messages this end has said, before a restart too: where to go on. The broker has them all after `stored`."""
        return self._out.sent

    @property
    def taken(self) -> int:
        """The number of the last message that was taken. A handler that has noted it sets it before it reads."""
        return self._in.taken

    @taken.setter
    def taken(self, number: int) -> None:
        self._in.taken = number

    @property
    def over(self) -> bool:
        """Whether both directions have ended."""
        return self._out.ended and self._read_end is not None

    @property
    def longest(self) -> int:
        """Bytes of the longest message that can be sent."""
        return self._connection.max_payload - ROOM - OVERHEAD

    async def send(self, message: Any) -> None:
        """Say bytes, text or JSON. It is written from then on, in the order of saying; `stored` says when the broker has it. Waits while a
        window of messages is not written, as the queue is full or the broker away.

        Raises TooLarge, ConfigError, and what a write before has failed with: Denied, NotAdmitted, ApiError.
        """
        item = encode(message)
        if len(item.body) > self.longest:
            raise TooLarge(f"the message has {len(item.body)} bytes", limit=self.longest)
        self._in.touch()
        await self._out.say(item)

    async def stored(self) -> None:
        """Wait until the broker has all that was said: then it outlives us. Raises as `send`."""
        await self._out.stored()

    def end(self) -> None:
        """Half close: we say nothing more. What the other end says can still be read."""
        self._out.end(Item(Kind.END, b""))

    def fail(self, message: str, data: Any = None) -> None:
        """As `end`, and tell why: the other end's reading raises RemoteError with `message` and `data`, after all that was said before."""
        self._out.end(Item(Kind.ERROR, encode_error(message, data)))

    def cancel(self, reason: str = "") -> None:
        """End both directions: the other end gets StreamCancelled with `reason` after what was said before, and so does who reads here.
        What it has said is thrown away. Nobody can go on with it."""
        if not self.over:
            self._out.over = True
            self.fail(reason, {"mesh": StreamCancelled.code})
            cancelled = StreamCancelled(f"the stream with {self.peer!r} is over: {reason or StreamCancelled.code}", stream=self.id)
            self._read_end = self._read_end or RemoteEnd(cancelled)
            self._in.stop()

    def served(self, problem: str = "") -> None:
        """The handler has ended: with it our direction, and nothing is read any more."""
        self._out.over = True
        if problem:
            self.fail(problem)
        else:
            self.end()
        self._read_end = self._read_end or RemoteEnd(None)

    async def close(self, timeout: float = DRAIN_SECONDS) -> None:
        """Leave: what is at the broker stays there, for whoever goes on with the stream's id. Raises StreamLost where the broker does not
        have all that was said within `timeout` seconds, and as `send`. Left by an exception, the message that was taken last comes again to
        who goes on without having counted."""
        if self._read_end is None:  # an end stays until both have ended
            self._in.done()
        await self._leave(timeout)

    async def _leave(self, timeout: float) -> None:
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            await on_close()
        try:
            await self._out.close(timeout)
            if self.over:
                await self._forget()
        finally:
            await self._in.close()

    async def listen(self) -> None:
        """Be the one who reads, in the place of whoever did before. Reading does it too, when it begins. Raises CallError."""
        await self._in.listen()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._read_end is None:
            try:
                item = await self._in.next()
            except StreamLost:
                if self._read_end is None:  # not cancelled by us
                    raise
            else:
                if item.kind not in (Kind.END, Kind.ERROR):
                    return decode(item)
                self._read_end = RemoteEnd(self._error(item.body) if item.kind is Kind.ERROR else None)
                await self._in.close()
        if self._read_end.error is not None:
            raise self._read_end.error
        raise StopAsyncIteration

    async def receive(self) -> Any:
        """The next message, as `async for` gives it. Raises StreamLost at the end."""
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise StreamLost("the other end has said all that it had to say") from None

    async def keep_served(self, open: Callable[[], Awaitable[str]], frame: Callable[[str], str], end: str) -> None:
        """Have it served, until both directions have ended: `open` asks for that and returns which end does, `frame` says where it
        listens."""
        delay = SERVED_SECONDS
        while not self.over:
            await asyncio.sleep(delay)
            try:
                await self._connection.request(frame(end), THERE, timeout=1.0)
            except NoResponders:
                try:
                    end, delay = await open(), SERVED_SECONDS
                except MeshError:  # nobody is there who could: what we say waits at the broker
                    delay = min(AWAY_SECONDS, delay * 2)
            except MeshError:
                continue  # it is there, and answers nothing

    def _error(self, body: bytes) -> CallError:
        error = decode_error(body)
        if isinstance(error.data, dict) and error.data.get("mesh") == StreamCancelled.code:
            return StreamCancelled(f"the stream with {self.peer!r} is over: {error.message}", stream=self.id)
        return error

    async def _consumer(self) -> str:
        asked = {"from": self.peer, "stream": self.id}
        return str((await self._ask(CONTROL_PLANE, "mesh/flow", asked, timeout=FLOW_SECONDS))["consumer"])

    async def _forget(self) -> None:
        """The direction towards us is over: nothing of it is kept."""
        asked = {"from": self.peer, "stream": self.id, "end": True}
        with suppress(CallError, MalformedMessage):  # who cannot say it leaves it to the broker's sweep
            await self._ask(CONTROL_PLANE, "mesh/flow", asked, timeout=FLOW_SECONDS)
