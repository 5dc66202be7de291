"""What the control plane is asked about jobs, and answers.

| method             | params                            | result                    | for whom                                     |
|--------------------|-----------------------------------|---------------------------|----------------------------------------------|
| `mesh/jobs/get`    | `{"id"}`                          | `{"job", "revision"}`     | its caller; operators                        |
| `mesh/jobs/list`   | `{"all"?, "most"?, "before"?}`    | `{"jobs", "more"}`        | one's own; `all`: operators                  |
| `mesh/jobs/cancel` | `{"id"}`                          | `{"job"}`                 | its caller; operators                        |
| `mesh/jobs/lane`   | `{"target", "wanted"}`            | `{"lane": bool}`          | who may answer to the target                 |
| `mesh/jobs/look`   | `{"target", "caller", "nonce"}`   | `{"job"?, "revision", "there"?}` | who may answer to the target          |

A list begins with the newest job, has of results only an `isError`, and goes on `before` the sequence that the last one's id begins with,
where there are `more`. `revision` is the record's, 0 where there is none, and `there` whether its message still lies in the stream.

A cancellation ends the job: its message is taken away and its record says so, in one write that may win or lose against the worker's last.
A worker hears it as the change of the record that it is. What is past its deadline and nobody works on is ended by whoever asks for it.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from mesh import clock
from mesh.errors import ApiError, Denied, MalformedMessage, NoSuchJob, Refused
from mesh.jobs.ending import Ending
from mesh.jobs.listing import PAGE, newest, waiting_in
from mesh.jobs.records import Found, record_key, stepped
from mesh.link.jetstream import CONSUMER_NOT_FOUND, JetStream
from mesh.link.reader import read_message_at
from mesh.link.reconcile import ensure
from mesh.policy.job_life import Event
from mesh.subjects import Subjects, escape
from mesh.topology import JOBS, ConsumerSpec
from mesh.wire.job import read_id
from mesh.wire.reading import read_object, read_text

ACK_WAIT: Final = 10.0
"""Seconds without a word from a worker after which another one begins."""

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
        self._ending = Ending(js, subjects)
        self._check_receives = check_receives
        self._is_operator = is_operator

    async def get(self, caller: str, params: bytes) -> dict[str, Any]:
        found = await self._ended_in_time(await self._find(caller, _id(params)))
        return {"job": found.record.as_dict(), "revision": found.revision}

    async def list(self, caller: str, params: bytes) -> dict[str, Any]:
        asked = read_object(params, "the params")
        if asked.get("all") and not self._is_operator(caller):
            raise Denied(f"{caller!r} may not list the jobs of others", hint="ask as an operator: --name operator")
        most, before = asked.get("most", PAGE), asked.get("before")
        if not isinstance(most, int) or not (before is None or isinstance(before, int)):
            raise MalformedMessage("a list of jobs has how many, and before which place", starts=params[:80])
        page = await newest(self._js, self._subjects, "*" if asked.get("all") else escape(caller), most, before, self._ending.look)
        return {"jobs": [job.as_dict() for job in page.jobs], "more": page.more}

    async def cancel(self, caller: str, params: bytes) -> dict[str, Any]:
        id = _id(params)
        for _ in range(_TRIES):
            found = await self._find(caller, id)
            record = stepped(found.record, Event.CANCEL)
            if record is None:
                return {"job": found.record.as_dict()}
            with suppress(Refused):
                await self._ending.records.write(record, found.revision)
                await self._ending.take_away(read_id(id)[0], record)
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
        found = await self._ending.look(record_key(target, by, nonce))
        if found is None:
            return {"revision": 0}
        return {"job": found.record.as_dict(), "revision": found.revision, "there": found.there}

    # finding

    async def _find(self, caller: str, id: str) -> Found:
        """Raises NoSuchJob: also for what is another's."""
        seq, nonce = read_id(id)
        by = "*" if self._is_operator(caller) else escape(caller)
        queued = waiting_in(self._subjects, await read_message_at(self._js, JOBS, seq)) if seq else None
        if queued is not None and (queued.nonce != nonce or by not in ("*", escape(queued.caller))):
            queued = None
        found = await self._ending.look(f"*.{by}.{nonce}")
        if found is not None and not found.stale and (queued is None or queued.again == found.record.again):
            return found
        if queued is None:
            raise NoSuchJob(f"there is no job {id}", hint="it may no longer be kept; `mesh jobs list` shows what is")
        return Found(queued, found.revision if found is not None else 0)

    async def _any_waits(self, target: str) -> bool:
        state = (await self._js.api(f"STREAM.INFO.{JOBS}", {"subjects_filter": self._subjects.jobs_to(target)}))["state"]
        return bool(state.get("subjects"))

    # ending

    async def _ended_in_time(self, found: Found) -> Found:
        record = found.record
        late = 0 if record.state == "queued" else GRACE_NS
        if record.over or record.deadline_ns is None or clock.wall_ns() < record.deadline_ns + late:
            return found
        return await self._ending.expire(found, "its deadline passed before anybody had done it")


def _id(params: bytes) -> str:
    return read_text(read_object(params, "the params"), "id", params, "the question")
