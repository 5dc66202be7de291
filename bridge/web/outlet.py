"""One HTTP response: a single JSON body, or a stream of events.

Theory of operation
-------------------
Which of the two it is, the first frame decides: if that is the final one, the answer is JSON; if another one comes first, or
nothing for a while, it is a stream. Frames are `put` from the read loop of the mesh, which waits for nothing, and written by the
request's own task. A client that does not read is waited for as long as its frames fit into a bound, and then counts as gone.

That a client has left is seen by a second task, which costs more than all the rest; so it begins only when the answer takes its time.

Source: ASGI HTTP 2.4; WHATWG HTML 9.2 for events.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HeaderList = list[tuple[bytes, bytes]]

WATCH: Final = 0.05
"""Seconds after which a client is watched for leaving. With it, work stops well within 200 ms."""

PING: Final = 15.0
"""Seconds of silence after which a stream says that it lives, since proxies cut silent connections. The SDK's server has the same."""

RETRY: Final = 500
"""Milliseconds that a client is asked to wait before it takes a stream up again."""

STALL: Final = 30.0
"""Seconds for which a client may not read what waits for it."""

MOST_UNSENT: Final = 64 * 1024 * 1024
"""Bytes that may wait for one client."""

_EVENT_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Outlet:
    """The response to one request. `put` frames, `run` writes them until the end; then `gone` says whether the client left before."""

    __slots__ = ("_closing", "_queue", "_receive", "_send", "_size", "_waiter", "gone", "streaming")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._queue: deque[tuple[bytes, bytes, bool]] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._closing = False
        self.gone = False
        self.streaming = False

    @property
    def whole(self) -> bool:
        """Whether a final frame would be the whole answer now."""
        return not self.streaming and not self._queue

    def put(self, raw: bytes, final: bool, id: bytes = b"") -> None:
        """A frame, and in a stream that can be resumed its event's id. Nothing is taken after the final one."""
        if self._closing or self.gone:
            return
        self._queue.append((id, raw, final))
        self._size += len(raw)
        if self._size > MOST_UNSENT and len(self._queue) > 1:
            self.gone = True
        self._closing = final
        self._wake()

    def end(self) -> None:
        """End the stream after what is in it, without a final frame."""
        self._closing = True
        self._wake()

    async def run(
        self, window: float, answer: Callable[[bytes], tuple[int, HeaderList]], headers: HeaderList | None = None, prime: bytes = b""
    ) -> None:
        """Write until the end, or until the client has left.

        `window`: seconds to wait for an answer as JSON, 0 for a stream at once. `answer` gives status and headers for a frame that is
        the whole answer; `headers` are those of a stream, and `prime` is the id that stands before its first event.
        """
        watcher: asyncio.Task[None] | None = None
        try:
            await self._wait(min(window, WATCH))
            if not self._queue:
                watcher = asyncio.create_task(self._watch(), name="client watch")
                if window > WATCH:
                    await self._wait(window - WATCH)
            if self._queue and self._queue[0][2]:
                raw = self._queue[0][1]
                await respond(self._send, *answer(raw), raw)
            elif not self.gone:
                await self._stream(headers or [], prime)
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _stream(self, headers: HeaderList, prime: bytes) -> None:
        self.streaming = True
        chunk = b"id: %b\r\nretry: %d\r\ndata: \r\n\r\n" % (prime, RETRY) if prime else b""
        final = False
        try:
            async with asyncio.timeout(None) as limit:
                await self._send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS + headers})
                while True:
                    if self._queue:
                        taken, self._queue, self._size = self._queue, deque(), 0
                        chunk += b"".join([event(id, raw) for id, raw, _ in taken])
                        final = taken[-1][2]
                    final = final or (self._closing and not self._queue)
                    limit.reschedule(asyncio.get_running_loop().time() + STALL)
                    await self._send({"type": "http.response.body", "body": chunk, "more_body": not final})
                    limit.reschedule(None)
                    if final or self.gone:
                        return
                    await self._wait(PING)
                    chunk = b"" if self._queue or self._closing or self.gone else b": ping\r\n\r\n"
        except TimeoutError:
            self.gone = True

    async def _wait(self, seconds: float) -> None:
        """Until there is something to write or the client has left, for so many seconds."""
        if self._queue or self._closing or self.gone or seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._wake()


def event(id: bytes, raw: bytes) -> bytes:
    """One event. A message may hold line ends between its tokens, and an event's line may not."""
    if b"\n" in raw or b"\r" in raw:
        raw = b"\r\ndata: ".join(raw.splitlines())
    return (b"id: " + id + b"\r\n" if id else b"") + b"event: message\r\ndata: " + raw + b"\r\n\r\n"


async def respond(send: Send, status: int, headers: HeaderList, body: bytes = b"") -> None:
    """A whole response. Where there is a body, it is JSON."""
    said = [(b"content-type", b"application/json"), *headers] if body else list(headers)
    said.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": said})
    await send({"type": "http.response.body", "body": body, "more_body": False})
