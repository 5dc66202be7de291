"""One attempt at a job: what its handler sees, the hold on its record, and what its end means for the record."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from mesh import clock
from mesh.delivery import what_is_full
from mesh.errors import MailboxFull, MeshError, Refused, RemoteError
from mesh.jobs.asking import FIRST_DELAY, LONGEST_DELAY, passing
from mesh.jobs.records import Found, Records, stepped
from mesh.policy.job_life import Event
from mesh.wire.control import MESH_ERROR
from mesh.wire.job import LONGEST_TEXT, JobRecord
from mesh.wire.jsonrpc import dumps

EVERY: Final = 0.25
"""Seconds between two reports of progress that are written."""

FULL: Final = 30.0
"""Seconds for which a result waits for room among the states of jobs, which everybody shares. Then its worker does something else."""

LONGEST_ERROR: Final = 16 * 1024
"""Bytes of an error in a record. Of a larger one stay its code and the beginning of its message."""

_log: Final = structlog.get_logger("mesh.jobs")


class JobError(Exception):
    """Raised by a handler: the tool answered with this JSON-RPC error, and would do so again."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error.get("message", "")))
        self.error = dict(error)


class Superseded(MeshError):
    """Somebody else has written the record."""

    code = "refused"

    def __init__(self, found: Found | None) -> None:
        super().__init__("somebody else has the job, or it is over")
        self.found = found


@dataclass(slots=True)
class Work:
    """One attempt at a job, as its handler sees it."""

    id: str
    caller: str
    target: str
    """Our name, or the role that it came to."""
    tool: str
    arguments: dict[str, Any]
    attempt: int
    request: bytes
    """The JSON-RPC request, as the caller wrote it."""
    _report: Callable[[float, float | None, str | None], None]

    @property
    def nonce(self) -> str:
        """What the job is: the same at each attempt, and for the same submission. For who must do it once."""
        return self.id.partition("-")[2]

    def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far it is, as MCP's progress notification does. Four times a second it is written."""
        self._report(progress, total, message)


class Attempt:
    """Our hold on a record."""

    def __init__(self, records: Records, look: Callable[[JobRecord], Awaitable[Found | None]], record: JobRecord, revision: int) -> None:
        self._records = records
        self._look = look
        self.record = record
        self.revision = revision
        self.over = asyncio.Event()
        """Somebody else has written: stop."""
        self.found: Found | None = None
        self.report: dict[str, Any] | None = None
        self.reported = asyncio.Event()
        self.checking: asyncio.Task[None] | None = None
        """Asks whether it is still ours."""
        self._writing = asyncio.Lock()

    async def write(self, event: Event, *, full: float = math.inf, **changes: Any) -> None:
        """Until the broker has it, however long it is away. Raises Superseded, TooLarge, Denied, and MailboxFull where there was no room
        for `full` seconds."""
        async with self._writing:
            record, delay, since = stepped(self.record, event, **changes), FIRST_DELAY, math.inf
            if record is None:
                raise Superseded(self.found)
            while True:
                try:
                    self.revision = await self._records.write(record, self.revision)
                except Refused:
                    found = await self._look(record)
                    if found is None or found.record.as_dict() != record.as_dict():
                        self.lose(found)
                        raise Superseded(found) from None
                    self.revision = found.revision  # it was ours, and its acknowledgement was lost
                except MeshError as problem:
                    if not passing(problem):
                        raise
                    if what_is_full(problem) is not None:
                        _log.warning("there is no room for how a job stands", job=record.id, state=record.state)
                        since = min(since, clock.monotonic())
                        if clock.monotonic() - since > full:
                            raise MailboxFull("there is no room for the result among the states of jobs") from None
                    await asyncio.sleep(delay)
                    delay = min(LONGEST_DELAY, delay * 2)
                    continue
                self.record = record
                return

    def lose(self, found: Found | None) -> None:
        self.found = found
        self.over.set()

    async def until_written(self, pump: "asyncio.Task[None]") -> None:
        """End the reports, but not in the middle of a write, whose outcome would not be known."""
        async with self._writing:
            pump.cancel()

    async def pump(self) -> None:
        """Write what is reported, not too often."""
        while True:
            await self.reported.wait()
            self.reported.clear()
            report = self.report
            if report is not None:
                await self.write(Event.PROGRESS, **report)
            await asyncio.sleep(EVERY)


def as_result(value: Any) -> Any:
    """What a handler returned as MCP's result object: as it is, where it is one."""
    if isinstance(value, dict) and isinstance(value.get("content"), list):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    result: dict[str, Any] = {"content": [{"type": "text", "text": text}]}
    if isinstance(value, dict):
        result["structuredContent"] = value
    return result


def size_of(result: Any) -> int | None:
    try:
        return len(dumps(result))
    except (TypeError, ValueError, RecursionError):
        return None


def fitting(error: Mapping[str, Any]) -> dict[str, Any]:
    """The error, or what of it fits into a record."""
    size = size_of(error)
    if size is not None and size <= LONGEST_ERROR:
        return dict(error)
    return {"code": error.get("code"), "message": str(error.get("message", ""))[:LONGEST_TEXT]}


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def error_of(error: BaseException) -> dict[str, Any]:
    if isinstance(error, RemoteError):
        return {"code": error.rpc_code, "message": error.message, **({} if error.data is None else {"data": error.data})}
    if isinstance(error, MeshError):
        return {"code": MESH_ERROR, "message": error.message, "data": {"mesh": error.code}}
    return {"code": MESH_ERROR, "message": (str(error) or repr(error))[:LONGEST_TEXT], "data": {"mesh": "job_failed"}}
