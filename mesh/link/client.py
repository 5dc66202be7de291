"""nats-py's client with a fast lane: messages go straight between socket and handler, everything else stays nats-py's.

Why: nats-py reads through a stream reader, a task and a parser of regular expressions, and writes through a queue and another task. Each
of these costs a turn of the event loop, and each turn a system call: more than the rest of a call together. What nats-py does well
(connecting, authentication, TLS, the server pool, reconnection, pings, the replay of subscriptions) it goes on doing.

How: once connected, the lane takes the stream reader's place as the transport's protocol. It cuts the stream into protocol lines; `MSG`
and `HMSG` it hands over at once, in the order of the socket, and every other line (`PING`, `PONG`, `INFO`, `-ERR`) it feeds to the
stream reader that nats-py still reads. Sending writes to the transport in the same turn, unless nats-py has something waiting: then
behind that, so that a subscription and a message after it keep their order.

The lane is taken only between two frames and only on TCP, with TLS or without; on a WebSocket, and until then, `Client.msg_class` hands
messages over inside nats-py's read loop. It uses attributes of nats-py that are not public: tests/test_connection.py holds that they are
there, and pyproject pins the minor version.

Source: docs.nats.io, "Client protocol".
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, cast

import structlog
from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport
from nats.errors import Error
from nats.protocol.parser import AWAITING_CONTROL_LINE

from mesh.link.transports import Tcp, WebSocket

_log = structlog.get_logger("mesh.link")

Deliver = Callable[[int, str, str, bytes, dict[str, str] | None], None]
"""`(subscription id, subject, reply, body, headers)`. It must not raise."""

_WHITE: Final = " \t\n\r\x0b\x0c"
_VERSION: Final = b"NATS/1.0"
_END: Final = b"\r\n\r\n"
_STATUS: Final = ("Status", "Description")

LOOKS: Final = 50
LOOK_SECONDS: Final = 0.02
"""How often, and after how long, to look for a moment between two frames in which the lane can be taken."""


class NotSecure(Error):
    """The broker goes on without TLS, though its address asks for it."""


class FastClient(Client):
    """Give `deliver` before connecting; call `take_lane` after each (re)connection. With `secure` nothing is sent without TLS."""

    def __init__(self, deliver: Deliver, *, secure: bool = False) -> None:
        super().__init__()
        self._must_be_secure = secure
        self._deliver_to = deliver
        self._wire: asyncio.WriteTransport | None = None
        self._out: list[bytes] = []
        self._out_size = 0
        self._in_turn = 0
        self._crowded = False
        self.msg_class = self._make_message  # type: ignore[assignment]

    @property
    def reading(self) -> bool:
        """Whether nats-py's reading task lives. It can die while `is_connected` stays True."""
        return self._reading_task is not None and not self._reading_task.done()

    @property
    def stuck(self) -> bool:
        """Whether it is down and nobody is at it: the task that reconnects dies of what it does not expect a server to say."""
        task = self._reconnection_task
        return task is not None and task.done() and not (self.is_connected or self.is_closed)

    @property
    def server(self) -> dict[str, Any]:
        """What the server said at the start of the connection (INFO)."""
        return self._server_info

    @property
    def waiting(self) -> int:
        """Bytes that wait for the socket."""
        wire = self._wire
        return (
            self._pending_data_size + self._out_size + (wire.get_write_buffer_size() if wire is not None and not wire.is_closing() else 0)
        )

    def post(self, line: bytes) -> None:
        """Send a whole protocol line (with its payload), without waiting."""
        wire = self._wire
        if wire is not None and not self._pending and not wire.is_closing():
            self._in_turn += 1
            if self._in_turn == 1:
                asyncio.get_running_loop().call_soon(self._write_out)
                if not self._crowded:
                    wire.write(line)
                    return
            self._out.append(line)
            self._out_size += len(line)
            return
        self._pending.append(line)
        self._pending_data_size += len(line)
        queue = self._flush_queue
        if queue is not None and queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())

    def _write_out(self) -> None:
        """What was sent in one turn of the event loop goes out in one write: each write is a system call, and wakes the broker.

        Only while turns have one message each, it goes out at once: then there is nothing to wait for.
        """
        out, self._out, self._out_size = self._out, [], 0
        self._in_turn, self._crowded = 0, self._in_turn > 1
        if out and self._wire is not None and not self._wire.is_closing():
            self._wire.write(b"".join(out) if len(out) > 1 else out[0])

    async def _connect_to_server(self, s: Srv) -> None:
        """nats-py makes a transport where there is none; these are ours."""
        if not self._transport:
            self._transport = WebSocket() if s.uri.scheme in ("ws", "wss") else Tcp()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    @property
    def secure(self) -> bool:
        return isinstance(self._transport, Tcp | WebSocket) and self._transport.secure

    def _connect_command(self) -> bytes:
        """The first that we send, and who we are. nats-py believes a broker that says, in the clear, that it has no TLS: so might anybody
        on the way say."""
        if self._must_be_secure and not self.secure:
            raise NotSecure("the broker does not speak TLS")
        return super()._connect_command()

    async def _process_connect_init(self) -> None:
        """nats-py starts its tasks anew here, also where an attempt before this one failed halfway and left its own behind."""
        self._end_tasks()
        await super()._process_connect_init()

    def _end_tasks(self) -> None:
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and not task.done():
                task.cancel()

    def discard(self) -> None:
        """What `close` may leave behind."""
        self._end_tasks()
        if self._reconnection_task is not None and not self._reconnection_task.done():
            self._reconnection_task.cancel()
        if self._transport is not None:
            self._transport.close()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        self._write_out()
        await super().close()

    def leave_lane(self) -> None:
        """The connection is lost: what is sent from now on waits for the next one."""
        self._wire = None

    def take_lane(self, looks: int = LOOKS) -> None:
        """Put the lane between socket and nats-py, now or as soon as no frame is half read."""
        transport = self._transport
        writer = transport._io_writer if isinstance(transport, TcpTransport) else None
        reader = transport._io_reader if isinstance(transport, TcpTransport) else None
        if writer is None or reader is None or writer.is_closing():
            return
        wire = cast(asyncio.Transport, writer.transport)
        inner = wire.get_protocol()
        if isinstance(inner, _Lane):
            return
        if self._ps.buf or self._ps.state != AWAITING_CONTROL_LINE or cast(Any, reader)._buffer:
            if looks > 0:
                asyncio.get_running_loop().call_later(LOOK_SECONDS, self.take_lane, looks - 1)
            return
        wire.set_protocol(_Lane(cast(asyncio.Protocol, inner), reader, self._deliver_to))
        self._wire = wire

    def _make_message(self, subject: str, reply: str, data: bytes, headers: dict[str, str] | None, _client: Client, _sid: int) -> None:
        """Stands where nats-py makes a message object. Returning None tells it that there is nothing to queue."""
        self._deliver_to(_sid, subject, reply, data, headers)


def parse_headers(lines: bytes) -> dict[str, str]:
    """Headers by name, as nats-py's `_parse_header_lines` reads them, in a fraction of its time: there are few names."""
    headers: dict[str, str] = {}
    for line in lines.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and (key := _header_name(name)) is not None:
            headers[key] = value.strip(_WHITE)
    return headers


@lru_cache(maxsize=256)
def _header_name(name: str) -> str | None:
    """None where it is none: it is ASCII, without white space inside."""
    key = name.strip(_WHITE)
    return None if not key.isascii() or any(map(str.isspace, key)) else key


class _Lane(asyncio.Protocol):
    """Cuts the stream. What it does not know goes to nats-py's reader; the transport's other events go to nats-py's protocol."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        reader: asyncio.StreamReader,
        deliver: Deliver,
    ) -> None:
        self._inner = inner
        self._reader = reader
        self._deliver = deliver
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._failed = False

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts = []
        try:
            self._cut(data)
        except Exception:
            # The stream can no longer be understood. nats-py's reader sees its end, and reconnects.
            _log.exception("the broker's stream cannot be read")
            self._failed = True
            self._reader.feed_eof()

    def _cut(self, data: bytes) -> None:
        at, end, deliver = 0, len(data), self._deliver
        while at < end:
            eol = data.find(b"\r\n", at)
            if eol < 0:
                self._keep(data, at, 0)
                return
            kind = data[at]
            start = eol + 2
            if kind == 77:  # MSG subject sid [reply] size
                words = data[at:eol].split()
                stop = start + int(words[-1])
                if stop + 2 > end:
                    self._keep(data, at, stop + 2 - at)
                    return
                deliver(int(words[2]), words[1].decode(), words[3].decode() if len(words) == 5 else "", data[start:stop], None)
                at = stop + 2
            elif kind == 72:  # HMSG subject sid [reply] header-size size
                words = data[at:eol].split()
                stop = start + int(words[-1])
                if stop + 2 > end:
                    self._keep(data, at, stop + 2 - at)
                    return
                body = start + int(words[-2])
                reply = words[3].decode() if len(words) == 6 else ""
                deliver(int(words[2]), words[1].decode(), reply, data[body:stop], self._headers(data[start:body]))
                at = stop + 2
            else:
                self._reader.feed_data(data[at:start])
                at = start

    def _keep(self, data: bytes, at: int, need: int) -> None:
        rest = data[at:] if at else data
        self._parts = [rest]
        self._have = len(rest)
        self._need = need

    def _headers(self, raw: bytes) -> dict[str, str]:
        """Headers by name. A status line (`NATS/1.0 503 No Responders`) becomes `Status` and `Description`, as nats-py has them."""
        line, _, lines = raw.removesuffix(_END).partition(b"\r\n")
        headers = parse_headers(lines)
        for own in _STATUS:
            if own in headers:
                del headers[own]  # a sender's header of that name must not pass for the server's status
        if len(line) > len(_VERSION) and (status := line[len(_VERSION) :].strip().decode()):
            headers["Status"], _, headers["Description"] = status.partition(" ")
        return headers

    # the transport's other events

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
