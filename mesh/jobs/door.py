"""`mesh.jobs`: the jobs of one participant, as their caller and as who does them.

How a job stands the control plane says: so any process with the same identity may ask. The broker shows each change of our jobs' records
on a plain subscription, and who waits is told by that; what is missed there is found by asking.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, Self, TypedDict

from mesh import clock
from mesh.delivery import Participant, what_is_full
from mesh.errors import ApiError, CallTimeout, ConfigError, JobCancelled, JobFailed, MailboxFull, MeshError, TooLarge
from mesh.jobs.asking import FIRST_DELAY, asks, passing
from mesh.jobs.desk import GRACE_NS
from mesh.jobs.doing import Handler
from mesh.jobs.records import Found, shown
from mesh.jobs.worker import JobWorker
from mesh.link.connection import Message, Subscription
from mesh.link.denial import check_answers
from mesh.rpc import build_request
from mesh.subjects import LONGEST_NAME, escape
from mesh.topology import MOST_JOBS
from mesh.wire.job import JOB_HEADER, LONGEST_KEPT, MOST_TRIES, NONCE, JobRecord, job_id, read_id, record_of
from mesh.wire.job import JobOptions as Header

LOOK_AGAIN: Final = 15.0
SELDOM: Final = 120.0
"""Seconds after which who waits for a job asks again, should a change have been missed; doubled each time that none has. Who waits for a
hundred must have questions left."""

_LONGEST_DELAY: Final = 5.0


class JobOptions(TypedDict, total=False):
    """As `Jobs.submit` has them."""

    key: str | None
    deadline: float | None
    attempts: int
    keep: float


class Jobs:
    """What it needs it opens when it is first used."""

    def __init__(self, me: Participant) -> None:
        self._connection = me.connection
        self._subjects = me.subjects
        self._name = me.name
        self._ask = asks(me.ask)
        self._store = me.store()
        self._watched: dict[str, set[_Watch]] = {}
        """By nonce."""
        self._listening: Subscription | None = None
        self._opening = asyncio.Lock()
        self._detach: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._detach()
        await self._store.close()
        if self._listening is not None:
            await self._listening.unsubscribe()

    # as their caller

    async def submit(
        self,
        agent: str,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        deadline: float | None = None,
        attempts: int = 3,
        keep: float = 86_400,
    ) -> JobRecord:
        """Have a tool called, and return once the broker has the job. It is begun when somebody answers to the name, whenever that is.

        Submitted again with the same `key`, it is the same job, for as long as that is kept and ten minutes. Past `deadline` seconds
        nobody works on it; without one it has a week. It is begun `attempts` times at most; how it ended is kept for `keep` seconds, ten
        minutes at least.

        Raises Denied, MailboxFull (nothing was stored), TooLarge, and BrokerUnavailable where the broker did not answer: submitted again
        with the same key, it is stored once.
        """
        if not agent or not tool or not 1 <= attempts <= MOST_TRIES or not 0 < keep <= LONGEST_KEPT:
            raise ConfigError(f"a job has an agent, a tool, 1 to {MOST_TRIES} attempts, and is kept for {LONGEST_KEPT:,} seconds at most")
        if deadline is not None and not 0 < deadline <= LONGEST_KEPT:
            raise ConfigError(f"a job's deadline is up to {LONGEST_KEPT:,} seconds from now")
        if len(escape(tool)) > LONGEST_NAME:
            raise TooLarge("the tool's name is too long for a job: its subject could not say it", limit=LONGEST_NAME)
        subject = self._subjects.job(agent, self._name, "tools/call", tool)
        key = key or secrets.token_hex(16)
        nonce = self._store.digest(f"{subject} {key} job")[:NONCE].lower()
        options = Header(nonce=nonce, attempts=attempts, keep=max(1, round(keep)), deadline=deadline)
        body = build_request(nonce, "tools/call", {"name": tool, "arguments": dict(arguments or {})}, progress=True)
        try:
            ack = await self._store.put(subject, body, id=key, action=f"submit {agent}/{tool}", headers={JOB_HEADER: options.header()})
        except ApiError as error:
            raise _full(error, agent, tool) from None
        now = clock.wall_ns()
        return JobRecord(
            id=job_id(ack.seq, nonce),
            target=agent,
            caller=self._name,
            method="tools/call",
            name=tool,
            created_ns=now,
            updated_ns=now,
            deadline_ns=None if deadline is None else now + round(deadline * 1e9),
            keep=options.keep,
            most_attempts=attempts,
        )

    async def get(self, id: str) -> JobRecord:
        """How it stands. Raises NoSuchJob, also for what is another's, and CallError where no control plane answers."""
        return record_of((await self._ask("get", {"id": id}))["job"])

    async def list(self, *, all: bool = False, most: int = 1_000) -> list[JobRecord]:
        """Ours, the newest first, of their results only whether they say `isError`; with `all` everybody's, for operators. Raises Denied,
        and CallError where no control plane answers."""
        jobs: list[JobRecord] = []
        more = True
        while more and len(jobs) < most:
            params = {"all": all, "most": most - len(jobs), **({"before": read_id(jobs[-1].id)[0]} if jobs else {})}
            said = await self._ask("list", params)
            jobs += map(record_of, said["jobs"])
            more = said["more"] is True and bool(said["jobs"])
        return jobs

    async def cancel(self, id: str) -> JobRecord:
        """End it, unless it is over. Who works on it is told, and stops. Returns how it stands then."""
        return record_of((await self._ask("cancel", {"id": id}))["job"])

    async def wait(self, id: str, timeout: float | None = None) -> JobRecord:
        """Wait until it is over, also over restarts of the broker and while no control plane runs. Raises NoSuchJob, CallTimeout after
        `timeout` seconds: the job goes on."""
        try:
            async with asyncio.timeout(timeout), aclosing(self.watch(id)) as records:
                async for record in records:
                    if record.over:
                        return record
        except TimeoutError:
            raise CallTimeout(f"the job {id} was not over within {timeout:g} s", hint="it goes on; wait for it again", job=id) from None
        raise AssertionError("unreachable")

    async def watch(self, id: str) -> AsyncGenerator[JobRecord, None]:
        """As it is, and each change that is noticed, until it is over. Raises NoSuchJob."""
        nonce = read_id(id)[1]
        await self._listen()
        watch, delay, quiet = _Watch(), FIRST_DELAY, LOOK_AGAIN
        last: JobRecord | None = None
        self._watched.setdefault(nonce, set()).add(watch)
        try:
            while True:
                found = watch.take()
                if found is None:
                    try:
                        said = await self._ask("get", {"id": id})
                        found = Found(record_of(said["job"]), int(said["revision"]))
                    except MeshError as problem:
                        if not passing(problem):
                            raise
                        await watch.wait(delay)  # who does it may be heard, though nobody can be asked
                        delay = min(_LONGEST_DELAY, delay * 2)
                        continue
                    delay = FIRST_DELAY
                    watch.revision = found.revision
                if found.record != last:
                    last = found.record
                    yield last
                else:
                    quiet = min(SELDOM, quiet * 2)
                if last.over:
                    return
                await watch.wait(_patience(last, quiet))
        finally:
            watched = self._watched[nonce]
            watched.discard(watch)
            if not watched:
                del self._watched[nonce]

    async def result(self, id: str, timeout: float | None = None) -> Any:
        """Wait for it, and return its result. Raises JobFailed, JobCancelled, CallTimeout."""
        return result_of(await self.wait(id, timeout))

    # as who does them

    def work(self, handler: Handler, *, roles: tuple[str, ...] = (), workers: int = 1) -> JobWorker:
        """Do the jobs of our name, and of `roles`, for as long as the `async with` block lasts, `workers` of them at once. Several
        processes of one name share its jobs. Raises Denied."""
        targets = (self._name, *roles)
        for target in targets:
            check_answers(self._connection, self._subjects, self._name, target)
        return JobWorker(self._connection, self._subjects, self._ask, targets, handler, workers=workers)

    async def _listen(self) -> None:
        async with self._opening:
            if self._listening is None:
                self._listening = await self._connection.subscribe(self._subjects.job_states(self._name), self._on_change)
                self._detach = self._connection.on_up(self._on_up)

    def _on_change(self, message: Message) -> None:
        watching = self._watched.get(message.subject.rpartition(".")[2])
        if watching and (found := shown(self._subjects, message)) is not None and found.record.caller == self._name:
            for watch in watching:
                watch.hear(found)

    def _on_up(self) -> None:
        for watching in self._watched.values():
            for watch in watching:
                watch.doubt()


class _Watch:
    """What one who waits has heard of a job."""

    def __init__(self) -> None:
        self.revision = 0
        """Of what was last known. What is shown late, after it was asked, is older."""
        self.changed = asyncio.Event()
        self._heard: Found | None = None
        self._doubted = False
        """Something may have been missed: ask."""

    def doubt(self) -> None:
        self._doubted = True
        self.changed.set()

    def hear(self, found: Found) -> None:
        if found.revision > self.revision:
            self.revision, self._heard = found.revision, found
            self.changed.set()

    def take(self) -> Found | None:
        self.changed.clear()
        found, self._heard = self._heard, None
        self._doubted = self._doubted and found is not None
        return found

    async def wait(self, seconds: float) -> None:
        """Until something is heard, or it is time to ask."""
        if self._doubted:
            return
        try:
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        except TimeoutError:
            return


def result_of(record: JobRecord) -> Any:
    """Of a job that is over. Raises JobFailed, JobCancelled."""
    if record.state == "done":
        return record.result
    if record.state == "cancelled":
        raise JobCancelled(f"the job {record.id} was cancelled", job=record.id)
    error = dict(record.error or {})
    raise JobFailed(f"the job {record.id} {record.state}: {error.get('message', '')}", job=record.id, state=record.state, error=error)


def _patience(record: JobRecord, quiet: float) -> float:
    """Until it is asked for again: `quiet`, or to the end of its time, when the control plane ends it, where nobody else does."""
    if record.deadline_ns is None:
        return quiet
    late = 0 if record.state == "queued" else GRACE_NS
    return min(quiet, max(1.0, (record.deadline_ns + late - clock.wall_ns()) / 1e9 + 0.05))


def _full(error: ApiError, agent: str, tool: str) -> ApiError | MailboxFull:
    hint = "submit it again later"
    match what_is_full(error):
        case "subject":
            return MailboxFull(f"{agent!r} has {MOST_JOBS:,} jobs of this caller for {tool!r}", hint=hint, limit=MOST_JOBS)
        case "stream":
            return MailboxFull(f"the stream of jobs is full: {error.description}", hint=hint)
        case None:
            return error
