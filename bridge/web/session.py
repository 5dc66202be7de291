"""A session of the handshake era over HTTP: one client, one link, and the streams on which the client hears.

Theory of operation
-------------------
Each request has a stream, the response to its POST; stream 0 is the client's GET. What the mesh says for a request goes on that request's
stream. What a server says to no request in particular (over stdio nothing tells) goes where it most likely belongs: on the stream of the
only request that runs, or else on the GET stream, or, without one, on that of the newest request. With nothing open it waits for the GET.

Every event of a stream has an id, `{stream}-{number}`, and is kept for a while. A client that lost its connection asks with
`Last-Event-ID`, and the stream goes on behind that event: closing a connection cancels nothing in this era. An answer that was a
whole JSON body is not kept, since nothing of it has an id.

A session ends when its client says so, when nothing happens on it for long, or when its instance is gone. Its id is unknown from then on,
and a client that gets 404 begins anew. Many clients just leave (the TypeScript SDK's does), and a session holds a process of the server:
so where an agent takes no more sessions, one whose client seems to have left makes room.

Source: MCP 2025-11-25 basic/transports, streamable HTTP, and the revisions before it.
"""

import json
import secrets
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from bridge.host_link import HostLink
from bridge.web.guests import Guest
from bridge.web.outlet import HeaderList, Outlet, Receive, Send
from bridge.web.rules import PRIMED, REQUEST_CANCELLED, headers_of, is_busy, mesh_status
from mesh import clock
from mesh.errors import MeshError
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps, error

WINDOW: Final = 0.5
"""Seconds for which an answer may still become JSON. From then on it is a stream, which a client can take up again."""

MOST_EVENTS: Final = 500
MOST_EVENT_BYTES: Final = 1024 * 1024
"""Events that a session keeps, all its streams together; the oldest make room. One event over that size is not kept."""

SEEMS_LEFT: Final = 60.0
"""Seconds without a request after which a client that keeps no stream open seems to have left, when its room is needed."""

MOST_RUNNING: Final = 100
"""Requests of one session at once. SDKs' clients have a handful."""


class Stream:
    """What one request of the client hears, or its GET (number 0)."""

    __slots__ = ("done", "kept", "lost", "number", "outlet", "request", "sent")

    def __init__(self, number: int, request: str | int | None = None) -> None:
        self.number = number
        self.request = request
        self.outlet: Outlet | None = None
        self.sent = 0
        """The last event that was given to a connection."""
        self.lost = 0
        """The last event that is kept no more."""
        self.kept = 0
        self.done = False

    @property
    def live(self) -> bool:
        return self.outlet is not None and not self.outlet.gone


class Session:
    """Made for an `initialize`. The link is `open`ed after that, since it calls back here."""

    def __init__(
        self,
        agent: str | None,
        guest: Guest,
        on_end: "Callable[[Session], None]",
        make_room: Callable[[str | None, Callable[[], None]], bool],
        denied: Callable[[], HeaderList],
    ) -> None:
        """`make_room` is asked when the agent takes no more sessions: whether another one ends for it, and what to do when it has.
        `denied` is what an answer says besides where the user may not begin one."""
        self.id = secrets.token_urlsafe(24)
        self.agent = agent
        self.guest = guest
        self.link: HostLink
        self.version = ""
        self.ended = False
        self.requests = 0
        """HTTP requests that are being served: none of them, and the session is idle."""
        self.idle_since = clock.monotonic()
        self._on_end = on_end
        self._make_room = make_room
        self._denied = denied
        self._listened = False
        """Whether there was a GET once."""
        self._get = Stream(0)
        self._streams: dict[int, Stream] = {0: self._get}
        self._running: dict[int, Stream] = {}
        self._events: deque[tuple[Stream, int, bytes, bool]] = deque()
        self._size = 0
        self._numbers = 0
        self._last = 0

    @property
    def headers(self) -> HeaderList:
        return [(b"mcp-session-id", self.id.encode())]

    @property
    def busy(self) -> bool:
        return len(self._running) >= MOST_RUNNING

    @property
    def seems_left(self) -> bool:
        """Whether nobody seems to be there: the GET stream was closed, or there was none, and no word for long."""
        return not self.requests and (self._listened or clock.monotonic() - self.idle_since > SEEMS_LEFT)

    # from the link

    def on_message(self, raw: bytes) -> None:
        """What belongs to no request."""
        self._put(self._likely(), raw, False)

    def on_over(self, _: MeshError) -> None:
        """The instance is gone. Requests that ran have their errors; the stream ends, and so does what the id was good for."""
        self._end()

    def _likely(self) -> Stream:
        live = [stream for stream in self._running.values() if stream.live]
        if len(live) == 1:
            return live[0]
        return live[-1] if live and not self._get.live else self._get

    def _put(self, stream: Stream, raw: bytes, final: bool) -> None:
        if stream.done:
            return
        if final:
            stream.done = True
            self._running.pop(stream.number, None)
            if stream.outlet is not None and stream.outlet.whole:
                self._streams.pop(stream.number, None)
                stream.outlet.put(raw, True)
                return
        self._last += 1
        if stream.live:
            assert stream.outlet is not None
            stream.outlet.put(raw, final, b"%d-%d" % (stream.number, self._last))
            stream.sent = self._last
        self._keep(stream, raw, final)

    def _keep(self, stream: Stream, raw: bytes, final: bool) -> None:
        self._events.append((stream, self._last, raw, final))
        stream.kept += 1
        self._size += len(raw)
        while self._size > MOST_EVENT_BYTES or len(self._events) > MOST_EVENTS:
            old, number, gone, _ = self._events.popleft()
            self._size -= len(gone)
            old.kept -= 1
            old.lost = number
            if old.done and not old.kept and old is not self._get:
                self._streams.pop(old.number, None)

    # from the client

    async def post(self, frame: Frame, receive: Receive, send: Send, *, stream_first: bool = False) -> None:
        """A request, and its response; not as JSON where the client would rather have a stream."""
        self._numbers += 1
        stream = self._streams[self._numbers] = self._running[self._numbers] = Stream(self._numbers, frame.id)
        begun = b"%d-%d" % (stream.number, self._last)
        outlet = stream.outlet = Outlet(receive, send)
        opening = frame.method == "initialize" and not self.version
        self.link.take(frame, partial(self._on_opening, frame, stream) if opening else partial(self._put, stream))
        try:
            await outlet.run(0 if stream_first else WINDOW, self._answer, self.headers, begun if self.version in PRIMED else b"")
        finally:
            if stream.outlet is outlet:
                stream.outlet = None
            if opening and not self.version and not stream.done:
                self.end("the client has left")

    def tell(self, frame: Frame) -> None:
        """A notification, or an answer to the server. The stream of a request that is cancelled ends here, with an answer that says so."""
        self.link.take(frame)
        if frame.method == "notifications/cancelled":
            for stream in [stream for stream in self._running.values() if stream.request == frame.cancels]:
                self._put(stream, error(dumps(stream.request), REQUEST_CANCELLED, "Request cancelled"), True)

    def resume(self, event_id: str | None) -> Stream | None:
        """The stream behind that event, or the GET stream without one. None where it cannot be taken up: unknown, or events are missing."""
        if event_id is None:
            return None if self._get.live else self._get
        first, _, second = event_id.partition("-")
        if not (first.isdecimal() and second.isdecimal() and len(event_id) < 40):
            return None
        stream, after = self._streams.get(int(first)), int(second)
        if stream is None or after > self._last or (after < stream.lost and stream is not self._get):
            return None
        stream.sent = after
        return stream

    async def listen(self, stream: Stream, receive: Receive, send: Send) -> None:
        """A GET: what the stream has to say from where the client left it."""
        if stream.outlet is not None:
            stream.outlet.end()  # the client has a new connection
        self._listened = self._listened or stream is self._get
        outlet = stream.outlet = Outlet(receive, send)
        for of, number, raw, final in self._events:
            if of is stream and number > stream.sent:
                outlet.put(raw, final, b"%d-%d" % (stream.number, number))
                stream.sent = number
        if stream.done or self.ended:
            outlet.end()
        try:
            await outlet.run(0, self._answer, self.headers)
        finally:
            if stream.outlet is outlet:
                stream.outlet = None

    def hang_up(self, stream: Stream) -> None:
        """End the client's connection to a stream, which it may take up again."""
        if stream.outlet is not None:
            stream.outlet.end()

    def end(self, why: str) -> None:
        """End it from this side. What still runs is answered, and cancelled at the server when the link closes."""
        for stream in list(self._running.values()):
            said = error(dumps(stream.request), control.MESH_ERROR, f"the session has ended: {why}", {"mesh": "session_lost"})
            self._put(stream, said, True)
        self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self._get.done = True
            if self._get.outlet is not None:
                self._get.outlet.end()
            self._on_end(self)

    def _on_opening(self, frame: Frame, stream: Stream, raw: bytes, final: bool) -> None:
        """The answer to the `initialize` that made the session: a session it is, or none."""
        if final:
            try:
                self.version = str(json.loads(raw)["result"].get("protocolVersion") or "-")
            except (ValueError, LookupError, AttributeError, RecursionError):
                if is_busy(raw) and self._make_room(self.agent, partial(self._open_again, frame, stream)):
                    return
                self._end()
        self._put(stream, raw, final)

    def _open_again(self, frame: Frame, stream: Stream) -> None:
        if not self.ended:
            self.link.take(frame, partial(self._on_opening, frame, stream))

    def _answer(self, raw: bytes) -> tuple[int, HeaderList]:
        if self.ended and not self.version:
            status = mesh_status(raw)
            return status, headers_of(raw, status, self._denied)
        if self.ended:
            # Only "there is no such session" lets a client begin anew by itself; what has maybe run must say so instead.
            return (404 if b'"session_lost"' in raw else 200), []
        return 200, self.headers
