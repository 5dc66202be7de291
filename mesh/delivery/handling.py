"""What becomes of one delivery.

| the handler                                 | the broker is told            | the message                                        |
|---------------------------------------------|-------------------------------|----------------------------------------------------|
| returns                                     | done                          | is gone; its family says so to whoever waits       |
| raises, or takes longer than it may         | again, after a backoff        | comes again; after the last attempt: a dead letter |
| raises `Retry(after)`                       | again, after `after`          | the same                                           |
| raises `Reject(reason)`                     | a dead letter, then never again | is a dead letter at once                         |
| (its deadline has passed, it is unreadable) | a dead letter, then never again | the same, and the handler never saw it           |
| raises `AlreadyHandled`                     | done                          | is gone                                            |
| (it was done before, it is not for us)      | done                          | is gone, and the handler never saw it              |

A dead letter is stored before its message is taken away. Where it cannot be stored the message comes again, and after the last delivery the
control plane keeps it (`mesh.delivery.given_up`).

With `manual` the handler's return says nothing: what it was given stays in hand until somebody settles it (`Handling.settle`), or
`handler_seconds` are over, which counts as a failure.

This module is long because every way in which one delivery ends stands here.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Final, Generic, TypeVar

import structlog

from mesh import clock
from mesh.delivery.dead import letter_subject, write_letter
from mesh.delivery.family import Family, Lane
from mesh.delivery.handled import Handled, Key
from mesh.delivery.verdicts import AlreadyHandled, Reject, Retry
from mesh.errors import MalformedMessage, MeshError, Refused
from mesh.link.connection import Message
from mesh.link.jetstream import Delivery, JetStream, parse_delivery
from mesh.policy.retry import Backoff
from mesh.subjects import Subjects
from mesh.wire.letter import Attempt, DeadLetter, own_headers

T = TypeVar("T")

Handler = Callable[[T], Awaitable[Any]]
"""What it returns goes to `Family.done`. What it raises decides what becomes of the message."""

HANDLER_SECONDS: Final = 300.0
"""For one message. What takes longer is a job."""

MOST_FAILURES: Final = 1000
"""Messages whose failed attempts are remembered for their dead letters. Others of them went to other instances, or nobody knows where."""

LATEST: Final = 6.5 * 86_400
"""Seconds from when something was stored until it comes again at the latest, however long its handler wants to wait: its stream drops it
after seven days."""

TWICE: Final = 1.0
"""Seconds until something is looked at again that was stored three times, and is being done, where that may be as often as it likes."""

_log: Final = structlog.get_logger("mesh.delivery")


class Held(Generic[T]):
    """One delivery in our hands, from when it came until the broker was told what became of it."""

    __slots__ = ("delivery", "item", "key", "lane", "message", "most", "settled")

    def __init__(self, lane: Lane, message: Message, most: int) -> None:
        self.lane = lane
        self.message = message
        self.most = most
        """Deliveries; -1 is without end."""
        self.delivery: Delivery = parse_delivery(message.reply)
        self.item: T | None = None
        self.key: Key | None = None
        """Once the handler has it."""
        self.settled: asyncio.Future[Any] | None = None


class Handling(Generic[T]):
    """Of one receiver: `ended` is called for each delivery that is not in hand any more, and `beside` starts what goes on without a worker;
    with True as its second argument the receiver does not leave before it is over."""

    def __init__(
        self,
        js: JetStream,
        subjects: Subjects,
        family: Family[T],
        handler: Handler[T],
        *,
        handler_seconds: float,
        backoff: Backoff,
        handled: Handled,
        manual: bool,
        ended: Callable[[Held[T]], None],
        beside: Callable[[Coroutine[Any, Any, None], bool], None],
    ) -> None:
        self._js = js
        self._subjects = subjects
        self._family = family
        self._handler = handler
        self._handler_seconds = handler_seconds
        self._backoff = backoff
        self._handled = handled
        self._manual = manual
        self._ended = ended
        self._beside = beside
        self._failures: dict[tuple[str, int], list[Attempt]] = {}
        """Of messages that will come again, by stream and sequence."""
        self._running: dict[Key, Held[T]] = {}
        self._twins: dict[Key, Held[T]] = {}
        """What was stored a second time, beside the first, which runs."""
        self._behind: dict[Awaitable[object], list[tuple[Held[T], T, Any]]] = {}
        """What is done, with its result, by the record that is on its way."""

    async def deal_with(self, held: Held[T]) -> None:
        """One delivery, for as long as it needs a worker."""
        goes_on = False
        try:
            goes_on = await self._begin(held)
        except Exception as problem:
            _unsaid(held, problem)
        if not goes_on:
            self._end(held)

    async def _begin(self, held: Held[T]) -> bool:
        """Whether it goes on beside the workers. Raises MeshError where the broker cannot be told: then it comes again."""
        family = self._family
        try:
            item = family.read(held.message, held.delivery, held.lane)
        except (MalformedMessage, Refused) as problem:
            await self._bury(held, "malformed", problem.message)
            return False
        except Reject as rejected:
            await self._bury(held, rejected.code, str(rejected))
            return False
        except Exception as error:  # a filter or a transformation of the user's own
            await self._failed(held, error)
            return False
        if item is None:
            await self._js.ack(held.message)
            return False
        held.item = item
        key = family.key(item)
        seen = self._handled.seen(key)  # also at the first delivery: a broker that was killed knows neither its counts nor its ids
        if seen if isinstance(seen, bool) else await seen:
            await self._js.ack(held.message)
            return False
        if (other := self._running.get(key)) is not None:
            return await self._again(other, held, key)
        most = family.attempts(item)
        if most is not None and (held.most < 0 or most < held.most):
            held.most = most
        if 0 < held.most < held.delivery.deliveries:
            await self._bury(held, "undelivered", f"its receiver ended, or lost its connection, at each of {held.most} deliveries")
            return False
        deadline = family.deadline_ns(item)
        if deadline is not None and clock.wall_ns() > deadline:
            await self._bury(held, "expired", "its deadline had passed when it came to be handled")
            return False
        held.key = key
        self._running[key] = held
        return await self._run(held, key, item)

    async def _run(self, held: Held[T], key: Key, item: T) -> bool:
        settled = held.settled = asyncio.get_running_loop().create_future() if self._manual else None
        limit = asyncio.timeout(self._handler_seconds)
        try:
            async with limit:
                result = await self._handler(item)
        except AlreadyHandled:
            await self._js.ack(held.message)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            await self._failed(held, error)  # something that the handler waited for was cancelled, and not we
        except Exception as error:
            await self._failed(held, error, late=limit.expired())
        else:
            if settled is None:
                return await self._done(held, key, item, result)
            self._beside(self._until_settled(held, settled, key, item), False)
            return True
        return False

    def settle(self, key: Key, result: Any = None, error: Exception | None = None) -> bool:
        """With `manual`: what was handed to the handler is done, or failed with `error`. False where it is not in our hands (any more)."""
        held = self._running.get(key)
        if held is None or held.settled is None or held.settled.done():
            return False
        if error is None:
            held.settled.set_result(result)
        else:
            held.settled.set_exception(error)
        return True

    @property
    def running(self) -> Collection[Key]:
        """What was handed to the handler and has not ended."""
        return self._running.keys()

    async def _until_settled(self, held: Held[T], settled: asyncio.Future[Any], key: Key, item: T) -> None:
        goes_on, limit = False, asyncio.timeout(self._handler_seconds)
        try:
            try:
                async with limit:
                    result = await settled
            except Exception as error:
                await self._failed(held, error, late=limit.expired())
            else:
                goes_on = await self._done(held, key, item, result)
        except Exception as problem:
            _unsaid(held, problem)
        if not goes_on:
            self._end(held)

    async def _again(self, running: Held[T], held: Held[T], key: Key) -> bool:
        """It came again while its handler runs: the broker did not hear for long that we are at it. What becomes of it is said of the
        newest delivery. Stored twice, the second one stays in hand until the first has ended. True: it goes on."""
        if (running.delivery.stream, running.delivery.seq) == (held.delivery.stream, held.delivery.seq):
            running.message, running.delivery = held.message, held.delivery
        elif key not in self._twins:
            self._twins[key] = held
            return True
        else:  # each look is a delivery: there are enough of them until the handler's time is over
            await self._js.nak(held.message, TWICE if held.most < 2 else self._handler_seconds / (held.most - 1))
        return False

    async def _look_again(self, twin: Held[T]) -> None:
        try:
            await self._js.nak(twin.message)
        except Exception as problem:
            _unsaid(twin, problem)
        self._ended(twin)

    async def _done(self, held: Held[T], key: Key, item: T, result: Any) -> bool:
        """Whether its record is on its way, and the rest behind that."""
        record = self._handled.record(key)
        if self._failures:
            self._failures.pop((held.delivery.stream, held.delivery.seq), None)
        if record is None:
            await self._say_done(held, item, result)
            return False
        behind = self._behind.get(record)
        if behind is None:
            behind = self._behind[record] = []
            self._beside(self._when_recorded(record), True)
        behind.append((held, item, result))
        return True

    async def _when_recorded(self, record: Awaitable[object]) -> None:
        try:
            await record
        except Exception as problem:
            _log.warning("what was done could not be recorded", why=str(problem))
        for held, item, result in self._behind.pop(record):
            try:
                await self._say_done(held, item, result)
            except Exception as problem:
                _unsaid(held, problem)
            self._end(held)

    async def _say_done(self, held: Held[T], item: T, result: Any) -> None:
        said = self._family.done(item, result)
        if said is not None:
            await said
        await self._js.ack(held.message)

    def _end(self, held: Held[T]) -> None:
        if held.key is not None:
            del self._running[held.key]
            if (twin := self._twins.pop(held.key, None)) is not None:
                self._beside(self._look_again(twin), True)
        self._ended(held)

    async def _failed(self, held: Held[T], error: BaseException, *, late: bool = False) -> None:
        if isinstance(error, Reject):
            await self._bury(held, error.code, str(error) or "the handler rejected it")
            return
        raw, delivery = held.message, held.delivery
        said = f"longer than {self._handler_seconds:g} s" if late else repr(error)
        if not isinstance(error, Retry):
            _log.warning("a handler failed", subject=raw.subject, stream=delivery.stream, attempt=delivery.deliveries, error=said)
        attempts = self._failures.setdefault((delivery.stream, delivery.seq), [])
        attempts.append(Attempt(clock.wall_ns(), said))
        while len(self._failures) > MOST_FAILURES:  # messages that went to another instance, or nobody knows where
            del self._failures[next(iter(self._failures))]
        if 0 < held.most <= delivery.deliveries:
            await self._bury(held, "failed", f"the last of {delivery.deliveries} attempts failed: {said}")
            return
        after = error.after if isinstance(error, Retry) else None
        after = self._backoff.wait(delivery.deliveries, random.random()) if after is None else max(0.0, after)
        after = min(after, max(0.0, LATEST - (clock.wall_ns() - delivery.time_ns) / 1e9))
        told = None if held.item is None else self._family.failed(held.item, said, after)
        if told is not None:
            await told
        await self._js.nak(raw, after)

    async def _bury(self, held: Held[T], code: str, reason: str) -> None:
        raw, delivery, lane, item = held.message, held.delivery, held.lane, held.item
        letter = DeadLetter(
            subject=raw.subject,
            body=raw.body,
            code=code,
            reason=reason,
            deliveries=delivery.deliveries,
            stored_ns=delivery.time_ns,
            attempts=tuple(self._failures.get((delivery.stream, delivery.seq), ())),
            headers=own_headers(raw.headers),
            subscription=lane.subscription,
            trace="" if item is None else self._family.trace(item),
        )
        subject = letter_subject(self._subjects, lane.owner, delivery.stream, delivery.seq, delivery.time_ns, lane.subscription)
        try:
            await write_letter(self._js, subject, letter)
        except MeshError as problem:
            _log.warning("a dead letter could not be kept; its message comes again", subject=letter.subject, why=str(problem))
            await self._js.nak(raw, self._backoff.longest)
            return
        self._failures.pop((delivery.stream, delivery.seq), None)
        told = None if item is None else self._family.buried(item, code, reason)
        if told is not None:
            await told
        await self._js.term(raw, code)


def _is_cancelled() -> bool:
    """Whether somebody wants this task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _unsaid(held: Held[Any], problem: Exception) -> None:
    """The broker could not be told: the message comes again."""
    why = str(problem) if isinstance(problem, MeshError) else repr(problem)
    _log.warning("nothing could be said of a message", subject=held.message.subject, why=why)
