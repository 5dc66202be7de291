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
