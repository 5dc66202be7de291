"""The HTTP port: an MCP server over streamable HTTP, in both eras.

Theory of operation
-------------------
`HttpServer` is the server; its ports share one client and its connections (`http_client`). A port that serves modern calls has no state:
each request goes out with the headers that repeat its body. A port that has carried an `initialize` is that session from then on: it
sends the session's id, holds a stream open for what the server says outside of any call, and takes its leave with DELETE.

Requests run side by side, a task each (`http_request`). Notifications and answers to the server's requests go one after the other
(`http_session`), and a request waits for those before it: a server that hears of `tools/call` before `notifications/initialized` refuses
it. A cancellation waits until the request that it names is out; in the modern era it is no message, but the end of that request's stream.

A request that fails ends with an error response, and nothing else ends. The port ends (`on_end`) only when the server does not know the
session any more: nothing but a new port helps then. Everything is delivered from tasks, never from within `send`.

Source: MCP basic/transports, streamable HTTP, 2025-11-25 and 2026-07-28; `mcp.client.streamable_http` for what servers are used to.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine, Mapping
from typing import Any, Final, Self

import httpx2
import structlog

from bridge.ports.base import OnEnd, OnFrame
from bridge.ports.http_client import CLOSE_SECONDS, MOST_REQUESTS, HttpClient
from bridge.ports.http_headers import modern_headers
from bridge.ports.http_request import Request
from bridge.ports.http_session import Listener, Notices, Session
from mesh.errors import Busy, Refused
from mesh.wire.jsonrpc import Frame, Kind

GRACE: Final = 5.0
"""Seconds that a cancelled request of the handshake era has to end its stream. Servers end it in several ways, and some in none."""

_log = structlog.get_logger("bridge.http")


class HttpServer:
    """One MCP server at a URL. Raises ConfigError for a URL or a header that cannot be used.

    `headers` go with each request (`Authorization`, mostly). `tls` is for a private authority or a client certificate.
    """

    def __init__(self, name: str, url: str, headers: Mapping[str, str] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self._client = HttpClient(name, url, headers, tls)

    def port(self) -> "HttpPort":
        """A new port to this server. It is a `PortFactory`."""
        return HttpPort(self._client)

    async def close(self) -> None:
        """Close the connections. The ports are closed before."""
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class HttpPort:
    """A way to an `HttpServer`: for everybody's modern calls, or for one handshake session."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self.session = Session()
        self._on_frame: OnFrame | None = None
        self._on_end: OnEnd | None = None
        self._over = False
        self._running: dict[str | int | None, Request] = {}
        self._tasks: dict[asyncio.Task[None], Request | None] = {}
        self._notices = Notices(self)
        self._sender: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None

    async def open(self, on_frame: OnFrame, on_end: OnEnd) -> None:
        """Raises ServerUnreachable where nothing listens at the URL."""
        await self.client.reach()
        self._on_frame, self._on_end = on_frame, on_end
        self._sender = self._spawn(self._notices.run(), "notices")

    def send(self, frame: Frame) -> None:
        """Raises Busy at a bound, Refused for a request whose id is in use, TooLarge for a notification over 64 MiB."""
        if self._over or self._on_frame is None:
            return  # its end is on its way, and ends what it holds
        if frame.method == "notifications/cancelled":
            self._cancel(frame)
        elif frame.kind is not Kind.REQUEST:
            self._notices.put(frame)
        elif frame.id in self._running:
            raise Refused(f"{self.client.name}: a request with the id {str(frame.id)[:60]!r} is running")
        elif self.client.requests >= MOST_REQUESTS:
            raise Busy(f"{self.client.name}: {MOST_REQUESTS} calls run at once, and it takes no more", retry_after=1.0)
        else:
            self.client.take(len(frame.raw))
            self.client.requests += 1
            request = self._running[frame.id] = Request(self, frame, self._notices.last, self._release)
            request.task = self._spawn(request.run(), frame.method or "", request)

    async def close(self) -> None:
        """End what runs, and the session. Takes two times `CLOSE_SECONDS` at most."""
        if self._on_frame is None:
            return
        self._on_frame = self._on_end = None
        tasks = list(self._tasks)
        self._stop()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            if stuck:
                _log.warning("tasks that do not end", agent=self.client.name, tasks=[task.get_name() for task in stuck])
        if self.session.id is not None and not self._over:
            with contextlib.suppress(httpx2.HTTPError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS), self.client.stream("DELETE", self.session.headers()):
                    pass  # 405: the server lets its sessions end by themselves
        self._over = True

    # for requests, notices and the stream

    def headers(self, frame: Frame) -> dict[str, str]:
        if frame.method == "initialize":
            return {}
        if self.session.begun:
            return self.session.headers()
        return modern_headers(frame) | self.client.params.of(frame) if frame.era is not None else {}

    def deliver(self, frame: Frame, request: str | None) -> None:
        if self._on_frame is not None and not self._over:
            try:
                self._on_frame(frame, request)
            except Exception:  # not the server's fault: its stream is read on
                _log.exception("a message was not taken", agent=self.client.name, method=frame.method)

    def listen(self) -> None:
        if self._listener is None and not self._over and self._on_frame is not None:
            self._listener = self._spawn(Listener(self).run(), "stream")

    def lose(self, reason: str) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._over = True
            self._stop()
            on_end(reason)

    def _cancel(self, frame: Frame) -> None:
        request = self._running.get(frame.cancels)
        if not self.session.begun or (request is not None and not request.started):
            if request is not None and request.task is not None:
                request.task.cancel()
        elif request is None:
            self._notices.put(frame)
        else:
            self._notices.put(frame, after=request.sent)
            if request.grace is None and request.task is not None:
                request.grace = asyncio.get_running_loop().call_later(GRACE, request.task.cancel)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str, request: Request | None = None) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"{self.client.name}: {what}")
        self._tasks[task] = request
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        request = self._tasks.pop(task)
        if request is not None:
            self._release(request)  # one that was cancelled has no answer that did it
        if not task.cancelled() and (problem := task.exception()) is not None:
            _log.error("a task of the port failed", agent=self.client.name, task=task.get_name(), exc_info=problem)

    def _release(self, request: Request) -> None:
        """Its place is free. Called with its answer, and again when its task ends."""
        if self._running.get(request.frame.id) is request:
            del self._running[request.frame.id]
            self.client.requests -= 1
            self.client.bytes -= len(request.frame.raw)
            request.sent.set()
            if request.grace is not None:
                request.grace.cancel()

    def _stop(self) -> None:
        """Cancel all tasks but the one that calls this, which is about to end."""
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()
