"""Jobs at the exposing bridge: any tool of any MCP server can be done as one (`mesh.jobs`).

A job goes to the server as a call does, through the same `Exposed`, so that translation between the eras, restarts and bounds are the same.
Its request is the caller's, with an id and a progress token of the bridge's own; progress becomes the job's, and a cancellation MCP's.

What becomes of its answer:

| the server                                              | the job                                       |
|---------------------------------------------------------|-----------------------------------------------|
| gives a result, also one with `isError`                 | done                                          |
| answers with an error                                   | failed with that error, at once               |
| asks something back (elicitation, sampling, roots)      | failed: whoever asked for the job is not there |
| dies, or cannot be reached, or is busy                  | tried again, within its attempts              |
"""

import asyncio
import json
from typing import Any, Final, Protocol

from bridge.expose import Exposed
from mesh import clock
from mesh.jobs import JobError, Retry
from mesh.link.call import Call, current
from mesh.policy.admission import AT_ONCE
from mesh.policy.memory import Peer
from mesh.subjects import escape
from mesh.wire import control
from mesh.wire.jsonrpc import Kind, dumps, scan

MOST_AT_ONCE: Final = 8
"""Jobs of one bridge that run at once, beside its calls."""

AGAIN: Final = frozenset({"server_died", "server_unreachable", "busy", "rate_limited", "instance_lost"})
"""Codes of the mesh's own errors after which the same call may succeed."""

CONNECTION: Final = "job"
"""Stands in a job's id where that of a call has its caller's connection."""


def at_once(calls: int) -> int:
    return max(1, min(MOST_AT_ONCE, calls or AT_ONCE))


class Errand(Protocol):
    """A call that nobody waits for on the mesh: a job (`Work`), or a message for a tool (`bridge.inbox`)."""

    @property
    def id(self) -> str:
        """Something, a dash, and a token that no other errand of the caller has."""

    @property
    def caller(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def request(self) -> bytes:
        """The JSON-RPC request; its id is replaced."""

    def progress(self, progress: Any, total: Any = None, message: str | None = None, /) -> object: ...


class JobRuns:
    """The handler of one exposed server's jobs."""

    def __init__(self, exposed: Exposed) -> None:
        self._exposed = exposed

    async def __call__(self, work: Errand) -> Any:
        run = _Run(work)
        try:
            token = current.set(run.call)
            try:
                self._exposed.on_call(run.call)
            finally:
                current.reset(token)
            return _outcome(await run.answer)
        finally:
            if not run.call.ended:
                run.call.ended = True
                self._exposed.on_cancel(run.call, "the job is cancelled, or its time is over")


class _Run:
    """The owner of one call that no participant is waiting for."""

    def __init__(self, work: Errand) -> None:
        frame = scan(work.request)
        exchange = work.id.partition("-")[2]
        id = f"{escape(work.caller)}.{CONNECTION}.{exchange}"
        frame = scan(frame.splice([(frame.id_span, dumps(id)), (frame.token_span, dumps(id))]))
        self._work = work
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.call = Call(self, frame, work.caller, work.target, "", exchange, Peer(work.caller, CONNECTION))
        self.call.started_ns, self.call.heard_at = clock.wall_ns(), clock.monotonic()

    def announce(self, call: Call) -> None:
        """Nobody waits for a first frame."""

    def emit(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        frame = scan(body)
        if frame.kind is not Kind.NOTIFICATION or frame.method != "notifications/progress":
            return
        said = json.loads(body).get("params") or {}
        progress, total, message = said.get("progress"), said.get("total"), said.get("message")
        if _is_number(progress):
            self._work.progress(progress, total if _is_number(total) else None, message if isinstance(message, str) else None)

    def finish(self, call: Call, raw: bytes) -> None:
        call.ended = True
        if not self.answer.done():
            self.answer.set_result(raw)


def _outcome(raw: bytes) -> Any:
    """What a job's answer means. Raises JobError, Retry."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise JobError({"code": control.INTERNAL_ERROR, "message": f"the answer cannot be read here: {problem}"}) from None
    error = said.get("error")
    if error is not None:
        error = error if isinstance(error, dict) else {"code": control.INTERNAL_ERROR, "message": str(error)}
        data = error.get("data")
        if isinstance(data, dict) and data.get("mesh") in AGAIN:
            raise Retry(str(error.get("message", "")))
        raise JobError(error)
    result = said.get("result")
    if isinstance(result, dict) and result.get("resultType") == "input_required":
        why = "the server asks for input, and who asked for the job is not there to give it"
        raise JobError({"code": control.MESH_ERROR, "message": why, "data": {"mesh": "input_required"}})
    return result


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
