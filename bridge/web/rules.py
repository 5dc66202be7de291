"""What the headers of a request must say, and which status says what is wrong. Pure.

The modern era repeats in headers what the body says, so that a gateway can route without reading it. If the two disagree, one of the two
readers is being fooled: the request is refused.

Source: MCP basic/transports, streamable HTTP, of 2025-11-25 and 2026-07-28. Codes and statuses as the Python SDK's server has them.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.eras.edit import find_text
from bridge.ports.param_headers import decode_header_value
from bridge.tasks.words import NAMED_BY_TASK
from mesh.subjects import NAME_KEYS
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps, error

MODERN: Final = ("2026-07-28",)
HANDSHAKE: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
PRIMED: Final = frozenset({"2025-11-25"})
"""Revisions whose clients know an event without data, from which they can resume before anything has come."""

JSON: Final = b"application/json"
EVENTS: Final = b"text/event-stream"
BOTH: Final = b"application/json, text/event-stream"

VERSION: Final = b"mcp-protocol-version"
METHOD: Final = b"mcp-method"
NAME: Final = b"mcp-name"
SESSION: Final = b"mcp-session-id"
LAST_EVENT: Final = b"last-event-id"
_ROUTING: Final = (VERSION, METHOD, NAME, SESSION)
_NAMED: Final = ("tools/call", "prompts/get", "resources/read")
"""Methods whose `Mcp-Name` is checked."""

HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022
REQUEST_CANCELLED: Final = -32800
"""Ends the stream of a request of the handshake era that its client has cancelled; the code is LSP's."""

_CAPABILITIES: Final = b"io.modelcontextprotocol/clientCapabilities"
_ERA: Final = "io.modelcontextprotocol/protocolVersion"

STATUS: Final = {
    control.PARSE_ERROR: 400,
    control.INVALID_REQUEST: 400,
    control.INVALID_PARAMS: 400,
    control.METHOD_NOT_FOUND: 404,
    HEADER_MISMATCH: 400,
    -32021: 400,
    UNSUPPORTED_VERSION: 400,
}
"""Of an error response that is the whole answer, in the modern era. Others have 200."""

MESH_STATUS: Final = {"permission_denied": 403, "no_such_agent": 404, "too_large": 413, "rate_limited": 429, "busy": 503}
"""The same for errors of the mesh, by `error.data.mesh`."""

Headers = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request is refused: an HTTP status and a JSON-RPC error. `id` is the JSON text of the request's id."""

    status: int
    code: int
    message: str
    data: Any = None
    id: bytes = b"null"
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        return error(self.id, self.code, self.message, self.data)


def accepts(headers: Headers) -> tuple[bool, bool]:
    """Whether the client takes JSON, and whether it takes a stream of events."""
    said = headers.get(b"accept", b"")
    if said == BOTH:
        return True, True
    kinds = {kind.partition(b";")[0].strip().lower() for kind in said.split(b",")}
    everything = b"*/*" in kinds
    return (
        everything or JSON in kinds or b"application/*" in kinds,
        everything or EVENTS in kinds or b"text/*" in kinds,
    )


def stream_first(headers: Headers) -> bool:
    """Whether the client names a stream of events before JSON: then it gets one, as quick as an answer may be."""
    said = headers.get(b"accept", b"").lower()
    return 0 <= said.find(EVENTS) < said.find(JSON)


def post_problem(headers: Headers) -> Problem | None:
    """What every POST must say."""
    if accepts(headers) != (True, True):
        return Problem(406, control.INVALID_REQUEST, "Not Acceptable: Client must accept both application/json and text/event-stream")
    kind = headers.get(b"content-type", b"")
    if kind != JSON and kind.partition(b";")[0].strip().lower() != JSON:
        return Problem(415, control.INVALID_REQUEST, "Unsupported Media Type: Content-Type must be application/json")
    return None


def is_modern(headers: Headers) -> bool:
    """Whether the headers send a request to the modern era. Without a word they do not, and an unknown revision is judged there."""
    version = headers.get(VERSION)
    return version is not None and version.decode("latin-1") not in HANDSHAKE


def version_problem(version: str, id: bytes = b"null") -> Problem | None:
    if version in MODERN:
        return None
    data = {"supported": list(MODERN), "requested": version}
    return Problem(400, UNSUPPORTED_VERSION, "Unsupported protocol version", data, id)


def modern_problem(headers: Headers, pairs: Iterable[tuple[bytes, bytes]], frame: Frame) -> Problem | None:
    """What is wrong with a request of the modern era: its envelope, its headers, its revision, in this order."""
    id = id_of(frame)
    era = frame.era
    missing = [_ERA] * (era is None) + [_CAPABILITIES.decode()] * (_CAPABILITIES not in frame.raw)
    if missing:
        return Problem(400, control.INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}", id=id)
    assert era is not None
    if len(headers) != len(pairs := list(pairs)):
        said = [key for key, _ in pairs if key in _ROUTING]
        if len(said) != len(set(said)):
            return Problem(400, HEADER_MISMATCH, "a header that routes stands twice", id=id)
    if headers.get(VERSION, b"").decode("latin-1") != era:
        return Problem(400, HEADER_MISMATCH, "MCP-Protocol-Version does not match the request's _meta", id=id)
    if headers.get(METHOD, b"").decode("latin-1") != frame.method:
        return Problem(400, HEADER_MISMATCH, "Mcp-Method does not match the request's method", id=id)
    if frame.method in _NAMED:
        name = headers.get(NAME)
        if name is None or decode_header_value(name.decode("latin-1")) != frame.name:
            return Problem(400, HEADER_MISMATCH, f"Mcp-Name does not match params.{NAME_KEYS[frame.method]}", id=id)
    task = headers.get(NAME) if frame.method in NAMED_BY_TASK else None  # a client must send it; nobody here needs it
    if task is not None and decode_header_value(task.decode("latin-1")) != find_text(frame.raw, "params", "taskId"):
        return Problem(400, HEADER_MISMATCH, "Mcp-Name does not match params.taskId", id=id)
    return version_problem(era, id)


def malformed(raw: bytes, why: str) -> Problem:
    """What is wrong with a body that is no message: no JSON, no JSON-RPC, or a request that lacks what its method needs."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return Problem(400, control.PARSE_ERROR, f"Parse error: {why}")
    if isinstance(found, dict) and found.get("jsonrpc") == "2.0" and isinstance(found.get("method"), str):
        id = found.get("id")
        if isinstance(id, str) or (isinstance(id, int) and not isinstance(id, bool)):
            return Problem(400, control.INVALID_PARAMS, why, id=dumps(id))
    return Problem(400, control.INVALID_REQUEST, f"Body must be a single JSON-RPC message: {why}")


def status_of(raw: bytes) -> int:
    """The status of a response that is the whole answer, in the modern era."""
    said = _error(raw)
    code = said.get("code")
    return mesh_status(raw) if code == control.MESH_ERROR else STATUS.get(code, 200) if isinstance(code, int) else 200


def mesh_status(raw: bytes) -> int:
    """The same where only errors of the mesh have a status of their own: before a session, in the handshake era."""
    data = _error(raw).get("data")
    return MESH_STATUS.get(str(data.get("mesh")), 200) if isinstance(data, dict) else 200


def headers_of(raw: bytes, status: int, denied: Callable[[], list[tuple[bytes, bytes]]]) -> list[tuple[bytes, bytes]]:
    """What an answer with such a status says besides: when to come again, or what the caller would have to bring."""
    if status == 403:
        return denied()
    data = _error(raw).get("data")
    wait = data.get("retry_after") if isinstance(data, dict) else None
    return [(b"retry-after", b"%d" % max(1, math.ceil(wait)))] if isinstance(wait, int | float) and 0 <= wait < 1e6 else []


def is_busy(raw: bytes) -> bool:
    """Whether an answer says that the agent takes no more."""
    data = _error(raw).get("data")
    return isinstance(data, dict) and data.get("mesh") == "busy"


def _error(raw: bytes) -> dict[str, Any]:
    if b'"error"' not in raw:
        return {}
    try:
        said = json.loads(raw).get("error")
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def id_of(frame: Frame) -> bytes:
    """The JSON text of a message's id."""
    return b"null" if frame.id_span is None else frame.raw[slice(*frame.id_span)]
