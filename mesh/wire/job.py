"""Jobs, as they travel: what is asked for, and how it stands.

A job is asked for by a message on `job.{target}.{caller}.{method…}.{name}` whose body is a JSON-RPC request (`mesh.rpc.build_request`) and
whose header `Mesh-Job` says as JSON `{"nonce", "attempts", "keep", "deadline"?, "again"?}`, times in seconds. Target, caller, method and
name are the subject's. How it stands is a **record** in the bucket `jobs` under `{target}.{caller}.{nonce}`, written by who works on it and
by the control plane; the broker shows each change on `jobs.{target}.{caller}.{nonce}`.

A job is named `{sequence}-{nonce}`: where it lies while it waits, and what it is. The nonce alone is its identity: the same submission has
the same, also where the broker has stored it twice.

A record always has an `id`, which no answer of the broker's own has (`mesh.subjects` says who could have one stored).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeGuard

from mesh import clock
from mesh.errors import MalformedMessage, NoSuchJob
from mesh.wire.jsonrpc import dumps
from mesh.wire.reading import read_object, read_text, read_time

JOB_HEADER: Final = "Mesh-Job"

MOST_TRIES: Final = 20
"""Attempts of one job."""

LONGEST_KEPT: Final = 7 * 86_400
"""Seconds that a record is kept at most, and that a job may wait: those of its stream."""

LEAST_KEPT: Final = 600
"""Seconds that the record of a job that is over is kept at least. Who ended it may be killed before its message is taken away, and who
gets that then must know. Within as many the same key means the same job."""

LONGEST_TEXT: Final = 1_000
"""Characters of a report's message."""

NONCE: Final = 20
"""Hexadecimal digits: 80 bits."""

OVER: Final = frozenset({"done", "failed", "cancelled", "expired"})
"""States of which none follows by itself (`mesh.policy.job_life`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The header of a job."""

    nonce: str
    attempts: int = 3
    keep: int = 86_400
    """Seconds that its record stays once it is over, `LEAST_KEPT` at least."""
    deadline: float | None = None
    """Seconds from when the broker stored it. Past them nobody works on it."""
    again: str = ""
    """Where it was sent again from a dead letter: which one. It may then run though its record says that it has failed."""

    def header(self) -> str:
        said: dict[str, Any] = {"nonce": self.nonce, "attempts": self.attempts, "keep": self.keep}
        if self.deadline is not None:
            said["deadline"] = self.deadline
        if self.again:
            said["again"] = self.again
        return json.dumps(said)


def read_options(headers: Mapping[str, str] | None) -> JobOptions:
    """Raises MalformedMessage."""
    raw = (headers or {}).get(JOB_HEADER, "").encode()
    said = read_object(raw, "the header of a job")
    nonce, attempts, keep, deadline = read_text(said, "nonce", raw, "a job"), said.get("attempts"), said.get("keep"), said.get("deadline")
    again = said.get("again", "")
    if not (_is_count(attempts, MOST_TRIES) and _is_count(keep, LONGEST_KEPT)):
        raise MalformedMessage("a job has attempts, and a time for which it is kept", starts=raw[:200])
    if not (deadline is None or (isinstance(deadline, int | float) and 0 < deadline <= LONGEST_KEPT)) or not isinstance(again, str):
        raise MalformedMessage("a job's deadline is a number of seconds", starts=raw[:200])
    if not (len(nonce) <= 64 and nonce.isascii() and nonce.isalnum()):
        raise MalformedMessage("a job's nonce is one word", starts=raw[:200])
    return JobOptions(nonce=nonce, attempts=attempts, keep=keep, deadline=deadline, again=again[:128])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """How a job stands. Times are nanoseconds since 1970, UTC."""

    id: str
    target: str
    """The agent, or role, that it is for."""
    caller: str
    method: str
    name: str | None
    """The tool."""
    state: str = "queued"
    """queued, running, done, failed, cancelled, expired."""
    created_ns: int
    updated_ns: int
    """When the state, or the progress, was last written."""
    started_ns: int | None = None
    """When the last attempt began."""
    deadline_ns: int | None = None
    keep: int = 86_400
    """Seconds that the record stays once it is over, `LEAST_KEPT` at least."""
    attempts: int = 0
    """That were begun."""
    most_attempts: int = 3
    worker: str = ""
    """Who works on it, or was the last to: a token of the worker's process."""
    progress: float | None = None
    total: float | None = None
    message: str | None = None
    """As the last progress report had them."""
    result: Any = None
    """Of a job that is done: MCP's result object."""
    error: Mapping[str, Any] | None = None
    """Why it failed or expired, or the last attempt did: a JSON-RPC error, `{"code", "message", "data"?}`. `data["mesh"]` is a stable code
    where the mesh says it."""
    again: str = ""
    """The dead letter that it was last sent again from."""

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def content(self) -> Any:
        """What the tool of a job that is done returned: an object, or text. None for all others."""
        return content_of(self.result) if isinstance(self.result, dict) else None

    @property
    def tool_failed(self) -> bool:
        """Whether it is done, and what the tool returned says that it failed (MCP's `isError`): for the job's life a result like any."""
        return isinstance(self.result, dict) and self.result.get("isError") is True

    @property
    def nonce(self) -> str:
        return self.id.partition("-")[2]

    def as_dict(self) -> dict[str, Any]:
        """For `--json` and for tools: times are ISO 8601, and what is not there is left out."""
        said = {key: value for key, value in asdict(self).items() if value is not None and value != "" and not key.endswith("_ns")}
        for key in ("created", "started", "updated", "deadline"):
            if (at := getattr(self, f"{key}_ns")) is not None:
                said[key] = clock.iso(at)
        return said

    def encode(self) -> bytes:
        return dumps(self.as_dict())


def read_record(body: bytes) -> JobRecord:
    """Raises MalformedMessage."""
    return record_of(read_object(body, "a job's record"), body)


def record_of(said: Mapping[str, Any], body: bytes = b"") -> JobRecord:
    """What `as_dict` gave. Raises MalformedMessage."""
    what = "a job's record"
    name, error, attempts, most, keep = (said.get(key) for key in ("name", "error", "attempts", "most_attempts", "keep"))
    worker, again, message = said.get("worker", ""), said.get("again", ""), said.get("message")
    numbers = [said.get(key) for key in ("progress", "total")]
    if (
        not all(each is None or isinstance(each, str) for each in (name, message))
        or not (error is None or isinstance(error, dict))
        or not all(isinstance(each, int) and not isinstance(each, bool) for each in (attempts, most, keep))
        or not all(each is None or isinstance(each, int | float) for each in numbers)
        or not (isinstance(worker, str) and isinstance(again, str))
    ):
        raise MalformedMessage("a job's record has a member of another kind", starts=body[:80])
    state = read_text(said, "state", body, what)
    if state not in OVER and state not in ("queued", "running"):
        raise MalformedMessage(f"a job's record in the state {state!r}", starts=body[:80])
    return JobRecord(
        id=read_text(said, "id", body, what),
        target=read_text(said, "target", body, what),
        caller=read_text(said, "caller", body, what),
        method=read_text(said, "method", body, what),
        name=name,
        state=state,
        created_ns=read_time(said.get("created"), body, what),
        updated_ns=read_time(said.get("updated"), body, what),
        started_ns=None if said.get("started") is None else read_time(said["started"], body, what),
        deadline_ns=None if said.get("deadline") is None else read_time(said["deadline"], body, what),
        keep=keep if isinstance(keep, int) else 0,
        attempts=attempts if isinstance(attempts, int) else 0,
        most_attempts=most if isinstance(most, int) else 0,
        worker=worker,
        progress=numbers[0],
        total=numbers[1],
        message=message,
        result=said.get("result"),
        error=error,
        again=again,
    )


def _is_count(value: object, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def content_of(result: Mapping[str, Any]) -> Any:
    """What a tool returned, out of MCP's result object: the structured content, or else the text."""
    if "structuredContent" in result:
        return result["structuredContent"]
    return " ".join(str(each.get("text")) for each in result.get("content") or () if isinstance(each, dict) and "text" in each)


def job_id(seq: int, nonce: str) -> str:
    return f"{seq}-{nonce}"


def read_id(id: str) -> tuple[int, str]:
    """Sequence and nonce. Raises NoSuchJob for what is no job's id."""
    seq, dash, nonce = id.partition("-")
    if not (dash and seq.isascii() and seq.isdigit() and len(seq) < 20 and nonce.isascii() and nonce.isalnum() and len(nonce) <= 64):
        raise NoSuchJob(f"{id!r} is no job's id", hint="`mesh jobs list` shows them")
    return int(seq), nonce
