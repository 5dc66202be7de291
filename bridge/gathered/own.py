"""What the mesh itself offers a host beside the agents: its tools, and the messages to the host's participant, with the events that it
subscribed to, as the resource `mesh://inbox`.

New ones are announced as MCP announces resources: to a host of the handshake era that has subscribed to `mesh://inbox`, and to one of
the modern era that listens to it. What the messages say it reads there, or with `check_messages`.

Source: MCP 2025-11-25, server/resources (subscriptions); 2026-07-28, subscriptions/listen, caching.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from bridge.gathered import answers, find
from bridge.gathered.answers import id_of, read_params
from bridge.mesh_tools.tools import TOOLS, MeshTools
from mesh.background import Background
from mesh.errors import MeshError
from mesh.rpc import error_of
from mesh.wire.jsonrpc import Frame, dumps

INBOX: Final = "mesh://inbox"
"""No agent's: a long form has a slash behind the agent (`bridge.gathered.uris`)."""

UPDATED: Final = dumps({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": INBOX}})

_RESOURCE_METHODS: Final = frozenset({"resources/read", "resources/subscribe", "resources/unsubscribe"})

_INBOX_RAW: Final = dumps(
    {
        "uri": INBOX,
        "name": "inbox",
        "title": "Messages to you",
        "description": "The messages that others have sent to you, and the events of subscribe_events, that were not acknowledged "
        "(acknowledge_message). Subscribe to it to hear of new ones.",
        "mimeType": "application/json",
    }
)

_log: Final = structlog.get_logger("bridge.gathered.own")


def listed(tools: MeshTools, kind: str) -> list[bytes]:
    """What stands in a list (`bridge.gathered.catalog`) of the mesh's own: definitions."""
    if kind == "tools":
        return [tool.raw for tool in tools.offered()]
    return [_INBOX_RAW] if kind == "resources" and tools.has_inbox else []


class Own:
    """For one host. `close` it once."""

    def __init__(self, tools: MeshTools, send: Callable[[bytes], None], on_news: Callable[[], None]) -> None:
        """`send` takes what belongs to no request. `on_news`: there is a message, for those who listen."""
        self._tools = tools
        self._send = send
        self._on_news = on_news
        self._subscribed = False
        self._deaf = tools.inbox.listen(self._on_message)
        self._background = Background()

    async def close(self) -> None:
        self._deaf()
        await self._background.end()

    def greet(self) -> None:
        """A new session of the host."""
        self._subscribed = False

    def takes(self, frame: Frame) -> bool:
        """Whether a request is for us."""
        if frame.method == "tools/call":
            name, _ = _called(frame)
            return name in TOOLS and TOOLS[name].when(self._tools)
        return frame.method in _RESOURCE_METHODS and frame.name == INBOX

    def start(self, frame: Frame, done: Callable[[bytes], None]) -> asyncio.Task[None]:
        """Do what a request asks for, and hand the response to `done`. To cancel the task is to cancel the request."""
        return self._spawn(self._run(frame, done), f"{frame.method} of the mesh's own")

    def once_heard(self, then: Callable[[frozenset[str]], None]) -> asyncio.Task[None]:
        """Somebody wants to listen to `mesh://inbox`: call `then` once every message is announced, with what of ours it may listen to."""
        return self._spawn(self._once_heard(then), "news of messages")

    async def _run(self, frame: Frame, done: Callable[[bytes], None]) -> None:
        try:
            done(await self._answer(frame))
        except MeshError as problem:
            done(error_of(id_of(frame), problem))

    async def _answer(self, frame: Frame) -> bytes:
        if frame.method == "tools/call":
            return answers.result(frame, await self._tools.call(*_called(frame)))
        if frame.method == "resources/read":
            return answers.result(frame, await self._read(frame))
        if frame.method == "resources/subscribe":
            await self._tools.inbox.hear()
        self._subscribed = frame.method == "resources/subscribe"
        return answers.result(frame, {})

    async def _read(self, frame: Frame) -> dict[str, Any]:
        text = json.dumps({"messages": await self._tools.inbox.look()}, ensure_ascii=False)
        said: dict[str, Any] = {"contents": [{"uri": INBOX, "mimeType": "application/json", "text": text}]}
        return said if frame.era is None else {"ttlMs": 0, "cacheScope": "private", **said}

    async def _once_heard(self, then: Callable[[frozenset[str]], None]) -> None:
        try:
            await self._tools.inbox.hear()
        except MeshError as problem:
            _log.info("a host hears of no messages", why=problem.message)
            then(frozenset())
        else:
            then(frozenset({INBOX}))

    def _on_message(self) -> None:
        if self._subscribed:
            self._send(UPDATED)
        self._on_news()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._background.own(asyncio.create_task(work, name=name))


def _called(frame: Frame) -> tuple[str, Any]:
    """Name and arguments of a tool call, also of one that goes by `call_tool`."""
    if frame.name not in TOOLS and frame.name != find.CALL_TOOL:
        return "", None
    arguments = read_params(frame.raw).get("arguments")
    if frame.name == find.CALL_TOOL:
        inner = arguments if isinstance(arguments, dict) else {}
        return str(inner.get("agent_tool")), inner.get("arguments")
    return frame.name or "", arguments
