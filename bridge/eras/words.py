"""The names that differ between the eras. Source: the MCP schemas 2025-11-25 and 2026-07-28."""

from typing import Final

from mesh.rpc import CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION

HANDSHAKE: Final = "2025-11-25"
"""The newest revision of the handshake era: what the bridge itself offers to a server that speaks no modern one."""

HANDSHAKES: Final = (HANDSHAKE, "2025-06-18", "2025-03-26", "2024-11-05")
"""All of them. A host that asks for another gets the newest (MCP 2025-11-25, basic/lifecycle, version negotiation)."""

LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION_ID: Final = "io.modelcontextprotocol/subscriptionId"
SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"

ENVELOPE: Final = frozenset({PROTOCOL_VERSION, CLIENT_CAPABILITIES, CLIENT_INFO, LOG_LEVEL})
"""What a request of the modern era carries in `_meta`, and one of the handshake era does not."""

CACHEABLE: Final = frozenset(
    {"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", "server/discover"}
)
"""Whose results carry `ttlMs` and `cacheScope`."""

MAY_ASK: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Whose result may be `input_required`."""

QUESTIONS: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""What a server may ask of a client, and the capability that allows it."""

GONE: Final = frozenset({"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
"""Requests that the modern era has not."""

CHANGES: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
"""Notifications, and the field of a listen filter that asks for them."""

CAPABILITY_OF: Final = {"toolsListChanged": "tools", "promptsListChanged": "prompts", "resourcesListChanged": "resources"}

UPDATED: Final = "notifications/resources/updated"
ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
LOG: Final = "notifications/message"

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""From least to most severe (RFC 5424, section 6.2.1)."""

UNSUPPORTED_VERSION: Final = -32022
MISSING_CAPABILITY: Final = -32021
"""The server needs a capability that the client has not declared; `data.requiredCapabilities` names it."""

CANCELLED: Final = -32800
"""Ends an exchange whose request the server has cancelled, for those who wait for a response; the code is LSP's."""

STATE_REFUSED: Final = (-32602, "Invalid or expired requestState", {"reason": "invalid_request_state"})
"""Code, message and data for request state that cannot be honoured, whatever is wrong with it: the SDK's own servers say the same, and a
forger learns nothing. Source: MCP 2026-07-28, basic/patterns/mrtr (invalid state is a JSON-RPC error); mcp/server/request_state.py."""
