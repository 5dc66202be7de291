"""Receiving messages: lanes → workers → the broker told what became of each.

Theory of operation
-------------------
One task pulls from each lane, at most `prefetch` messages, which are in our hands from then on: every `ack_wait`/3 the broker is told of
each that we are still at it, so that only a receiver that died, or cannot be heard, has its messages delivered again. The workers take from
all lanes in their shares (mesh.policy.lanes). `mesh.broker.handling` says what becomes of each.

**New lanes.** Lanes are made by the control plane when somebody listens (`normal`), and when the first message of another priority comes:
the broker shows it to whoever subscribes to its subject, as it does any message that is stored, so the message itself is the notice. In
case it was missed, the control plane is asked every minute, and after each reconnection.

**Order.** In one lane messages of one sender are begun in the order in which they were stored, as long as one worker handles them and none
comes again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Self

import structlog

from mesh.broker.handled import Handled, Recently
from mesh.broker.handling import HANDLER_SECONDS, Handler, Handling
from mesh.broker.lanes import lane_config
from mesh.errors import BrokerError, BrokerUnavailable, ConfigError, MeshError
from mesh.link.connection import Message
from mesh.link.jetstream import JetStream
from mesh.link.pull import PullLoop
from mesh.policy.lanes import SHARES, Lanes
from mesh.policy.retry import Backoff
from mesh.subjects import PRIORITIES, Subjects, escape
from mesh.topology import LANES

AskLanes = Callable[[str, Collection[str]], Awaitable[list[str]]]
"""Has the control plane make lanes of a name, and returns those there are. Raises MeshError."""

PREFETCH: Final = 256
"""Messages of one lane in the hands of one subscription. With 64 the pulls are noticed, with more they cost nothing and hold more back from
other instances."""

LEAVE_SECONDS: Final = 5.0
"""That the end of a subscription waits for handlers that run. Then they are cancelled, and their messages come again."""

REFRESH: Final = 60.0
_TURN: Final = 64
"""Messages that one worker handles before it lets everybody else have a turn, should its handler never wait for anything."""

_log: Final = structlog.get_logger("mesh.broker")


class _Lane:
    """One consumer that is pulled from."""

    def __init__(self, target: str, priority: str, pulls: PullLoop, ack_wait: float, most: int) -> None:
        self.target = target
        self.priority = priority
        self.pulls = pulls
        self.ack_wait = ack_wait
        self.most = most
        """Deliveries; -1 is without end."""


class _Held:
    """One message in our hands."""

    __slots__ = ("lane", "message")

    def __init__(self, lane: _Lane, message: Message) -> None:
        self.lane = lane
        self.message = message


class MessageSubscription:
    """`async with` it: while it lasts, `handler` gets the messages to `targets`, `workers` of them at once."""

    def __init__(
        self,
        js: JetStream,
        subjects: Subjects,
        ask: AskLanes,
        targets: tuple[str, ...],
        handler: Handler,
        *,
        workers: int = 1,
        prefetch: int = PREFETCH,
        handler_seconds: float = HANDLER_SECONDS,
        backoff: Backoff | None = None,
        handled: Handled | None = None,
        shares: Mapping[str, int] = SHARES,
    ) -> None:
        if workers < 1 or prefetch < 1 or handler_seconds <= 0 or set(shares) != set(PRIORITIES):
            raise ConfigError("a subscription has at least one worker, room for a message, time for it, and a share for each priority")
        self._js = js
        self._subjects = subjects
        self._ask = ask
        self._targets = targets
        self._workers = workers
        self._prefetch = prefetch
        self.handling = Handling(js, subjects, handler, handler_seconds, backoff or Backoff(), handled or Recently())
        self._waiting: Lanes[_Held] = Lanes(shares)
        self._arrived = asyncio.Event()
        self._held: set[_Held] = set()
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._noticed: set[tuple[str, str]] = set()
        self._look = asyncio.Event()
        self._leaving = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self._let_go)  # last, when nothing of ours is asked for any more
            self._pullers = await stack.enter_async_context(_Tasks())
            self._handlers = await stack.enter_async_context(_Tasks())
            stack.push_async_callback(self._leave)
            for target in self._targets:
                for priority in PRIORITIES:
                    notice = partial(self._notice, (target, priority))
                    subscription = await self._js.connection.subscribe(self._subjects.lane(target, priority), notice)
                    stack.push_async_callback(subscription.unsubscribe)
            stack.callback(self._js.connection.on_up(self._look.set))
            await self._open_lanes()
            self._pullers.start(self._keep_lanes(), "lanes of messages")
            self._pullers.start(self._say_working(), "messages in hand")
            for number in range(self._workers):
                self._handlers.start(self._work(), f"worker {number}")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def lanes(self) -> tuple[tuple[str, str], ...]:
        """Target and priority of each lane that is pulled from."""
        return tuple(self._lanes)

    # lanes

    def _notice(self, key: tuple[str, str], _: Message) -> None:
        if key not in self._lanes and key not in self._noticed:
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
        for target in self._targets:
            wanted = {"normal", *(priority for name, priority in (*self._lanes, *self._noticed) if name == target)}
            try:
                there: Collection[str] = await self._ask(target, wanted)
            except MeshError as problem:
                # Lanes that are there already do without the control plane.
                _log.info("nobody makes lanes now", target=target, why=str(problem))
                there = PRIORITIES
                asyncio.get_running_loop().call_later(2.0, self._look.set)
            for priority in there:
                with contextlib.suppress(MeshError):
                    await self._open_lane(target, priority)

    async def _open_lane(self, target: str, priority: str) -> None:
        if (target, priority) in self._lanes:
            return
        config = await lane_config(self._js, target, priority, self._subjects)
        if config is None:
            return
        ack_wait, most = float(str(config["ack_wait"])) / 1e9, int(str(config.get("max_deliver", -1)))
        pulls = PullLoop(self._js.connection, LANES[priority], escape(target), batch=self._prefetch, holds=True)
        lane = _Lane(target, priority, pulls, ack_wait, most)
        self._lanes[target, priority] = lane
        self._noticed.discard((target, priority))
        self._pullers.start(self._pull(lane), f"lane {priority} of {target}")

    async def _pull(self, lane: _Lane) -> None:
        async with lane.pulls:
            async for messages in lane.pulls:
                for message in messages:
                    held = _Held(lane, message)
                    self._held.add(held)
                    self._waiting.put(lane.priority, held)
                self._arrived.set()

    async def _say_working(self) -> None:
        while True:
            await asyncio.sleep(min((lane.ack_wait for lane in self._lanes.values()), default=1.0) / 3)
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
            try:
                await self.handling.deal_with(held.message, held.lane.target, held.lane.most)
            except MeshError as problem:
                # The broker could not be told: the message comes again.
                _log.warning("nothing could be said of a message", subject=held.message.subject, why=str(problem))
            finally:
                self._held.discard(held)
                held.lane.pulls.release()
            done += 1
            if done % _TURN == 0:
                await asyncio.sleep(0)

    # leaving

    async def _leave(self) -> None:
        """Begin nothing more, and let what runs end."""
        self._leaving = True
        self._arrived.set()
        await self._handlers.end(LEAVE_SECONDS)

    def _let_go(self) -> None:
        """What was not begun may be delivered to others at once."""
        with contextlib.suppress(BrokerUnavailable):
            for held in self._held:
                self._js.connection.send(held.message.reply, b"-NAK")
        self._held.clear()


class _Tasks:
    """Tasks with an owner: what is left of them is cancelled and awaited at the end of the block."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end(0)

    def start(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def end(self, patience: float) -> None:
        if self._tasks and patience:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a subscription's task failed", task=task.get_name(), error=repr(error))
