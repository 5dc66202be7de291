"""What a server offers, read for the registry: its tools, prompts, resources and templates, and a word when they change.

The registry's entry is one message of the broker, so all lists but the tools are cut at `LONGEST`. A resource that fell off can still be
read: its URI needs no entry.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog

from bridge.channel import Channel
from mesh.errors import CallError, RemoteError
from mesh.wire import control
from mesh.wire.jsonrpc import dumps

LISTS: Final = {
    "tools": ("tools", "tools/list", "tools"),
    "prompts": ("prompts", "prompts/list", "prompts"),
    "resources": ("resources", "resources/list", "resources"),
    "templates": ("resources", "resources/templates/list", "resourceTemplates"),
}
"""Field of the registry's entry → the capability that goes with it, the method, and the member of its result."""

CHANGES: Final = frozenset(
    {"notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed"}
)

LONGEST: Final = 192 * 1024
"""Bytes of a list in the entry, tools excepted. The broker takes 1 MiB a message."""

MOST_PAGES: Final = 100

PAUSE: Final = 5.0
"""Seconds before a stream of changes that ended is opened again."""

_log = structlog.get_logger("bridge")


async def read_lists(channel: Channel, capabilities: Mapping[str, Any], meta: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """The fields of `LISTS`, each a tuple of definitions as the server gave them. Raises CallError where the tools cannot be read; a
    server that fails at another list has none."""
    found: dict[str, tuple[dict[str, Any], ...]] = {}
    for field, (capability, method, member) in LISTS.items():
        if capability not in capabilities:
            continue
        try:
            items = await _read(channel, method, member, meta, timeout)
        except RemoteError as problem:
            if field == "tools":
                raise
            _log.info("a list cannot be read", agent=channel.agent, list=field, why=str(problem))
            continue
        found[field] = tuple(items if field == "tools" else _cut(channel.agent, field, items))
    return found


async def follow(channel: Channel, capabilities: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Have a server of the modern era say when a list changes, as long as the channel lasts. What it says comes as a stray."""
    wanted = {f"{each}ListChanged": True for each in ("tools", "prompts", "resources") if _says_changes(capabilities.get(each))}
    while wanted and not channel.ended:
        try:
            await channel.request("subscriptions/listen", {**meta, "notifications": wanted}, timeout=None)
        except RemoteError as problem:
            if problem.rpc_code == control.METHOD_NOT_FOUND:
                return
        except CallError:
            return  # the channel has ended, and the next one is followed anew
        await asyncio.sleep(PAUSE)


async def _read(channel: Channel, method: str, member: str, meta: Mapping[str, Any], timeout: float) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    for _ in range(MOST_PAGES):
        page = await channel.request(method, {**meta, **cursor}, timeout=timeout)
        said = page.get(member)
        items += [item for item in said if isinstance(item, dict)] if isinstance(said, list) else []
        if not page.get("nextCursor"):
            break
        cursor = {"cursor": page["nextCursor"]}
    return items


def _cut(agent: str, field: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    room = LONGEST
    for at, item in enumerate(items):
        room -= len(dumps(item))
        if room < 0:
            _log.warning("a list is too long for the registry", agent=agent, list=field, kept=at, left_out=len(items) - at)
            return items[:at]
    return items


def _says_changes(capability: Any) -> bool:
    return isinstance(capability, dict) and capability.get("listChanged") is True
