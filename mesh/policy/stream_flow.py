"""One stream between two ends: numbers, credits, gaps, half close, silence. Pure: frames and times are handed in, frames come out.

Theory of operation
-------------------
Each direction numbers its messages from 0. What was not yet *received* by the other end is kept and can be sent again; what was not yet
*taken* by its reader counts against the window, in messages and in bytes. Both are said in one cumulative frame, the grant, so a grant that
is lost is made good by the next one. A receiver takes the next number and nothing else: what follows a gap is dropped and asked for again
(the broker keeps the order of a connection, so gaps come from broken connections only). So each end holds a window at most, in either
direction, whatever the other one does; one that sends more is cut off.

Resuming after a reconnection is no case of its own: a grant says how many messages its sender has sent, and whoever has received fewer asks
for them again. A grant with `ASK` wants one back. It is sent after a reconnection, when what was sent stays unconfirmed, and after a
silence; so lost frames, lost grants and dead peers are all found by the same question.

The end of a direction is a message like the others (`Kind.END`, or `Kind.ERROR` with a reason), so it comes after them and is not lost. An
abort is a frame of its own and takes effect at once, both ways; who asks about a stream that is over is told how it ended.

Frames, integers big-endian:

| frame | bytes                                                                                                              |
|-------|--------------------------------------------------------------------------------------------------------------------|
| data  | `D`, number of the first message (8), then for each message: kind (1), length (4), body                              |
| grant | `G`, flags (1: ASK 1, AGAIN 2), messages taken (8), bytes taken (8), messages received (8), messages sent (8)      |
| abort | `X`, JSON `{"code", "message"}`                                                                                    |

This module is long because both directions of a stream keep one account, and every rule of it stands beside its counterpart.
"""

import json
import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, Final, NamedTuple

from mesh.errors import MalformedMessage, StreamIdle, StreamLost, StreamRefused

WINDOW: Final = 256
WINDOW_BYTES: Final = 1024 * 1024
"""What one end may have sent without its being taken. One message may always be on its way, however long."""

GROUP_BYTES: Final = 32 * 1024
"""Messages that wait together go out as one frame of about this size: a frame costs broker and receiver as much as a long message."""

CONFIRM: Final = 0.2
"""Seconds after which what was received is confirmed, if no grant has said so by itself."""
RETRY: Final = 0.5
"""Seconds without confirmation after which the sender asks; doubled each time, up to `KEEPALIVE`."""
KEEPALIVE: Final = 2.0
"""Seconds of silence after which an end asks whether the other one is there."""
LOST: Final = 15.0
"""Seconds of silence after which the other end counts as lost. A broker that restarts takes some of them."""
ABSENT: Final = 4.0
"""Seconds for which the broker may say that nobody listens there. After a restart of the broker the ends come back one after the other."""
IDLE: Final = 300.0
"""Seconds without a message in either direction after which a stream ends, by default."""


class Kind(Enum):
    """What a message is. The value is its first byte on the wire."""

    BYTES = 98  # b
    TEXT = 115  # s
    JSON = 106  # j
    END = 101  # e: nothing follows in this direction
    ERROR = 120  # x: nothing follows, and why; the body is JSON


class Item(NamedTuple):
    kind: Kind
    body: bytes


class State(Enum):
    """Of a stream as one end sees it. `Ours` and `theirs` are the directions in which we and they send."""

    OPEN = "open"
    OURS_ENDED = "ours ended"
    THEIRS_ENDED = "theirs ended"
    OVER = "over"


class Event(Enum):
    END_OURS = "we said the last message"
    END_THEIRS = "they said the last message, and it was received"
    ABORT = "either end gave up, or is lost"


TRANSITIONS: Final[dict[State, dict[Event, State | None]]] = {
    State.OPEN: {Event.END_OURS: State.OURS_ENDED, Event.END_THEIRS: State.THEIRS_ENDED, Event.ABORT: State.OVER},
    State.OURS_ENDED: {Event.END_OURS: None, Event.END_THEIRS: State.OVER, Event.ABORT: State.OVER},
    State.THEIRS_ENDED: {Event.END_OURS: State.OVER, Event.END_THEIRS: None, Event.ABORT: State.OVER},
    State.OVER: {Event.END_OURS: None, Event.END_THEIRS: None, Event.ABORT: None},
}
"""Every state has an answer to every event; None: it changes nothing."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Why a stream ended before its time. Codes: `stream_cancelled`, `left`, `stream_lost`, `stream_idle`, `stream_refused`."""

    code: str
    message: str

    def encode(self) -> bytes:
        return b"X" + json.dumps({"code": self.code, "message": self.message[:500]}, separators=(",", ":")).encode()


CANCELLED: Final = "stream_cancelled"
LEFT: Final = "left"
"""The other end has said all that it had to say, and reads no more."""

ASK: Final = 1
AGAIN: Final = 2

_GRANT: Final = struct.Struct(">cBQQQQ")
_FIRST: Final = struct.Struct(">cQ")
_HEAD: Final = struct.Struct(">BI")
_KINDS: Final = {kind.value: kind for kind in Kind}
_LAST: Final = frozenset({Kind.END, Kind.ERROR})

OVERHEAD: Final = _FIRST.size + _HEAD.size
"""Bytes that a message needs besides its body, alone in its frame."""


class Flow:
    """One end of one stream. `window` and `window_bytes` hold both ways. After each call that may have changed something, send what
    `outgoing` returns and look at `due`."""

    __slots__ = (
        "_absent_since",
        "_again",
        "_again_at",
        "_asked_at",
        "_confirmed_at",
        "_gap",
        "_gap_at",
        "_granted",
        "_granted_bytes",
        "_granted_received",
        "_in_bytes",
        "_in_taken_bytes",
        "_last_change",
        "_nagging",
        "_out_bytes",
        "_out_taken_bytes",
        "_queue",
        "_sizes",
        "_to_send",
        "_unconfirmed",
        "_urgent",
        "_wants",
        "abort",
        "confirmed",
        "heard_at",
        "idle",
        "received",
        "sent",
        "started",
        "state",
        "taken",
        "their_taken",
        "window",
        "window_bytes",
    )

    def __init__(
        self, now: float, *, window: int = WINDOW, window_bytes: int = WINDOW_BYTES, idle: float = IDLE, opens: bool = True
    ) -> None:
        self.window = window
        self.window_bytes = window_bytes
        self.idle = idle
        self.state = State.OPEN
        self.abort: Abort | None = None
        self.started = opens
        """Whether the other end is known to listen: who was asked for a stream waits for the first grant of who asked."""
        # what we send
        self.sent = 0
        """Messages that went out at least once."""
        self.confirmed = 0
        """Of these, those that the other end has received."""
        self.their_taken = 0
        self._unconfirmed: deque[bytes] = deque()
        """Messages from `confirmed` on as they stand in a frame, those that did not go out yet among them."""
        self._to_send = 0
        """The number of the next message to go out; after a gap it lies behind `sent`."""
        self._sizes: deque[int] = deque()
        """Sizes of the messages from `their_taken` on."""
        self._out_bytes = 0
        self._out_taken_bytes = 0
        self._again = -1
        self._again_at = now
        # what we receive
        self.received = 0
        self.taken = 0
        self._queue: deque[Item] = deque()
        self._in_bytes = 0
        self._in_taken_bytes = 0
        self._granted = 0
        self._granted_bytes = 0
        self._granted_received = 0
        self._gap = -1
        self._gap_at = now
        # what is to be said, and when
        self._wants = 0 if not opens else ASK
        self._urgent = opens
        self._nagging = RETRY
        self._asked_at = now
        self._confirmed_at = now
        self.heard_at = now
        self._absent_since: float | None = None
        self._last_change = now

    # sending

    @property
    def room(self) -> bool:
        """Whether another message may be given to `push`."""
        held = self.confirmed + len(self._unconfirmed) - self.their_taken
        return held == 0 or (held < self.window and self._out_bytes - self._out_taken_bytes < self.window_bytes)

    @property
    def all_received(self) -> bool:
        """Whether the other end has received all that was said."""
        return not self._unconfirmed

    def push(self, kind: Kind, body: bytes, now: float) -> None:
        """Say a message. Look at `room` first (the last message needs none), and say nothing after the end."""
        assert self.state in (State.OPEN, State.THEIRS_ENDED)
        self._unconfirmed.append(_HEAD.pack(kind.value, len(body)) + body)
        self._sizes.append(len(body))
        self._out_bytes += len(body)
        self._last_change = now
        if kind in _LAST:
            self._change(Event.END_OURS)

    # receiving

    @property
    def waiting(self) -> int:
        """Messages that nobody has taken yet."""
        return len(self._queue)

    @property
    def unread_bytes(self) -> int:
        return self._in_bytes - self._in_taken_bytes

    def take(self, now: float) -> Item | None:
        """The next message, or None where there is none now."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        self.taken += 1
        self._in_taken_bytes += len(item.body)
        self._last_change = now
        # A quarter of the window keeps the sender going while the grant is on its way.
        if (self.taken - self._granted) * 4 >= self.window or (self._in_taken_bytes - self._granted_bytes) * 4 >= self.window_bytes:
            self._urgent = True
        return item

    def receive(self, frame: bytes, now: float) -> None:
        """A frame of the other end. What is no frame ends the stream."""
        if self.abort is not None:
            return
        self.heard_at, self._absent_since = now, None
        try:
            match frame[:1]:
                case b"D":
                    self._on_data(frame, now)
                case b"G":
                    self._on_grant(frame, now)
                case b"X":
                    self._on_abort(frame)
                case _:
                    raise MalformedMessage("no frame of a stream", starts=frame[:20])
        except MalformedMessage as problem:
            self.give_up(StreamRefused.code, f"the other end broke the protocol: {problem.message}")

    def _on_data(self, frame: bytes, now: float) -> None:
        if len(frame) < _FIRST.size:
            raise MalformedMessage("a frame that was cut off", starts=frame[:20])
        number = _FIRST.unpack_from(frame)[1]
        at, end = _FIRST.size, len(frame)
        if number > self.received:
            self._ask_again(now)
            return
        before = expected = self.received
        queue = self._queue
        while at < end:
            start = at + _HEAD.size
            if start > end:
                raise MalformedMessage("a frame that was cut off", starts=frame[:20])
            byte, length = _HEAD.unpack_from(frame, at)
            at = start + length
            kind = _KINDS.get(byte)
            if at > end or kind is None:
                raise MalformedMessage("a message that is not whole, or of no kind", starts=frame[:20])
            if number == expected:
                if self.state in (State.THEIRS_ENDED, State.OVER) or not (kind in _LAST or self._fits(expected)):
                    raise MalformedMessage("more than was granted, or something after the end", number=number)
                queue.append(Item(kind, frame[start:at]))
                self._in_bytes += length
                expected += 1
                self.received = expected
                if kind in _LAST:
                    self._change(Event.END_THEIRS)
                    self._urgent = True
            number += 1
        if before < expected:
            self._last_change = now
        if self._granted_received == before < expected:
            self._confirmed_at = now  # the time to confirm begins with the first message that is not confirmed

    def _fits(self, number: int) -> bool:
        """The same rule as the sender's `room`. Grants that are on their way only widen it."""
        return number == self.taken or (number - self.taken < self.window and self._in_bytes - self._in_taken_bytes < self.window_bytes)

    def _on_grant(self, frame: bytes, now: float) -> None:
        if len(frame) != _GRANT.size:
            raise MalformedMessage("a grant of another length", starts=frame[:20])
        _, flags, taken, taken_bytes, received, sent = _GRANT.unpack(frame)
        if not taken <= received <= self.sent:
            raise MalformedMessage("a grant for what was never sent", taken=taken, received=received)
        self.started = True
        if received > self.confirmed:
            for _ in range(received - self.confirmed):
                self._unconfirmed.popleft()
            self.confirmed = received
            self._to_send = max(self._to_send, received)
            self._nagging, self._asked_at = RETRY, now
        if taken > self.their_taken:
            freed = sum(self._sizes.popleft() for _ in range(taken - self.their_taken))
            if self._out_taken_bytes + freed != taken_bytes:
                raise MalformedMessage("a grant whose bytes are not those of its messages", taken=taken, bytes=taken_bytes)
            self.their_taken, self._out_taken_bytes = taken, taken_bytes
        if flags & AGAIN and received == self.confirmed and (self._again != received or now - self._again_at >= RETRY / 2):
            # Who asks again for the same sooner than the protocol lets him would have a window for each question.
            self._again, self._again_at = received, now
            self._to_send = self.confirmed
        if sent > self.received:
            self._ask_again(now)
        if flags & ASK:
            self._urgent = True

    def _ask_again(self, now: float) -> None:
        """Something is missing. One question is enough for all frames that follow the same gap; a question may be lost too."""
        if self._gap != self.received or now - self._gap_at >= RETRY:
            self._gap, self._gap_at = self.received, now
            self._wants |= AGAIN
            self._urgent = True

    def _on_abort(self, frame: bytes) -> None:
        try:
            said: Any = json.loads(frame[1:])
            abort = Abort(str(said["code"]), str(said.get("message", "")))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            raise MalformedMessage("an abort that cannot be read", starts=frame[:20]) from None
        self._over(abort)

    # ending

    def give_up(self, code: str, message: str) -> None:
        """End both directions now. The next `outgoing` tells the other end."""
        if self.abort is None:
            self._over(Abort(code, message))
            self._urgent = True

    def _over(self, abort: Abort) -> None:
        self._change(Event.ABORT)
        self.abort = abort
        self._unconfirmed.clear()
        self._sizes.clear()

    def _change(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event] or self.state

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do but to take what waits: both directions ended and all is confirmed, or it was aborted."""
        return self.abort is not None or (self.state is State.OVER and not self._unconfirmed)

    # time

    def resume(self, now: float) -> None:
        """Our connection was lost, and is there again."""
        self.heard_at, self._absent_since = max(self.heard_at, now - KEEPALIVE), None
        self._wants |= ASK
        self._urgent = True

    def absent(self, now: float) -> None:
        """The broker says that nobody listens at the other end."""
        if self._absent_since is None:
            self._absent_since = now
        elif now - self._absent_since >= ABSENT:
            self.give_up(StreamLost.code, "the other end is gone")

    def tick(self, now: float) -> None:
        """What is due by now. Call it at `due`; earlier does no harm."""
        if self.abort is not None:
            return
        if now - self.heard_at >= LOST:
            self.give_up(StreamLost.code, f"nothing was heard of the other end for {LOST:g} s")
        elif now - self._last_change >= self.idle:
            self.give_up(StreamIdle.code, f"no message for {self.idle:g} s")
        elif not self.settled:
            if now >= self._next_question():
                self._nagging = min(self._nagging * 2, KEEPALIVE)
                self._asked_at = now
                self._wants |= ASK
                self._urgent = True
            if self._granted_received < self.received and now - self._confirmed_at >= CONFIRM:
                self._urgent = True

    def due(self) -> float:
        """When to call `tick`; infinite where never again."""
        if self.settled:
            return float("inf")
        due = min(self.heard_at + LOST, self._last_change + self.idle, self._next_question())
        if self._granted_received < self.received:
            due = min(due, self._confirmed_at + CONFIRM)
        return due

    def _next_question(self) -> float:
        """While something is unconfirmed, soon; else after a silence."""
        if self._to_send > self.confirmed:
            return self._asked_at + self._nagging
        return max(self.heard_at, self._asked_at) + KEEPALIVE

    # what goes out

    @property
    def has_outgoing(self) -> bool:
        return self._urgent or (self.started and self._to_send < self.confirmed + len(self._unconfirmed))

    def outgoing(self, now: float, limit: int = GROUP_BYTES) -> list[bytes]:
        """Frames to send now, in this order, each of `limit` bytes or of one message."""
        if self.abort is not None:
            frames = [self.abort.encode()] if self._urgent else []
            self._urgent = False
            return frames
        frames = self._data(now, limit) if self.started else []
        if self._urgent:
            frames.append(self.grant(self._wants))
            self._wants, self._urgent = 0, False
            self._granted, self._granted_bytes, self._granted_received = self.taken, self._in_taken_bytes, self.received
        return frames

    def grant(self, flags: int = 0) -> bytes:
        return _GRANT.pack(b"G", flags, self.taken, self._in_taken_bytes, self.received, self.sent)

    def _data(self, now: float, limit: int) -> list[bytes]:
        first, last = self._to_send, self.confirmed + len(self._unconfirmed)
        if first == last:
            return []
        if first == self.confirmed:
            self._asked_at = now  # nothing was on its way: the time to wait for a confirmation begins
        frames: list[bytes] = []
        group: list[bytes] = []
        size = 0
        number = first
        for message in islice(self._unconfirmed, first - self.confirmed, None):
            if group and size + len(message) > limit:
                frames.append(_FIRST.pack(b"D", number) + b"".join(group))
                number += len(group)
                group, size = [], 0
            group.append(message)
            size += len(message)
        frames.append(_FIRST.pack(b"D", number) + b"".join(group))
        self._to_send = last
        self.sent = max(self.sent, last)
        return frames
