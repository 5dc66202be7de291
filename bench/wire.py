"""The bytes of the measured call: the same request and the same answer on every side. Half a kilobyte each, like most tool calls."""

import json
from typing import Any, Final

TEXT: Final = "x" * 256
ARGUMENTS: Final = {"text": TEXT}
CALLER: Final = "cli"

RAW_CALL: Final = "mesh.v1.call.raw.any.cli.tools.call.echo"
RAW_INBOX: Final = "mesh.v1.reply.cli.raw"
"""Subjects of the raw side that the JOURNAL stream takes as it takes those of the mesh: both sides are recorded."""


def request(id: str) -> bytes:
    """`tools/call` of the tool `echo`, as `Mesh.call` writes it: the modern era, whose requests say everything themselves."""
    params = {"name": "echo", "arguments": ARGUMENTS, "_meta": _META}
    return _dumps({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})


def handshake_request(id: str) -> bytes:
    """The same in a session of the handshake era, where the session says what it is."""
    return _dumps({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo", "arguments": ARGUMENTS}})


def initialize(version: str) -> bytes:
    """The request that begins such a session."""
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": _INFO}
    return _dumps({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": params})


def list_request(id: str, cursor: str | None) -> bytes:
    """`tools/list`, from the beginning or from behind a page."""
    params = {"_meta": _META, **({} if cursor is None else {"cursor": cursor})}
    return _dumps({"jsonrpc": "2.0", "id": id, "method": "tools/list", "params": params})


def answer(id: str) -> bytes:
    """Its result, written once: who answers puts the id in front and decodes nothing."""
    return b'{"jsonrpc":"2.0","id":"' + id.encode() + b'"' + _RESULT


def check(result: Any) -> None:
    """A wrong answer must not pass for a fast one."""
    if result["content"][0]["text"] != TEXT:
        raise ValueError(f"not the answer that was expected: {result}")


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_INFO: Final = {"name": CALLER, "version": "0.1.0"}
INITIALIZED: Final = _dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": _INFO,
}
_RESULT: Final = b',"result":' + _dumps({"content": [{"type": "text", "text": TEXT}], "isError": False, "resultType": "complete"}) + b"}"
