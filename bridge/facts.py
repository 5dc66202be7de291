"""What a server says of itself, asked at the start: in the modern era first (`server/discover`), then by the handshake."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.channel import Channel
from bridge.eras.shapes import result_of
from bridge.eras.words import HANDSHAKE, HANDSHAKES, SERVER_INFO
from bridge.lists import read_lists
from mesh.errors import RemoteError
from mesh.rpc import CLIENT_CAPABILITIES, CLIENT_INFO, MODERN, PROTOCOL_VERSION
from mesh.wire import control

DISCOVER_SECONDS: Final = 15.0
"""How long a server may take to answer the first question. A handshake server that stays silent at it is started anew and asked by
handshake."""

START_SECONDS: Final = 60.0
"""How long it may take to be ready (an interpreter that compiles, a package that is fetched)."""

CLIENT: Final = {"name": "mesh-bridge", "version": "1"}
META: Final = {"_meta": {PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: {}, CLIENT_INFO: CLIENT}}
"""What the bridge's own requests of the modern era carry."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself."""

    modern: bool
    """Whether it speaks the modern era. If not, the bridge translates for those who do."""
    said: bytes = b"{}"
    """The result of `server/discover`, or of `initialize`, as it came."""
    version_spoken: str = ""
    """Of a handshake server: the revision that was agreed on."""
    title: str = ""
    version: str = ""
    instructions: str = ""
    capabilities: dict[str, Any] = field(default_factory=dict)
    tools: tuple[dict[str, Any], ...] = ()
    prompts: tuple[dict[str, Any], ...] = ()
    resources: tuple[dict[str, Any], ...] = ()
    templates: tuple[dict[str, Any], ...] = ()

    @property
    def protocol_versions(self) -> tuple[str, ...]:
        """The revisions that the agent speaks, newest first: its server's own, and those that the bridge translates."""
        own = self.version_spoken or HANDSHAKE
        return (MODERN, *(each for each in HANDSHAKES if own not in HANDSHAKES or each <= own))

    def entry(self) -> dict[str, Any]:
        """The fields of the registry's entry that come from the server."""
        return {
            "title": self.title,
            "version": self.version,
            "description": self.instructions[:500],
            "protocol_versions": self.protocol_versions,
            "capabilities": self.capabilities,
            "tools": self.tools,
            "prompts": self.prompts,
            "resources": self.resources,
            "templates": self.templates,
        }


async def ask(channel: Channel) -> Facts:
    """Ask in the modern era, and by the handshake where that is refused. Raises CallError."""
    try:
        frame = await channel.ask("server/discover", META, timeout=DISCOVER_SECONDS)
    except RemoteError as problem:
        if problem.rpc_code == control.MESH_ERROR:
            raise
        return await ask_by_handshake(channel)
    said = result_of(frame) or b"{}"
    versions = read(said).get("supportedVersions")
    if isinstance(versions, list) and MODERN not in versions:  # it knows the question, and says that it speaks the other era only
        return await ask_by_handshake(channel)
    return await learn(channel, Facts(modern=True, said=said))


async def ask_by_handshake(channel: Channel) -> Facts:
    """Raises CallError."""
    params = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": CLIENT}
    said = result_of(await channel.ask("initialize", params, timeout=START_SECONDS)) or b"{}"
    channel.notify("notifications/initialized")
    return await learn(channel, Facts(modern=False, said=said, version_spoken=str(read(said).get("protocolVersion", HANDSHAKE))))


async def learn(channel: Channel, facts: Facts) -> Facts:
    """The same facts with the lists as they are now. Raises CallError."""
    found = read(facts.said)
    capabilities = found.get("capabilities")
    capabilities = capabilities if isinstance(capabilities, dict) else {}
    info = found.get("serverInfo") or (found.get("_meta") or {}).get(SERVER_INFO) or {}
    return Facts(
        modern=facts.modern,
        said=facts.said,
        version_spoken=facts.version_spoken,
        title=str(info.get("title") or info.get("name") or ""),
        version=str(info.get("version") or ""),
        instructions=str(found.get("instructions") or ""),
        capabilities=capabilities,
        **await read_lists(channel, capabilities, META if facts.modern else {}, START_SECONDS),
    )


def read(result: bytes) -> dict[str, Any]:
    """A result as an object; anything else is an empty one."""
    try:
        found = json.loads(result)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
