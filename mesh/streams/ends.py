"""The streams of one connection: their frames out and in, their times, and what is known of dead peers.

What is said in one turn of the event loop goes out as few frames. A frame that cannot be sent is lost like any other: it is sent again when
the connection is back, or when the other end asks.

A peer that died is noticed by the first of these: the control plane's word that a caller is gone; the broker's word that nobody listens
there (it answers a question of ours, which has a reply subject), for `ABSENT` seconds; and silence (`LOST`).
"""

import asyncio
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final

import structlog

from mesh import clock
from mesh.errors import Busy, MeshError, StreamLost
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.wheel import Wheel
from mesh.policy.lines import worth_a_line
from mesh.policy.stream_flow import GROUP_BYTES, KEEPALIVE, Abort, Flow
from mesh.streams.stream import Stream
from mesh.subjects import Subjects

MOST_STREAMS: Final = 1_000
"""Streams of one connection at once; one more is refused."""
MOST_EACH: Final = 64
"""Of these, those that one caller has opened here: it leaves room for the others."""

MOST_UNREAD: Final = 256 * 1024 * 1024
"""Bytes that all streams together hold unread. Over it frames of streams on which something waits are dropped, and sent again later. One
caller's streams have half of it at most: 64 windows of 1 MiB, each with one message of 1 MiB that crosses it."""

AWAY: Final = 60.0
"""Seconds without a broker after which streams are lost."""

KEPT: Final = 60.0
MOST_KEPT: Final = 1_000
"""For how long, and of how many streams that are over, it is remembered how they ended: their other end may ask."""

_log = structlog.get_logger("mesh.streams")


class Ends:
    """Opened when the first stream is. `me` is our name on the mesh."""

    def __init__(self, connection: Connection, subjects: Subjects, me: str) -> None:
        self.me = me
        self.end = connection.token
        self.refused = 0
        self._connection = connection
        self._subjects = subjects
        self._streams: dict[str, Stream] = {}
        self._opened_by: Counter[str] = Counter()
        self._kept: OrderedDict[str, tuple[float, str, bytes]] = OrderedDict()
        self._dirty: dict[Stream, None] = {}
        self._flushing = False
        self._unread = 0
        self._wheel: Wheel[Stream] = Wheel(self._on_due)
        self._asking: dict[str, Stream] = {}
        self._numbers = itertools.count(1)
        self._inbox = connection.new_inbox()
        self._subscriptions: list[Subscription] = []
        self._detach: list[Callable[[], None]] = []
        self._opening = asyncio.Lock()

    @property
    def longest(self) -> int:
        return self._connection.max_payload - 256

    @property
    def count(self) -> int:
        return len(self._streams)

    async def open(self) -> None:
        """Listen. Raises BrokerUnavailable."""
        async with self._opening:
            if not self._subscriptions:
                take = self._connection.subscribe
                self._subscriptions = [
                    await take(self._subjects.stream_frames_to(self.me, self.end), self._on_frame),
                    await take(self._inbox + ".*", self._on_absent),
                ]
                self._detach = [self._connection.on_up(self._on_up)]

    async def close(self) -> None:
        """Those that are still open are lost to the other ends."""
        for stream in list(self._streams.values()):
            stream.flow.give_up(StreamLost.code, "this process leaves the mesh")
            stream.changed()
            self.release(stream)
        self._flush()
        self._wheel.stop()
        for detach in self._detach:
            detach()
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        self._subscriptions = []

    def add(self, flow: Flow, *, id: str, peer: str, type: str, content: Any, opened_by: str = "") -> Stream:
        """A new stream with `peer`. Raises Busy where there is no room for it, or the peer has one of that id."""
        key = self._subjects.stream_frame(self.me, self.end, peer, id)
        if opened_by and self._opened_by[opened_by] >= MOST_EACH:
            raise Busy(f"{self.me!r} has {MOST_EACH} streams of {opened_by!r} open, and takes no more", retry_after=1.0)
        if len(self._streams) >= MOST_STREAMS:
            raise Busy(f"{self.me!r} has {MOST_STREAMS} streams open, and takes no more", retry_after=1.0)
        if key in self._streams:
            raise Busy(f"{peer!r} has a stream {id!r} open here already")
        stream = Stream(self, flow, id=id, peer=peer, type=type, content=content, key=key)
        stream.number = str(next(self._numbers))
        stream.opened_by = opened_by
        self._streams[key] = stream
        if opened_by:
            self._opened_by[opened_by] += 1
        return stream

    def rename(self, stream: Stream, peer: str) -> None:
        """Who took it is known now: one who answers to the role that was asked."""
        if peer != stream.peer:
            del self._streams[stream.key]
            stream.peer, stream.key = peer, self._subjects.stream_frame(self.me, self.end, peer, stream.id)
            self._streams[stream.key] = stream

    def connect(self, stream: Stream, end: str) -> None:
        """The other end listens at `end`."""
        stream.out = self._subjects.stream_frame(stream.peer, end, self.me, stream.id)
        self.touch(stream)

    def release(self, stream: Stream) -> None:
        if self._streams.get(stream.key) is not stream:
            return
        self._say(stream)
        del self._streams[stream.key]
        self._unread -= stream.counted
        self._dirty.pop(stream, None)
        self._wheel.remove(stream)
        self._asking.pop(stream.number, None)
        if stream.opened_by:
            self._opened_by[stream.opened_by] -= 1
            if not self._opened_by[stream.opened_by]:
                del self._opened_by[stream.opened_by]
        if stream.out:
            last = stream.flow.abort.encode() if stream.flow.abort is not None else stream.flow.grant()
            self._kept[stream.key] = (clock.monotonic() + KEPT, stream.out, last)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)

    def lost(self, peer: str, end: str, why: str) -> None:
        """The connection of a peer is gone."""
        out = self._subjects.stream_frames_to(peer, end).removesuffix("*.*")
        for stream in list(self._streams.values()):
            if stream.out.startswith(out):
                stream.flow.receive(Abort(StreamLost.code, why).encode(), clock.monotonic())
                stream.changed()

    # out

    def touch(self, stream: Stream) -> None:
        self._dirty[stream] = None
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        dirty, self._dirty = self._dirty, {}
        for stream in dirty:
            self._say(stream)

    def _say(self, stream: Stream) -> None:
        flow = stream.flow
        if stream.out and flow.has_outgoing:
            now = clock.monotonic()
            asks = now - flow.heard_at >= KEEPALIVE
            try:
                for frame in flow.outgoing(now, GROUP_BYTES):
                    reply = ""
                    if asks and frame[:1] == b"G":
                        self._asking[stream.number] = stream
                        reply = f"{self._inbox}.{stream.number}"
                    self._connection.send(stream.out, frame, reply)
            except MeshError as problem:
                _log.debug("a frame of a stream was not sent", stream=stream.id, why=problem.message)
        self._count(stream)
        due = flow.due()
        if due != stream.scheduled and (due < stream.scheduled or stream.slot == -1):
            stream.scheduled = due
            if due == float("inf"):
                self._wheel.remove(stream)
            else:
                self._wheel.move(stream, due)

    def _count(self, stream: Stream) -> None:
        unread = stream.flow.unread_bytes
        self._unread += unread - stream.counted
        stream.counted = unread

    # in

    def _on_frame(self, message: Message) -> None:
        stream = self._streams.get(message.subject)
        now = clock.monotonic()
        if stream is None:
            self._on_unknown(message, now)
            return
        frame = message.body
        if self._unread > MOST_UNREAD and frame[:1] == b"D" and stream.flow.waiting:
            return
        flow = stream.flow
        flow.receive(frame, now)
        self._count(stream)
        stream.changed()
        if flow.has_outgoing or flow.due() < stream.scheduled:
            self.touch(stream)

    def _on_unknown(self, message: Message, now: float) -> None:
        """Of a stream that is over: how it ended, to who asks and did not hear. Of one that never was: nothing."""
        if message.body == b"?":
            return  # of a durable stream, whose other end asks the broker whether we are there
        kept = self._kept.get(message.subject)
        if kept is None or kept[0] < now:
            self._kept.pop(message.subject, None)
            self.refused += 1
            if worth_a_line(self.refused):
                _log.info("a frame of no stream", subject=message.subject, count=self.refused)
        elif message.body[:1] != b"X":
            try:
                self._connection.send(kept[1], kept[2])
            except MeshError:
                return  # it asks again

    def _on_absent(self, message: Message) -> None:
        stream = self._asking.pop(message.subject.rpartition(".")[2], None)
        if stream is not None and (message.headers or {}).get("Status") == "503":
            stream.flow.absent(clock.monotonic())
            self._changed_in_time(stream)

    # time

    def _on_due(self, stream: Stream, now: float) -> None:
        stream.scheduled = float("inf")
        if self._connection.connected or now - stream.flow.heard_at > AWAY:
            stream.flow.tick(now)
            self._changed_in_time(stream)
        else:
            self._wheel.add(stream, now + KEEPALIVE)

    def _changed_in_time(self, stream: Stream) -> None:
        if stream.flow.abort is not None:
            stream.changed()
        self._say(stream)

    def _on_up(self) -> None:
        now = clock.monotonic()
        for stream in self._streams.values():
            stream.flow.resume(now)
            self.touch(stream)
