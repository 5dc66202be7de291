"""What the tests of HTTP and WebSocket share: agents behind a front, and ways to ask that no SDK would."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2

from bridge.app import expose, make_spec, port_factory
from bridge.config import make_http
from bridge.web.server import serving
from mesh import Mesh
from mesh.settings import make_settings
from tests.helpers import ROOT, Signals

MODERN = "2026-07-28"
HANDSHAKE = "2025-11-25"
META = "io.modelcontextprotocol/"
ENVELOPE = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
BOTH = "application/json, text/event-stream"


@asynccontextmanager
async def front(broker_url: str, **spec: Any) -> AsyncIterator[str]:
    """A front of its own; its base URL. It asks for no tokens where `auth` does not say so."""
    async with serving(make_http(**{"auth": "none", **spec}), make_settings(broker=broker_url)) as url:
        yield url


@asynccontextmanager
async def agent(broker_url: str, name: str, *command: str, **fields: Any) -> AsyncIterator[str]:
    """A stdio server as an agent in this process: one of `tests/servers`, or a command. The instance's name."""
    argv = command if len(command) > 1 else (sys.executable, "-m", f"tests.servers.{command[0]}")
    spec = make_spec(name=name, command=argv, cwd=ROOT, **fields)
    async with AsyncExitStack() as stack:
        make_port = await stack.enter_async_context(port_factory(spec))
        mesh = await stack.enter_async_context(Mesh(name=name, broker=broker_url))
        presence = await stack.enter_async_context(expose(mesh, spec, make_port))
        yield presence.entry.instance


def request(id: Any, method: str, params: Mapping[str, Any] | None = None, *, modern: bool = True) -> dict[str, Any]:
    said = dict(params or {})
    if modern:
        said["_meta"] = {**ENVELOPE, **said.get("_meta", {})}
    return {"jsonrpc": "2.0", "id": id, "method": method, **({"params": said} if said else {})}


def call(id: Any, tool: str, arguments: Mapping[str, Any] | None = None, *, modern: bool = True, **meta: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool, "arguments": dict(arguments or {})}
    if meta:
        params["_meta"] = meta
    return request(id, "tools/call", params, modern=modern)


def headers_of(message: Mapping[str, Any], **more: str) -> dict[str, str]:
    """The headers that repeat a message of the modern era."""
    headers = {"Accept": BOTH, "MCP-Protocol-Version": MODERN, "Mcp-Method": str(message.get("method", ""))}
    name = message.get("params", {}).get("name")
    if isinstance(name, str):
        headers["Mcp-Name"] = name
    return headers | {key.replace("_", "-"): value for key, value in more.items()}


class Client:
    """Plain HTTP on one agent."""

    def __init__(self, http: httpx2.AsyncClient, url: str) -> None:
        self.http = http
        self.url = url
        self.session: dict[str, str] = {}

    async def post(self, body: Any, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        said = {"Accept": BOTH, "Content-Type": "application/json", **self.session, **(headers or {})}
        return await self.http.post(self.url, content=raw, headers={key: value for key, value in said.items() if value})

    async def modern(self, message: dict[str, Any], **more: str) -> httpx2.Response:
        return await self.post(message, headers_of(message, **more))

    async def begin(self, version: str = HANDSHAKE, capabilities: Mapping[str, Any] | None = None) -> httpx2.Response:
        """Open a session; from then on every request is in it."""
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": version, "capabilities": dict(capabilities or {}), "clientInfo": info}
        response = await self.post(request(0, "initialize", params, modern=False))
        if "mcp-session-id" in response.headers:
            self.session = {"Mcp-Session-Id": response.headers["mcp-session-id"], "MCP-Protocol-Version": version}
            assert (await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 202
        return response

    @asynccontextmanager
    async def events(self, method: str, body: Any = None, **more: str) -> AsyncIterator["Events"]:
        """A stream of events, as a task of its own reads it."""
        said = {"Accept": BOTH if body is not None else "text/event-stream", "Content-Type": "application/json", **self.session}
        said |= {key.replace("_", "-"): value for key, value in more.items()}
        content = None if body is None else json.dumps(body).encode()
        async with self.http.stream(method, self.url, content=content, headers=said) as response:
            events = Events(response)
            task = asyncio.create_task(events.read())
            try:
                yield events
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class Events:
    """What a stream has brought: `(id, data)` each, and whether it has ended."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.seen: list[tuple[str, Any]] = []
        self.ended = False
        self._signals = Signals()

    async def read(self) -> None:
        rest = ""
        async for text in self.response.aiter_text():
            *events, rest = re.split(r"\r\n\r\n", rest + text)
            for event in events:
                fields = dict(line.split(": ", 1) for line in event.split("\r\n") if not line.startswith(":"))
                if fields:
                    data = fields.get("data", "").strip()
                    self.seen.append((fields.get("id", ""), json.loads(data) if data else None))
            self._signals.tell()
        self.ended = True
        self._signals.tell()

    async def until(self, condition: Any, timeout: float = 10.0) -> None:
        await self._signals.until(lambda: condition(self), timeout)

    @property
    def messages(self) -> list[Any]:
        return [data for _, data in self.seen if data is not None]


@asynccontextmanager
async def client(url: str, name: str) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(timeout=20) as http:
        yield Client(http, f"{url}/agents/{name}/mcp")
