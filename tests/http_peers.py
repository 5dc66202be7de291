"""Peers for the HTTP port's tests: the SDK's server behind uvicorn, a raw server that says any bytes, an ear for what the port delivers."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from bridge.ports.http import HttpServer
from mesh.wire.jsonrpc import Frame, dumps, scan

SECONDS = 10
"""For anything that a test waits for."""

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


class Heard:
    """What a port delivers, in order. `port` is open while the block of `opened` runs."""

    def __init__(self, port: Any) -> None:
        self.port = port
        self.frames: list[tuple[Frame, str | None]] = []
        self.ends: list[str] = []
        self._news = asyncio.Event()

    def on_frame(self, frame: Frame, request: str | None) -> None:
        self.frames.append((frame, request))
        self._news.set()

    def on_end(self, reason: str) -> None:
        self.ends.append(reason)
        self._news.set()

    async def until(self, found: Callable[[], Any]) -> Any:
        async with asyncio.timeout(SECONDS):
            while not (value := found()):
                self._news.clear()
                await self._news.wait()
        return value

    async def answer(self, id: str | int) -> Frame:
        """The one answer to request `id`. It comes as that request's own."""
        await self.until(lambda: any(frame.final and frame.id == id for frame, _ in self.frames))
        ((frame, request),) = [each for each in self.frames if each[0].final and each[0].id == id]
        assert request == str(id)
        return frame

    async def message(self, method: str) -> tuple[Frame, str | None]:
        """The first message with that method, and the request that it came with. It is taken off the list."""
        found: tuple[Frame, str | None] = await self.until(lambda: next((each for each in self.frames if each[0].method == method), None))
        self.frames.remove(found)
        return found

    async def error(self, id: str | int) -> dict[str, Any]:
        error: dict[str, Any] = json.loads((await self.answer(id)).raw)["error"]
        return error

    async def result(self, id: str | int) -> Any:
        body = json.loads((await self.answer(id)).raw)
        assert "result" in body, body
        return body["result"]

    def ask(self, id: str | int, method: str, params: Mapping[str, Any] | None = None, *, modern: bool = False) -> None:
        said = {**(params or {}), **({"_meta": META | (params or {}).get("_meta", {})} if modern else {})}
        self.port.send(scan(dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": said})))

    def tell(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        self.port.send(scan(dumps({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})})))

    def reply(self, request: Frame, result: Any) -> None:
        self.port.send(scan(dumps({"jsonrpc": "2.0", "id": request.id, "result": result})))

    async def handshake(self, capabilities: Mapping[str, Any] | None = None, version: str = "2025-11-25") -> Any:
        client = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": {"name": "t", "version": "0"}}
        self.ask("hello", "initialize", client)
        result = await self.result("hello")
        self.tell("notifications/initialized")
        return result


@asynccontextmanager
async def opened(server: HttpServer) -> AsyncIterator[Heard]:
    heard = Heard(server.port())
    await heard.port.open(heard.on_frame, heard.on_end)
    try:
        yield heard
    finally:
        async with asyncio.timeout(5):
            await heard.port.close()
        assert not heard.port._tasks, "close leaves no task"
        assert not heard.port._running


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(app: Any, port: int = 0) -> AsyncIterator[str]:
    """The URL's root of an ASGI app. It is there at once: the socket listens before uvicorn takes it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle's algorithm on
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1000)
    server = _Uvicorn(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, ws="none"))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@dataclass
class Asked:
    """One HTTP request, as the raw server got it."""

    method: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    @property
    def frame(self) -> Frame:
        return scan(self.body)

    def say(self, status: str = "200 OK", body: bytes = b"", kind: str = "application/json", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *([f"Content-Type: {kind}"] if kind else [])]
        lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
        self.writer.write("\r\n".join((*lines, "", "")).encode() + body)

    def stream(self, *events: bytes, **headers: str) -> None:
        """Begin a stream of events, which lasts as long as the connection."""
        lines = [
            "HTTP/1.1 200 OK",
            "Content-Type: text/event-stream",
            *(f"{key.replace('_', '-')}: {value}" for key, value in headers.items()),
        ]
        self.writer.write("\r\n".join((*lines, "", "")).encode() + b"".join(events))

    async def gone(self) -> None:
        """Until the other side closes the connection."""
        with contextlib.suppress(ConnectionError):
            while not self.writer.is_closing():
                self.writer.write(b": still there?\n")
                await self.writer.drain()
                await asyncio.sleep(0.01)


Answer = Callable[[Asked], Awaitable[None] | None]


@dataclass
class RawServer:
    """Answers with what `answer` writes; then the connection is closed."""

    answer: Answer
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    errors: list[BaseException] = field(default_factory=list)
    tasks: list[Any] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, found: Callable[[], Any]) -> Any:
        """Until what was asked so far fulfils `found`."""
        async with asyncio.timeout(SECONDS):
            while not (value := found()):
                self._news.clear()
                await self._news.wait()
        return value

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.append(asyncio.current_task())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            asked = Asked(first.split()[0], headers, body, writer)
            self.asked.append(asked)
            self._news.set()
            if (waits := self.answer(asked)) is not None:
                await waits
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # `open` connects and says nothing
        except Exception as error:
            self.errors.append(error)
        finally:
            writer.close()

    def of(self, method: str) -> list[Asked]:
        """The messages that came with that JSON-RPC method."""
        return [each for each in self.asked if each.method == "POST" and each.frame.method == method]


@asynccontextmanager
async def raw_server(answer: Answer, port: int = 0) -> AsyncIterator[RawServer]:
    server = RawServer(answer)
    listening = await asyncio.start_server(server._serve, "127.0.0.1", port)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/mcp"
    try:
        yield server
    finally:
        listening.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)
        await listening.wait_closed()
    assert not server.errors, server.errors


def event(raw: bytes, id: str = "") -> bytes:
    return (f"id: {id}\n".encode() if id else b"") + b"data: " + raw + b"\n\n"


def result_of(asked: Asked, result: str = "{}") -> bytes:
    assert asked.frame.id_span is not None
    return b'{"jsonrpc":"2.0","id":' + asked.body[slice(*asked.frame.id_span)] + b',"result":' + result.encode() + b"}"


def as_modern(id: str = "1", method: str = "vendor/odd", more: bytes = b"1") -> bytes:
    """A request of the modern era, laid out as nobody would."""
    return (
        b'{"params" : {"x":' + more + b',"_meta":' + json.dumps(META).encode() + b'},\t"method": "' + method.encode() + b'" ,"id":"'
        + id.encode() + b'","jsonrpc":"2.0", "extra":null}'
    )  # fmt: skip


@asynccontextmanager
async def asking(answer: Answer, **options: Any) -> AsyncIterator[tuple[RawServer, Heard]]:
    """A raw server, and a port to it."""
    async with raw_server(answer) as server, HttpServer("raw", server.url, **options) as http, opened(http) as heard:
        yield server, heard
