"""Bytes over HTTP, with a bound on each wait and on each size: the parts that requests, notices and the session's stream share."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import httpx2

from bridge.ports.http_errors import BadAnswer
from bridge.ports.http_headers import EVENTS, LAST_EVENT_ID, SESSION_ID
from bridge.sse import EventStream
from mesh.errors import TooLarge

LARGEST_BODY: Final = 64 * 1024 * 1024
"""Bytes of one message, both ways: the mesh's own limit for bodies."""

MOST_DELAY: Final = 30.0
"""Seconds before a stream is taken up again, at most: longer, and a server that is back is not found."""

LEAST_DELAY: Final = 0.05
"""Seconds, at least: a server that says `retry: 0` and ends each stream at once must not keep us spinning."""

LONGEST_ID: Final = 4_096
"""Bytes of an event id or a session id that is sent back in a header: servers take 8 KiB of headers and more."""

DRAIN: Final = 0.2
"""Seconds to wait for a stream's end behind its answer. A stream that has ended gives its connection back; a closed one costs a new
connection."""

_PIECE: Final = 1024 * 1024
"""Bytes handed to the socket at once: the write timeout is for each piece."""


class Body(httpx2.AsyncByteStream):
    """A request body that says when all of it was handed to the socket."""

    def __init__(self, raw: bytes, sent: asyncio.Event | None = None) -> None:
        self._raw = raw
        self._sent = sent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if len(self._raw) <= _PIECE:
            yield self._raw
        else:
            view = memoryview(self._raw)
            for at in range(0, len(view), _PIECE):
                yield bytes(view[at : at + _PIECE])
        if self._sent is not None:
            self._sent.set()


def chunks(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The body as it arrives. We ask for no compression: a few bytes of it can become gigabytes, and it holds events back."""
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise BadAnswer("the answer is compressed, which was not asked for", encoding=response.headers["content-encoding"][:40])
    return response.aiter_raw()


async def read_body(response: httpx2.Response, most: int = LARGEST_BODY, *, cut: bool = False) -> bytes:
    """The whole body. Over `most` bytes: TooLarge, or with `cut` its beginning."""
    length = response.headers.get("content-length", "")
    if not cut and length.isdigit() and int(length[:19]) > most:
        raise TooLarge("the answer is over the size limit", limit=most)
    parts: list[bytes] = []
    size = 0
    async with contextlib.aclosing(chunks(response)) as stream:
        async for part in stream:
            parts.append(part)
            size += len(part)
            if size > most:
                if cut:
                    break
                raise TooLarge("the answer is over the size limit", limit=most)
    return b"".join(parts)[:most]


async def drain(stream: AsyncGenerator[bytes, None]) -> None:
    """Wait a moment for the end of a stream that has nothing more to say."""
    with contextlib.suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(DRAIN):
            async for _ in stream:
                pass


def content_type(response: httpx2.Response) -> str:
    value: str = response.headers.get("content-type", "")
    return value.partition(";")[0].strip().lower()


def session_id(response: httpx2.Response) -> str | None:
    """The session that an answer to `initialize` opens. MCP: visible ASCII only."""
    value: str = response.headers.get(SESSION_ID, "")
    return value if value and len(value) <= LONGEST_ID and all("!" <= each <= "~" for each in value) else None


def can_resume(events: EventStream) -> bool:
    """Whether the stream gave an id that a header can hold."""
    return 0 < len(events.last_id) <= LONGEST_ID and all(32 < byte != 127 for byte in events.last_id)


def resume_headers(events: EventStream) -> dict[str, str]:
    """The headers of a GET for a stream of events, from where `events` ended."""
    return {"Accept": EVENTS, **({LAST_EVENT_ID: events.last_id.decode("latin-1")} if can_resume(events) else {})}


def resume_delay(events: EventStream, otherwise: float) -> float:
    """Seconds to wait before a stream is taken up: as the server says, or `otherwise`, within bounds."""
    return min(MOST_DELAY, max(LEAST_DELAY, otherwise if events.retry is None else events.retry / 1000))
