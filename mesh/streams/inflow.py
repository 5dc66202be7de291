"""What one end of a durable stream hears: pulled from its consumer, each message once and in order.

The consumer numbers what it delivers. A number that is missing means that a delivery was lost with a connection; it would come again only
after the consumer's `ack_wait`, behind what followed it. So a new consumer is asked for, which begins with the first message that was not
acknowledged; what comes twice by that is told by its number in the stream.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final

import structlog

from mesh import clock
from mesh.errors import ApiError, BrokerUnavailable, Busy, CallTimeout, MalformedMessage, MeshError, NoSuchAgent, StreamIdle, StreamLost
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import CONSUMER_NOT_FOUND, JetStream, parse_delivery
from mesh.link.pull import PullLoop
from mesh.policy.retry import Backoff
from mesh.policy.stream_flow import Item, Kind
from mesh.streams.flows import ABANDONED
from mesh.streams.messages import unpack
from mesh.topology import STREAMS

BATCH: Final = 64
LOOK_SECONDS: Final = 5.0
"""Between two looks of a reader that hears nothing: is the consumer still its own?"""

_AGAIN: Final = Backoff(first=0.5, longest=5.0)
_PASSING: Final = (BrokerUnavailable, Busy, CallTimeout, NoSuchAgent)
"""The control plane is not to be had just now."""

_log = structlog.get_logger("mesh.streams")


class Inflow:
    """`subject`: that of the direction; `ask`: for a consumer's name; `when_stored`: does something once the broker has what was said in
    the other direction, so that no message is done before its answer is safe. `taken`: the number of the last message that was taken."""

    def __init__(
        self,
        connection: Connection,
        id: str,
        subject: str,
        ask: Callable[[], Awaitable[str]],
        when_stored: Callable[[Callable[[], None]], None],
        *,
        taken: int = 0,
    ) -> None:
        self.taken = taken
        self.quiet_since = clock.monotonic()
        self._connection = connection
        self._id = id
        self._subject = subject
        self._ask = ask
        self._when_stored = when_stored
        self._consumer = ""
        self._pulls: PullLoop | None = None
        self._stack = AsyncExitStack()
        self._delivered = 0
        """The consumer's number of the last delivery that arrived."""
        self._waiting: deque[tuple[int, Item, Message | None]] = deque()
        """Number, message, and what is to be acknowledged with it: the last one of those that were written together has that."""
        self._held: Message | None = None
        self._done: dict[int, str] = {}
        """What is to be acknowledged, by number: it may come again before it can be."""
        self._waits: asyncio.Timeout | None = None
        self._closed = False

    async def listen(self) -> None:
        """Be the one who reads, in the place of whoever did before. Raises what `ask` does."""
        if not self._consumer:
            self._consumer, self._delivered = await self._ask(), 0

    async def next(self) -> Item:
        """The next message; the one before is acknowledged. It may be cancelled, and called again. Raises StreamLost, StreamIdle,
        Denied."""
        self.done()
        while True:
            while self._waiting:
                number, item, whole = self._waiting.popleft()
                if number > self.taken:
                    self.taken, self._held = number, whole
                    return item
                self._acknowledge(number, whole)
            await self._more()

    def touch(self) -> None:
        """The stream is in use: it is not quiet."""
        self.quiet_since = clock.monotonic()

    def done(self) -> None:
        """Acknowledge what was taken, as soon as its answers are stored."""
        held, self._held = self._held, None
        self._acknowledge(self.taken, held)

    def stop(self) -> None:
        """A reading that still waits raises StreamLost."""
        self._closed = True
        if self._waits is not None and not self._waits.expired():
            self._waits.reschedule(0)

    async def close(self) -> None:
        """As `stop`. What was not taken comes to whoever reads next."""
        self.stop()
        await self._drop()

    async def _drop(self) -> None:
        stack, self._stack = self._stack, AsyncExitStack()
        self._pulls, self._consumer = None, ""
        await stack.aclose()

    def _acknowledge(self, number: int, message: Message | None) -> None:
        if message is not None:
            known = number in self._done
            self._done[number] = message.reply
            if not known:
                self._when_stored(partial(self._say_done, number))

    def _say_done(self, number: int) -> None:
        with suppress(BrokerUnavailable):  # then it comes again, and its number is known
            self._connection.send(self._done.pop(number), b"+ACK")

    async def _more(self) -> None:
        if self._closed:
            raise StreamLost("this end was closed", stream=self._id)
        if self._pulls is None:
            await self._begin()
        assert self._pulls is not None
        try:
            async with asyncio.timeout(LOOK_SECONDS) as self._waits:
                messages = await self._pulls.take()
        except TimeoutError:
            await self._look()
            return
        finally:
            self._waits = None
        self.touch()
        for message in messages:
            number = parse_delivery(message.reply).consumer_seq
            if number != self._delivered + 1:
                _log.info("deliveries of a durable stream were lost", stream=self._id, after=self._delivered, before=number)
                await self._drop()
                return
            self._delivered = number
            self._open(message)

    async def _begin(self) -> None:
        attempt = 0
        while not self._consumer and not self._closed:
            try:
                await self.listen()
            except _PASSING as problem:
                attempt += 1
                _log.info("a durable stream cannot be read yet", stream=self._id, why=problem.message)
                await asyncio.sleep(_AGAIN.wait(attempt, random.random()))
        if self._closed:
            raise StreamLost("this end was closed", stream=self._id)
        self._pulls = await self._stack.enter_async_context(PullLoop(self._connection, STREAMS, self._consumer, batch=BATCH))

    async def _look(self) -> None:
        """Whether the consumer is still ours, and anybody speaks."""
        if self._closed:
            return
        if clock.monotonic() - self.quiet_since > ABANDONED:
            raise StreamIdle(f"nothing was said for {ABANDONED:g} s", stream=self._id)
        try:
            await JetStream(self._connection).api(f"CONSUMER.INFO.{STREAMS}.{self._consumer}")
        except ApiError as error:
            if error.err_code == CONSUMER_NOT_FOUND:
                raise StreamLost("somebody else goes on with this stream, or it was abandoned for too long", stream=self._id) from None
        except MeshError as problem:
            _log.debug("the broker does not say whether a stream goes on", stream=self._id, why=problem.message)

    def _open(self, message: Message) -> None:
        """What the peer did not say is passed over: an answer of the broker's own, put there by somebody."""
        try:
            if message.subject != self._subject:
                raise MalformedMessage("a message of another subject")
            first, items = unpack(message.body)
        except MalformedMessage as problem:
            _log.info("no message of a durable stream", subject=message.subject, why=problem.message)
            first, items = 0, [Item(Kind.BYTES, b"")]  # its number is one that was taken
        last = len(items) - 1
        self._waiting.extend((first + index, item, message if index == last else None) for index, item in enumerate(items))
