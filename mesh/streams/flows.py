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
from typing import Any, Final

from mesh.errors import ApiError, Busy, MalformedMessage, TooLarge
from mesh.link.jetstream import CONSUMER_NOT_FOUND, NO_MESSAGE, JetStream
from mesh.link.reconcile import ensure
from mesh.streams.messages import unpack
from mesh.subjects import Subjects
from mesh.topology import STREAMS, ConsumerSpec
from mesh.wire.entries import LONGEST_FILTER
from mesh.wire.reading import read_object, read_text

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
        `{"from" | "to", "stream", "stored": true}`: `{"stored": N}`, the number of the last message that lies there; 0 where none does.
        Raises MalformedMessage, TooLarge, Busy."""
        asked = read_object(params, "a durable stream")
        stream = read_text(asked, "stream", params, "a durable stream")
        if asked.get("stored") is True:
            ours = "to" in asked
            other = read_text(asked, "to" if ours else "from", params, "a durable stream")
            return {"stored": await self._stored(*((other, caller) if ours else (caller, other)), stream)}
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

    async def _stored(self, to: str, sender: str, stream: str) -> int:
        """What is no message, somebody had the broker say there; its reader would pass it over too, so it goes."""
        while True:
            try:
                said = await self._js.api(f"STREAM.MSG.GET.{STREAMS}", {"last_by_subj": self._subjects.flow(to, sender, stream)})
            except ApiError as error:
                if error.err_code == NO_MESSAGE:
                    return 0
                raise
            try:
                first, items = unpack(base64.b64decode(said["message"].get("data", "")))
                return first + len(items) - 1
            except MalformedMessage:
                await self._js.api(f"STREAM.MSG.DELETE.{STREAMS}", {"seq": said["message"]["seq"], "no_erase": True})

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


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).hexdigest()[:16]
