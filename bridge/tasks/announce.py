"""The bridge's word on tasks in the answers of a server that has none itself. Pure: edits of bytes.

Only what is there is announced: the revision of the handshake era that has tasks, and a server that has tools. What a server says of tasks
itself stays, and then the tasks are the server's.

Source: MCP 2025-11-25, basic/utilities/tasks, capabilities and tool-level negotiation; 2026-07-28, the extension's capability negotiation.
"""

from collections.abc import Callable

from bridge.eras.edit import add, elements, find, find_result, find_text, parts
from bridge.tasks.words import CAPABILITY, EXTENSION, REVISION, SUPPORT
from mesh.errors import MalformedMessage
from mesh.wire.jsonrpc import Frame, Kind, dumps


def in_initialize(raw: bytes) -> tuple[bytes, bool]:
    """An answer to `initialize`, and whether tasks of the session are the bridge's."""
    try:
        at = _capabilities(raw)
        if at is None or find_text(raw, "result", "protocolVersion") != REVISION:
            return raw, False
        has = {part.key for part in parts(raw, at)}
    except MalformedMessage:
        return raw, False
    if "tasks" in has or "tools" not in has:
        return raw, False
    return add(raw, at, b'"tasks":' + dumps(CAPABILITY)), True


def in_discover(raw: bytes) -> tuple[bytes, bool]:
    """An answer to `server/discover`, and whether tasks are the bridge's."""
    try:
        at = _capabilities(raw)
        has = {part.key: part for part in parts(raw, at)} if at is not None else {}
        if at is None or "tools" not in has:
            return raw, False
        extensions = has.get("extensions")
        if extensions is None or raw[extensions.start : extensions.start + 1] != b"{":
            return add(raw, at, b'"extensions":{' + dumps(EXTENSION) + b":{}}"), extensions is None
        if any(part.key == EXTENSION for part in parts(raw, extensions.start)):
            return raw, False
        return add(raw, extensions.start, dumps(EXTENSION) + b":{}"), True
    except MalformedMessage:
        return raw, False


def in_tools(raw: bytes, allowed: Callable[[str], bool]) -> bytes:
    """A page of tools in the handshake era: each that says nothing of tasks, and is `allowed`, may be one."""
    try:
        span = find(raw, "result", "tools")
        edits: list[tuple[tuple[int, int] | None, bytes]] = []
        for start, end in elements(raw, span[0]) if span is not None else ():
            tool = raw[start:end]
            found = {part.key: part for part in parts(tool)}
            name = find_text(tool, "name") if "name" in found else None
            if name is None or not allowed(name):
                continue
            execution = found.get("execution")
            if execution is None:
                at, new = start + 1, SUPPORT + b","
            elif tool[execution.start : execution.start + 1] == b"{" and b'"taskSupport"' not in tool[execution.start : execution.end]:
                at = start + execution.start + 1
                new = b'"taskSupport":"optional"' + (b"," if parts(tool, execution.start) else b"")
            else:
                continue
            edits.append(((at, at), new))
    except MalformedMessage:
        return raw
    return Frame(raw, Kind.RESULT).splice(edits)


def _capabilities(raw: bytes) -> int | None:
    """Where the capabilities in a result begin."""
    start = find_result(raw)
    if start is None:
        return None
    found = next((part for part in parts(raw, start) if part.key == "capabilities"), None)
    return found.start if found is not None and raw[found.start : found.start + 1] == b"{" else None
