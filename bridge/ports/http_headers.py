"""What an MCP request says in its HTTP headers, so that a gateway can route it without reading the body.

The modern era repeats version, method, name and some arguments of a request in headers, and a server refuses a request whose headers
disagree with its body. Which arguments, the tool's schema says (`x-mcp-header`); so the tool lists that pass through are read, for all
ports to the server. The bodies stay as they are.

Source: MCP 2026-07-28 basic/transports, standard and custom headers; the tasks extension, routing headers. The rules and the encoding are
the SDK's own (`mcp.shared.inbound`).
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)

from bridge.eras.edit import find_text
from bridge.tasks.words import NAMED_BY_TASK
from mesh.wire.jsonrpc import Frame, Kind, dumps

HEADER_MISMATCH: Final = -32020
"""The error code of a server whose idea of the headers is another one: its tools have changed."""

VERSION: Final = MCP_PROTOCOL_VERSION_HEADER
SESSION_ID: Final = "Mcp-Session-Id"
LAST_EVENT_ID: Final = "Last-Event-ID"
BOTH: Final = "application/json, text/event-stream"
EVENTS: Final = "text/event-stream"
JSON: Final = "application/json"

_META: Final = (
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
)


def modern_headers(frame: Frame) -> dict[str, str]:
    """The standard headers of a message of the modern era."""
    headers = {
        MCP_PROTOCOL_VERSION_HEADER: encode_header_value(str(frame.era)),
        # The encoding leaves a sane method as it is; and an insane one cannot smuggle a header in.
        MCP_METHOD_HEADER: encode_header_value(frame.method or ""),
    }
    if frame.method in NAME_BEARING_METHODS and frame.name is not None:
        headers[MCP_NAME_HEADER] = encode_header_value(frame.name)
    elif frame.method in NAMED_BY_TASK and (id := find_text(frame.raw, "params", "taskId")) is not None:
        headers[MCP_NAME_HEADER] = encode_header_value(id)
    return headers


class ParamHeaders:
    """The arguments that go into headers, tool by tool, as the server's own lists say."""

    def __init__(self) -> None:
        self._tools: dict[str, dict[tuple[str, ...], str]] = {}

    def of(self, frame: Frame) -> dict[str, str]:
        """The `Mcp-Param-…` headers of a `tools/call`. Empty for a tool that no list has shown."""
        if frame.method != "tools/call" or not (positions := self._tools.get(frame.name or "")):
            return {}
        arguments = _object(_object(_read(frame.raw)).get("params")).get("arguments")
        return mcp_param_headers(positions, _object(arguments))

    def learn(self, request: Frame, answer: Frame) -> str | None:
        """Read an answer to `tools/list`. Returns the cursor of the next page."""
        if answer.kind is not Kind.RESULT:
            return None
        result = _object(_object(_read(answer.raw)).get("result"))
        tools, cursor = result.get("tools"), result.get("nextCursor")
        found: dict[str, dict[tuple[str, ...], str]] = {}
        for tool in tools if isinstance(tools, list) else ():
            name, schema = _object(tool).get("name"), _object(tool).get("inputSchema")
            if isinstance(name, str):
                # A tool whose annotations are invalid is the client's to drop; it gets no headers from here.
                found[name] = {} if find_invalid_x_mcp_header(schema) else x_mcp_header_map(schema)
        if cursor is None and b'"cursor"' not in request.raw:
            self._tools = found  # the whole list in one page: what it does not show is gone
        else:
            self._tools.update(found)
        return cursor if isinstance(cursor, str) else None


def tools_list(call: Frame, cursor: str | None) -> bytes:
    """A `tools/list` of our own in the name of `call`: a server may show each caller other tools."""
    meta = _object(_object(_object(_read(call.raw)).get("params")).get("_meta"))
    params: dict[str, Any] = {"_meta": {key: meta[key] for key in _META if key in meta}}
    if cursor is not None:
        params["cursor"] = cursor
    return dumps({"jsonrpc": "2.0", "id": call.id, "method": "tools/list", "params": params})


def refuses_headers(answer: Frame) -> bool:
    """Whether an error says that header and body disagree. It comes before anything has run."""
    return answer.kind is Kind.ERROR and _object(_object(_read(answer.raw)).get("error")).get("code") == HEADER_MISMATCH


def protocol_version(answer: Frame) -> str | None:
    """The revision that an answer to `initialize` settles on."""
    version = _object(_object(_read(answer.raw)).get("result")).get("protocolVersion")
    return encode_header_value(version) if isinstance(version, str) else None


def _read(raw: bytes) -> Any:
    """The message as objects, for looking only. None where Python cannot hold it (5,000 digits, a thousand levels)."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
