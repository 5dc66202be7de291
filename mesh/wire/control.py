"""The mesh's own words on the wire: five notifications, two headers, one error code.

The notifications are JSON-RPC like everything else, so that the journal reads one language. They travel between bridges and never reach
an MCP client or server.

| method (`notifications/mesh/…`) | from → to         | params                               | says                                     |
|---------------------------------|-------------------|--------------------------------------|------------------------------------------|
| working                         | serving → calling | exchange, agent, instance            | "I hold this call"; no more              |
| resume                          | calling → serving | exchanges                            | "my connection broke; what of these?"    |
| unknown                         | serving → calling | exchange, agent, instance, forgotten | "it never ran here", unless `forgotten`   |
| closed                          | calling → serving |                                      | "the host has left: end its session"     |
| gone                            | plane → instances | caller                               | "nobody waits for its calls any more"    |
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from mesh.errors import MalformedMessage
from mesh.wire.jsonrpc import dumps

OWN: Final = "notifications/mesh/"
WORKING: Final = OWN + "working"
RESUME: Final = OWN + "resume"
UNKNOWN: Final = OWN + "unknown"
CLOSED: Final = OWN + "closed"
GONE: Final = OWN + "gone"

EXCHANGE_HEADER: Final = "Mesh-Exchange"
"""The exchange of a frame whose body does not name it (a log message, a server's request)."""

DEADLINE_HEADER: Final = "Mesh-Deadline"
"""How long a call may take, in seconds from its arrival, or `none` for one that lasts: only where it is not `DEADLINE`. Time left
travels, never a time of day: clocks are not compared."""

DEADLINE: Final = 60.0

MESH_ERROR: Final = -32070
"""The JSON-RPC code of every error that the mesh itself answers with; `data.mesh` holds the stable code of mesh.errors.
Source: JSON-RPC 2.0 section 5.1 leaves -32000 to -32099 to implementations; MCP uses -32000 to -32042."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
REQUEST_TIMEOUT: Final = -32001
"""What MCP's SDKs use for a request that timed out."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who speaks in a `working` or `unknown` frame."""

    exchange: str
    agent: str
    instance: str
    forgotten: bool = False


def working(exchange: str, agent: str, instance: str) -> bytes:
    return _notification(WORKING, {"exchange": exchange, "agent": agent, "instance": instance})


def unknown(exchange: str, agent: str, instance: str, *, forgotten: bool) -> bytes:
    return _notification(UNKNOWN, {"exchange": exchange, "agent": agent, "instance": instance, "forgotten": forgotten})


def resume(exchanges: list[str]) -> bytes:
    return _notification(RESUME, {"exchanges": exchanges})


def closed() -> bytes:
    return _notification(CLOSED, {})


def gone(caller: str) -> bytes:
    """The control plane's word on `gone.{caller}`: agent and connection, as tokens. The broker can be made to write its own answers to any
    subject, with or without a body, but not to write this."""
    return _notification(GONE, {"caller": caller})


def says_gone(raw: bytes, caller: str) -> bool:
    return raw == gone(caller)


def cancelled(exchange: str, reason: str) -> bytes:
    """MCP's own cancellation, with the mesh's id in it."""
    return _notification("notifications/cancelled", {"requestId": exchange, "reason": reason})


def read_holder(raw: bytes) -> Holder:
    params = _params(raw)
    exchange, agent, instance = (params.get(key) for key in ("exchange", "agent", "instance"))
    if not (isinstance(exchange, str) and isinstance(agent, str) and isinstance(instance, str)):
        raise MalformedMessage("a frame of the mesh lacks exchange, agent or instance", starts=raw[:80])
    return Holder(exchange, agent, instance, params.get("forgotten") is True)


def read_resume(raw: bytes) -> list[str]:
    exchanges = _params(raw).get("exchanges")
    if not isinstance(exchanges, list) or not all(isinstance(each, str) for each in exchanges):
        raise MalformedMessage("a resume lacks its exchanges", starts=raw[:80])
    return exchanges


def _notification(method: str, params: dict[str, Any]) -> bytes:
    return dumps({"jsonrpc": "2.0", "method": method, "params": params})


def _params(raw: bytes) -> dict[str, Any]:
    try:
        params = json.loads(raw).get("params")
    except (ValueError, RecursionError) as problem:
        raise MalformedMessage(f"a frame of the mesh cannot be read: {problem}", starts=raw[:80]) from None
    return params if isinstance(params, dict) else {}
