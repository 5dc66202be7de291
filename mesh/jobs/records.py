"""How a job stands, written so that nobody overwrites what another has said.

Each write names the revision that it follows (0: none), and the broker refuses it if that is not the newest. So whoever is first to end a
job has ended it, and a worker that was taken for dead cannot write over the one that took its place. Nobody but the control plane reads the
bucket; a worker whose write is refused asks it (`mesh/jobs/look`).
"""

from dataclasses import replace
from typing import Any, NamedTuple

from mesh import clock
from mesh.errors import MalformedMessage
from mesh.link.buckets import Bucket
from mesh.link.connection import Message
from mesh.link.jetstream import JetStream
from mesh.policy.job_life import Event, State, after
from mesh.subjects import Job, Subjects, escape
from mesh.topology import JOB_STATES, bucket_subject
from mesh.wire.job import LEAST_KEPT, JobOptions, JobRecord, job_id, read_record


class Found(NamedTuple):
    record: JobRecord
    revision: int
    """0: nothing was written yet; it waits."""
    there: bool = True
    """Whether its message still lies in the stream."""

    @property
    def stale(self) -> bool:
        """It is not over, and yet its message is gone, which goes only when the record says how the job ended. So that one was forgotten in
        its time, and a broker that was killed has brought back the one before it (`mesh.link.buckets`). It says nothing any more."""
        return not self.there and not self.record.over


class Records:
    def __init__(self, js: JetStream) -> None:
        self._bucket = Bucket(js, JOB_STATES)

    async def write(self, record: JobRecord, revision: int) -> int:
        """Returns the new revision. Raises Refused where somebody else has written, and what `Bucket.put` raises."""
        ttl = max(record.keep, LEAST_KEPT) if record.over else None
        return await self._bucket.put(key_of(record), record.encode(), ttl=ttl, revision=revision)


def key_of(record: JobRecord) -> str:
    return record_key(record.target, record.caller, record.nonce)


def record_key(target: str, caller: str, nonce: str) -> str:
    return f"{escape(target)}.{escape(caller)}.{escape(nonce)}"


def shown(subjects: Subjects, message: Message) -> Found | None:
    """A record out of the copy that the broker shows when it is written. None for what is none, and for one that claims another's place.

    Only the broker and operators may publish there, and the broker held the record's writer to its target.
    """
    headers = message.headers or {}
    key = message.subject.removeprefix(f"{subjects.root}{JOB_STATES}.")
    if headers.get("Nats-Subject") != bucket_subject(JOB_STATES, key):
        return None
    try:
        record, revision = read_record(message.body), int(headers["Nats-Sequence"])
    except (MalformedMessage, KeyError, ValueError):
        return None
    return Found(record, revision) if key_of(record) == key else None


def stepped(record: JobRecord, event: Event, **changes: Any) -> JobRecord | None:
    """The record after an event; None where it comes too late."""
    state = after(State(record.state), event)
    return None if state is None else replace(record, state=state.value, updated_ns=clock.wall_ns(), **changes)


def waiting(subject: Job, options: JobOptions, seq: int, stored_ns: int) -> JobRecord:
    """The record of a job of which nobody has written one: it waits."""
    return JobRecord(
        id=job_id(seq, options.nonce),
        target=subject.target,
        caller=subject.caller,
        method=subject.method,
        name=subject.name,
        created_ns=stored_ns,
        updated_ns=stored_ns,
        deadline_ns=None if options.deadline is None else stored_ns + round(options.deadline * 1e9),
        keep=options.keep,
        most_attempts=options.attempts,
        again=options.again,
    )
