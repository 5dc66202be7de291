"""What the control plane ends by itself: jobs past their time that no worker ended, and their messages."""

import asyncio
from contextlib import suppress
from typing import Any, Final

import structlog

from mesh import clock
from mesh.delivery import keep
from mesh.errors import ApiError, MeshError, Refused
from mesh.jobs.listing import record_in, waiting_in
from mesh.jobs.records import Found, Records, key_of, stepped
from mesh.link.jetstream import NO_MESSAGE, JetStream
from mesh.link.reader import Stored, read_message_at, stored_message
from mesh.policy.job_life import Event
from mesh.subjects import Subjects
from mesh.topology import JOB_STATES, JOBS, bucket_stream, bucket_subject
from mesh.wire.control import MESH_ERROR
from mesh.wire.job import JobRecord, read_id

AGE: Final = 7 * 86_400 - 3600
"""Seconds that a job has, whatever its deadline: an hour before its stream drops it, so that a control plane that was away is not late."""

PERIOD: Final = 600.0
"""Seconds between two looks. Each asks for the oldest job, and for those that are too old."""

_log: Final = structlog.get_logger("mesh.jobs")


async def end_old(js: JetStream, subjects: Subjects) -> None:
    """Until it is cancelled."""
    while True:
        try:
            await Ending(js, subjects).expire_older(clock.wall_ns() - AGE * 10**9)
        except MeshError as problem:
            _log.info("nobody looked for jobs that are too old", why=str(problem))
        await asyncio.sleep(PERIOD)


class Ending:
    """Each of these may be done twice, and by two at once."""

    def __init__(self, js: JetStream, subjects: Subjects) -> None:
        self._js = js
        self._subjects = subjects
        self.records = Records(js)

    async def last(self, key: str) -> Found | None:
        """The record under a key of the bucket, which may have wildcards."""
        stored = await self._get(bucket_stream(JOB_STATES), {"last_by_subj": bucket_subject(JOB_STATES, key)})
        record = None if stored is None else record_in(stored)
        return None if stored is None or record is None else Found(record, stored.seq)

    async def look(self, key: str) -> Found | None:
        """The same, and whether its message is there."""
        before = 0
        while (found := await self.last(key)) is not None:
            found = found._replace(there=self.asks_for(await read_message_at(self._js, JOBS, read_id(found.record.id)[0]), found.record))
            if not found.stale or found.revision == before:
                break
            before = found.revision  # unless it ended between the two readings
        return found

    async def expire(self, found: Found, reason: str) -> Found:
        """Its dead letter, then its record, then its message. As it stands where somebody else has written."""
        record = found.record
        expired = stepped(record, Event.EXPIRE, error={"code": MESH_ERROR, "message": reason, "data": {"mesh": "expired"}})
        if expired is None:
            return found
        seq = read_id(record.id)[0]
        stored = await read_message_at(self._js, JOBS, seq)
        if stored is not None and self.asks_for(stored, record):
            await keep(self._js, self._subjects, JOBS, stored, record.target, "", code="expired", reason=reason, deliveries=record.attempts)
        try:
            revision = await self.records.write(expired, found.revision)
        except Refused:
            return found
        await self.take_away(seq, expired)
        return Found(expired, revision)

    async def expire_older(self, before_ns: int) -> None:
        """End what was stored before a time, also what is being done: its message would be gone, and with it another attempt."""
        seq = 0
        while (stored := await self._get(JOBS, {"seq": seq + 1, "next_by_subj": ">"})) is not None and stored.time_ns < before_ns:
            seq = stored.seq
            job = waiting_in(self._subjects, stored)
            if job is None:
                continue
            found = await self.look(key_of(job))
            if found is None or found.stale or found.record.again != job.again:
                found = Found(job, 0 if found is None else found.revision)
            elif found.record.over or found.record.id != job.id:
                await self.take_away(seq, job)  # it is over, or stored again, and that one is its message
                continue
            await self.expire(found, "nobody had done it within a week")

    async def take_away(self, seq: int, record: JobRecord) -> None:
        """Its messages: the one at `seq`, and the one that its record names."""
        for each in {seq, read_id(record.id)[0]}:
            if self.asks_for(await read_message_at(self._js, JOBS, each), record):
                with suppress(ApiError):  # it is gone already
                    await self._js.api(f"STREAM.MSG.DELETE.{JOBS}", {"seq": each, "no_erase": True})

    def asks_for(self, stored: Stored | None, record: JobRecord) -> bool:
        """Whether it is the job's message."""
        job = waiting_in(self._subjects, stored)
        return job is not None and key_of(job) == key_of(record)

    async def _get(self, stream: str, what: dict[str, Any]) -> Stored | None:
        try:
            return stored_message((await self._js.api(f"STREAM.MSG.GET.{stream}", what))["message"])
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise
            return None
