"""What the control plane is asked about jobs, and answers.

| method             | params                            | result                    | for whom                                     |
|--------------------|-----------------------------------|---------------------------|----------------------------------------------|
| `mesh/jobs/get`    | `{"id"}`                          | `{"job", "revision"}`     | its caller; operators                        |
| `mesh/jobs/list`   | `{"all"?}`                        | `{"jobs"}`, without results | one's own; `all`: operators                |
| `mesh/jobs/cancel` | `{"id"}`                          | `{"job"}`                 | its caller; operators                        |
| `mesh/jobs/lane`   | `{"target", "wanted"}`            | `{"lane": bool}`          | who may answer to the target                 |
| `mesh/jobs/look`   | `{"target", "caller", "nonce"}`   | `{"job"?, "revision", "there"?}` | who may answer to the target          |

`revision` is the record's, 0 where there is none, and `there` whether its message still lies in the stream.

A cancellation ends the job: its message is taken away and its record says so, in one write that may win or lose against the worker's last.
A worker hears it as the change of the record that it is. What is past its deadline and nobody works on is ended by whoever asks for it.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

from mesh import clock
from mesh.delivery import keep
from mesh.errors import ApiError, Denied, MalformedMessage, NoSuchJob, Refused
from mesh.jobs.records import Found, Records, record_key, stepped, waiting
from mesh.link.jetstream import CONSUMER_NOT_FOUND, NO_MESSAGE, JetStream
from mesh.link.reader import Stored, read_message_at, stored_message
from mesh.link.reconcile import ensure
from mesh.policy.job_life import Event
from mesh.subjects import Job, Subjects, escape
from mesh.topology import JOB_STATES, JOBS, ConsumerSpec, bucket_stream, bucket_subject
from mesh.wire.control import MESH_ERROR
from mesh.wire.job import JobRecord, read_id, read_options, read_record
from mesh.wire.reading import read_object, read_text

ACK_WAIT: Final = 10.0
"""Seconds without a word from a worker after which another one begins."""

MOST_LISTED: Final = 1_000
"""Of the jobs of one caller, or of all; the oldest first."""

GRACE_NS: Final = 15 * 10**9
"""Past its deadline, before the control plane ends what a worker should have ended."""

_TRIES: Final = 10

CheckReceives = Callable[[str, str], None]
"""`(caller, target)`. Raises Denied."""


def job_lane(subjects: Subjects, target: str) -> ConsumerSpec:
    """The consumer of a name's jobs, shared by all who answer to it, and called by that name. How often one is delivered has no end: its
    attempts are counted in its record, since a delivery need not have become an attempt."""
    return ConsumerSpec(stream=JOBS, name=escape(target), filters=(subjects.jobs_to(target),), ack_wait=ACK_WAIT)


class JobDesk:
    """`is_operator` says who may see and end the jobs of others."""

    def __init__(self, js: JetStream, subjects: Subjects, check_receives: CheckReceives, is_operator: Callable[[str], bool]) -> None:
        self._js = js
        self._subjects = subjects
        self._records = Records(js)
        self._check_receives = check_receives
        self._is_operator = is_operator

    async def get(self, caller: str, params: bytes) -> dict[str, Any]:
        found = await self._ended_in_time(await self._find(caller, _id(params)))
        return {"job": found.record.as_dict(), "revision": found.revision}

    async def list(self, caller: str, params: bytes) -> dict[str, Any]:
        whose = caller
        if read_object(params, "the params").get("all"):
            if not self._is_operator(caller):
                raise Denied(f"{caller!r} may not list the jobs of others", hint="ask as an operator: --name operator")
            whose = ""
        by = escape(whose) if whose else "*"
        jobs: dict[str, JobRecord] = {}
        async for stored in self._each(bucket_stream(JOB_STATES), bucket_subject(JOB_STATES, f"*.{by}.*")):
            with suppress(MalformedMessage):
                record = read_record(stored.body)
                if stored.subject == _subject_of(record):
                    jobs[record.nonce] = record
        async for stored in self._each(JOBS, f"{self._subjects.root}job.*.{by}.>"):
            if (job := self._waiting(stored)) is not None and (job.nonce not in jobs or jobs[job.nonce].again != job.again):
                jobs[job.nonce] = job
        return {"jobs": [{key: value for key, value in job.as_dict().items() if key != "result"} for job in jobs.values()]}

    async def cancel(self, caller: str, params: bytes) -> dict[str, Any]:
        id = _id(params)
        for _ in range(_TRIES):
            found = await self._find(caller, id)
            record = stepped(found.record, Event.CANCEL)
            if record is None:
                return {"job": found.record.as_dict()}
            with suppress(Refused):
                await self._records.write(record, found.revision)
                await self._take_away(read_id(id)[0], record)
                return {"job": record.as_dict()}
        raise Refused(f"the job {id} changes too fast", hint="cancel it again")

    async def lane(self, caller: str, params: bytes) -> dict[str, Any]:
        asked = read_object(params, "the params")
        target = read_text(asked, "target", params, "the question")
        self._check_receives(caller, target)
        spec = job_lane(self._subjects, target)
        try:
            await self._js.api(f"CONSUMER.INFO.{JOBS}.{spec.name}")
        except ApiError as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise
            if not asked.get("wanted") and not await self._any_waits(target):
                return {"lane": False}
            await ensure(self._js, spec)
        return {"lane": True}

    async def look(self, caller: str, params: bytes) -> dict[str, Any]:
        asked = read_object(params, "the params")
        target, by, nonce = (read_text(asked, key, params, "the question") for key in ("target", "caller", "nonce"))
        self._check_receives(caller, target)
        found = await self._last(record_key(target, by, nonce))
        if found is None:
            return {"revision": 0}
        there = self._is(await read_message_at(self._js, JOBS, read_id(found.record.id)[0]), found.record)
        return {"job": found.record.as_dict(), "revision": found.revision, "there": there}

    # finding

    async def _find(self, caller: str, id: str) -> Found:
        """Raises NoSuchJob: also for what is another's."""
        seq, nonce = read_id(id)
        by = "*" if self._is_operator(caller) else escape(caller)
        queued = self._waiting(await read_message_at(self._js, JOBS, seq)) if seq else None
        if queued is not None and (queued.nonce != nonce or by not in ("*", escape(queued.caller))):
            queued = None
        found = await self._last(f"*.{by}.{nonce}")
        if found is not None and (queued is None or queued.again == found.record.again):
            return found
        if queued is None:
            raise NoSuchJob(f"there is no job {id}", hint="it may no longer be kept; `mesh jobs list` shows what is")
        return Found(queued, found.revision if found is not None else 0)

    async def _last(self, key: str) -> Found | None:
        try:
            said = await self._js.api(f"STREAM.MSG.GET.{bucket_stream(JOB_STATES)}", {"last_by_subj": bucket_subject(JOB_STATES, key)})
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise
            return None
        stored = stored_message(said["message"])
        try:
            record = read_record(stored.body)
        except MalformedMessage:
            return None
        return Found(record, stored.seq) if stored.subject == _subject_of(record) else None

    def _waiting(self, stored: Stored | None) -> JobRecord | None:
        if stored is None:
            return None
        try:
            subject = self._subjects.parse(stored.subject)
            return waiting(subject, read_options(stored.headers), stored.seq, stored.time_ns) if isinstance(subject, Job) else None
        except (MalformedMessage, Refused):
            return None

    async def _each(self, stream: str, filter: str) -> AsyncIterator[Stored]:
        """One by one: a consumer that only looks would be refused beside those of a work queue."""
        seq = 1
        for _ in range(MOST_LISTED):
            try:
                said = await self._js.api(f"STREAM.MSG.GET.{stream}", {"seq": seq, "next_by_subj": filter})
            except ApiError as error:
                if error.err_code != NO_MESSAGE:
                    raise
                return
            stored = stored_message(said["message"])
            seq = stored.seq + 1
            yield stored

    async def _any_waits(self, target: str) -> bool:
        state = (await self._js.api(f"STREAM.INFO.{JOBS}", {"subjects_filter": self._subjects.jobs_to(target)}))["state"]
        return bool(state.get("subjects"))

    # ending

    async def _ended_in_time(self, found: Found) -> Found:
        record = found.record
        late = 0 if record.state == "queued" else GRACE_NS
        if record.over or record.deadline_ns is None or clock.wall_ns() < record.deadline_ns + late:
            return found
        return await self._expire(found, "its deadline passed before anybody had done it")

    async def _expire(self, found: Found, reason: str) -> Found:
        record = found.record
        expired = stepped(record, Event.EXPIRE, error={"code": MESH_ERROR, "message": reason, "data": {"mesh": "expired"}})
        if expired is None:
            return found
        seq = read_id(record.id)[0]
        stored = await read_message_at(self._js, JOBS, seq)
        if stored is not None and self._is(stored, record):
            await keep(self._js, self._subjects, JOBS, stored, record.target, "", code="expired", reason=reason, deliveries=record.attempts)
        try:
            revision = await self._records.write(expired, found.revision)
        except Refused:
            return found
        await self._take_away(seq, expired)
        return Found(expired, revision)

    async def _take_away(self, seq: int, record: JobRecord) -> None:
        for each in {seq, read_id(record.id)[0]}:
            if self._is(await read_message_at(self._js, JOBS, each), record):
                with suppress(ApiError):  # it is gone already
                    await self._js.api(f"STREAM.MSG.DELETE.{JOBS}", {"seq": each, "no_erase": True})

    def _is(self, stored: Stored | None, record: JobRecord) -> bool:
        """Whether it is the job's message."""
        job = self._waiting(stored)
        return job is not None and (job.nonce, job.caller, job.target) == (record.nonce, record.caller, record.target)


def _subject_of(record: JobRecord) -> str:
    """The broker held its writer to the target; a record that claims another's place is none."""
    return bucket_subject(JOB_STATES, record_key(record.target, record.caller, record.nonce))


def _id(params: bytes) -> str:
    return read_text(read_object(params, "the params"), "id", params, "the question")
