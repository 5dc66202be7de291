"""A live local copy of a bucket, for readers that may neither create consumers nor get directly.

Theory of operation
-------------------
Two sources, which meet by revision. The *live* one is a plain subscription on the subject that the bucket republishes its changes
to. The *snapshot* is read through a consumer that others made for this reader; resetting it to 1 reads all keys again, as often as
wanted. The subscription stands before the snapshot is asked for, so each change is in one of the two or in both, and of a key the
higher revision wins.

While a snapshot is read, both sources fill a new copy (and changes go on to the old one, if it is still good). When it is complete,
the new copy takes the old one's place, and the differences are told. The highest sequence that the snapshot reached is its *floor*:
a live message at or below it says nothing new, and could bring back a key that was deleted meanwhile.

A snapshot is read at the start, after each reconnection, and every `refresh` seconds, because a core subscription may lose a
message (a leader that dies between storing and republishing). Sequences are compared only within one reading: a bucket in memory on
a single broker is gone after a restart, settings and all, and begins at 1 again when the control plane has made it anew.

Traps answered:

- nats-py's KV watch took 19.6 s to recover after a restart, blocks at 256 unread entries, and mishandles markers.
- A consumer with `last_per_subject` gives its snapshot only once, and refuses the reset. So the reader delivers `all` of a bucket
  with history 1.
- The server does not answer the reset of a consumer that is not there. So it is asked for the consumer first.
- Two that share a reader split the snapshot between them. So each view asks for its own, and asks again where it has expired.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, Self

import structlog

from mesh.background import end_tasks
from mesh.errors import ApiError, BrokerUnavailable, MeshError
from mesh.link.buckets import Entry, gone
from mesh.link.connection import Message, Subscription
from mesh.link.jetstream import CONSUMER_NOT_FOUND, JetStream, parse_delivery, time_ns
from mesh.link.pull import PullLoop
from mesh.subjects import EACH, rights_api
from mesh.topology import bucket_stream, bucket_subject

REFRESH: Final = 300.0
"""Seconds between two readings of a bucket that nothing else asked for."""

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0

_log = structlog.get_logger("mesh.link")

OnChange = Callable[[str, Entry | None, str], None]
"""`(key, entry or None, reason)`. The reason is `put`, `deleted`, `expired`, or `read` where a new snapshot showed the difference."""

MakeReader = Callable[[], Awaitable[str]]
"""Has a reader made (`mesh.topology.reader_spec`) and returns its name."""


class BucketView:
    """`async with BucketView(…) as view` begins with a complete copy. `on_change` runs in the read loop, so it must be quick.

    `live` is the filter of the republished subjects (`Subjects.bucket_copy`), as narrow as the reader's own filter.
    """

    def __init__(
        self, js: JetStream, bucket: str, *, live: str, make_reader: MakeReader, on_change: OnChange | None = None, refresh: float = REFRESH
    ) -> None:
        self.bucket = bucket
        self.synced = False
        """Whether the copy follows the bucket. False while the broker is away and until the next snapshot is complete."""
        self.readings = 0
        """How many snapshots were read to their end."""
        self._js = js
        self._stream = bucket_stream(bucket)
        self._prefix = bucket_subject(bucket, "")
        self._live = live
        self._make_reader = make_reader
        self._on_change = on_change
        self._refresh = refresh
        self._reader = ""
        self._entries: dict[str, Entry] = {}
        self._floor = 0
        self._fresh: dict[str, tuple[int, Entry | None]] | None = None
        self._wanted = asyncio.Event()
        self._complete = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._subscriptions: dict[str, Subscription] = {}
        """To the live copies, as far as the rights go: by filter."""
        self._detach: list[Callable[[], None]] = []

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The copy, by key. It changes while one waits; what is read between two awaits is one state."""
        return MappingProxyType(self._entries)

    async def __aenter__(self) -> Self:
        try:
            connection = self._js.connection
            self._detach = [connection.on_down(self._on_down), connection.on_up(self._wanted.set), connection.on_renewed(self._on_renewed)]
            await self._read()
            self._task = asyncio.create_task(self._follow(), name=f"view of {self.bucket}")
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Idempotent. The copy stays as it was."""
        self.synced = False
        await end_tasks(self._task)
        self._task = None
        for detach in self._detach:
            detach()
        self._detach = []
        for subscription in self._subscriptions.values():
            await subscription.unsubscribe()
        self._subscriptions = {}

    async def resync(self) -> None:
        """Read the bucket again, and return when the copy agrees with it. Waits as long as the broker is away."""
        self._complete.clear()
        self._wanted.set()
        await self._complete.wait()

    async def _follow(self) -> None:
        delay = _FIRST_DELAY
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._refresh * (0.75 + random.random() / 2)):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._read()
                delay = _FIRST_DELAY
            except MeshError as error:
                _log.info("a bucket cannot be read yet", bucket=self.bucket, error=str(error))
                self._wanted.set()
                await asyncio.sleep(delay * (0.5 + random.random()))
                delay = min(_LONGEST_DELAY, delay * 2)

    async def _read(self) -> None:
        """One snapshot, put in the copy's place when it is complete."""
        fresh: dict[str, tuple[int, Entry | None]] = {}
        self._fresh = fresh
        floor = 0
        try:
            await self._listen()
            if not self._readable:
                self._adopt({}, 0)
                return
            await self._reset()
            async with PullLoop(self._js.connection, self._stream, self._reader, batch=1000, resume=False, until_empty=True) as pulls:
                async for messages in pulls:
                    for message in messages:
                        delivery = parse_delivery(message.reply)
                        floor = delivery.seq
                        self._note(fresh, message, message.subject[len(self._prefix) :], floor, delivery.time_ns)
            if self._fresh is not fresh:
                raise BrokerUnavailable("the connection was lost while the bucket was read")
            self._adopt(fresh, floor)
        finally:
            if self._fresh is fresh:
                self._fresh = None

    @property
    def _readable(self) -> bool:
        """Whether our rights let us pull from a reader. Who may know of nobody has an empty copy, until its rights change."""
        rights = self._js.connection.rights
        return rights is None or rights.may_publish(rights_api(f"CONSUMER.MSG.NEXT.{self._stream}.{EACH}"))

    async def _listen(self) -> None:
        """Subscribe to what our rights let us hear of the live copies, and to no more: the broker would refuse it."""
        rights = self._js.connection.rights
        wanted = {self._live} if rights is None else set(rights.narrow(self._live))
        for filter in self._subscriptions.keys() - wanted:
            await self._subscriptions.pop(filter).unsubscribe()
        for filter in wanted - self._subscriptions.keys():
            self._subscriptions[filter] = await self._js.connection.subscribe(filter, self._on_live)

    async def _reset(self) -> None:
        """Have the reader begin anew, and another one made where it is gone: it expired, or the broker was restarted."""
        if self._reader:
            try:
                await self._js.api(f"CONSUMER.INFO.{self._stream}.{self._reader}")
            except ApiError as error:
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise
                self._reader = ""
        if not self._reader:
            self._reader = await self._make_reader()
        await self._js.api(f"CONSUMER.RESET.{self._stream}.{self._reader}", {"seq": 1})

    def _adopt(self, fresh: dict[str, tuple[int, Entry | None]], floor: int) -> None:
        old, self._entries = self._entries, {key: entry for key, (_, entry) in fresh.items() if entry is not None}
        self._floor = floor
        self.synced = True
        self.readings += 1
        self._complete.set()
        for key in old.keys() - self._entries.keys():
            self._tell(key, None, "read")
        for key, entry in self._entries.items():
            if old.get(key) != entry:
                self._tell(key, entry, "read")

    def _on_live(self, message: Message) -> None:
        headers = message.headers or {}
        key = headers.get("Nats-Subject", "")[len(self._prefix) :]
        if headers.get("Nats-Stream") != self._stream or not key or not message.subject.endswith("." + key):
            return  # not the broker's copy of this bucket
        revision, when = int(headers["Nats-Sequence"]), time_ns(headers["Nats-Time-Stamp"])
        if self._fresh is not None:
            self._note(self._fresh, message, key, revision, when)
        if self.synced and revision > self._floor:
            self._apply(message, key, revision, when)

    def _note(self, fresh: dict[str, tuple[int, Entry | None]], message: Message, key: str, revision: int, when: int) -> None:
        if key not in fresh or fresh[key][0] < revision:
            fresh[key] = revision, None if gone(message.headers) else Entry(key, message.body, revision, when)

    def _apply(self, message: Message, key: str, revision: int, when: int) -> None:
        reason = gone(message.headers)
        if reason is None:
            self._entries[key] = Entry(key, message.body, revision, when)
            self._tell(key, self._entries[key], "put")
        elif self._entries.pop(key, None) is not None:
            self._tell(key, None, reason)

    def _on_renewed(self) -> None:
        """Other rights: another reader, which holds what we may see now."""
        self._reader = ""
        self._wanted.set()

    def _on_down(self) -> None:
        self.synced = False
        self._fresh = None

    def _tell(self, key: str, entry: Entry | None, reason: str) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(key, entry, reason)
        except Exception:
            _log.exception("a view's callback failed", bucket=self.bucket, key=key)
