"""What our own Python calls say in MCP: requests of the modern era, and what their answers mean. Pure.

Source: MCP 2026-07-28, basic/index (`_meta` of each request), server/tools.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from mesh.errors import (
    Busy,
    CallError,
    CallTimeout,
    Disconnected,
    InstanceLost,
    MeshError,
    NoSuchAgent,
    OutcomeUnknown,
    RemoteError,
)
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps, error

MODERN: Final = "2026-07-28"
"""The revision that our requests are written in."""

PROTOCOL_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO: Final = "io.modelcontextprotocol/clientInfo"

Progress = Callable[[float, float | None, str | None], object]
"""`(progress, total, message)`, as MCP's progress notification has them. Called in the read loop: it must be quick."""

_META: Final = dumps({PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: {}})[:-1]

_ERRORS: Final = {kind.code: kind for kind in (Busy, CallTimeout, Disconnected, InstanceLost, NoSuchAgent, OutcomeUnknown)}


def build_request(id: str, method: str, params: Mapping[str, Any] | None, caller: str, *, progress: bool = False) -> bytes:
    """The bytes of a request. Its progress token, if it wants progress, is its id. Raises ConfigError for what is no JSON."""
    text = dumps(id)
    meta = _META + b"," + dumps(CLIENT_INFO) + b":" + dumps({"name": caller, "version": ""})
    if progress:
        meta += b',"progressToken":' + text
    given = dict(params or {})
    extra = given.pop("_meta", None)
    if extra:
        meta += b"," + dumps(extra)[1:-1]
    body = dumps(given)
    comma = b"," if given else b""
    return (
        b'{"jsonrpc":"2.0","id":' + text + b',"method":' + dumps(method) + b',"params":' + body[:-1] + comma + b'"_meta":' + meta + b"}}}"
    )


def read_response(frame: Frame) -> "tuple[dict[str, Any] | CallError, bool]":
    """The result, or the error that it is; and whether the call may be made again at once, since the target only asked for it."""
    try:
        body = json.loads(frame.raw)
    except (ValueError, RecursionError) as error:
        return CallError(f"the answer cannot be read here: {error}"), False
    if "result" in body:
        result = body["result"]
        return (result, False) if isinstance(result, dict) else (CallError("the result is no object"), False)
    said = body["error"] if isinstance(body["error"], dict) else {}
    code, message, data = said.get("code", 0), str(said.get("message", "")), said.get("data")
    if code in (control.MESH_ERROR, control.REQUEST_TIMEOUT) and isinstance(data, dict) and "mesh" in data:
        kind = _ERRORS.get(data["mesh"])
        details = {key: value for key, value in data.items() if key not in ("mesh", "hint")}
        if kind is not None:
            return kind(message, hint=str(data.get("hint", "")), **details), False
        if data["mesh"] == "refused" and "quiet" in data:
            return RemoteError(code, message, data), True
    return RemoteError(code, message, data), False


def error_of(id: bytes, problem: MeshError) -> bytes:
    """An error of the mesh as the JSON-RPC error that an MCP host gets. `id` is the JSON text of the request's id.

    `error.data` is `{"mesh": code, "hint"?, …}`; a timeout has the code that MCP's SDKs give it.
    """
    code = control.REQUEST_TIMEOUT if isinstance(problem, CallTimeout) else control.MESH_ERROR
    data = {"mesh": problem.code, **({"hint": problem.hint} if problem.hint else {}), **problem.as_dict().get("details", {})}
    return error(id, code, problem.message, data)
