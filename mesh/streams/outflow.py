"""What one end of a durable stream says, until the broker has it.

One write is under way at a time, and what is said meanwhile goes with the next one, in one message of the queue. So the queue's order is
the order of saying, also where it is full for a while, and a write that has to be repeated is the same write: the broker drops the second.
"""

import asyncio
import itertools
import random
from collections import deque
from typing import Final

from mesh.background import end_tasks
from mesh.delivery import Store, what_is_full
from mesh.errors import ApiError, BrokerUnavailable, ConfigError, MeshError, StreamLost
from mesh.policy.retry import Backoff
from mesh.policy.stream_flow import GROUP_BYTES, WINDOW, WINDOW_BYTES, Item, Kind
from mesh.streams.messages import pack

_AGAIN: Final = Backoff(first=0.02, longest=1.0)


class Outflow:
    """`sent`: messages that the broker has from before."""

    def __init__(self, store: Store, subject: str, action: str, *, sent: int = 0) -> None:
        self._written = sent
        self.ended = False
        self._store = store
        self._subject = subject
        self._action = action
        self._waiting: deque[Item] = deque()
        """Messages from `_written` on, those that are being written among them."""
        self._bytes = 0
        self._error: MeshError | None = None
        self._writing: asyncio.Task[None] | None = None
        self._wakers: list[asyncio.Future[None]] = []

    @property
    def sent(self) -> int:
        """Messages that were said, before us and by us."""
        return self._written + len(self._waiting)

    async def say(self, item: Item) -> None:
        """Take it, when there is room; it is written from then on. Raises ConfigError after the end, and what a write has failed with."""
        last = item.kind in (Kind.END, Kind.ERROR)
        while not last and self._waiting and (len(self._waiting) >= WINDOW or self._bytes >= WINDOW_BYTES) and self._error is None:
            await self._change()
        if self._error is not None:
            raise self._error
        if self.ended:
            raise ConfigError("nothing can be said on a stream after its end()")
        self.ended = last
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
        body = pack(first, items)
        id = f"{first}-{first + len(items) - 1}"  # both: who goes on from an older count may group what it says in another way
        for attempt in itertools.count(1):
            try:
                await self._store.put(self._subject, body, id=id, action=self._action)
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
