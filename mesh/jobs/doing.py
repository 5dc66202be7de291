"""Doing one job: from its delivery to what its record says at the end.

Before the handler sees it the worker writes the record `running` over the one that it knows of, which is none at first; so one worker has
it, and attempts are counted where they begin. All later writes follow that one: a worker that was taken for dead finds that its write is
refused, stops its handler, and says nothing more of the job.

| the handler                                      | the job                                                       |
|--------------------------------------------------|---------------------------------------------------------------|
| returns                                          | done, if the result fits into a record; else failed (`too_large`) |
| (the states of jobs are full)                    | waits half a minute for room for a result, then failed (`mailbox_full`) |
| raises `Reject` or `JobError`                    | failed at once                                                |
| raises anything else                             | queued again, with a backoff; after the last attempt failed   |
| ends with its process                            | begun by another worker; after the last attempt failed (`undelivered`) |
| (past the deadline)                              | expired; the handler is cancelled                             |
| (the record says that it is over)                | nothing more; the handler is cancelled                        |

Failed and expired jobs are dead letters, stored before the record says so.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from mesh import clock
from mesh.background import end_tasks
from mesh.delivery import Key, Reject, Retry
from mesh.errors import MailboxFull, MeshError, TooLarge
from mesh.jobs.asking import FIRST_DELAY, LONGEST_DELAY, Asks, passing
from mesh.jobs.attempt import FULL, Attempt, JobError, Superseded, Work, as_result, error_of, fitting, is_finite
from mesh.jobs.family import Item
from mesh.jobs.letters import arguments_of
from mesh.jobs.records import Found, Records, stepped
from mesh.link.jetstream import JetStream
from mesh.policy.job_life import Event
from mesh.policy.retry import Backoff
from mesh.wire.control import MESH_ERROR
from mesh.wire.job import LONGEST_TEXT, JobRecord, record_of
from mesh.wire.jsonrpc import dumps
from mesh.wire.letter import ROOM

BACKOFF: Final = Backoff(first=1.0, longest=60.0)

_LEAVING: Final = 1.0
"""Seconds for the last word on a job whose worker leaves in order."""

Handler = Callable[[Work], Awaitable[Any]]

_log: Final = structlog.get_logger("mesh.jobs")


class Doing:
    """Of one worker."""

    def __init__(self, js: JetStream, ask: Asks, handler: Handler) -> None:
        self._connection = js.connection
        self._records = Records(js)
        self._ask = ask
        self._handler = handler
        self._token = secrets.token_hex(4)
        self._live: dict[Key, Attempt] = {}

    async def do(self, item: Item) -> None:
        """Raises what `mesh.delivery` understands."""
        attempt = item.attempt = await self._begin(item)
        if attempt is None:
            return
        self._live[item.key] = attempt
        try:
            await self._run(item, attempt)
        except Superseded as lost:
            found = lost.found or attempt.found
            item.lost = found is None or not found.record.over
        finally:
            if attempt.checking is not None:
                attempt.checking.cancel()
            if self._live.get(item.key) is attempt:
                del self._live[item.key]

    async def bury(self, item: Item, code: str, reason: str) -> None:
        """Its dead letter is stored: so says its record."""
        error = item.error or {"code": MESH_ERROR, "message": reason, "data": {"mesh": code}}
        if (attempt := item.attempt) is not None:
            with contextlib.suppress(Superseded):
                await attempt.write(Event.EXPIRE if code == "expired" else Event.FAIL, error=fitting(error))

    # what is said of what runs

    def heard(self, said: Found) -> None:
        """Somebody has written a record."""
        record = said.record
        attempt = self._live.get((record.target, record.caller, record.nonce))
        if attempt is not None and said.revision > attempt.revision and (record.over or record.worker != self._token):
            attempt.lose(said)

    def check(self) -> None:
        """What was said meanwhile was missed."""
        for attempt in self._live.values():
            if attempt.checking is None or attempt.checking.done():  # else its question was lost with the connection, and is asked again
                attempt.checking = asyncio.create_task(self._check(attempt), name=f"how {attempt.record.id} stands")

    async def _check(self, attempt: Attempt) -> None:
        try:
            found = await self._look(attempt.record)
        except MeshError as problem:
            _log.warning("how a job stands cannot be known", job=attempt.record.id, why=str(problem))
            return  # its next write finds out
        if found is None or found.record.over or found.record.worker != self._token:
            attempt.lose(found)

    async def _look(self, record: JobRecord) -> Found | None:
        """How it stands, from the control plane; as long as that takes, since nobody else knows."""
        delay = FIRST_DELAY
        while True:
            try:
                said = await self._ask("look", {"target": record.target, "caller": record.caller, "nonce": record.nonce})
                return Found(record_of(said["job"]), int(said["revision"]), said["there"] is True) if said.get("job") else None
            except MeshError as problem:
                if not passing(problem):
                    raise
                _log.info("how a job stands is not known now", job=record.id, why=str(problem))
            await asyncio.sleep(delay)
            delay = min(LONGEST_DELAY, delay * 2)

    # one attempt

    async def _begin(self, item: Item) -> Attempt | None:
        """The record is ours, or None where there is nothing to do. Raises Reject where it may not be begun any more."""
        found: Found | None = None
        while True:
            base, revision, _ = found or Found(item.fresh, 0)
            again = item.options.again
            if base.over:
                if not again or base.again == again or stepped(base, Event.REDRIVE) is None:
                    return None
                base = item.fresh
            elif base.id != item.fresh.id and found is not None:
                if found.there:
                    return None  # stored twice: the other one has it, and comes again should its worker die
                base = item.fresh
            attempt = Attempt(self._records, self._look, base, revision)
            if base.deadline_ns is not None and clock.wall_ns() >= base.deadline_ns:
                item.attempt = attempt
                raise Reject("its deadline had passed when it came to be done", code="expired")
            if base.attempts >= base.most_attempts:
                item.attempt = attempt
                if base.state == "running":
                    raise Reject(f"its worker ended, or lost its connection, at each of {base.attempts} attempts", code="undelivered")
                raise Reject(f"the last of {base.attempts} attempts failed", code="failed")
            try:
                await attempt.write(
                    Event.BEGIN, id=item.fresh.id, attempts=base.attempts + 1, worker=self._token, started_ns=clock.wall_ns(), again=again,
                    message=None, progress=None, total=None,
                )  # fmt: skip
            except Superseded as refused:
                found = refused.found
                continue
            return attempt

    async def _run(self, item: Item, attempt: Attempt) -> None:
        record = attempt.record
        try:
            arguments = arguments_of(item.body)
        except (ValueError, RecursionError) as problem:
            raise Reject(f"its arguments cannot be read: {problem}", code="malformed") from None

        def report(progress: float, total: float | None, message: str | None) -> None:
            if is_finite(progress):
                said = None if message is None else str(message)[:LONGEST_TEXT]
                attempt.report = {"progress": progress, "total": total if is_finite(total) else None, "message": said}
                attempt.reported.set()

        work = Work(
            id=record.id,
            caller=record.caller,
            target=record.target,
            tool=record.name or "",
            arguments=arguments,
            attempt=record.attempts,
            request=item.body,
            _report=report,
        )
        left = None if record.deadline_ns is None else max(0.0, (record.deadline_ns - clock.wall_ns()) / 1e9)
        running = asyncio.ensure_future(self._handler(work))
        over = asyncio.create_task(attempt.over.wait())
        pump = asyncio.create_task(attempt.pump(), name=f"progress of {record.id}")
        try:
            await asyncio.wait({running, over}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if attempt.over.is_set():
                raise Superseded(attempt.found)
            if not running.done():
                raise Reject("its deadline passed while it was done", code="expired")
            await attempt.until_written(pump)
        except asyncio.CancelledError:
            running.cancel()
            await self._leave(attempt, pump)
            raise
        except Reject:
            running.cancel()  # before a wait for the broker
            await attempt.until_written(pump)
            raise
        finally:
            await end_tasks(running, over, pump)
        await self._end(item, attempt, running)

    async def _end(self, item: Item, attempt: Attempt, running: "asyncio.Future[Any]") -> None:
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        if error is None:
            await self._finish(item, attempt, running.result())
            return
        if isinstance(error, JobError):
            item.error = error.error
            raise Reject(str(error)[:LONGEST_TEXT] or "the tool answered with an error")
        if isinstance(error, Reject):
            raise error
        item.error = told = fitting(error_of(error))
        if attempt.record.attempts >= attempt.record.most_attempts:
            raise Reject(f"the last of {attempt.record.attempts} attempts failed: {told['message']}", code="failed")
        _log.warning("an attempt at a job failed", job=attempt.record.id, attempt=attempt.record.attempts, error=repr(error)[:LONGEST_TEXT])
        after = error.after if isinstance(error, Retry) else None
        await attempt.write(Event.RETRY, error=told)
        raise Retry(str(error)[:LONGEST_TEXT], after=BACKOFF.wait(attempt.record.attempts, random.random()) if after is None else after)

    async def _finish(self, item: Item, attempt: Attempt, value: Any) -> None:
        """Raises Reject for what is no result that a record can hold."""
        limit = self._connection.max_payload - ROOM
        try:
            result = as_result(value)
            size = len(dumps(result))
        except (TypeError, ValueError, RecursionError):
            code, said = "malformed", "the result is no JSON"
        else:
            code, said = "too_large", f"the result has {size:,} bytes, of at most {limit:,}"
            # What was reported last may take more room than there is beside a result that fits.
            for report in (attempt.report or {}, {"message": None}) if size <= limit else ():
                try:
                    await attempt.write(Event.FINISH, full=FULL, result=result, error=None, **report)
                    return
                except TooLarge:
                    continue
                except MailboxFull as problem:
                    code, said = problem.code, problem.message
                    break
        item.error = {"code": MESH_ERROR, "message": said, "data": {"mesh": code}}
        raise Reject(said, code=code)

    async def _leave(self, attempt: Attempt, pump: "asyncio.Task[None]") -> None:
        """We leave in order: another may begin at once, and this was no attempt. What may be begun once has been, and the next worker
        says so."""
        if attempt.record.most_attempts == 1:
            return
        with contextlib.suppress(TimeoutError, MeshError):
            async with asyncio.timeout(_LEAVING):
                await attempt.until_written(pump)
                await attempt.write(Event.RETRY, attempts=max(0, attempt.record.attempts - 1))
