"""Receiving: lanes → workers → the broker told what became of each.

Theory of operation
-------------------
One task pulls from each lane a number of messages, which are in our hands from then on: every `ack_wait`/3 the broker is told of
each that we are still at it, so that only a receiver that died, or cannot be heard, has its messages delivered again. The workers take from
all lanes in their shares (mesh.policy.lanes). `mesh.delivery.handling` says what becomes of each. What needs no worker any more, but has
not ended (its record is being written, somebody has yet to settle it), goes on beside them and counts as in hand.

**New lanes.** The source is asked for lanes at the start, when something comes on one of its notices whose lane is not there yet, every
minute in case a notice was missed, and after each reconnection.

**Order.** In one lane messages are begun in the order in which they were stored, as long as one worker handles them and none comes again.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Hashable, Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Generic, Literal, Self, TypedDict, TypeVar, Unpack

import structlog

from mesh.background import Background
from mesh.clock import monotonic
from mesh.delivery.family import Family, Lane, Source
from mesh.delivery.handled import Handled, Recently
from mesh.delivery.handling import HANDLER_SECONDS, Handler, Handling, Held
from mesh.errors import BrokerError, BrokerUnavailable, ConfigError, MeshError
from mesh.link.connection import Message
from mesh.link.jetstream import JetStream
from mesh.link.pull import PullLoop
from mesh.policy.lanes import SHARES, Lanes
from mesh.policy.retry import Backoff
from mesh.subjects import PRIORITIES, Subjects

T = TypeVar("T")

PREFETCH: Final = 256
"""Messages of one lane in the hands of one receiver at most. With 64 the pulls are noticed, with more they cost nothing."""

AHEAD: Final = 1.0
"""Seconds of work in hand, where the handler is slow: what waits here could be done by another instance meanwhile, and if we end before it
is begun, it has lost an attempt."""

LEAVE_SECONDS: Final = 5.0
"""That the end of a receiver waits for handlers that run. Then they are cancelled, and their messages come again."""

_AHEAD_OF_OTHERS: Final = 0.02
"""Seconds that the first message goes back ahead of those that follow."""

REFRESH: Final = 60.0
_SOON: Final = 2.0
"""Seconds until a source is asked again that could not say all."""

_TURN: Final = 64
"""Messages that one worker handles before it lets everybody else have a turn, should its handler never wait for anything."""

_log: Final = structlog.get_logger("mesh.delivery")


class ReceiverOptions(TypedDict, total=False):
    """How things are received."""

    workers: int
    """Handled at once; default 1."""
    prefetch: int
    """Of one lane, in hand at once. Default: what is handled within `AHEAD`, two for each worker at least, `PREFETCH` at most; `PREFETCH`
    with `manual`."""
    handler_seconds: float
    """For one; default `HANDLER_SECONDS`."""
    backoff: Backoff
    """Before it comes again."""
    handled: Handled
    """What was done already; default `Recently`."""
    shares: Mapping[str, int]
    """Of the priorities; default `SHARES`."""
    ack: Literal["auto", "manual"]
    """`manual`: not the handler's return ends it, but that somebody settles it by its id."""


async def consumer_config(js: JetStream, stream: str, consumer: str) -> dict[str, object] | None:
    """The settings of a consumer, as the broker has them; None where it is not there."""
    said = await js.consumer(stream, consumer)
    return None if said is None else dict(said["config"])


class _Pulled:
    """A lane that is pulled from."""

    def __init__(self, lane: Lane, pulls: PullLoop, ack_wait: float, most: int) -> None:
        self.lane = lane
        self.pulls = pulls
        self.ack_wait = ack_wait
        self.most = most


class Receiver(Generic[T]):
    """`async with` it: while it lasts, `handler` gets what the lanes of `source` bring, `workers` of them at once."""

    def __init__(
        self,
        js: JetStream,
        subjects: Subjects,
        family: Family[T],
        source: Source,
        handler: Handler[T],
        **options: Unpack[ReceiverOptions],
    ) -> None:
        shares = options.get("shares", SHARES)
        manual = options.get("ack", "auto") == "manual"
        self._workers = options.get("workers", 1)
        self._adapts = not manual and "prefetch" not in options
        self._prefetch = min(2 * self._workers, PREFETCH) if self._adapts else options.get("prefetch", PREFETCH)
        self._seconds = 0.0
        """That one takes, of late."""
        handler_seconds = options.get("handler_seconds", HANDLER_SECONDS)
        if self._workers < 1 or self._prefetch < 1 or handler_seconds <= 0 or set(shares) != set(PRIORITIES):
            raise ConfigError("a subscription has at least one worker, room for a message, time for it, and a share for each priority")
        self._js = js
        self._source = source
        self.family = family
        self.handling: Handling[T] = Handling(
            js,
            subjects,
            family,
            handler,
            handler_seconds=handler_seconds,
            backoff=options.get("backoff") or Backoff(),
            handled=options["handled"] if "handled" in options else Recently(),
            manual=manual,
            ended=self._end,
            beside=self._beside,
        )
        self._waiting: Lanes[Held[T]] = Lanes(shares)
        self._arrived = asyncio.Event()
        self._held: dict[Held[T], _Pulled] = {}
        self._pulled: dict[Lane, _Pulled] = {}
        self._noticed: set[Hashable] = set()
        self._look = asyncio.Event()
        self._leaving = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._let_go)  # last, when nothing of ours is asked for any more
            self._pullers = await stack.enter_async_context(Background())
            self._handlers = await stack.enter_async_context(Background())
            stack.push_async_callback(self._leave)
            for subject, key in self._source.notices.items():
                subscription = await self._js.connection.subscribe(subject, partial(self._notice, key))
                stack.push_async_callback(subscription.unsubscribe)
            stack.callback(self._js.connection.on_up(self._look.set))
            await self._open_lanes()
            self._pullers.start(self._keep_lanes(), "lanes")
            self._pullers.start(self._say_working(), "what is in hand")
            for number in range(self._workers):
                self._handlers.start(self._work(), f"worker {number}")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Those that are pulled from."""
        return tuple(self._pulled)

    @property
    def waiting(self) -> int:
        """How many are in hand that no worker has begun."""
        return len(self._waiting)

    # lanes

    def look(self) -> None:
        """Ask the source for lanes now."""
        self._look.set()

    def _notice(self, key: Hashable, _: Message) -> None:
        if key not in self._noticed:
            self._noticed.add(key)
            self._look.set()

    async def _keep_lanes(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH):
                    await self._look.wait()
            self._look.clear()
            await self._open_lanes()

    async def _open_lanes(self) -> None:
        try:
            lanes, all_found = await self._source.find(self._noticed)
            for lane in lanes:
                await self._open_lane(lane)
        except MeshError as problem:
            _log.info("lanes cannot be found now", why=str(problem))
            all_found = False
        if not all_found:
            asyncio.get_running_loop().call_later(_SOON, self._look.set)

    async def _open_lane(self, lane: Lane) -> None:
        if lane in self._pulled:
            return
        config = await consumer_config(self._js, lane.stream, lane.consumer)
        if config is None:
            return
        ack_wait, most = float(str(config["ack_wait"])) / 1e9, int(str(config.get("max_deliver", -1)))
        pulls = PullLoop(self._js.connection, lane.stream, lane.consumer, batch=self._prefetch, least=self._least, holds=True)
        self._pulled[lane] = pulled = _Pulled(lane, pulls, ack_wait, most)
        self._pullers.start(self._pull(pulled), f"lane {lane.priority} of {lane.owner}")

    @property
    def _least(self) -> int:
        """Worth a pull: with more a worker might be free, and nothing asked for."""
        return min(self._prefetch // 2, self._prefetch - self._workers + 1)

    def _adapt(self, seconds: float) -> None:
        """One was handled in so many seconds."""
        self._seconds = self._seconds + (seconds - self._seconds) / 8 if self._seconds else seconds
        fits = min(PREFETCH, max(2 * self._workers, int(self._workers * AHEAD / max(self._seconds, 1e-6))))
        if not self._prefetch / 2 < fits < self._prefetch * 2:
            self._prefetch = fits
            for pulled in self._pulled.values():
                pulled.pulls.resize(fits, self._least)

    async def _pull(self, pulled: _Pulled) -> None:
        lane, most = pulled.lane, pulled.most
        try:
            async with pulled.pulls:
                async for messages in pulled.pulls:
                    for message in messages:
                        held: Held[T] = Held(lane, message, most)
                        self._held[held] = pulled
                        self._waiting.put(lane.priority, held)
                    self._arrived.set()
        finally:
            self._held.update((Held(lane, message, most), pulled) for message in pulled.pulls.left())

    async def _say_working(self) -> None:
        while True:
            await asyncio.sleep(min((pulled.ack_wait for pulled in self._pulled.values()), default=1.0) / 3)
            with contextlib.suppress(BrokerError):  # it is delivered again, then
                for held in list(self._held):
                    self._js.connection.send(held.message.reply, b"+WPI")

    # handling

    async def _work(self) -> None:
        done = 0
        while not self._leaving:
            held = self._waiting.take()
            if held is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            begun = monotonic()
            await self.handling.deal_with(held)
            if self._adapts:
                self._adapt(monotonic() - begun)
            done += 1
            if done % _TURN == 0:
                await asyncio.sleep(0)

    def _beside(self, work: Coroutine[Any, Any, None], waited_for: bool) -> None:
        (self._handlers if waited_for else self._pullers).start(work, "what needs no worker")

    def _end(self, held: Held[T]) -> None:
        self._held.pop(held).pulls.release()

    # leaving

    async def _leave(self) -> None:
        """Begin nothing more, and let what runs end."""
        self._leaving = True
        self._arrived.set()
        await self._handlers.end(LEAVE_SECONDS)

    async def _let_go(self) -> None:
        """What was not begun, or did not end, may be delivered to others at once, in the order in which it came. The first of each lane
        goes ahead: with it the server finds that nobody waits for our last pull, and puts it behind all that it has by then."""
        first = {pulled: held for held, pulled in reversed(self._held.items())}
        self._give_back(first.values())
        try:
            if len(first) < len(self._held):
                await asyncio.sleep(_AHEAD_OF_OTHERS)
        finally:
            self._give_back(held for held, pulled in self._held.items() if first[pulled] is not held)
            self._held.clear()

    def _give_back(self, these: Iterable[Held[T]]) -> None:
        with contextlib.suppress(BrokerUnavailable):
            for held in these:
                self._js.connection.send(held.message.reply, b"-NAK")
