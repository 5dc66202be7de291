"""Which calls may be made again without asking anybody."""

from typing import Final

READ_ONLY: Final = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "completion/complete",
        "ping",
    }
)
"""Methods that MCP defines as reading. Source: specification 2026-07-28, server features."""


def safe_to_repeat(method: str) -> bool:
    """Whether a second execution does no harm. A tool may do anything, so `tools/call` is never safe by its method alone."""
    return method in READ_ONLY
