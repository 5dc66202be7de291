"""Hosts of the handshake era that say and hear what a test wants, over each way in: `mesh-bridge connect` on a pipe, HTTP, WebSocket."""

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.helpers import ROOT, Signals
from tests.web_world import BOTH, HANDSHAKE

MCP = Subprotocol("mcp")


class Host:
    """What came is in `heard`. Every way in has a `say` of its own."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.signals = Signals()
        self._ids = itertools.count(1)
        self.tasks: set[asyncio.Task[None]] = set()

    async def say(self, message: Mapping[str, Any]) -> None:
        raise NotImplementedError

    async def ready(self) -> None:
        """The session has begun."""

    async def begin(self, capabilities: Mapping[str, Any] | None = None) -> Any:
        said = {"protocolVersion": HANDSHAKE, "capabilities": dict(capabilities or {}), "clientInfo": {"name": "test", "version": "1"}}
        answer = await self.ask("initialize", said)
        await self.ready()
        await self.note("notifications/initialized")
        return answer

    async def note(self, method: str, **params: Any) -> None:
        await self.say({"method": method, **({"params": params} if params else {})})

    async def knock(self, **message: Any) -> None:
        """Have the server say this, outside of any call."""
        await self.note("notifications/knock", text=json.dumps({"jsonrpc": "2.0", **message}))

    async def start(self, method: str, params: Any = None) -> int:
        """A request that is not waited for; its id."""
        id = next(self._ids)
        await self.say({"id": id, "method": method, **({} if params is None else {"params": params})})
        return id

    async def answer(self, id: int, timeout: float = 10.0) -> Any:
        found = await self.until(lambda each: each.get("id") == id and "method" not in each, timeout)
        return found.get("result", found.get("error"))

    async def ask(self, method: str, params: Any = None) -> Any:
        return await self.answer(await self.start(method, params))

    async def tool(self, name: str, **arguments: Any) -> Any:
        """The text of a tool's result; JSON is read."""
        result = await self.ask("tools/call", {"name": name, "arguments": arguments})
        assert "content" in result, result
        with contextlib.suppress(ValueError):
            return json.loads(result["content"][0]["text"])
        return result["content"][0]["text"]

    async def until(self, wanted: Callable[[Any], object], timeout: float = 10.0) -> Any:
        """The first message like that, once it is there."""
        found: list[Any] = []

        def there() -> bool:
            found[:] = [each for each in self.heard if wanted(each)]
            return bool(found)

        await self.signals.until(there, timeout)
        return found[0]

    def of(self, method: str) -> list[Any]:
        return [each for each in self.heard if each.get("method") == method]

    def hear(self, raw: str | bytes) -> None:
        self.heard.append(json.loads(raw))
        self.signals.tell()

    def spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class PipeHost(Host):
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self.process = process
        self.spawn(self._read())

    async def say(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.hear(line)


class SocketHost(Host):
    def __init__(self, socket: ClientConnection) -> None:
        super().__init__()
        self.socket = socket
        self.spawn(self._read())

    async def say(self, message: Mapping[str, Any]) -> None:
        await self.socket.send(json.dumps({"jsonrpc": "2.0", **message}))

    async def _read(self) -> None:
        async for text in self.socket:
            self.hear(text)


class HttpHost(Host):
    """Each request has a response of its own; what belongs to none comes on the GET stream."""

    def __init__(self, http: httpx2.AsyncClient, url: str) -> None:
        super().__init__()
        self.http = http
        self.url = url
        self.headers = {"Accept": BOTH, "Content-Type": "application/json"}

    async def say(self, message: Mapping[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        if "method" in message and "id" in message:
            self.spawn(self._stream("POST", body))
        else:
            response = await self.http.post(self.url, content=body, headers=self.headers)
            assert response.status_code == 202, response.text

    async def ready(self) -> None:
        opened = asyncio.Event()
        self.spawn(self._stream("GET", None, opened))
        await opened.wait()

    async def close(self) -> None:
        await super().close()
        await self.http.delete(self.url, headers=self.headers)

    async def _stream(self, method: str, body: bytes | None, opened: asyncio.Event | None = None) -> None:
        headers = self.headers if body is not None else {**self.headers, "Accept": "text/event-stream"}
        async with self.http.stream(method, self.url, content=body, headers=headers) as response:
            if opened is not None:
                opened.set()
            if "mcp-session-id" in response.headers:
                self.headers |= {"Mcp-Session-Id": response.headers["mcp-session-id"], "MCP-Protocol-Version": HANDSHAKE}
            if response.headers["content-type"].startswith("application/json"):
                self.hear(await response.aread())
                return
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line[6:].strip():
                    self.hear(line[6:])


Join = Callable[[str], AbstractAsyncContextManager[Host]]
"""A new host on the agent of that name."""


@asynccontextmanager
async def pipe_host(broker_url: str, agent: str | None = None, *options: str) -> AsyncIterator[PipeHost]:
    """On all agents as one, where none is named."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "bridge", "connect", *([] if agent is None else [agent]), "--broker", broker_url, *options],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    host = PipeHost(process)
    try:
        yield host
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.gather(*host.tasks, return_exceptions=True)
        await process.communicate()


@asynccontextmanager
async def http_host(url: str, agent: str) -> AsyncIterator[Host]:
    async with httpx2.AsyncClient(timeout=30) as http:
        host = HttpHost(http, f"{url}/agents/{agent}/mcp")
        try:
            yield host
        finally:
            await host.close()


@asynccontextmanager
async def socket_host(url: str, agent: str) -> AsyncIterator[Host]:
    async with connect(f"ws{url.removeprefix('http')}/agents/{agent}/ws", subprotocols=[MCP]) as socket:
        host = SocketHost(socket)
        try:
            yield host
        finally:
            await host.close()
