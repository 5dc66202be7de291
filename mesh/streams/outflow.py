"""What one end of a durable stream says, until the broker has it.

One write is under way at a time, and what is said meanwhile goes with the next one, in one message of the queue. So the queue's order is
the order of saying, also where it is full for a while, and a write that has to be repeated is the same write: the broker drops the second.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Final

from mesh.background import end_tasks
from mesh.delivery import Store, what_is_full
from mesh.errors import ApiError, BrokerUnavailable, ConfigError, MeshError, StreamLost
from mesh.policy.retry import Backoff
from mesh.policy.stream_flow import GROUP_BYTES, WINDOW, WINDOW_BYTES, Item, Kind
from mesh.streams.messages import pack
from mesh.wire.stream import MARK_HEADER, Mark

_AGAIN: Final = Backoff(first=0.02, longest=1.0)


class Outflow:
    """`sent`: the number of the last message that the broker has from before; `ended`: it was our last one."""

    def __init__(self, store: Store, subject: str, action: str, *, sent: int = 0, ended: bool = False) -> None:
        self._written = sent
        self.ended = ended
        self.over = False
        """Whether this end reads no more either. Said with the last message."""
        self._store = store
        self._subject = subject
        self._action = action
        self._waiting: deque[Item] = deque()
        """Messages from `_written` on, those that are being written among them."""
        self._bytes = 0
        self._error: MeshError | None = None
        self._writing: asyncio.Task[None] | None = None
        self._wakers: list[asyncio.Future[None]] = []
        self._then: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def sent(self) -> int:
        """Messages that were said, before us and by us; the end is none."""
        return self._last - self.ended

    @property
    def _last(self) -> int:
        return self._written + len(self._waiting)

    async def say(self, item: Item) -> None:
        """Take it, when there is room; it is written from then on. Raises ConfigError after the end, and what a write has failed with."""
        while self._waiting and (len(self._waiting) >= WINDOW or self._bytes >= WINDOW_BYTES) and self._error is None and not self.ended:
            await self._change()
        if self._error is not None:
            raise self._error
        if self.ended:
            raise ConfigError("nothing can be said on a stream after its end()")
        self._take(item)

    def end(self, item: Item) -> None:
        """Take the last one, room or not. After the end, or a write that has failed, it does nothing."""
        if not self.ended and self._error is None:
            self.ended = True
            self._take(item)
            self._changed()

    def when_stored(self, do: Callable[[], None]) -> None:
        """Do it once the broker has what was said until now; never where it does not get it."""
        if self._waiting:
            self._then.append((self._last, do))
        elif self._error is None:
            do()

    def _take(self, item: Item) -> None:
        self._waiting.append(item)
        self._bytes += len(item.body)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name=f"stream to {self._subject}")

    async def stored(self) -> None:
        """Wait until the broker has all that was said. Raises what a write has failed with."""
        while self._waiting and self._error is None:
            await self._change()
        if self._error is not None:
            raise self._error

    async def close(self, timeout: float) -> None:
        """Raises as `stored`, and StreamLost where the broker has not all of it in time."""
        try:
            async with asyncio.timeout(timeout):
                await self.stored()
        except TimeoutError:
            raise StreamLost(
                f"the last {len(self._waiting)} messages were not stored: the other end does not read, or the broker is away"
            ) from None
        finally:
            await end_tasks(self._writing)

    async def _write(self) -> None:
        try:
            while self._waiting:
                count = self._group()
                await self._put(self._written + 1, [*itertools.islice(self._waiting, count)])
                self._bytes -= sum(len(self._waiting.popleft().body) for _ in range(count))
                self._written += count
                while self._then and self._then[0][0] <= self._written:
                    self._then.popleft()[1]()
                self._changed()
        except MeshError as problem:
            self._error = problem
        finally:
            self._writing = None
            self._changed()

    def _group(self) -> int:
        """How many of those that wait go together: one at least, and not much more than `GROUP_BYTES`."""
        size = 0
        for count, item in enumerate(self._waiting):
            size += len(item.body)
            if count and size > GROUP_BYTES:
                return count
        return len(self._waiting)

    async def _put(self, first: int, items: list[Item]) -> None:
        """Store them as one message, however long the queue is full, or the broker away."""
        body, last = pack(first, items), first + len(items) - 1
        ended = items[-1].kind in (Kind.END, Kind.ERROR)
        headers = {MARK_HEADER: Mark(last, ended, ended and self.over).header()}
        id = f"{first}-{last}"  # both: who goes on from an older count may group what it says in another way
        for attempt in itertools.count(1):
            try:
                await self._store.put(self._subject, body, id=id, action=self._action, headers=headers)
                return
            except ApiError as problem:
                if what_is_full(problem) is None:
                    raise
            except BrokerUnavailable as problem:
                if not problem.retryable:
                    raise
            await asyncio.sleep(_AGAIN.wait(attempt, random.random()))

    async def _change(self) -> None:
        waker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wakers.append(waker)
        await waker

    def _changed(self) -> None:
        wakers, self._wakers = self._wakers, []
        for waker in wakers:
            if not waker.done():
                waker.set_result(None)
