"""A durable stream: each direction is a queue at the broker, which outlives both ends.

A message is `D`, its number from 1 (8 bytes, big-endian), its kind (1 byte) and its body, on `flow.{to}.{from}.{stream}`. `send` returns
once the broker has it, and waits while the subject is full: that is the backpressure. A message is acknowledged when its reader asks for
the next one, so a reader that dies gets it again. Numbers make it once: a sender that goes on says how many it knows to be stored (`sent`),
and sends from there, where the broker and the reader drop what they have; a reader that goes on says how many it is done with (`taken`).

Who opened the stream sees to it that somebody serves it: as long as the server's process is gone, it is asked for again.
"""

import asyncio
import random
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, Self

import structlog

from mesh.delivery import NO_ROOM, Ask, Store
from mesh.errors import ApiError, CallError, ConfigError, MalformedMessage, MeshError, NoResponders, StreamCancelled, StreamLost, TooLarge
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import CONSUMER_NOT_FOUND, JetStream
from mesh.link.pull import PullLoop
from mesh.policy.retry import Backoff
from mesh.policy.stream_flow import Item, Kind
from mesh.streams.messages import decode, decode_error, encode, encode_error
from mesh.subjects import CONTROL_PLANE, Subjects
from mesh.topology import STREAMS
from mesh.wire.letter import ROOM

FLOW_SECONDS: Final = 5.0
BATCH: Final = 64
LOOK_SECONDS: Final = 5.0
"""Between two looks of a reader that hears nothing: is the consumer still its own?"""

SERVED_SECONDS: Final = 2.0
"""Between two looks of who opened it: does anybody serve it?"""

THERE: Final = b"?"
"""On the subject of a stream's frames: asks the broker whether anybody listens, and nobody answers."""

_HEAD: Final = struct.Struct(">cQB")
_KINDS: Final = {kind.value: kind for kind in Kind}
_FULL: Final = Backoff(first=0.02, longest=1.0)

_log = structlog.get_logger("mesh.streams")


class DurableStream:
    """One end. As `Stream`, but that `end`, `fail` and `cancel` are awaited: the broker has to have them."""

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
        taken: int = 0,
    ) -> None:
        self.id = id
        self.peer = peer
        self.type = type
        self.content = content
        self.sent = sent
        """Messages that the broker has had from us."""
        self.taken = taken
        """The number of the last message that was taken."""
        self._me = me
        self._connection = connection
        self._store = store
        self._ask = ask
        self._out = subjects.flow(peer, me, id)
        self._in = subjects.flow(me, peer, id)
        self._saying = asyncio.Lock()
        self._ended = False
        self._heard_end = False
        self._messages: AsyncGenerator[tuple[Message, Item, int], None] | None = None
        self._held: Message | None = None
        self._stack = AsyncExitStack()
        self._consumer = ""
        self.on_close: Callable[[], Awaitable[None]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def longest(self) -> int:
        """Bytes of the longest message that can be sent."""
        return self._connection.max_payload - ROOM - _HEAD.size

    async def send(self, message: Any) -> None:
        """Say bytes, text or JSON; returns once the broker has it. Waits while the other end has not read what was said before.

        Raises Denied, TooLarge, ConfigError, and BrokerUnavailable: it may be stored or not; `send` the same again, and it is stored once.
        """
        item = encode(message)
        if len(item.body) > self.longest:
            raise TooLarge(f"the message has {len(item.body)} bytes", limit=self.longest)
        await self._say(item)

    async def end(self) -> None:
        """Half close: we say nothing more."""
        await self._say(Item(Kind.END, b""))

    async def fail(self, message: str, data: Any = None) -> None:
        """As `end`, and tell why."""
        await self._say(Item(Kind.ERROR, encode_error(message, data)))

    async def cancel(self, reason: str = "") -> None:
        """End our direction with StreamCancelled for the other end, and throw away what it has said."""
        with suppress(ConfigError):
            await self.fail(reason, {"mesh": StreamCancelled.code})
        await self._finish()

    async def close(self) -> None:
        """Leave: what is at the broker stays there, for whoever goes on with the stream's id."""
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            await on_close()
        if self._messages is not None:
            await self._messages.aclose()
        await self._stack.aclose()

    async def _say(self, item: Item) -> None:
        async with self._saying:
            if self._ended:
                raise ConfigError("nothing can be said on a stream after its end()")
            number = self.sent + 1
            body = _HEAD.pack(b"D", number, item.kind.value) + item.body
            for attempt in range(1, 1 << 30):
                try:
                    await self._store.put(self._out, body, id=str(number), action=f"stream {self.peer}")
                    break
                except ApiError as error:
                    if error.err_code != NO_ROOM:
                        raise
                await asyncio.sleep(_FULL.wait(attempt, random.random()))
            self.sent = number
            self._ended = item.kind in (Kind.END, Kind.ERROR)

    async def listen(self) -> None:
        """Be the one who reads, in the place of whoever did before. Reading does it too, when it begins. Raises CallError."""
        if not self._consumer:
            asked = {"from": self.peer, "stream": self.id}
            self._consumer = str((await self._ask(CONTROL_PLANE, "mesh/flow", asked, timeout=FLOW_SECONDS))["consumer"])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._held is not None:
            held, self._held = self._held, None
            await self._connection.publish(held.reply, b"+ACK")
        if self._heard_end:
            raise StopAsyncIteration
        if self._messages is None:
            self._messages = self._read()
        message, item, number = await anext(self._messages)
        self.taken = number
        if item.kind not in (Kind.END, Kind.ERROR):
            self._held = message
            return decode(item)
        self._heard_end = True
        await self._connection.publish(message.reply, b"+ACK")
        await self._finish()
        if item.kind is Kind.ERROR:
            error = decode_error(item.body)
            if isinstance(error.data, dict) and error.data.get("mesh") == StreamCancelled.code:
                raise StreamCancelled(f"the stream with {self.peer!r} is over: {error.message}", stream=self.id)
            raise error
        raise StopAsyncIteration

    async def receive(self) -> Any:
        """The next message, as `async for` gives it. Raises StreamLost at the end."""
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise StreamLost("the other end has said all that it had to say") from None

    async def _read(self) -> AsyncGenerator[tuple[Message, Item, int], None]:
        await self.listen()
        pulls = await self._stack.enter_async_context(PullLoop(self._connection, STREAMS, self._consumer, batch=BATCH))
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    messages = await pulls.take()
            except TimeoutError:
                await self._look()
                continue
            for message in messages:
                item, number = self._open(message)
                if item is None or number <= self.taken:
                    await self._connection.publish(message.reply, b"+ACK")  # not the peer's, or taken before it came again
                    continue
                yield message, item, number

    async def _look(self) -> None:
        """Whether the consumer is still ours. Raises StreamLost."""
        try:
            await JetStream(self._connection).api(f"CONSUMER.INFO.{STREAMS}.{self._consumer}")
        except ApiError as error:
            if error.err_code == CONSUMER_NOT_FOUND:
                raise StreamLost("somebody else goes on with this stream, or it was abandoned for too long", stream=self.id) from None
        except MeshError as problem:
            _log.debug("the broker does not say whether a stream goes on", stream=self.id, why=problem.message)

    def _open(self, message: Message) -> tuple[Item | None, int]:
        """What was said, and its number; None for what the peer did not say: an answer of the broker's own, put there by somebody."""
        if message.subject == self._in and len(message.body) >= _HEAD.size:
            start, number, kind = _HEAD.unpack_from(message.body)
            if start == b"D" and kind in _KINDS:
                return Item(_KINDS[kind], message.body[_HEAD.size :]), number
        _log.info("no message of a durable stream", subject=message.subject)
        return None, 0

    async def keep_served(self, open: Callable[[], Awaitable[str]], frame: Callable[[str], str], end: str) -> None:
        """Have it served, for as long as it is open: `open` asks for that and returns which end does, `frame` says where it listens."""
        while True:
            await asyncio.sleep(SERVED_SECONDS)
            try:
                await self._connection.request(frame(end), THERE, timeout=1.0)
            except NoResponders:
                with suppress(MeshError):  # nobody is there who could: what we say waits at the broker
                    end = await open()
            except MeshError:
                continue  # it is there, and answers nothing

    async def _finish(self) -> None:
        """The direction towards us is over: nothing of it is kept."""
        self._heard_end = True
        asked = {"from": self.peer, "stream": self.id, "end": True}
        with suppress(CallError, MalformedMessage):  # who cannot say it leaves it to the broker's sweep
            await self._ask(CONTROL_PLANE, "mesh/flow", asked, timeout=FLOW_SECONDS)
