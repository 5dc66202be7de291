"""What was done, kept at the broker: so that another instance of a pool, or this one after a restart, does not do it again.

Theory of operation
-------------------
What one turn of the event loop brings is one *batch*: written once to the bucket `handled`, as `{owner}.{batch}`, whose value is the
digests of its keys, one after the other. A handler that does not wait brings 64 a turn, and so a record costs a 64th of a write, for the
broker, for everybody who follows, and for who reads it at its start. Only the acknowledgements of these messages wait for the writing.

Asked is only the copy in memory: it begins with what the bucket holds of our names, follows the copies that the broker republishes, and
reads on after each reconnection. What it has is answered at once, also while it reads. What it has not waits for the end of the reading:
at the start however long that takes, and after a reconnection for `CATCH_UP` seconds, as then only what went missing with the connection
can be new. The reading begins with the newest `most` batches, whatever else the bucket has.

Both are bounded, and their oldest go: the bucket by age (24 hours) and size (`mesh.topology`), the copy by number, `MOST` for each name.
What was done longer ago than either reaches is done again if it comes again.

Traps answered:

- Who may ask the broker anything can have it put an answer on any subject, also on that of a copy. A copy says in its headers from which
  key it comes; an answer cannot.
- Who answers to a role may write what its pool has done. So digests count for the name under which they were written, and no other.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Generator
from contextlib import AsyncExitStack
from functools import lru_cache, partial
from typing import Any, Final, Self

import structlog

from mesh.background import Background
from mesh.delivery.handled import Key
from mesh.delivery.participant import Ask
from mesh.errors import BrokerUnavailable, MeshError, OutcomeUnknown
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import JetStream, parse_delivery
from mesh.link.publisher import WindowedPublisher
from mesh.link.pull import PullLoop
from mesh.policy.retry import Backoff
from mesh.subjects import CONTROL_PLANE, Subjects, escape
from mesh.topology import HANDLED, bucket_stream, bucket_subject

MOST: Final = 200_000
"""Keys of one name in memory, about 25 MB."""

ATTEMPTS: Final = 6
"""At writing a batch, over about 15 seconds. A broker that is killed is back in less."""

CATCH_UP: Final = 5.0

BATCH: Final = 1024
"""Keys of one record at most: 16 KiB."""

_DIGEST: Final = 16
"""Bytes. A digest, as names and ids may be long, and so that who may read it learns nothing of them."""

_READER_SECONDS: Final = 5.0
_LEAVE_SECONDS: Final = 5.0
_WINDOW: Final = 512
_FIRST_DELAY: Final = 0.2

_log: Final = structlog.get_logger("mesh.delivery")


class _Batch:
    """What is recorded together. Awaited: until the broker has it; raises where it has not. Whoever stops to wait stops nothing."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.written.add_done_callback(asyncio.Future.exception)  # there may be nobody to whom it matters

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.shield(self.written).__await__()


class HandledInBucket:
    """`async with` it. `names` are those under which we receive: our own first, and our roles'."""

    def __init__(self, connection: Connection, subjects: Subjects, names: tuple[str, ...], ask: Ask, *, most: int = MOST) -> None:
        self.twice = 0
        """What we did, and somebody else too."""
        self._js = JetStream(connection)
        self._subjects = subjects
        self._own = names[0]
        self._ask = ask
        self._most = most
        self._stream = bucket_stream(HANDLED)
        self._prefix = bucket_subject(HANDLED, "")
        self._known: dict[str, dict[bytes, bool]] = {name: {} for name in names}
        """Of each name what was done, the oldest first: True where it was we, and nobody else."""
        self._open: dict[str, _Batch] = {}
        """What this turn has brought, by name."""
        self._token = secrets.token_hex(10)
        """What our own batches are called, with a number."""
        self._number = 0
        self._publisher = WindowedPublisher(connection, window=_WINDOW)
        self._writing = Background()
        self._backoff = Backoff(first=_FIRST_DELAY, longest=8.0)
        self._reader = ""
        self._position = 0
        self._complete = False
        """Whether all was read once."""
        self._following = asyncio.Event()
        self._wanted = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """What was done before is read while others go on. Raises NoSuchAgent where no control plane runs that could make a reader, and
        Denied."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._publisher)
            stack.push_async_callback(self._leave)
            for name in self._known:
                subscription = await self._js.connection.subscribe(self._subjects.handled_by(name), partial(self._on_copy, name))
                stack.push_async_callback(subscription.unsubscribe)
            stack.callback(self._js.connection.on_up(self._read_on))
            await self._find_reader()
            self._wanted.set()
            reading = await stack.enter_async_context(Background())
            reading.start(self._follow(), "what was handled")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def seen(self, key: Key) -> bool | Awaitable[bool]:
        if _digest(key) in self._known[self._owner(key)]:
            return True
        return False if self._following.is_set() else self._seen_then(key)

    async def _seen_then(self, key: Key) -> bool:
        try:
            async with asyncio.timeout(CATCH_UP if self._complete else None):
                await self._following.wait()
        except TimeoutError:
            _log.warning("what was handled could not be read in time; what others did meanwhile may be done twice")
            self._following.set()  # until the next reconnection: what follows need not wait for it as well
        return _digest(key) in self._known[self._owner(key)]

    def record(self, key: Key) -> Awaitable[None] | None:
        owner, digest = self._owner(key), _digest(key)
        if digest in self._known[owner]:
            self._done_twice(owner, digest)
            return None
        self._note(owner, digest, ours=True)
        batch = self._open.get(owner)
        if batch is None:
            batch = self._open[owner] = _Batch()
            asyncio.get_running_loop().call_soon(self._close, owner, batch)
        batch.digests.append(digest)
        if len(batch.digests) == BATCH:
            self._close(owner, batch)
        return batch

    def _owner(self, key: Key) -> str:
        """Under which name it is filed: our own, if it is for none of our names. Such is what comes of events."""
        return key[0] if key[0] in self._known else self._own

    def _note(self, owner: str, digest: bytes, *, ours: bool) -> None:
        known = self._known[owner]
        known[digest] = ours
        if len(known) > self._most:
            del known[next(iter(known))]

    def _done_twice(self, owner: str, digest: bytes) -> None:
        self._known[owner][digest] = False
        self.twice += 1
        _log.warning("something was done that was done before", owner=owner, count=self.twice)

    # our batches

    def _close(self, owner: str, batch: _Batch) -> None:
        """Begin to write it, where that has not begun."""
        if self._open.get(owner) is batch:
            del self._open[owner]
            self._number += 1
            self._writing.start(self._write(f"{escape(owner)}.{self._token}-{self._number}", batch), "what was handled, written")

    async def _write(self, place: str, batch: _Batch) -> None:
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await self._publisher.publish(self._prefix + place, b"".join(batch.digests))
                    break
                except (OutcomeUnknown, BrokerUnavailable):  # written again it says the same
                    if attempt == ATTEMPTS:
                        raise
                    await asyncio.sleep(self._backoff.wait(attempt, 0))
        except MeshError as problem:
            batch.written.set_exception(problem)
        finally:
            if not batch.written.done():
                batch.written.set_result(None)

    async def _leave(self) -> None:
        for owner, batch in list(self._open.items()):
            self._close(owner, batch)
        await self._writing.end(_LEAVE_SECONDS)

    # those of others

    def _on_copy(self, owner: str, message: Message) -> None:
        headers = message.headers or {}
        place = headers.get("Nats-Subject", "")[len(self._prefix) :]
        if headers.get("Nats-Stream") == self._stream and place and message.subject.endswith("." + place):
            self._take(owner, place, message.body)

    def _take(self, owner: str, place: str, body: bytes) -> None:
        if place.rpartition(".")[2].startswith(self._token):
            return
        known = self._known[owner]
        for at in range(0, len(body) - _DIGEST + 1, _DIGEST):
            digest = body[at : at + _DIGEST]
            ours = known.get(digest)
            if ours:
                self._done_twice(owner, digest)
            elif ours is None:
                self._note(owner, digest, ours=False)

    def _read_on(self) -> None:
        """After a reconnection."""
        self._following.clear()
        self._wanted.set()

    async def _follow(self) -> None:
        attempt = 0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._read()
                attempt = 0
            except MeshError as problem:
                attempt += 1
                _log.info("what was handled cannot be read yet", why=str(problem))
                await asyncio.sleep(self._backoff.wait(attempt, 0))
                self._wanted.set()
                continue
            if not self._wanted.is_set():
                self._complete = True
                self._following.set()

    async def _read(self) -> None:
        """All that came since the last reading."""
        await self._find_reader()
        await self._reset(await self._first())
        owners = {escape(name): name for name in self._known}
        async with PullLoop(self._js.connection, self._stream, self._reader, batch=1000, resume=False, until_empty=True) as pulls:
            async for messages in pulls:
                for message in messages:
                    place = message.subject[len(self._prefix) :]
                    if (owner := owners.get(place.partition(".")[0])) is not None:
                        self._take(owner, place, message.body)
                self._position = parse_delivery(messages[-1].reply).seq

    async def _find_reader(self) -> None:
        """Have one made where there is none: it expired, or the broker was restarted."""
        if self._reader and await self._js.consumer(self._stream, self._reader) is not None:
            return
        answer = await self._ask(CONTROL_PLANE, "mesh/reader", {"bucket": HANDLED}, timeout=_READER_SECONDS)
        self._reader = str(answer["consumer"])

    async def _first(self) -> int:
        """Where to read from: behind what we have read, and no more than the newest `most` batches."""
        first = self._position + 1
        if await self._reset(first) <= self._most:
            return first
        few = first + 1  # how far that is nobody tells, so it is sought: from `first` on there are too many, from `few` on there are not
        while await self._reset(few) > self._most:
            first, few = few, few * 2
        while few - first > max(1, self._most // 10):
            middle = (first + few) // 2
            first, few = (middle, few) if await self._reset(middle) > self._most else (first, middle)
        return few

    async def _reset(self, first: int) -> int:
        """Set the reader to a sequence. Returns how many it has from there on."""
        await self._js.api(f"CONSUMER.RESET.{self._stream}.{self._reader}", {"seq": first})
        return int((await self._js.api(f"CONSUMER.INFO.{self._stream}.{self._reader}"))["num_pending"])


@lru_cache(maxsize=2048)
def _digest(key: Key) -> bytes:
    return hashlib.blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
