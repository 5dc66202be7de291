"""A job as `mesh.delivery` hands it over: one delivery of the stream JOBS."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mesh.delivery import Family, Key, Lane
from mesh.errors import Refused
from mesh.jobs.attempt import Attempt
from mesh.jobs.records import waiting
from mesh.link.connection import Message
from mesh.link.jetstream import Delivery
from mesh.subjects import Job, Subjects, tail
from mesh.wire.job import JobOptions, JobRecord, read_options
from mesh.wire.jsonrpc import Kind, scan
from mesh.wire.reading import is_brokers


@dataclass(slots=True)
class Item:
    """One delivery."""

    subject: Job
    options: JobOptions
    body: bytes
    fresh: JobRecord
    """As it is where nothing was written yet."""
    attempt: Attempt | None = None
    error: dict[str, Any] | None = None
    lost: bool = False
    """Another worker has it."""

    @property
    def key(self) -> Key:
        return self.subject.target, self.subject.caller, self.options.nonce


class JobFamily(Family[Item]):
    """`bury(item, code, reason)` is told of dead letters."""

    def __init__(self, subjects: Subjects, bury: Callable[[Item, str, str], Awaitable[None]]) -> None:
        self._subjects = subjects
        self._bury = bury

    def read(self, raw: Message, delivery: Delivery, lane: Lane) -> Item | None:
        if is_brokers(raw.body):
            return None
        subject = self._subjects.parse(raw.subject)
        if not isinstance(subject, Job):
            raise Refused("no job's subject", subject=raw.subject)
        options, frame = read_options(raw.headers), scan(raw.body)
        if frame.kind is not Kind.REQUEST or tail(frame.method or "", frame.name) != tail(subject.method, subject.name):
            raise Refused("a job whose body is not the request in its subject", subject=raw.subject)
        return Item(subject, options, raw.body, waiting(subject, options, delivery.seq, delivery.time_ns))

    def key(self, item: Item) -> Key:
        return item.key

    def done(self, item: Item, result: object) -> None:
        if item.lost:
            raise Refused("another worker has this job")  # so nothing is said of it

    def buried(self, item: Item, code: str, reason: str) -> Awaitable[None]:
        return self._bury(item, code, reason)


class Forgetful:
    """Whether a job was done its record says."""

    def seen(self, key: Key) -> bool:
        return False

    def record(self, key: Key) -> None:
        return None
