"""The names of tasks, in both eras. They are not compatible with each other, and neither is known by hosts of the other.

Source: MCP 2025-11-25, basic/utilities/tasks; the extension `io.modelcontextprotocol/tasks` of 2026-07-28.
"""

from typing import Any, Final

REVISION: Final = "2025-11-25"
"""The only revision of the handshake era that has tasks."""

EXTENSION: Final = "io.modelcontextprotocol/tasks"
"""What the modern era calls them: in the client's capabilities of a request, and in the server's."""

RELATED: Final = "io.modelcontextprotocol/related-task"
"""In `_meta` of what belongs to a task, in the handshake era."""

STATUS_CHANGED: Final = {False: "notifications/tasks/status", True: "notifications/tasks"}
"""By whether it is the modern era."""

NAMED_BY_TASK: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
"""Requests of the modern era whose `Mcp-Name` is the task's id."""

CAPABILITY: Final[dict[str, Any]] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
"""`capabilities.tasks` of the handshake era."""

SUPPORT: Final = b'"execution":{"taskSupport":"optional"}'
"""What a tool says in the handshake era that may be called as a task or not."""

FORBIDDEN: Final = "forbidden"

POLL: Final = 1_000
"""Milliseconds that a host is asked to leave between two looks."""

KEEP: Final = 86_400
"""Seconds for which a result is kept where the host does not say."""

SHORTEST_KEEP: Final = 60
LONGEST_KEEP: Final = 7 * 86_400
"""What a host may ask for instead: what lies outside becomes the nearest."""

ATTEMPTS: Final = 3
"""Of a tool that says that a second run does no harm; any other is run once, as by a call."""

PAGE: Final = 50
"""Tasks in a page of `tasks/list`."""
