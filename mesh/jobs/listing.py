"""Jobs in a list, the newest first: the records in one pull, and what waits without one.

A job's place is where its message was stored. Of results only an `isError` stays, and errors are brief.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Final, NamedTuple

from mesh.errors import ApiError, MalformedMessage, Refused
from mesh.jobs.records import Found, key_of, waiting
from mesh.link.jetstream import NO_MESSAGE, JetStream
from mesh.link.reader import Stored, read_stream, stored_message
from mesh.subjects import Job, Subjects
from mesh.topology import JOB_STATES, JOBS, bucket_stream, bucket_subject
from mesh.wire.job import JobRecord, read_id, read_options, read_record

PAGE: Final = 500
"""Jobs in one answer, at most."""

MOST_WAITING: Final = 1_000
"""Jobs without a record that are looked at, the oldest first: each costs a request, as a work queue has no readers."""

BRIEF: Final = 300
"""Characters of an error's message."""

PATIENCE: Final = 2.0
"""Seconds without the broker after which nothing is listed."""


class Page(NamedTuple):
    jobs: list[JobRecord]
    more: bool
    """Whether there are older ones."""


async def newest(
    js: JetStream, subjects: Subjects, by: str, most: int, before: int | None, look: Callable[[str], Awaitable[Found | None]]
) -> Page:
    """Those of a caller (a token, `*` for all) that were stored before sequence `before`. `look` is `Ending.look`. Raises BrokerError."""
    most = max(1, min(PAGE, most))
    found: dict[str, JobRecord] = {}

    def place(job: JobRecord) -> int:
        return read_id(job.id)[0]

    def prune(keep: int) -> None:
        for job in sorted(found.values(), key=place, reverse=True)[keep:]:
            del found[key_of(job)]

    async for stored in _each(js, JOBS, f"{subjects.root}job.*.{by}.>"):  # first: what is done meanwhile has a record then
        job = waiting_in(subjects, stored)
        if job is not None and (before is None or place(job) < before):
            found[key_of(job)] = job
    lying = dict(found)
    keys = bucket_subject(JOB_STATES, f"*.{by}.*")
    async with aclosing(read_stream(js.connection, bucket_stream(JOB_STATES), subjects=(keys,), patience=PATIENCE)) as lists:
        async for messages in lists:
            for stored in messages:
                record = record_in(stored)
                if record is None or (before is not None and place(record) >= before):
                    continue
                queued = found.get(key_of(record))
                if queued is None or queued.again == record.again:
                    found[key_of(record)] = _brief(record)
            if len(found) > 4 * PAGE:
                prune(most + 1)
    prune(most + 1)
    more = len(found) > most
    for key, job in list(found.items()):
        queued = lying.get(key)
        if job.over or (queued is not None and queued.id == job.id):
            continue  # all but few: those that were stored since we looked, or lie behind the first `MOST_WAITING`, and what is stale
        if (now := await look(key)) is None or now.stale:
            del found[key]
            if queued is not None:
                found[key] = queued
    return Page(sorted(found.values(), key=place, reverse=True)[:most], more)


def record_in(stored: Stored) -> JobRecord | None:
    """The record that a message of the bucket is. The broker held its writer to the target; one that claims another's place is none."""
    with suppress(MalformedMessage):
        record = read_record(stored.body)
        if stored.subject == bucket_subject(JOB_STATES, key_of(record)):
            return record
    return None


def waiting_in(subjects: Subjects, stored: Stored | None) -> JobRecord | None:
    """The job that a message of the stream asks for, as it is before anybody wrote a record."""
    if stored is None:
        return None
    try:
        subject = subjects.parse(stored.subject)
        return waiting(subject, read_options(stored.headers), stored.seq, stored.time_ns) if isinstance(subject, Job) else None
    except (MalformedMessage, Refused):
        return None


async def _each(js: JetStream, stream: str, filter: str) -> AsyncIterator[Stored]:
    seq = 1
    for _ in range(MOST_WAITING):
        try:
            said = await js.api(f"STREAM.MSG.GET.{stream}", {"seq": seq, "next_by_subj": filter})
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise
            return
        stored = stored_message(said["message"])
        seq = stored.seq + 1
        yield stored


def _brief(record: JobRecord) -> JobRecord:
    error = record.error
    if error is not None:
        error = {"code": error.get("code"), "message": str(error.get("message", ""))[:BRIEF]}
    return replace(record, result={"isError": True} if record.tool_failed else None, error=error)
