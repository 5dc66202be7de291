"""`Mcp-Param-…` headers checked against the arguments that they repeat, tool by tool, as the tools' schemas say. Pure.

The rules and the encoding are the SDK's own (`mcp.shared.inbound`). Source: MCP 2026-07-28 basic/transports, custom headers.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from mcp.shared.inbound import decode_header_value, find_invalid_x_mcp_header, validate_mcp_param_headers, x_mcp_header_map

from mesh.wire.jsonrpc import Frame

__all__ = ["ParamCheck", "decode_header_value"]

MOST_REMEMBERED: Final = 10_000
"""Tools whose schema was looked at."""

Tools = Iterable[Mapping[str, Any]]


class ParamCheck:
    """`tools_of(agent)` gives the tools of an agent as the registry has them. What it gave is remembered until `forget`."""

    def __init__(self, tools_of: Callable[[str], Tools]) -> None:
        self._tools_of = tools_of
        self._schemas: dict[tuple[str, str], Any] = {}

    def forget(self, *_: object) -> None:
        """Some agent's tools may have changed."""
        self._schemas.clear()

    def problem(self, key: tuple[str, str], frame: Frame, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """What disagrees, for a `tools/call` of a tool whose schema names headers. `key`: whose tool it is, and its name there."""
        try:
            schema = self._schemas[key]
        except KeyError:
            schema = self._look(key)
        if schema is None:
            return None
        try:
            arguments = json.loads(frame.raw)["params"].get("arguments") or {}
        except (ValueError, RecursionError):
            return None
        said = _Said((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        rejection = validate_mcp_param_headers(schema, arguments if isinstance(arguments, dict) else {}, said)
        return None if rejection is None else rejection.message

    def _look(self, key: tuple[str, str]) -> Any:
        if len(self._schemas) >= MOST_REMEMBERED:
            self._schemas.clear()
        agent, name = key
        schema = next((tool.get("inputSchema") for tool in self._tools_of(agent) if tool.get("name") == name), None)
        if schema is None or find_invalid_x_mcp_header(schema) is not None or not x_mcp_header_map(schema):
            schema = None
        self._schemas[key] = schema
        return schema


class _Said(dict[str, str]):
    """Headers as a mapping whose `items` still shows one that stands twice, which the rules refuse."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._pairs = list(pairs)
        super().__init__(self._pairs)

    def items(self) -> Any:
        return self._pairs
