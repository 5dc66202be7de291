"""The SSE port: an MCP server over the first HTTP transport, which streamable HTTP replaced.

Theory of operation
-------------------
A port is one stream of events and the URL that its first event names. Messages are posted there, and everything that the server says comes
on the stream: so the stream is the session, and where it ends the port ends (`on_end`). It cannot be taken up again.

Requests are posted side by side, a task each: some servers hold a POST until the call has ended. Notifications and answers go one after the
other, a request waits for those before it, and a cancellation waits a moment until the request that it names was taken. A request whose
POST fails ends with an error response, and nothing else ends; an answer that comes for it later is dropped.

Source: MCP 2024-11-05 basic/transports, HTTP with SSE; `mcp.client.sse` for what servers are used to.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine, Mapping
from typing import Any, Final, Self

import httpx2
import structlog

from bridge.errors import ServerUnreachable
from bridge.lines import beginning
from bridge.ports import http_errors as errors
from bridge.ports.base import OnEnd, OnFrame
from bridge.ports.http_client import CLOSE_SECONDS, CONNECT_SECONDS, MOST_REQUESTS, MOST_STREAMS, HttpClient
from bridge.ports.http_headers import EVENTS, JSON
from bridge.ports.http_session import MOST_GARBAGE, MOST_NOTICES, NOTICE_SECONDS
from bridge.ports.http_wire import LARGEST_BODY, Body, chunks, content_type, drain, read_body
from bridge.sse import Event, EventStream
from mesh.background import Background
from mesh.errors import Busy, MalformedMessage, MeshError, Refused, TooLarge
from mesh.wire.jsonrpc import Frame, Kind, scan

GRACE: Final = 5.0
"""Seconds that a cancelled request may still be answered, and that a POST may last after its request was answered."""

HOLD: Final = 0.1
"""Seconds that a cancellation waits for the POST of its request: a server that holds POSTs must hear of it too."""

_log = structlog.get_logger("bridge.sse")


class SseServer:
    """One MCP server at the URL of its stream. Raises ConfigError for a URL or a header that cannot be used."""

    def __init__(self, name: str, url: str, headers: Mapping[str, str] | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self._client = HttpClient(name, url, headers, tls)

    def port(self) -> "SsePort":
        """A new port to this server, which is a session of its own. It is a `PortFactory`."""
        return SsePort(self._client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections. The ports are closed before."""
        await self._client.close()


class _Post:
    """One message on its way, and for a request what follows until its answer."""

    def __init__(self, frame: Frame, after: asyncio.Event | None, target: "_Post | None") -> None:
        self.frame = frame
        self.after = after
        self.target = target
        """The request that this cancels."""
        self.taken = asyncio.Event()
        """Set when the server took it, or when it never will."""
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class SsePort:
    """One session at an `SseServer`."""

    def __init__(self, client: HttpClient) -> None:
        self.client = client
        self._on_frame: OnFrame | None = None
        self._on_end: OnEnd | None = None
        self._over = False
        self._endpoint: httpx2.URL | None = None
        self._running: dict[str | int | None, _Post] = {}
        self._background = Background()
        self._last: asyncio.Event | None = None
        self._notices = 0
        self._garbage = 0

    async def open(self, on_frame: OnFrame, on_end: OnEnd) -> None:
        """Raises ServerUnreachable where there is no such stream, Busy where too many are open."""
        if self.client.streams >= MOST_STREAMS:
            raise Busy(f"{self.client.name}: {MOST_STREAMS} sessions are open, and it takes no more", retry_after=1.0)
        self._on_frame, self._on_end = on_frame, on_end
        ready: asyncio.Future[httpx2.URL] = asyncio.get_running_loop().create_future()
        listening = self._spawn(self._listen(ready), "stream")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                endpoint = await ready
            if listening.done():
                raise errors.unreachable(self.client.name, self.client.where, "its stream ended at once")
            self._endpoint = endpoint
        except TimeoutError:
            why = f"no endpoint was named within {CONNECT_SECONDS:.0f} s"
            raise errors.unreachable(self.client.name, self.client.where, why) from None
        finally:
            if self._endpoint is None:
                await self.close()

    def send(self, frame: Frame) -> None:
        """Raises Busy at a bound, Refused for a request whose id is in use, TooLarge for a message over 64 MiB."""
        client = self.client
        if self._over or self._endpoint is None:
            return  # its end is on its way, and ends what it holds
        asks = frame.kind is Kind.REQUEST
        if len(frame.raw) > LARGEST_BODY:
            raise TooLarge(f"{client.name}: the message is over the size limit", limit=LARGEST_BODY)
        if asks and frame.id in self._running:
            raise Refused(f"{client.name}: a request with the id {str(frame.id)[:60]!r} is running")
        if asks and client.requests >= MOST_REQUESTS:
            raise Busy(f"{client.name}: {MOST_REQUESTS} calls run at once, and it takes no more", retry_after=1.0)
        if not asks and self._notices >= MOST_NOTICES:
            raise Busy(f"{client.name} does not take what is sent to it", retry_after=1.0)
        client.take(len(frame.raw))
        target = self._running.get(frame.cancels) if frame.method == "notifications/cancelled" else None
        post = _Post(frame, self._last, target)
        if asks:
            client.requests += 1
            self._running[frame.id] = post
        else:
            self._notices += 1
            self._last = post.taken
        if target is not None and target.timer is None:
            target.timer = asyncio.get_running_loop().call_later(GRACE, self._release, target)
        post.task = self._spawn(self._post(post, self._endpoint), frame.method or "an answer")
        post.task.add_done_callback(lambda _: self._posted(post))

    async def close(self) -> None:
        """End the stream, and with it the session. Takes `CLOSE_SECONDS` at most."""
        self._on_frame = self._on_end = None
        self._over = True
        self._stop()
        if stuck := await self._background.wait(CLOSE_SECONDS):
            _log.warning("tasks that do not end", agent=self.client.name, tasks=stuck)

    async def _listen(self, ready: "asyncio.Future[httpx2.URL]") -> None:
        name, where = self.client.name, self.client.where
        self.client.streams += 1
        try:
            await self._read(ready)
            why = "its stream ended"
        except httpx2.HTTPError as problem:
            why = str(errors.of_transport(name, where, problem)).removeprefix(f"{name}: ")
        except MeshError as problem:
            if isinstance(problem, ServerUnreachable) and not ready.done():
                ready.set_exception(problem)
            why = str(problem)
        finally:
            self.client.streams -= 1
        if not ready.done():
            ready.set_exception(errors.unreachable(name, where, why.removeprefix(f"cannot connect to {where}: ")))
        self._lose(why)

    async def _read(self, ready: "asyncio.Future[httpx2.URL]") -> None:
        events = EventStream()
        async with self.client.stream("GET", {"Accept": EVENTS}) as response:
            if response.status_code != 200:
                problem = errors.of_status(self.client.name, response.status_code, response.headers, b"")
                raise ServerUnreachable(problem.message, hint=problem.hint, **problem.details)
            if (kind := content_type(response)) != EVENTS:
                raise ServerUnreachable(f"{self.client.name}: its URL gives {kind[:100] or 'nothing'} where a stream of events is expected")
            async with contextlib.aclosing(chunks(response)) as parts:
                async for part in parts:
                    for event in events.feed(part):
                        if event.type == b"endpoint" and not ready.done():
                            ready.set_result(self._resolve(event.data))
                        elif event.type == b"message" and event.data:
                            self._take(event)

    def _resolve(self, named: bytes) -> httpx2.URL:
        """Where messages go. At the stream's own origin only: they carry what this agent's headers hold."""
        try:
            url = self.client.url.join(named.decode())
        except (UnicodeDecodeError, httpx2.InvalidURL):
            raise ServerUnreachable(f"{self.client.name}: the server names an endpoint that is no URL") from None
        if (url.scheme, url.host, url.port) != (self.client.url.scheme, self.client.url.host, self.client.url.port):
            raise ServerUnreachable(f"{self.client.name}: the server sends messages to another host", endpoint=f"{url.host}:{url.port}")
        return url

    def _take(self, event: Event) -> None:
        try:
            frame = scan(event.data)
        except MalformedMessage as problem:
            self._garbage += len(event.data)
            _log.warning("not a message", agent=self.client.name, why=str(problem), starts=beginning(event.data))
            if self._garbage > MOST_GARBAGE:
                raise errors.BadAnswer(f"its stream holds much that is no message: {problem}") from None
            return
        if frame.final:
            post = self._running.get(frame.id)
            if post is None:
                _log.debug("an answer to nothing", agent=self.client.name, id=frame.id)
                return
            self._release(post)
            if post.task is not None and not post.task.done():
                post.timer = asyncio.get_running_loop().call_later(GRACE, post.task.cancel)
        self._deliver(frame)

    async def _post(self, post: _Post, endpoint: httpx2.URL) -> None:
        client, frame, status = self.client, post.frame, 0
        problem: MeshError | None = None
        try:
            if post.after is not None:
                await post.after.wait()
            if post.target is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HOLD):
                        await post.target.taken.wait()
            async with asyncio.timeout(None if frame.kind is Kind.REQUEST else NOTICE_SECONDS):
                headers = {"Content-Type": JSON, "Content-Length": str(len(frame.raw))}
                async with client.stream("POST", headers, Body(frame.raw), url=endpoint) as response:
                    status = response.status_code
                    if not response.is_success:
                        body = await read_body(response, 2_000, cut=True)
                        raise errors.of_status(client.name, status, response.headers, body)
                    await drain(chunks(response))
        except httpx2.HTTPError as broken:
            problem = errors.of_transport(client.name, client.where, broken)
        except TimeoutError:
            problem = errors.cut_off(client.name, f"not taken within {NOTICE_SECONDS:.0f} s")
        except MeshError as refused:
            problem = refused
        if problem is None:
            return
        if frame.id_span is not None and self._running.get(frame.id) is post:
            self._release(post)
            self._deliver(errors.response(client.name, frame.raw[slice(*frame.id_span)], problem))
        else:
            _log.warning("the server did not take a message", agent=client.name, method=frame.method, why=str(problem))
        if status == 404:
            self._lose("the server does not know this session any more")

    def _posted(self, post: _Post) -> None:
        self.client.bytes -= len(post.frame.raw)
        post.taken.set()
        if post.frame.kind is not Kind.REQUEST:
            self._notices -= 1
            if self._last is post.taken:
                self._last = None
        elif self._running.get(post.frame.id) is not post and post.timer is not None:
            post.timer.cancel()

    def _release(self, post: _Post) -> None:
        """The place of a request is free."""
        if self._running.get(post.frame.id) is post:
            del self._running[post.frame.id]
            self.client.requests -= 1
            if post.timer is not None:
                post.timer.cancel()

    def _deliver(self, frame: Frame) -> None:
        if self._on_frame is not None and not self._over:
            try:
                self._on_frame(frame, None)
            except Exception:  # not the server's fault: its stream is read on
                _log.exception("a message was not taken", agent=self.client.name, method=frame.method)

    def _lose(self, reason: str) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            self._over = True
            self._stop()
            if self._endpoint is not None:
                on_end(reason)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        return self._background.own(asyncio.create_task(work, name=f"{self.client.name}: {what}"))

    def _stop(self) -> None:
        """Cancel all tasks but the one that calls this, which is about to end, and let go what waits for an answer."""
        for post in list(self._running.values()):
            self._release(post)
        self._background.cancel()
