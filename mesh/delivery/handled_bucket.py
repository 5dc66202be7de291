"""What was done, kept at the broker: so that another instance of a pool, or this one after a restart, does not do it again.

Theory of operation
-------------------
Each key is written once to the bucket `handled`, as `{owner}.{digest}`: create-only, so that what two did shows (`twice`).
Nobody waits for the writing but the acknowledgement of that one message: many are on their way at once. Asked is only the copy in memory:
it begins with what the bucket holds of our names, follows the copies that the broker republishes, and reads on after each reconnection.
Until it has read all of it nothing is asked, so nothing is handled.

Both are bounded, and their oldest go: the bucket by age (24 hours) and size (`mesh.topology`), the copy by number, `MOST`. What was done
longer ago than either reaches is done again if it comes again.

Trap answered: who may ask the broker anything can have it put an answer on any subject, also on that of a copy. A copy says in its headers
from which key it comes; an answer cannot.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, Self

import structlog

from mesh.delivery.handled import Key
from mesh.errors import ApiError, BrokerUnavailable, MeshError, OutcomeUnknown
from mesh.link.buckets import EXPECTED
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import CONSUMER_NOT_FOUND, WRONG_LAST_SEQUENCE, JetStream, parse_delivery
from mesh.link.publisher import WindowedPublisher
from mesh.link.pull import PullLoop
from mesh.policy.retry import Backoff
from mesh.subjects import CONTROL_PLANE, Subjects, escape
from mesh.topology import HANDLED, bucket_stream, bucket_subject

MOST: Final = 200_000
"""Keys in memory, about 40 MB."""

ATTEMPTS: Final = 6
"""At writing one, over about 15 seconds. A broker that is killed is back in less."""

_CREATE: Final = {EXPECTED: "0"}
_READER_SECONDS: Final = 5.0
_WINDOW: Final = 512
_FIRST_DELAY: Final = 0.2

Ask = Callable[..., Awaitable[Mapping[str, Any]]]
"""`Mesh.request`."""

_log: Final = structlog.get_logger("mesh.delivery")


class HandledInBucket:
    """`async with` it. `names` are those under which we receive: our own and our roles'."""

    def __init__(self, connection: Connection, subjects: Subjects, names: tuple[str, ...], ask: Ask, *, most: int = MOST) -> None:
        self.twice = 0
        """What somebody else had recorded when we wished to."""
        self._js = JetStream(connection)
        self._subjects = subjects
        self._names = names
        self._ask = ask
        self._most = most
        self._stream = bucket_stream(HANDLED)
        self._prefix = bucket_subject(HANDLED, "")
        self._known: dict[str, None] = {}
        """Keys of the bucket, the oldest first."""
        self._publisher = WindowedPublisher(connection, window=_WINDOW)
        self._backoff = Backoff(first=_FIRST_DELAY, longest=8.0)
        self._reader = ""
        self._position = 0
        self._wanted = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises NoSuchAgent where no control plane runs that could make a reader, and Denied."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._publisher)
            for name in self._names:
                subscription = await self._js.connection.subscribe(self._subjects.handled_by(name), self._on_copy)
                stack.push_async_callback(subscription.unsubscribe)
            stack.callback(self._js.connection.on_up(self._wanted.set))
            await self._read()
            following = asyncio.create_task(self._follow(), name="what was handled")
            stack.push_async_callback(_end, following)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def __len__(self) -> int:
        return len(self._known)

    def seen(self, key: Key) -> bool:
        return self._place(key) in self._known

    def record(self, key: Key) -> Awaitable[None]:
        place = self._place(key)
        self._note(place)
        return self._write(place)

    def _place(self, key: Key) -> str:
        """The key in the bucket. A digest, as names and ids may be long, and so that who may read it learns nothing of them."""
        said = "\0".join(key).encode("utf-8", "surrogatepass")
        return f"{escape(key[0])}.{hashlib.blake2b(said, digest_size=16).hexdigest()}"

    def _note(self, place: str) -> None:
        self._known[place] = None
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    async def _write(self, place: str) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._publisher.publish(self._prefix + place, b"", headers=_CREATE)
                return
            except ApiError as error:
                if error.err_code not in WRONG_LAST_SEQUENCE:
                    raise
                if attempt == 1:
                    self.twice += 1
                    _log.warning("something was done that was done before", key=place, count=self.twice)
                return
            except (OutcomeUnknown, BrokerUnavailable):  # it is create-only: written again, it is written once
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(self._backoff.wait(attempt, 0))

    # the copy

    def _on_copy(self, message: Message) -> None:
        headers = message.headers or {}
        subject = headers.get("Nats-Subject", "")
        place = subject[len(self._prefix) :]
        if headers.get("Nats-Stream") == self._stream and place and message.subject.endswith("." + place) and place not in self._known:
            self._note(place)

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

    async def _read(self) -> None:
        """All that came since the last reading."""
        await self._begin()
        async with PullLoop(self._js.connection, self._stream, self._reader, batch=1000, resume=False, until_empty=True) as pulls:
            async for messages in pulls:
                for message in messages:
                    self._position = parse_delivery(message.reply).seq
                    place = message.subject[len(self._prefix) :]
                    if place not in self._known:
                        self._note(place)

    async def _begin(self) -> None:
        """Set the reader behind what we have, and have one made where there is none: it expired, or the broker was restarted."""
        if self._reader:
            try:
                await self._js.api(f"CONSUMER.INFO.{self._stream}.{self._reader}")
            except ApiError as error:
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise
                self._reader = ""
        if not self._reader:
            answer = await self._ask(CONTROL_PLANE, "mesh/reader", {"bucket": HANDLED}, timeout=_READER_SECONDS)
            self._reader = str(answer["consumer"])
        await self._js.api(f"CONSUMER.RESET.{self._stream}.{self._reader}", {"seq": self._position + 1})


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
