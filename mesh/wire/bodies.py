"""The few things that the journal reads inside a body: how a call ended, its trace, a record. None of it can fail on a strange body.

Numbers stay text (`int` refuses more than 4,300 digits, and `1E400` is no float). Nesting that the C scanner refuses is walked by tokens.
"""

import json
import re
from typing import Any, Final, Literal, NamedTuple, TypeGuard

from mesh.errors import Disconnected, InstanceLost, MalformedMessage, OutcomeUnknown
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind

Outcome = Literal["ok", "tool_error", "error", "cancelled", "open"]
"""How a call ended: a result, a result that says that the tool failed, a JSON-RPC error, a cancellation; open: not yet."""

LONGEST_TEXT: Final = 1_000
"""Characters of an error's message that are kept. The whole body is still in the stream."""


class _Digits(str):
    """A number, as it was written."""

    __slots__ = ()


_decode: Final = json.JSONDecoder(parse_int=_Digits, parse_float=_Digits).decode
_integer: Final = re.compile(r"-?[0-9]{1,18}").fullmatch
_trace: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_mark: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]').finditer
_true: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*true").match


class End(NamedTuple):
    """How a call ended."""

    outcome: Outcome
    code: int | None = None
    message: str = ""
    mesh_code: str = ""


_OK: Final = End("ok")
_TOOL_ERROR: Final = End("tool_error")


def read_end(frame: Frame) -> End:
    """What a final frame says."""
    if frame.kind is Kind.RESULT:
        if b"isError" not in frame.raw and b"\\u" not in frame.raw:
            return _OK
        return _TOOL_ERROR if _is_error(frame.raw) else _OK
    error = _member(_object(frame.raw), "error")
    code, message, mesh_code = _number(error.get("code")), _text(error.get("message")), _text(_member(error, "data").get("mesh"))
    if mesh_code == "cancelled" and code == control.REQUEST_TIMEOUT:
        return End("cancelled", code, message, mesh_code)
    return End("error", code, message, mesh_code)


def read_trace(raw: bytes) -> str | None:
    """`params._meta.traceparent` of a request. Source: W3C Trace Context, section 3.2; MCP reserves the key."""
    if b"traceparent" not in raw:
        return None
    trace = _member(_member(_object(raw), "params"), "_meta").get("traceparent")
    return trace if isinstance(trace, str) and _trace(trace) else None


GIVEN_UP: Final = frozenset(error.code for error in (InstanceLost, OutcomeUnknown, Disconnected))
"""Reasons of a cancellation for which nobody wanted the call to end: its caller was told this error."""


def read_cancellation(raw: bytes) -> End:
    """What a cancellation says, by `params.reason`."""
    reason = _text(_member(_object(raw), "params").get("reason"))
    return End("error", mesh_code=reason) if reason in GIVEN_UP else End("cancelled", message=reason)


class Recorded(NamedTuple):
    """A record that a serving bridge wrote in the place of bodies. `duration_ms` is by its clock."""

    id: str
    caller: str
    target: str
    instance: str
    method: str
    name: str | None
    outcome: Outcome
    code: int | None
    duration_ms: float
    bytes_in: int
    bytes_out: int


def read_record(raw: bytes) -> Recorded:
    """Raises MalformedMessage where a member is missing or is of another kind."""
    body = _object(raw)
    texts = [body.get(key) for key in ("id", "caller", "target", "instance", "method")]
    name, outcome, duration = body.get("name"), body.get("outcome"), body.get("duration_ms")
    sizes = [_number(body.get(key)) for key in ("bytes_in", "bytes_out")]
    try:
        id, caller, target, instance, method = (text for text in texts if _is_text(text))
        bytes_in, bytes_out = (size for size in sizes if size is not None and size >= 0)
        duration_ms = float(duration) if isinstance(duration, _Digits) else -1.0
    except ValueError:
        raise MalformedMessage("a record lacks a member", starts=raw[:80]) from None
    if outcome not in ("ok", "tool_error", "error", "cancelled") or not (name is None or _is_text(name)):
        raise MalformedMessage("a record with an outcome or a name that none has", starts=raw[:80])
    if not 0 <= duration_ms < 1e12:
        raise MalformedMessage("a record with a duration that none has", starts=raw[:80])
    return Recorded(id, caller, target, instance, method, name, outcome, _number(body.get("code")), duration_ms, bytes_in, bytes_out)


def _is_error(raw: bytes) -> bool:
    try:
        return _member(_decode(raw.decode()), "result").get("isError") is True
    except RecursionError:
        return _deep_is_error(raw.decode())


def _deep_is_error(text: str) -> bool:
    """The same by tokens: `isError` as a key of the object that is the value of `result`, which is two braces deep."""
    depth, inside = 0, False
    for match in _mark(text):
        mark = match.group()
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        elif depth == 1:
            inside = mark == '"result"'
        elif depth == 2 and inside and mark == '"isError"' and _true(text, match.end()):
            return True
    return False


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = _decode(raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _member(body: Any, key: str) -> dict[str, Any]:
    value = body.get(key) if isinstance(body, dict) else None
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, _Digits) and _integer(value) else None


def _text(value: Any) -> str:
    return value[:LONGEST_TEXT] if _is_text(value) else ""


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and not isinstance(value, _Digits)
