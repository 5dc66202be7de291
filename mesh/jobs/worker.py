"""Doing jobs: from the stream to a handler, and what becomes of each.

Theory of operation
-------------------
`mesh.delivery` brings a job, keeps it in hand by a word to the broker every few seconds, and brings it to another worker when that word
stays out. Before the handler sees it the worker writes the record `running` over the one that it knows of, which is none at first; so one
worker has it, and attempts are counted where they begin. All later writes follow that one: a worker that was taken for dead finds that its
write is refused, stops its handler, and says nothing more of the job.

| the handler                                      | the job                                                       |
|--------------------------------------------------|---------------------------------------------------------------|
| returns                                          | done, if the result fits into a record; else failed (`too_large`) |
| raises `Reject` or `JobError`                    | failed at once                                                |
| raises anything else                             | queued again, with a backoff; after the last attempt failed   |
| ends with its process                            | begun by another worker; after the last attempt failed (`undelivered`) |
| (past the deadline)                              | expired; the handler is cancelled                             |
| (the record says that it is over)                | nothing more; the handler is cancelled                        |

Failed and expired jobs are dead letters, stored before the record says so.

**Cheap for who never gets a job.** Until the first job comes there is one subscription to a name, on which the broker shows each job that
it stores, and one question to the control plane, whether some wait. Then the consumer is made and pulled from.

This module is long because all that can become of a job in one worker's hands stands here side by side.
"""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import structlog

from mesh import clock
from mesh.delivery import Family, Key, Lane, Receiver, Reject, Retry
from mesh.errors import BrokerError, CallError, CallTimeout, Denied, MalformedMessage, MeshError, Refused, RemoteError
from mesh.jobs.attempt import FIRST_DELAY, LONGEST_DELAY, Attempt, JobError, Superseded, Work, as_result, error_of, size_of
from mesh.jobs.desk import job_lane
from mesh.jobs.letters import arguments_of
from mesh.jobs.records import Found, Records, stepped, waiting
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import Delivery, JetStream
from mesh.policy.job_life import Event
from mesh.policy.retry import Backoff
from mesh.subjects import Job, JobState, Subjects, tail
from mesh.topology import JOB_STATES, bucket_subject
from mesh.wire.control import MESH_ERROR
from mesh.wire.job import LONGEST_KEPT, LONGEST_TEXT, JobOptions, JobRecord, read_options, read_record, record_of
from mesh.wire.jsonrpc import Kind, scan
from mesh.wire.letter import ROOM
from mesh.wire.reading import is_brokers

BACKOFF: Final = Backoff(first=1.0, longest=60.0)

_LEAVING: Final = 1.0
"""Seconds for the last word on a job whose worker leaves in order."""

Handler = Callable[[Work], Awaitable[Any]]
AskJobs = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""`mesh/jobs/{what}` of the control plane. Raises MeshError."""

_log: Final = structlog.get_logger("mesh.jobs")


@dataclass(slots=True)
class _Item:
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


class _JobFamily(Family[_Item]):
    def __init__(self, subjects: Subjects, worker: "JobWorker") -> None:
        self._subjects = subjects
        self._worker = worker

    def read(self, raw: Message, delivery: Delivery, lane: Lane) -> _Item | None:
        if is_brokers(raw.body):
            return None
        subject = self._subjects.parse(raw.subject)
        if not isinstance(subject, Job):
            raise Refused("no job's subject", subject=raw.subject)
        options, frame = read_options(raw.headers), scan(raw.body)
        if frame.kind is not Kind.REQUEST or tail(frame.method or "", frame.name) != tail(subject.method, subject.name):
            raise Refused("a job whose body is not the request in its subject", subject=raw.subject)
        return _Item(subject, options, raw.body, waiting(subject, options, delivery.seq, delivery.time_ns))

    def key(self, item: _Item) -> Key:
        return item.subject.target, item.subject.caller, item.options.nonce

    def done(self, item: _Item, result: object) -> None:
        if item.lost:
            raise Refused("another worker has this job")  # so nothing is said of it

    def buried(self, item: _Item, code: str, reason: str) -> Awaitable[None]:
        return self._worker.bury(item, code, reason)


class _Forgetful:
    """Whether a job was done its record says."""

    def seen(self, key: Key) -> bool:
        return False

    def record(self, key: Key) -> None:
        return None


class JobWorker:
    """`async with` it: while it lasts, `handler` does the jobs to `targets`, `workers` of them at once."""

    def __init__(
        self, connection: Connection, subjects: Subjects, ask: AskJobs, targets: tuple[str, ...], handler: Handler, *, workers: int
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._ask = ask
        self._targets = targets
        self._handler = handler
        self._workers = workers
        self._js = JetStream(connection)
        self._records = Records(self._js)
        self._token = secrets.token_hex(4)
        self._noticed: set[Hashable] = set()
        self._look_now = asyncio.Event()
        self._live: dict[tuple[str, str, str], Attempt] = {}
        self._checks: set[asyncio.Task[None]] = set()
        self._receiver: Receiver[_Item] | None = None
        self._stack = AsyncExitStack()
        self.notices: Mapping[str, Hashable] = {subjects.jobs_to(target): target for target in targets}

    @property
    def working(self) -> bool:
        """Whether a job has come, so that there is a consumer to pull from."""
        return self._receiver is not None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end_checks)
            for subject, target in self.notices.items():
                subscription = await self._connection.subscribe(subject, partial(self._notice, target))
                stack.push_async_callback(subscription.unsubscribe)
            stack.callback(self._connection.on_up(self._on_up))
            opening = asyncio.create_task(self._open(), name="the first job")
            stack.push_async_callback(self._close, opening)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # lanes

    def _notice(self, target: Hashable, _: Message) -> None:
        if target not in self._noticed:
            self._noticed.add(target)
            self._look_now.set()

    def _on_up(self) -> None:
        self._look_now.set()
        for attempt in list(self._live.values()):  # what was said meanwhile was missed
            check = asyncio.create_task(self._check(attempt), name="jobs after a reconnection")
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _open(self) -> None:
        """Wait until there is something to pull from."""
        delay = FIRST_DELAY
        while True:
            self._look_now.clear()
            lanes, all_found = await self.find(self._noticed)
            if lanes:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if all_found else delay):
                    await self._look_now.wait()
            delay = FIRST_DELAY if all_found else min(LONGEST_DELAY * 3, delay * 2)
        for target in self._targets:
            subscription = await self._connection.subscribe(self._subjects.job_states_of(target), self._on_change)
            self._stack.push_async_callback(subscription.unsubscribe)
        receiver: Receiver[_Item] = Receiver(
            self._js,
            self._subjects,
            _JobFamily(self._subjects, self),
            self,
            self._do,
            workers=self._workers,
            prefetch=self._workers,  # what waits here could run elsewhere
            handler_seconds=float(LONGEST_KEPT),
            handled=_Forgetful(),
        )
        self._receiver = await receiver.__aenter__()

    async def _close(self, opening: "asyncio.Task[None]") -> None:
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError, MeshError):
            await opening
        if self._receiver is not None:
            await self._receiver.__aexit__(None, None, None)

    async def find(self, noticed: Collection[Hashable]) -> tuple[Collection[Lane], bool]:
        """As a `Source` of mesh.delivery."""
        lanes, all_found = [], True
        for target in self._targets:
            try:
                there = (await self._ask("lane", {"target": target, "wanted": target in noticed})).get("lane") is True
            except MeshError as problem:
                _log.info("nobody makes lanes for jobs now", target=target, why=str(problem))
                there, all_found = self._receiver is not None, isinstance(problem, Denied) and all_found
            if there:
                spec = job_lane(self._subjects, target)
                lanes.append(Lane(target, "normal", spec.stream, spec.name))
        return lanes, all_found

    # one job

    async def _do(self, item: _Item) -> None:
        attempt = item.attempt = await self._begin(item)
        if attempt is None:
            return
        key = (item.subject.target, item.subject.caller, item.options.nonce)
        self._live[key] = attempt
        try:
            await self._run(item, attempt)
        except Superseded as lost:
            found = lost.found or attempt.found
            item.lost = found is None or not found.record.over
        finally:
            if self._live.get(key) is attempt:
                del self._live[key]

    async def _begin(self, item: _Item) -> Attempt | None:
        """The record is ours, or None where there is nothing to do. Raises Reject where it may not be begun any more."""
        found: Found | None = Found(item.fresh, 0)
        while True:
            if found is None:
                found = Found(item.fresh, 0)
            base = found.record
            again = item.options.again
            if base.over:
                if not again or base.again == again or stepped(base, Event.REDRIVE) is None:
                    return None
                base = item.fresh
            started = stepped(
                base, Event.BEGIN, attempts=base.attempts + 1, worker=self._token, started_ns=clock.wall_ns(), again=again, message=None,
                progress=None, total=None,
            )  # fmt: skip
            assert started is not None
            if base.deadline_ns is not None and clock.wall_ns() >= base.deadline_ns:
                item.attempt = Attempt(self._records, self._look, base, found.revision)
                raise Reject("its deadline had passed when it came to be done", code="expired")
            if base.attempts >= base.most_attempts:
                item.attempt = Attempt(self._records, self._look, base, found.revision)
                if base.state == "running":
                    raise Reject(f"its worker ended, or lost its connection, at each of {base.attempts} attempts", code="undelivered")
                raise Reject(f"the last of {base.attempts} attempts failed", code="failed")
            attempt = Attempt(self._records, self._look, base, found.revision)
            try:
                await attempt.write(Event.BEGIN, **{key: getattr(started, key) for key in _BEGUN})
            except Superseded as refused:
                found = refused.found
                continue
            return attempt

    async def _run(self, item: _Item, attempt: Attempt) -> None:
        record = attempt.record

        def report(progress: float, total: float | None, message: str | None) -> None:
            said = None if message is None else str(message)[:LONGEST_TEXT]
            attempt.report = {"progress": progress, "total": total, "message": said}
            attempt.reported.set()

        work = Work(
            id=record.id,
            caller=record.caller,
            target=record.target,
            tool=record.name or "",
            arguments=arguments_of(item.body),
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
        except asyncio.CancelledError:
            pump.cancel()
            await self._leave(attempt, running)
            raise
        finally:
            over.cancel()
            await attempt.stop(pump)
            if not running.done():
                running.cancel()
            await asyncio.gather(running, over, return_exceptions=True)
        await self._end(item, attempt, running)

    async def _end(self, item: _Item, attempt: Attempt, running: "asyncio.Future[Any]") -> None:
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        if error is None:
            result = as_result(running.result())
            limit = self._connection.max_payload - ROOM
            size = size_of(result)
            if size is None or size > limit:
                code = "too_large" if size else "malformed"
                said = f"the result has {size:,} bytes, of at most {limit:,}" if size else "the result is no JSON"
                item.error = {"code": MESH_ERROR, "message": said, "data": {"mesh": code}}
                raise Reject(said, code=code)
            await attempt.write(Event.FINISH, result=result, error=None)
            return
        if isinstance(error, JobError):
            item.error = error.error
            raise Reject(str(error) or "the tool answered with an error")
        if isinstance(error, Reject):
            raise error
        item.error = error_of(error)
        if attempt.record.attempts >= attempt.record.most_attempts:
            raise Reject(f"the last of {attempt.record.attempts} attempts failed: {item.error['message']}", code="failed")
        _log.warning("an attempt at a job failed", job=attempt.record.id, attempt=attempt.record.attempts, error=repr(error))
        after = error.after if isinstance(error, Retry) else None
        await attempt.write(Event.RETRY, error=item.error)
        raise Retry(str(error), after=BACKOFF.wait(attempt.record.attempts, random.random()) if after is None else after)

    async def bury(self, item: _Item, code: str, reason: str) -> None:
        """Its dead letter is stored: so says its record."""
        error = item.error or {"code": MESH_ERROR, "message": reason, "data": {"mesh": code}}
        if (attempt := item.attempt) is not None:
            with contextlib.suppress(Superseded):
                await attempt.write(Event.EXPIRE if code == "expired" else Event.FAIL, error=error)

    async def _leave(self, attempt: Attempt, running: "asyncio.Future[Any]") -> None:
        """We leave in order: another may begin at once, and this was no attempt."""
        running.cancel()
        with contextlib.suppress(TimeoutError, MeshError):
            async with asyncio.timeout(_LEAVING):
                await attempt.write(Event.RETRY, attempts=max(0, attempt.record.attempts - 1))

    # what is said of its record

    def _on_change(self, message: Message) -> None:
        """Somebody has written it. Only the broker's own copies have the key in this header, which a sender could not write."""
        with contextlib.suppress(MalformedMessage, Refused, ValueError):
            said = self._subjects.parse(message.subject)
            if not isinstance(said, JobState) or (attempt := self._live.get((said.target, said.caller, said.id))) is None:
                return
            headers = message.headers or {}
            key = message.subject.removeprefix(f"{self._subjects.root}{JOB_STATES}.")
            if headers.get("Nats-Subject") != bucket_subject(JOB_STATES, key):
                return
            record, revision = read_record(message.body), int(headers.get("Nats-Sequence", "0"))
            if revision > attempt.revision and (record.state == "cancelled" or record.worker != self._token):
                attempt.lose(Found(record, revision))

    async def _check(self, attempt: Attempt) -> None:
        found = await self._look(attempt.record)
        if found is None or found.record.over or found.record.worker != self._token:
            attempt.lose(found)

    async def _look(self, record: JobRecord) -> Found | None:
        """How it stands, from the control plane; as long as that takes, since nobody else knows."""
        delay = FIRST_DELAY
        while True:
            try:
                said = await self._ask("look", {"target": record.target, "caller": record.caller, "nonce": record.nonce})
                return Found(record_of(said["job"]), int(said["revision"])) if said.get("job") else None
            except (RemoteError, Denied):
                raise
            except (CallError, CallTimeout, BrokerError, MalformedMessage) as problem:
                _log.info("how a job stands is not known now", job=record.id, why=str(problem))
            await asyncio.sleep(delay)
            delay = min(LONGEST_DELAY, delay * 2)

    async def _end_checks(self) -> None:
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)


_BEGUN: Final = ("attempts", "worker", "started_ns", "again", "message", "progress", "total")
