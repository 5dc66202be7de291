"""A job of the mesh as MCP sees it: a task. Pure.

| job       | task        | and                                                                     |
|-----------|-------------|-------------------------------------------------------------------------|
| queued    | working     | "waits for AGENT"                                                       |
| running   | working     | its last progress as the message                                        |
| done      | completed   | the result; in the handshake era `failed`, where the result says `isError` |
| failed    | failed      | the error                                                               |
| cancelled | cancelled   |                                                                         |
| expired   | failed      | an error of the mesh                                                    |

`input_required` comes from no job: who works on a job asks nobody, and a server that must ask something fails with the error that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mesh import clock
from mesh.wire import control
from mesh.wire.job import JobRecord

WORKING: Final = "working"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"


@dataclass(frozen=True, slots=True)
class Task:
    """`created` and `updated` as MCP writes times, `ttl` in milliseconds from `created`. `result` and `error` as JSON-RPC has them."""

    id: str
    agent: str
    status: str
    created: str
    updated: str
    ttl: int
    message: str = ""
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    progress: tuple[float, float | None] | None = None

    @property
    def over(self) -> bool:
        return self.status != WORKING

    def status_in(self, modern: bool) -> str:
        """A tool that says that it failed has failed in the handshake era, and has completed in the modern one."""
        if self.status == COMPLETED and not modern and self.result is not None and self.result.get("isError") is True:
            return FAILED
        return self.status


def task_of(job: JobRecord) -> Task:
    """A job as a task."""
    status, result, error = _STATUS[job.state], None, job.error if job.state == "failed" else None
    message = _message(job)
    if status == COMPLETED:
        result = job.result if isinstance(job.result, dict) else {}
        if result.get("resultType") == "input_required":
            status, error = FAILED, _mesh_error("input_required", "the server asks for input, and a task asks nobody")
    elif job.state == "expired":
        error = job.error or _mesh_error("timeout", "the task was not done within its time")
    elif status == FAILED and error is None:
        error = _mesh_error("job_failed", "the task failed")
    progress = None if job.progress is None or status != WORKING else (job.progress, job.total)
    return Task(
        id=job.id,
        agent=job.target,
        status=status,
        created=clock.iso(job.created_ns),
        updated=clock.iso(job.updated_ns),
        ttl=job.keep * 1000,
        message=str(error.get("message", "")) if error is not None else message,
        result=result if status == COMPLETED else None,
        error=error,
        progress=progress,
    )


def _message(job: JobRecord) -> str:
    if job.state == "queued":
        return f"waits for {job.target}" if job.attempts == 0 else f"waits for {job.target} to try it again"
    return (job.message or "") if job.state == "running" else ""


def _mesh_error(code: str, message: str) -> dict[str, Any]:
    return {"code": control.MESH_ERROR, "message": message, "data": {"mesh": code}}


_STATUS: Final = {
    "queued": WORKING,
    "running": WORKING,
    "done": COMPLETED,
    "failed": FAILED,
    "expired": FAILED,
    "cancelled": CANCELLED,
}
