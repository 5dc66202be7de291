"""What our own Python calls say in MCP: requests of the modern era, and what their answers mean. Pure.

Source: MCP 2026-07-28, basic/index (`_meta` of each request), server/tools.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from mesh.errors import (
    BadSchedule,
    Busy,
    CallError,
    CallTimeout,
    ConfigError,
    Denied,
    Disconnected,
    InstanceLost,
    MeshError,
    NoSuchAgent,
    NoSuchSchedule,
    OutcomeUnknown,
    RateLimited,
    RemoteError,
    StreamRefused,
)
from mesh.wire import control
from mesh.wire.jsonrpc import dumps, error

MODERN: Final = "2026-07-28"
"""The revision that our requests are written in."""

PROTOCOL_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO: Final = "io.modelcontextprotocol/clientInfo"

Progress = Callable[[float, float | None, str | None], object]
"""`(progress, total, message)`, as MCP's progress notification has them. Called in the read loop: it must be quick."""

_ERRORS: Final = {
    kind.code: kind
    for kind in (
        BadSchedule,
        Busy,
        CallTimeout,
        Denied,
        Disconnected,
        InstanceLost,
        NoSuchAgent,
        NoSuchSchedule,
        OutcomeUnknown,
        RateLimited,
        StreamRefused,
    )
}


_META: Final = b'"_meta":' + dumps({PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: {}})[:-1]
"""What each request of the modern era must carry. `clientInfo` is optional and left out: who calls stands in the subject, enforced."""

_decode: Final = json.JSONDecoder().decode
_quoted: Final = lru_cache(maxsize=256)(dumps)


def build_request(id: str, method: str, params: Mapping[str, Any] | None, *, progress: bool = False) -> bytes:
    """The bytes of a request. Its progress token, if it wants progress, is its id. Raises ConfigError for params that are no JSON."""
    text = b'"' + id.encode() + b'"'  # ids of the mesh are made of tokens and dots
    meta = _META
    if progress:
        meta += b',"progressToken":' + text
    try:
        if params and "_meta" in params:
            params = dict(params)
            extra = dumps(params.pop("_meta"))
            meta += b"," + extra[1:-1] if len(extra) > 2 else b""
        given = dumps(params)[1:-1] if params else b""
    except (TypeError, ValueError, RecursionError) as problem:
        raise ConfigError(f"the arguments are no JSON: {problem}") from None
    comma = b"," if given else b""
    return b"".join((b'{"jsonrpc":"2.0","id":', text, b',"method":', _quoted(method), b',"params":{', given, comma, meta, b"}}}"))


def read_response(raw: bytes) -> "tuple[dict[str, Any] | CallError, bool]":
    """The result, or the error that it is; and whether the call may be made again at once, since the target only asked for it."""
    try:
        body = _decode(raw.decode("utf-8", "surrogatepass"))  # as json.loads does with bytes, once it has guessed that they are UTF-8
    except (ValueError, RecursionError) as problem:
        return CallError(f"the answer cannot be read here: {problem}"), False
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
