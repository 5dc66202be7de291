"""What all personas have in common: a profile, a memory, and a tool that takes messages into it. An ordinary MCP server of the SDK."""

import json
import tomllib
from collections import deque
from pathlib import Path
from typing import Annotated, Any, Final

from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from pydantic import Field

MOST_MEMORIES: Final = 1_000
"""The oldest are forgotten."""

READS: Final = ToolAnnotations(read_only_hint=True)
"""A call that changes nothing may be tried again when its reply was lost."""

PROFILES: Final = tomllib.loads((Path(__file__).parent / "profiles.toml").read_text(encoding="utf-8"))


def make_persona(role: str) -> MCPServer[Any]:
    """A server with the profile of this role as its instructions and as a resource, and with the tools `remember` and `recall`."""
    profile: dict[str, Any] = PROFILES[role]
    memories: deque[str] = deque(profile["memories"], maxlen=MOST_MEMORIES)
    server: MCPServer[Any] = MCPServer(
        role,
        version="1.0.0",
        instructions="\n".join([f"You talk to the {role}, who is responsible to:", *(f"- {each}" for each in profile["responsibilities"])]),
    )

    @server.resource("persona://profile", mime_type="application/json")
    def read_profile() -> str:
        """Role, responsibilities, and how this persona speaks."""
        said = {key: profile[key] for key in ("responsibilities", "tone", "focus")}
        return json.dumps({"role": role, **said}, indent=2)

    @server.tool()
    async def remember(
        content: Annotated[Any, Field(description="what to remember: text, or any JSON")],
        type: Annotated[str, Field(description="what kind of thing it is")] = "note",
        sender: Annotated[str, Field(description="who says so")] = "",
    ) -> str:
        """Remember something. Messages to this persona come here, too."""
        text = content if isinstance(content, str) else json.dumps(content)
        memories.append(f"{type} from {sender}: {text}" if sender else f"{type}: {text}")
        return "Memory updated"

    @server.tool(annotations=READS)
    async def recall(query: Annotated[str, Field(description="part of it; without it all is told")] = "") -> list[str]:
        """What this persona knows, the newest last. Upper and lower case are the same."""
        return [each for each in memories if query.casefold() in each.casefold()]

    return server
