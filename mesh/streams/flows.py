"""Consumers of durable streams: made, found and removed for those who receive (`mesh/flow`), and how far a queue goes. The control plane's
side.

A consumer belongs to one direction of one stream, and its name ends in 128 secret bits. Who asks gets what is sent to its own name, and
nothing else. Asking again makes a new consumer in the place of the old one, whose holder can read no more: so there is one reader, and what
it had not acknowledged comes to the new one. One that nobody pulls from for a day is removed by the broker, and what nobody read goes with
its stream's `max_age`.
"""

import base64
import hashlib
import secrets
from dataclasses import asdict
from typing import Any, Final

from mesh.errors import ApiError, Busy, MalformedMessage, TooLarge
from mesh.link.jetstream import CONSUMER_NOT_FOUND, NO_MESSAGE, JetStream
from mesh.link.reconcile import ensure
from mesh.streams.messages import unpack
from mesh.subjects import Mark as Named
from mesh.subjects import Subjects
from mesh.topology import MARKS, STREAMS, ConsumerSpec
from mesh.wire.entries import LONGEST_FILTER
from mesh.wire.reading import read_headers, read_object, read_text
from mesh.wire.stream import MARK_HEADER, Mark

MOST_FLOWS: Final = 200
"""Durable streams that one name receives at once: of 20,000 consumers it leaves the others some."""

ABANDONED: Final = 86_400.0
"""Seconds without a reader after which a durable stream counts as abandoned."""

ACK_WAIT: Final = 30.0

_OVERLAP: Final = frozenset({10099, 10100})
"""Another control plane was faster."""


class Flows:
    def __init__(self, js: JetStream, subjects: Subjects) -> None:
        self._js = js
        self._subjects = subjects

    async def answer(self, caller: str, params: bytes) -> dict[str, Any]:
        """`{"from", "stream", "end"?}`: `{"consumer": NAME}`; with `end` the direction is over, and what lies there goes.
        `{"with", "stream"}`: `{"said": MARK, "heard": MARK, "other"?}`, how far both directions are; `other` is with whom else the asker
        has said something on a stream of this id that goes on. Raises MalformedMessage, TooLarge, Busy."""
        asked = read_object(params, "a durable stream")
        stream = read_text(asked, "stream", params, "a durable stream")
        if "with" in asked:
            return await self._known(caller, read_text(asked, "with", params, "a durable stream"), stream)
        sender = read_text(asked, "from", params, "a durable stream")
        owner = _digest(caller)
        mark = f"{owner}-{_digest(sender, stream)}-"
        mine = [name for name in await self._names() if name.startswith(f"{owner}-")]
        await self._remove([name for name in mine if name.startswith(mark)])
        subject = self._subjects.flow(caller, sender, stream)
        if len(subject) > LONGEST_FILTER:
            raise TooLarge("the stream's name is too long for a subject", limit=LONGEST_FILTER)
        if asked.get("end") is True:
            await self._js.api(f"STREAM.PURGE.{STREAMS}", {"filter": subject})
            return {}
        if len(mine) >= MOST_FLOWS:
            raise Busy(f"{caller!r} receives {MOST_FLOWS} durable streams, and no more", retry_after=60.0)
        for attempt in (1, 2):
            name = mark + secrets.token_hex(16)
            spec = ConsumerSpec(stream=STREAMS, name=name, filters=(subject,), ack_wait=ACK_WAIT, inactive_threshold=ABANDONED)
            try:
                await ensure(self._js, spec)
                return {"consumer": name}
            except ApiError as error:
                if error.err_code not in _OVERLAP or attempt == 2:
                    raise
                await self._remove([each for each in await self._names() if each.startswith(mark)])
        raise AssertionError("unreachable")

    async def _known(self, caller: str, other: str, stream: str) -> dict[str, Any]:
        said = await self._mark(other, caller, stream)
        known = {"said": asdict(said), "heard": asdict(await self._mark(caller, other, stream))}
        last = None if said.last else await self._last(MARKS, self._subjects.marks_by(caller, stream))
        if last is None or _mark(last).ended:
            return known
        named = self._subjects.parse(last["subject"])
        return {**known, "other": named.to} if isinstance(named, Named) else known

    async def _mark(self, to: str, sender: str, stream: str) -> Mark:
        """What is no message of the queue, somebody had the broker say; its reader would pass it over too, so it goes."""
        last = await self._last(MARKS, self._subjects.mark(to, sender, stream))  # first: what is stored from now on waits
        while (waits := await self._last(STREAMS, self._subjects.flow(to, sender, stream))) is not None:
            try:
                unpack(base64.b64decode(waits.get("data", "")))
                break
            except MalformedMessage:
                await self._js.api(f"STREAM.MSG.DELETE.{STREAMS}", {"seq": waits["seq"], "no_erase": True})
        marks = [_mark(each, unread=waits is not None) for each in (last, waits) if each is not None]
        return max(marks, key=lambda mark: mark.last, default=Mark())

    async def _last(self, store: str, subject: str) -> dict[str, Any] | None:
        try:
            return dict((await self._js.api(f"STREAM.MSG.GET.{store}", {"last_by_subj": subject}))["message"])
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise

    async def _names(self) -> list[str]:
        names: list[str] = []
        while True:
            page = await self._js.api(f"CONSUMER.NAMES.{STREAMS}", {"offset": len(names)})
            names += page.get("consumers") or []
            if not page.get("consumers") or len(names) >= page.get("total", 0):
                return names

    async def _remove(self, names: list[str]) -> None:
        for name in names:
            try:
                await self._js.api(f"CONSUMER.DELETE.{STREAMS}.{name}")
            except ApiError as error:
                if error.err_code != CONSUMER_NOT_FOUND:
                    raise


def _mark(message: dict[str, Any], *, unread: bool = False) -> Mark:
    return Mark.of(read_headers(base64.b64decode(message.get("hdrs", ""))).get(MARK_HEADER, ""), unread=unread)


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()[:16]
