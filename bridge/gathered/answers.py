"""What the aggregate answers by itself, in both eras. Pure.

Its capabilities do not depend on who is there: agents come and go, and a host of the handshake era asks once what there is. Lists of a
mesh without prompts are empty lists.

Source: MCP 2025-11-25 lifecycle; 2026-07-28 server/discover, subscriptions/listen, caching (`ttlMs`, `cacheScope`).
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from bridge.gathered.catalog import PROMPTS, RESOURCES, TEMPLATES, TOOLS
from bridge.tasks.words import CAPABILITY, EXTENSION, REVISION
from mesh.errors import MalformedMessage
from mesh.rpc import MODERN
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Span, dumps, error, locate

HANDSHAKE_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
MODERN_VERSIONS: Final = (MODERN,)

SERVER_INFO: Final = {"name": "mesh", "title": "All agents of the mesh", "version": "1"}

CAPABILITIES: Final = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "completions": {},
    "logging": {},
}

MEMBERS: Final = {TOOLS: "tools", PROMPTS: "prompts", RESOURCES: "resources", TEMPLATES: "resourceTemplates"}
"""Kind → the member of the list's result."""

UNSUPPORTED_VERSION: Final = -32022
RESOURCE_NOT_FOUND: Final = -32002
"""Of the handshake era; the modern one says -32602."""

CHANGED: Final = {
    TOOLS: "notifications/tools/list_changed",
    PROMPTS: "notifications/prompts/list_changed",
    RESOURCES: "notifications/resources/list_changed",
    TEMPLATES: "notifications/resources/list_changed",
}


def read_params(raw: bytes) -> dict[str, Any]:
    """`params` of a message that was scanned. An object in any case."""
    try:
        params = json.loads(raw).get("params")
    except (ValueError, RecursionError):
        return {}
    return params if isinstance(params, dict) else {}


def id_of(frame: Frame) -> bytes:
    """The id of a request as the host wrote it."""
    assert frame.id_span is not None
    return frame.raw[slice(*frame.id_span)]


def result(frame: Frame, fields: Mapping[str, Any]) -> bytes:
    return result_raw(frame, dumps(fields)[1:-1])


def result_raw(frame: Frame, members: bytes) -> bytes:
    """A result of ours; `members` is JSON without the braces."""
    if frame.era is not None:
        members = b'"resultType":"complete"' + (b"," if members else b"") + members
    return b'{"jsonrpc":"2.0","id":' + id_of(frame) + b',"result":{' + members + b"}}"


def page(frame: Frame, kind: str, body: bytes, cursor: str | None) -> bytes:
    """A page of a list. It is stale at once: who wants to keep it listens for changes."""
    members = b'"' + MEMBERS[kind].encode() + b'":' + body
    if frame.era is not None:
        members = b'"ttlMs":0,"cacheScope":"private",' + members
    if cursor is not None:
        members += b',"nextCursor":' + dumps(cursor)
    return result_raw(frame, members)


def agreed(wanted: Any) -> str:
    """The revision of a session, for the one that its host asks for."""
    return next((version for version in HANDSHAKE_VERSIONS if version == wanted), HANDSHAKE_VERSIONS[0])


def initialized(frame: Frame, wanted: Any, instructions: str) -> bytes:
    version = agreed(wanted)
    capabilities = {**CAPABILITIES, "tasks": CAPABILITY} if version == REVISION else CAPABILITIES
    said = {"protocolVersion": version, "capabilities": capabilities, "serverInfo": SERVER_INFO, "instructions": instructions}
    return result(frame, said)


def discovered(frame: Frame, instructions: str) -> bytes:
    said = {
        "ttlMs": 0,
        "cacheScope": "private",
        "supportedVersions": MODERN_VERSIONS,
        "capabilities": {**CAPABILITIES, "extensions": {EXTENSION: {}}},
        "instructions": instructions,
        "_meta": {"io.modelcontextprotocol/serverInfo": SERVER_INFO},
    }
    return result(frame, said)


def unsupported(frame: Frame) -> bytes:
    data = {"supported": MODERN_VERSIONS, "requested": frame.era}
    return error(id_of(frame), UNSUPPORTED_VERSION, f"Unsupported protocol version: {frame.era}", data)


def changed(kinds: frozenset[str]) -> list[str]:
    """The notifications that say so, each once."""
    return list(dict.fromkeys(CHANGED[kind] for kind in MEMBERS if kind in kinds))


def refusal(frame: Frame, code: int, message: str, **data: Any) -> bytes:
    return error(id_of(frame), code, message, data or None)


def not_found(frame: Frame, what: str, name: str, agents: Mapping[str, Any]) -> bytes:
    """An error for a name that nobody here has, with what is known of its agent."""
    said = f"Unknown {what}: {name}"
    agent, joint, _ = name.partition("__")
    if what != "resource" and joint and agent not in agents:
        said += f" (agent {agent!r} is not on the mesh now)"
    code = RESOURCE_NOT_FOUND if what == "resource" and frame.era is None else control.INVALID_PARAMS
    return refusal(frame, code, said, mesh="no_such_name")


def named(frame: Frame, agent: str) -> bytes:
    """An agent's error, with the agent's name in `data`, where data can take it. All else is as the agent wrote it."""
    try:
        return _named(frame, agent)
    except MalformedMessage:  # a key that stands twice: it passes, unread
        return frame.raw


def _named(frame: Frame, agent: str) -> bytes:
    whole, data = locate(frame.raw, "error"), locate(frame.raw, "error", "data")
    name = b'"agent":' + dumps(agent)
    if data is None:
        if whole is None or frame.raw[whole[0] : whole[0] + 1] != b"{" or not _filled(frame.raw, whole):
            return frame.raw
        at, new = whole[0] + 1, b'"data":{' + name + b"},"
    elif frame.raw[data[0] : data[0] + 1] == b"{" and locate(frame.raw, "error", "data", "agent") is None:
        at, new = data[0] + 1, name + (b"," if _filled(frame.raw, data) else b"")
    else:
        return frame.raw
    return frame.splice([((at, at), new)])


def logged(frame: Frame, agent: str) -> bytes:
    """An agent's log message, with the agent's name before its logger's. All else is as the agent wrote it."""
    try:
        params, logger = locate(frame.raw, "params"), locate(frame.raw, "params", "logger")
    except MalformedMessage:  # a key that stands twice: it passes, unread
        return frame.raw
    if params is None:
        return frame.raw
    name = dumps(agent)[1:-1]
    if logger is None:
        at, new = params[0] + 1, b'"logger":"' + name + b'"' + (b"," if _filled(frame.raw, params) else b"")
    elif frame.raw[logger[0] : logger[0] + 1] == b'"':
        at, new = logger[0] + 1, name + b"/"
    else:
        return frame.raw
    return frame.splice([((at, at), new)])


def _filled(raw: bytes, span: Span) -> bool:
    """Whether the object there has a member."""
    return bool(raw[span[0] + 1 : span[1] - 1].strip())
