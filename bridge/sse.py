"""Server-sent events: a stream of bytes cut into events. Pure.

Data and ids stay the bytes that arrived. The rules say "decode as UTF-8, with replacement characters"; replacing would change a message,
so whoever reads the data judges it. A line ends with CRLF, CR or LF, and a CR at the end of a chunk is a line's end at once: the LF that
may follow belongs to it, and an event must not wait for the next one to come.

Source: WHATWG HTML, section 9.2 (server-sent events), 9.2.5 and 9.2.6 for parsing.
"""

import re
from dataclasses import dataclass
from typing import Final

from mesh.errors import TooLarge

LARGEST_EVENT: Final = 64 * 1024 * 1024 + 64 * 1024
"""Bytes of one event: a message of the mesh's limit for bodies, and room for the names of its fields."""

MOST_DIGITS: Final = 9
"""Of `retry`, in milliseconds: eleven days. More is as much nonsense as no digits."""

_line_end: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `type` is `b"message"` where the stream names none; `id` is the last that the stream has given, maybe before this
    event."""

    data: bytes
    type: bytes = b"message"
    id: bytes = b""


class EventStream:
    """The events of one response. `feed` returns those that are complete; what has no blank line behind it at the stream's end is no
    event."""

    def __init__(self, largest: int = LARGEST_EVENT) -> None:
        self.last_id = b""
        """Where a new connection goes on (`Last-Event-ID`). Empty: the stream gave none, or took it back."""
        self.retry: int | None = None
        """Milliseconds that the server wants a client to wait before it connects again."""
        self._largest = largest
        self._parts: list[bytes] = []  # of the line that has no end yet
        self._size = 0  # of the event so far, that line included
        self._data: list[bytes] = []
        self._type = b""
        self._id = b""
        self._after_cr = False
        self._start: bytes | None = b""  # the first bytes, until it is known whether they are a byte order mark

    def next(self) -> "EventStream":
        """For the connection that takes this stream up: what was given to wait and to go on from still holds."""
        stream = EventStream(self._largest)
        stream.last_id = stream._id = self.last_id
        stream.retry = self.retry
        return stream

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises TooLarge when an event, or a line, grows over the limit. The stream cannot be read on then."""
        if self._start is not None:
            chunk = self._start + chunk
            if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
                self._start = chunk
                return []
            self._start = None
            chunk = chunk.removeprefix(_BOM)
        if not chunk:
            return []
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        lines = _line_end.split(chunk)
        rest = lines.pop()
        events: list[Event] = []
        for line in lines:
            if self._parts:
                self._count(len(line))
                line = b"".join((*self._parts, line))
                self._parts = []
            else:
                self._count(len(line))
            if not line:
                self._dispatch(events)
            else:
                self._count(1)  # empty fields take memory too
                self._take(line)
        if rest:
            self._count(len(rest))
            self._parts.append(rest)
        return events

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._largest:
            raise TooLarge("an event of the stream is over the size limit", limit=self._largest)

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._type = value
        elif field == b"id":
            if b"\0" not in value:
                self._id = value
        elif field == b"retry":
            if value.isdigit() and len(value) <= MOST_DIGITS:
                self.retry = int(value)
        else:
            # A comment (it begins with a colon) or a field of the future. Comments keep a connection alive, so
            # a stream may hold nothing else for hours: they must not add up to an event.
            self._size -= len(line) + 1

    def _dispatch(self, events: list[Event]) -> None:
        self.last_id = self._id
        if self._data:
            events.append(Event(b"\n".join(self._data), self._type or b"message", self._id))
        self._data, self._type, self._size = [], b"", 0
