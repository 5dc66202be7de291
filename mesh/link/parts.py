"""Bodies that are larger than a message of the broker may be: in chunks, from one end of an exchange to the other.

Theory of operation
-------------------
In the place of the large message goes a *stub*: the same method, name and id, and in `_meta` its size and hash. So permissions, pairing and
checks work as ever, and the journal keeps the hash. The receiver then asks the sender for the chunks, a few at a time (credits), on the
`part` family, which no stream takes. Each end listens on a subject of its own: name, and instance or connection. Who may ask is
known: the name is a token that the broker enforces, and must be that of the exchange's other side.

A chunk that was lost is asked for again. The receiver holds one buffer of the stub's size, bounded by `limit` and by `MOST_BYTES`
over all; the sender holds the body until the receiver has it, or the exchange ended, or nobody asked for `KEEP` seconds.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog

from mesh import clock
from mesh.errors import Busy, MalformedMessage, MeshError, OutcomeUnknown, TooLarge
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.wheel import Wheel
from mesh.subjects import NAME_KEYS, Subjects, escape, unescape
from mesh.wire.jsonrpc import Frame, Kind, dumps

CHUNK: Final = 256 * 1024
"""Bytes of a chunk. A quarter of what the broker takes, so that small messages find gaps between them."""

CREDITS: Final = 8
"""Chunks that may be on their way: 2 MiB, which fills a gigabit link at 16 ms of round trip."""

LIMIT: Final = 64 * 1024 * 1024
"""Bytes of one body, by default."""

MOST_BYTES: Final = 256 * 1024 * 1024
"""Bytes that one end holds for all its bodies, sent and received. Over it a body is refused as busy."""

MOST_BYTES_EACH: Final = 128 * 1024 * 1024
"""Of these, what it receives from one name: one that announces bodies and never sends them leaves room for the others."""

PATIENCE: Final = 2.0
ATTEMPTS: Final = 5
"""After so many seconds without a chunk it is asked for again, so many times in a row."""

KEEP: Final = 30.0
"""Seconds for which a body is kept for a receiver that does not ask."""

META: Final = "mesh/parts"
SMALL: Final = 4096
"""A stub is no longer than this, and the room that a message leaves for headers and the protocol's line."""

_log = structlog.get_logger("mesh.link")


class Stub(NamedTuple):
    """What stands for a large body."""

    size: int
    sha256: str
    end: str
    """The instance or connection that has it."""


def make_stub(frame: Frame, end: str) -> bytes:
    """The message that goes in the place of `frame`. Hashing takes some milliseconds a megabyte."""
    said = {"_meta": {META: {"size": len(frame.raw), "sha256": hashlib.sha256(frame.raw).hexdigest(), "end": end}}}
    if frame.method is None:
        return dumps({"jsonrpc": "2.0", "id": frame.id, "result": said})
    named = {NAME_KEYS[frame.method]: frame.name} if frame.method in NAME_KEYS else {}
    return dumps({"jsonrpc": "2.0", "id": frame.id, "method": frame.method, "params": {**named, **said}})


def read_stub(frame: Frame) -> Stub | None:
    """The stub that `frame` is, or None where it is an ordinary message. Raises MalformedMessage for a stub that says nonsense."""
    if len(frame.raw) > SMALL or b'"mesh/parts"' not in frame.raw or frame.kind not in (Kind.REQUEST, Kind.RESULT):
        return None
    try:
        body = json.loads(frame.raw)
    except (ValueError, RecursionError):
        return None  # what we wrote can be read
    holder = body.get("params" if frame.kind is Kind.REQUEST else "result")
    meta = holder.get("_meta") if isinstance(holder, dict) else None
    said = meta.get(META) if isinstance(meta, dict) else None
    if not isinstance(said, dict):
        return None
    size, digest, end = said.get("size"), said.get("sha256"), said.get("end")
    if not (isinstance(size, int) and size > 0 and isinstance(digest, str) and isinstance(end, str)):
        raise MalformedMessage("a stub lacks size, sha256 or end", starts=frame.raw[:80])
    return Stub(size, digest, end)


@dataclass(slots=True, eq=False)
class _Offer:
    """A body that waits to be asked for. `peer` None: whoever holds the exchange (a role's member, known by its grant)."""

    id: str
    body: bytes
    allowed: Callable[[str], bool]
    slot: int = -1


@dataclass(slots=True, eq=False)
class _Fetch:
    """A body that comes in."""

    id: str
    stub: Stub
    peer: str
    buffer: bytearray
    done: Callable[[bytes | MeshError], None]
    next: int = 0
    granted: int = 0
    attempts: int = 0
    slot: int = -1


class Parts:
    """One end: `me` is its name on the mesh, `end` its instance or connection."""

    def __init__(self, connection: Connection, subjects: Subjects, me: str, end: str, *, limit: int = LIMIT) -> None:
        self.end = end
        self.limit = limit
        self._connection = connection
        self._subjects = subjects
        self._me = me
        self._offers: dict[str, _Offer] = {}
        self._fetches: dict[str, _Fetch] = {}
        self._held = 0
        self._wheel: Wheel[Any] = Wheel(self._on_due)
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._connection.subscribe(self._subjects.parts_to(self._me, self.end), self._on_message)

    async def close(self) -> None:
        self._wheel.stop()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def too_large(self, size: int) -> bool:
        """Whether a body of that size needs a stub. Raises TooLarge where it is over the limit of the mesh, too."""
        if size <= self._connection.max_payload - SMALL:
            return False
        if size > self.limit:
            raise TooLarge(f"a body of {size} bytes is over the mesh's limit", limit=self.limit)
        return True

    def offer(self, frame: Frame, allowed: Callable[[str], bool]) -> bytes:
        """Keep a body for the other side, and return the stub to send in its place. `allowed(name)`: who may ask for it. Raises Busy."""
        self._hold(len(frame.raw))
        stub = make_stub(frame, self.end)
        offer = _Offer(str(frame.id), frame.raw, allowed)
        self._drop_offer(offer.id)
        self._offers[offer.id] = offer
        self._wheel.add(offer, clock.monotonic() + KEEP)
        return stub

    def withdraw(self, id: str) -> None:
        """The exchange is over: nobody asks any more, and nobody waits."""
        if self._offers:
            self._drop_offer(id)
        if self._fetches and (fetch := self._fetches.get(id)) is not None:
            self._end_fetch(fetch)

    def fetching(self, id: str) -> bool:
        return id in self._fetches

    def fetch(self, id: str, stub: Stub, peer: str, done: Callable[[bytes | MeshError], None]) -> None:
        """Get the body behind a stub from `peer`. `done` is called once, in the read loop, with the body or with what went wrong."""
        try:
            if stub.size > self.limit:
                raise TooLarge(f"a body of {stub.size} bytes is over the mesh's limit", limit=self.limit)
            self._hold(stub.size)
            if sum(each.stub.size for each in self._fetches.values() if each.peer == peer) + stub.size > MOST_BYTES_EACH:
                self._held -= stub.size
                raise Busy(f"too many large bodies of {peer} at once", retry_after=1.0)
        except MeshError as problem:
            done(problem)
            return
        fetch = _Fetch(id, stub, peer, bytearray(stub.size), done)
        self._fetches[id] = fetch
        self._grant(fetch)
        self._wheel.add(fetch, clock.monotonic() + PATIENCE)

    # the sender's side

    def _on_message(self, message: Message) -> None:
        """`part.{me}.{end}.{from}.{exchange id}`: a grant (G) or a chunk (C)."""
        try:
            sender, caller, connection, number = message.subject.split(".")[5:]
        except ValueError:
            return
        id = f"{caller}.{connection}.{number}"
        kind = message.body[:1]
        if kind == b"C":
            self._on_chunk(id, sender, message.body)
        elif kind == b"G":
            self._on_grant(id, sender, message.body)

    def _on_grant(self, id: str, sender: str, body: bytes) -> None:
        offer = self._offers.get(id)
        try:
            asked = json.loads(body[1:])
            first, count, end = int(asked["next"]), int(asked["count"]), str(asked["end"])
        except (ValueError, KeyError, TypeError):
            return
        if offer is None or not offer.allowed(sender) or first < 0 or not 0 <= count <= CREDITS:
            _log.info("a grant for nothing that is offered to it", exchange=id, by=sender)
            return
        if count == 0:
            self._drop_offer(id)
            return
        self._wheel.move(offer, clock.monotonic() + KEEP)
        subject = self._subjects.part(unescape(sender), end, self._me, id)
        for index in range(first, first + count):
            data = offer.body[index * CHUNK : (index + 1) * CHUNK]
            if not data:
                return
            try:
                self._connection.send(subject, b"C" + index.to_bytes(4, "big") + data)
            except MeshError:
                return  # asked for again

    def _drop_offer(self, id: str) -> None:
        if (offer := self._offers.pop(id, None)) is not None:
            self._held -= len(offer.body)
            self._wheel.remove(offer)

    # the receiver's side

    def _grant(self, fetch: _Fetch) -> None:
        """Ask for all chunks that may be on their way and are not."""
        until = min(fetch.next + CREDITS, -(-fetch.stub.size // CHUNK))
        first = max(fetch.next, fetch.granted)
        if until > first:
            fetch.granted = until
            self._ask(fetch, first, until - first)

    def _ask(self, fetch: _Fetch, first: int, count: int) -> None:
        subject = self._subjects.part(fetch.peer, fetch.stub.end, self._me, fetch.id)
        try:
            self._connection.send(subject, b"G" + dumps({"next": first, "count": count, "end": self.end}))
        except MeshError:
            return  # asked again when it is due

    def _on_chunk(self, id: str, sender: str, body: bytes) -> None:
        fetch = self._fetches.get(id)
        if fetch is None or sender != escape(fetch.peer):
            return
        index = int.from_bytes(body[1:5], "big")
        data = body[5:]
        if index != fetch.next or index * CHUNK + len(data) > fetch.stub.size:
            return  # sent twice, or behind one that was lost: asked for again when it is due
        fetch.buffer[index * CHUNK : index * CHUNK + len(data)] = data
        fetch.next += 1
        fetch.attempts = 0
        if fetch.next * CHUNK >= fetch.stub.size:
            self._ask(fetch, fetch.next, 0)
            self._finish(fetch)
            return
        if fetch.granted - fetch.next <= CREDITS // 2:
            self._grant(fetch)
        self._wheel.move(fetch, clock.monotonic() + PATIENCE)

    def _finish(self, fetch: _Fetch) -> None:
        body = bytes(fetch.buffer)
        self._end_fetch(fetch)
        if hashlib.sha256(body).hexdigest() != fetch.stub.sha256:
            fetch.done(MalformedMessage("a body that came in chunks is not the one that was announced"))
        else:
            fetch.done(body)

    def _end_fetch(self, fetch: _Fetch) -> None:
        self._fetches.pop(fetch.id, None)
        self._held -= fetch.stub.size
        self._wheel.remove(fetch)

    def _on_due(self, item: "_Offer | _Fetch", now: float) -> None:
        if isinstance(item, _Offer):
            self._drop_offer(item.id)
            return
        item.attempts += 1
        if item.attempts > ATTEMPTS:
            self._end_fetch(item)
            item.done(OutcomeUnknown(f"{item.peer} no longer has the body of {item.stub.size} bytes that it announced"))
            return
        item.granted = item.next
        self._grant(item)
        self._wheel.add(item, now + PATIENCE)

    def _hold(self, size: int) -> None:
        if self._held + size > MOST_BYTES:
            raise Busy("too many large bodies at once", retry_after=1.0)
        self._held += size
