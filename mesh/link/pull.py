"""Messages from a consumer, pulled in a pipeline: the next ones are on their way while these are worked on.

Theory of operation
-------------------
`batch` bounds what is asked for and buffered together. Whoever iterates takes all that is buffered as one list; that makes room,
and where there is room for `least` (half a batch) the next pull goes out. So at most two batches are held: one in the buffer, one in
the hands of the taker, and a taker that is slow is simply asked for no more. With `holds=True` what is taken counts as held until
`release`: for who says a word of each in time, so that none is delivered twice, and so must have all of them in its hands.

All pulls share one inbox. A *status* (heartbeat, end of a pull, refusal) comes on the inbox itself; a *message* comes on its own
subject, with the consumer's ack subject as reply. That, and not a header, tells them apart: a sender can write a `Status` header,
but not onto our inbox.

While something is asked for the server must be heard once a `heartbeat`. If it is not, the pulls are taken for lost and made anew
under a new *generation* of the inbox, as they are after a reconnection.

With `resume=False` nothing is made anew: the iteration raises instead. A reader without acks needs that, as what was on its way
when the connection dropped will not come again. With `until_empty=True` the pulls do not wait for messages, and the iteration ends
when the server says that there are none: the count of those that follow, which each message carries, would wait for ever for a last
one that expires unread.

Traps answered:

- nats-py's `fetch` stalls now and then, ignores missed heartbeats, and after a restart waits out its timeout with a message
  available.
- `fetch` on a consumer that is not there returns at once, so a loop around it spins. Refusals are met with a growing delay here.
- A subscription over its pending limit drops messages in silence, to be seen again after `ack_wait`. Nothing is asked for here that
  there is no room for.
- A handler awaited by the subscription holds up the next message. Here a taker runs as many at once as it likes.

Source: NATS ADR-37 (simplified consumers), ADR-9 (idle heartbeats), ADR-13 (pull).
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final, Self

import structlog

from mesh.clock import monotonic
from mesh.errors import BrokerUnavailable, MeshError
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.jetstream import API

MAX_BYTES: Final = 16 * 1024 * 1024
"""A pull ends at so many bytes. 500 messages at the broker's limit of 1 MiB would otherwise be half a gigabyte."""

_SLACK: Final = 0.5
"""Seconds that a heartbeat may be late, twice over, before it counts as missed."""

_QUIET: Final = 0.05
_LEAVING: Final = 0.5
"""Seconds after which nothing that a pull was given is on its way any more, and that the end of a loop waits for that at most."""

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0

_USUAL: Final = frozenset({"404", "408"})
"""No messages; the pull expired. Both end a pull as it was meant to end."""

_COMPLETE: Final = frozenset({"Batch Completed", "Message Size Exceeds MaxBytes"})
"""The two 409 that are no trouble: a pull with `max_bytes` has had its messages, or its bytes."""

_log = structlog.get_logger("mesh.link")


class PullLoop:
    """`async with PullLoop(…) as pulls: async for messages in pulls: …`, with lists of at least one message, in the order of the consumer.
    One task takes.

    `expires` and `heartbeat` are seconds; the server wants `heartbeat` to be at most half of `expires`.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        *,
        batch: int = 500,
        least: int | None = None,
        expires: float = 30.0,
        heartbeat: float = 2.0,
        max_bytes: int = MAX_BYTES,
        resume: bool = True,
        until_empty: bool = False,
        holds: bool = False,
    ) -> None:
        self.stream = stream
        self.consumer = consumer
        self.batch = batch
        self._least = max(1, batch // 2 if least is None else least)
        self._holds = holds
        self._held = 0
        self.foreign = 0
        """Messages that no pull of ours asked for: somebody named our inbox as a reply subject. They are dropped."""
        self.refusals = 0
        self.resets = 0
        """How often the pulls were taken for lost and made anew."""
        self._connection = connection
        self._resume = resume
        self._until_empty = until_empty
        self._pull: dict[str, int | bool] = {"max_bytes": max_bytes}
        if until_empty:
            self._pull["no_wait"] = True  # the server takes no heartbeat here; its answer is due within `_silence`
        else:
            self._pull |= {"expires": round(expires * 1e9), "idle_heartbeat": round(heartbeat * 1e9)}
        self._subject = f"{API}CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._mark = f".{stream}.{consumer}."
        self._silence = 2 * heartbeat + _SLACK
        self._inbox = connection.new_inbox()
        self._generation = 0
        self._asked = 0
        self._buffer: list[Message] = []
        self._heard = 0.0
        self._busy = 0.0
        """When something was asked for, or a message came."""
        self._delay = _FIRST_DELAY
        self._not_before = 0.0
        self._empty = False
        self._error: MeshError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._subscription: Subscription | None = None
        self._detach: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.subscribe(self._inbox + ".*", self._on_message, pulled=True)
        self._detach = [self._connection.on_up(self._on_up), self._connection.on_down(self._on_down)]
        self._ask()
        self._watch()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """The server forgets pulls whose inbox nobody listens to. With `holds` what it has sent us meanwhile is waited for, and `left` has
        what nobody took; without, that comes again after its `ack_wait`."""
        self._empty = True
        for detach in self._detach:
            detach()
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._holds:
                await self._fall_quiet()
        finally:
            if self._subscription is not None:
                await self._subscription.unsubscribe(drain=self._holds)

    async def _fall_quiet(self) -> None:
        """The server gives messages to a pull in one place and sends them in another. Where nobody listens any more by then, they are lost
        for `ack_wait`."""
        end = monotonic() + _LEAVING
        while self._asked and (rest := min(end, self._busy + _QUIET) - monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(rest)

    def __aiter__(self) -> AsyncIterator[list[Message]]:
        return self

    async def __anext__(self) -> list[Message]:
        messages = await self.take()
        if not messages:
            raise StopAsyncIteration
        return messages

    async def take(self) -> list[Message]:
        """All that is buffered, as soon as there is anything. With `until_empty` an empty list ends it.

        With `resume=False` raises BrokerUnavailable once the pulls are lost.
        """
        while not self._buffer:
            if self._empty:
                return []
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        messages, self._buffer = self._buffer, []
        if self._holds:
            self._held += len(messages)
        self._ask()
        return messages

    def left(self) -> list[Message]:
        """What nobody took, once the loop has ended. They are the taker's to give back."""
        messages, self._buffer = self._buffer, []
        return messages

    def resize(self, batch: int, least: int) -> None:
        """From now on. What was asked for may still come."""
        self.batch, self._least = batch, max(1, least)
        self._ask()

    def release(self, count: int = 1) -> None:
        self._held -= count
        self._ask()

    def _ask(self) -> None:
        """Pull as much as there is room for, if that is worth a request."""
        room = self.batch - self._asked - len(self._buffer) - self._held
        now = monotonic()
        if room < self._least or now < self._not_before or self._error is not None or self._empty:
            return
        body = json.dumps({"batch": room, **self._pull}).encode()
        try:
            self._connection.send(self._subject, body, f"{self._inbox}.{self._generation}")
        except BrokerUnavailable as error:
            if not self._resume:
                self._fail(error)
            return  # `_on_up` or `_watch` asks again
        if self._asked == 0:
            self._heard = now
        self._asked += room
        self._busy = now

    def _on_message(self, message: Message) -> None:
        self._heard = monotonic()
        if message.subject.startswith(self._inbox):
            self._on_status(message)
        elif self._mark in message.reply:
            self._asked = max(0, self._asked - 1)
            self._busy = self._heard
            self._delay = _FIRST_DELAY
            self._buffer.append(message)
            self._wake()
        else:
            self.foreign += 1

    def _on_status(self, message: Message) -> None:
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "")
        if status == "100" or message.subject != f"{self._inbox}.{self._generation}":
            return
        left = headers.get("Nats-Pending-Messages")
        self._asked = max(0, self._asked - int(left)) if left else 0
        if status in _USUAL or description in _COMPLETE:
            if not self._until_empty:
                self._ask()
            elif status == "404":
                self._empty = True
                self._wake()
            elif self._asked == 0:
                self._ask()  # not before: it would be told again that the pull before it takes all there is
            return
        self.refusals += 1
        _log.info("a pull was refused", stream=self.stream, consumer=self.consumer, status=status, description=description)
        if not self._resume:
            self._fail(BrokerUnavailable(f"the consumer {self.consumer} of {self.stream} was lost: {status} {description}".rstrip()))
            return
        # No consumer, no leader, shutting down, too many pulls: the same question a moment later may have another answer.
        self._not_before = monotonic() + self._delay * (0.5 + random.random())
        self._delay = min(_LONGEST_DELAY, self._delay * 2)
        self._watch()

    def _on_up(self) -> None:
        if self._resume:
            self._not_before = 0.0
            self._renew()

    def _on_down(self) -> None:
        if not self._resume:
            self._fail(BrokerUnavailable("the connection to the broker was lost"))

    def _renew(self) -> None:
        self.resets += 1
        self._generation += 1
        self._asked = 0
        self._ask()

    def _watch(self) -> None:
        """The one timer: asks when a delay is over, and finds silence. It fires once a heartbeat or so, whatever the traffic."""
        if self._timer is not None:
            self._timer.cancel()
        now = monotonic()
        if self._asked and self._connection.connected and now - self._heard > self._silence:
            _log.info("a consumer is silent", stream=self.stream, consumer=self.consumer, seconds=round(now - self._heard, 1))
            if self._resume:
                self._renew()
            else:
                self._fail(BrokerUnavailable(f"the consumer {self.consumer} of {self.stream} is silent"))
                return
        elif not self._asked:
            self._ask()
        wait = self._not_before - now if self._not_before > now else self._silence / 2
        self._timer = asyncio.get_running_loop().call_later(wait, self._watch)

    def _fail(self, error: MeshError) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
