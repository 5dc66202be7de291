"""What a host is told of tasks, as its era says it. Pure.

In the handshake era a result comes by `tasks/result`, as the call itself would have had it, and says in `_meta` whose it is. In the modern
one `tasks/get` brings it, and notifications do.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bridge.eras.words import ACKNOWLEDGED, SUBSCRIPTION_ID
from bridge.tasks.task import COMPLETED, FAILED, Task
from bridge.tasks.words import POLL, RELATED, STATUS_CHANGED
from mesh.wire import control
from mesh.wire.jsonrpc import dumps, error

NOT_FOUND: Final = "Failed to retrieve task: Task not found"
"""For a task that is not there any more, never was, or is another's: who asks learns no more."""


def created(id: bytes, task: Task, modern: bool) -> bytes:
    """The answer to a call that has become a task."""
    fields = _fields(task, modern)
    return result(id, {"resultType": "task", **fields} if modern else {"task": fields})


def got(id: bytes, task: Task, modern: bool) -> bytes:
    return result(id, {"resultType": "complete", **_fields(task, True), **_outcome(task)} if modern else _fields(task, False))


def acknowledged(id: bytes) -> bytes:
    """Of an update or a cancellation, in the modern era."""
    return result(id, {"resultType": "complete"})


def outcome(id: bytes, task: Task, modern: bool) -> bytes:
    """What the call itself would have had for an answer, for a task that is over; in the handshake era with the task's id."""
    if task.status == COMPLETED:
        said = dict(task.result or {})
        if modern:
            return result(id, {"resultType": "complete", **said})
        meta = said.pop("_meta", None)
        said.pop("resultType", None)
        return result(id, {**said, "_meta": {**(meta if isinstance(meta, dict) else {}), RELATED: {"taskId": task.id}}})
    wrong = task.error or {"code": control.MESH_ERROR, "message": f"the task is {task.status}", "data": {"mesh": "job_cancelled"}}
    return error(id, wrong["code"], wrong["message"], wrong.get("data"))


def page(id: bytes, tasks: Iterable[Task], after: str | None) -> bytes:
    said: dict[str, Any] = {"tasks": [_fields(task, False) for task in tasks]}
    if after is not None:
        said["nextCursor"] = after
    return result(id, said)


def changed(task: Task, modern: bool, listen: bytes = b"") -> bytes:
    """A notification. `listen` is the JSON text of the id of the listen that it belongs to."""
    params = dumps({**_fields(task, True), **_outcome(task)} if modern else _fields(task, False))
    if listen:
        params = b'{"_meta":{' + dumps(SUBSCRIPTION_ID) + b":" + listen + b"}," + params[1:]
    return b'{"jsonrpc":"2.0","method":' + dumps(STATUS_CHANGED[modern]) + b',"params":' + params + b"}"


def progressed(task: Task, token: bytes) -> bytes:
    """The progress of a task that is at work, in the handshake era. `token` is the JSON text of the host's."""
    assert task.progress is not None
    done, total = task.progress
    params: dict[str, Any] = {"progress": done, **({} if total is None else {"total": total})}
    if task.message:
        params["message"] = task.message
    params["_meta"] = {RELATED: {"taskId": task.id}}
    return b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":' + token + b"," + dumps(params)[1:] + b"}"


def listening(listen: bytes, ids: Iterable[str]) -> bytes:
    """The first frame of a listen for tasks alone: which of them it will hear of."""
    body = b'{"_meta":{' + dumps(SUBSCRIPTION_ID) + b":" + listen + b'},"notifications":' + dumps({"taskIds": list(ids)}) + b"}"
    return b'{"jsonrpc":"2.0","method":' + dumps(ACKNOWLEDGED) + b',"params":' + body + b"}"


def not_found(id: bytes) -> bytes:
    return error(id, control.INVALID_PARAMS, NOT_FOUND)


def too_late(id: bytes, task: Task) -> bytes:
    """A cancellation of what is over, in the handshake era."""
    return error(id, control.INVALID_PARAMS, f"Cannot cancel task: already in terminal status '{task.status_in(modern=False)}'")


def forbidden(id: bytes, tool: str) -> bytes:
    """A tool that must not be called as a task, in the handshake era."""
    return error(id, control.METHOD_NOT_FOUND, f"Method not found: {tool} must not be called as a task", {"mesh": "no_task"})


def result(id: bytes, fields: Mapping[str, Any]) -> bytes:
    return b'{"jsonrpc":"2.0","id":' + id + b',"result":' + dumps(fields) + b"}"


def _fields(task: Task, modern: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"taskId": task.id, "status": task.status_in(modern)}
    if task.message:
        said["statusMessage"] = task.message
    said |= {"createdAt": task.created, "lastUpdatedAt": task.updated}
    return said | ({"ttlMs": task.ttl, "pollIntervalMs": POLL} if modern else {"ttl": task.ttl, "pollInterval": POLL})


def _outcome(task: Task) -> dict[str, Any]:
    """What `tasks/get` and notifications bring besides, in the modern era."""
    if task.status == COMPLETED:
        return {"result": dict(task.result or {})}
    if task.status == FAILED:
        return {"error": dict(task.error or {})}
    return {}
