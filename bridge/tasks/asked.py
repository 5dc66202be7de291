"""What a host asks of tasks, read from its request. Pure.

A request that is none of these, or that the era does not know as one, is nobody's here: it passes. In the modern era the client says with
each request whether it knows of tasks; who does not, and asks for one all the same, is told which capability it lacks.

Source: MCP 2025-11-25, basic/utilities/tasks; the extension `io.modelcontextprotocol/tasks` of 2026-07-28.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.eras.words import MISSING_CAPABILITY, QUESTIONS
from bridge.tasks.words import EXTENSION, KEEP, LONGEST_KEEP, SHORTEST_KEEP
from mesh.rpc import CLIENT_CAPABILITIES
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, error

ABOUT: Final = {
    False: frozenset({"tasks/get", "tasks/result", "tasks/cancel"}),
    True: frozenset({"tasks/get", "tasks/update", "tasks/cancel"}),
}
"""Requests that name a task, by whether it is the modern era."""

GONE: Final = frozenset({"tasks/result", "tasks/list"})
"""Of the handshake era only."""

LISTEN: Final = "subscriptions/listen"

MOST_IDS: Final = 100
"""Tasks of one listen: of 200 questions a minute to the control plane each costs one to begin with."""

_SEARCHED: Final = EXTENSION[EXTENSION.index("/") :].encode() + b'"'
"""The end of the extension's name: what is before the stroke may be an escape for it, as some writers of JSON have it."""

_LACKING: Final[dict[str, Any]] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


@dataclass(frozen=True, slots=True)
class Submit:
    """A call that is to be a task (`must`), or that may be one."""

    keep: int = KEEP
    must: bool = False
    askable: bool = False
    """Whether its client can be asked something in the middle of an ordinary call."""


@dataclass(frozen=True, slots=True)
class About:
    """A question about one task."""

    method: str
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of all tasks, behind that one."""

    after: str | None


@dataclass(frozen=True, slots=True)
class Listen:
    """A stream of what becomes of these tasks. `others`: whether it wants to hear of other things too."""

    ids: tuple[str, ...]
    others: bool


Asked = Submit | About | Page | Listen


def mentions(frame: Frame) -> bool:
    """Whether a call may be one for here: all that is looked at in the calls that are not."""
    return (b'"task"' if frame.era is None else _SEARCHED) in frame.raw


def read(frame: Frame) -> Asked | bytes | None:
    """What a request asks; the refusal of one that is wrong; None for all others."""
    return _handshake(frame) if frame.era is None else _modern(frame)


def _handshake(frame: Frame) -> Asked | bytes | None:
    params = _params(frame)
    if frame.method == "tools/call":
        task = params.get("task")
        return Submit(_keep(task.get("ttl")), must=True) if isinstance(task, dict) else None
    if frame.method == "tasks/list":
        cursor = params.get("cursor")
        return Page(cursor) if cursor is None or isinstance(cursor, str) else refusal(frame, "Invalid cursor")
    return _about(frame, params) if frame.method in ABOUT[False] else None


def _modern(frame: Frame) -> Asked | bytes | None:
    params = _params(frame)
    capabilities = _object(_object(params.get("_meta")).get(CLIENT_CAPABILITIES))
    declared = isinstance(_object(capabilities.get("extensions")).get(EXTENSION), dict)
    if frame.method == "tools/call":
        if not declared or "inputResponses" in params or "requestState" in params:
            return None
        return Submit(askable=any(isinstance(capabilities.get(name), dict) for name in QUESTIONS.values()))
    if frame.method in GONE:
        return error(id_of(frame), control.METHOD_NOT_FOUND, "Method not found", frame.method)
    if frame.method == LISTEN:
        wanted = _object(params.get("notifications"))
        if "taskIds" not in wanted:
            return None
        asked: Asked | bytes | None = _listen(frame, wanted)
    else:
        asked = _about(frame, params) if frame.method in ABOUT[True] else None
    if asked is not None and not declared:
        return error(id_of(frame), MISSING_CAPABILITY, f"Missing required client capability: {EXTENSION}", _LACKING)
    return asked


def _listen(frame: Frame, wanted: Mapping[str, Any]) -> Listen | bytes:
    ids = wanted["taskIds"]
    if not isinstance(ids, list) or len(ids) > MOST_IDS or not all(isinstance(each, str) for each in ids):
        return refusal(frame, f"params.notifications.taskIds is a list of at most {MOST_IDS} task ids")
    return Listen(tuple(dict.fromkeys(ids)), len(wanted) > 1)


def _about(frame: Frame, params: Mapping[str, Any]) -> About | bytes:
    id = params.get("taskId")
    return About(frame.method or "", id) if isinstance(id, str) else refusal(frame, "params.taskId is a string")


def refusal(frame: Frame, why: str) -> bytes:
    return error(id_of(frame), control.INVALID_PARAMS, why)


def id_of(frame: Frame) -> bytes:
    """The id of a request as the host wrote it."""
    assert frame.id_span is not None
    return frame.raw[slice(*frame.id_span)]


def _keep(ttl: Any) -> int:
    """Seconds, for the milliseconds that a host asks for."""
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or ttl != ttl:
        return KEEP
    return int(min(max(ttl / 1000, SHORTEST_KEEP), LONGEST_KEEP))


def _params(frame: Frame) -> dict[str, Any]:
    try:
        return _object(json.loads(frame.raw).get("params"))
    except (ValueError, RecursionError):
        return {}


def _object(said: Any) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}
