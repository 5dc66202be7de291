"""Dead letters as an operator has them: looked through, mended, sent again, dropped.

How a letter of one family is read, mended and sent again is the family's to say (`LetterFamily`). It is stored first and its dead letter
removed then: what is interrupted between the two and done again within ten minutes is stored once.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from mesh import clock
from mesh.delivery.dead import write_letter
from mesh.delivery.storing import Store, what_is_full
from mesh.errors import (
    ApiError,
    BrokerUnavailable,
    ConfigError,
    MailboxFull,
    MalformedMessage,
    MeshError,
    NoSuchDeadLetter,
    Refused,
    TooLarge,
)
from mesh.link.connection import Connection
from mesh.link.jetstream import NO_MESSAGE, JetStream
from mesh.link.reader import Stored, read_message_at, read_stream
from mesh.subjects import Dead, Subject, Subjects
from mesh.topology import DEAD_LETTERS
from mesh.wire.letter import ROOM, DeadLetter, read_letter


class Told(NamedTuple):
    """What a family tells of a letter. `item` is what lies in it, None where it cannot be read."""

    sender: str
    priority: str
    type: str
    item: Any


class Again(NamedTuple):
    """What sending again stores. `action` is what our roles have to allow, as in `mesh auth explain`."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    action: str


class LetterFamily(Protocol):
    """Dead letters of messages, of events, or of jobs."""

    def tell(self, target: str, sent: Subject, letter: DeadLetter) -> Told | None:
        """None where this can be no letter to `target`: who may write dead letters may do so for its own names only, so it must not
        claim what would reach somebody else when it is sent again."""

    def mended(self, kept: "Kept", content: Any) -> bytes:
        """The body, with this content in its place."""

    def again(self, kept: "Kept") -> Again:
        """What to store, so that `kept.target` gets it again, and nobody else. `kept.item` is not None."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A dead letter as its stream holds it. `number` is its sequence there, which people name it by; `item` is None where it cannot be
    read."""

    number: int
    at_ns: int
    target: str
    sent: Subject
    sender: str
    priority: str
    type: str
    letter: DeadLetter
    item: Any


class DeadLetters:
    """For who may read and change their stream: operators. `families` by the kind of subject that the letters were sent under."""

    def __init__(self, connection: Connection, subjects: Subjects, store: Store, families: Mapping[type, LetterFamily]) -> None:
        self._js = JetStream(connection)
        self._subjects = subjects
        self._store = store
        self._families = families

    async def read(self, target: str | None = None) -> AsyncIterator[Kept]:
        """Those of one name, or of all, oldest first."""
        async with aclosing(read_stream(self._js.connection, DEAD_LETTERS, subjects=(self._subjects.dead_of(target),))) as lists:
            async for stored in lists:
                for each in stored:
                    if (found := self._kept(each)) is not None:
                        yield found

    async def find(self, *, target: str | None = None, sender: str | None = None, code: str | None = None) -> list[Kept]:
        """Those that fit, oldest first."""
        return [each async for each in self.read(target) if sender in (None, each.sender) and code in (None, each.letter.code)]

    async def get(self, number: int) -> Kept:
        """Raises NoSuchDeadLetter."""
        found = await read_message_at(self._js, DEAD_LETTERS, number)
        kept = None if found is None else self._kept(found)
        if kept is None:
            raise NoSuchDeadLetter(f"there is no dead letter {number}", hint="`mesh dlq list` shows those that there are")
        return kept

    async def edit(self, kept: Kept, content: Any) -> None:
        """Replace what it says. The mended letter gets a number of its own, and the old one goes. Raises TooLarge: then it stays."""
        body, limit = self._families[type(kept.sent)].mended(kept, content), self._js.connection.max_payload - ROOM
        if len(body) > limit:
            raise TooLarge(f"mended, it has {len(body):,} bytes, of at most {limit:,}", limit=limit)
        letter = replace(kept.letter, body=body, cut=False)
        await write_letter(self._js, self._subjects.dead(kept.target, DEAD_LETTERS, f"{kept.number}-{clock.wall_ns()}"), letter)
        await self.drop(kept)

    async def redrive(self, kept: Kept) -> None:
        """Send it again. Raises ConfigError where it cannot be read, MailboxFull where there is no room: then it stays."""
        if kept.item is None:
            raise ConfigError(
                f"the dead letter {kept.number} cannot be read", hint=f"`mesh dlq edit {kept.number}` makes one of it that can, or drop it"
            )
        subject, body, headers, action = self._families[type(kept.sent)].again(kept)
        try:
            await self._store.put(subject, body, id=f"dead letter {kept.number} of {kept.at_ns}", headers=headers, action=action)
        except ApiError as error:
            if what_is_full(error) is None:
                raise
            raise MailboxFull(f"{kept.target!r} has no room for it: {error.description}", hint="send it again later") from None
        await self.drop(kept)

    async def redrive_all(self, letters: list[Kept], rate: float) -> list[tuple[Kept, MeshError]]:
        """`rate` of them a second at most. Returns those that stay, and why. Raises BrokerUnavailable: the rest stay too."""
        stay: list[tuple[Kept, MeshError]] = []
        for number, each in enumerate(letters):
            if number:
                await asyncio.sleep(1 / rate)
            try:
                await self.redrive(each)
            except BrokerUnavailable:
                raise
            except MeshError as problem:
                stay.append((each, problem))
        return stay

    async def drop(self, kept: Kept) -> None:
        try:
            await self._js.api(f"STREAM.MSG.DELETE.{DEAD_LETTERS}", {"seq": kept.number, "no_erase": True})
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise

    def _kept(self, stored: Stored) -> Kept | None:
        """None for what is no dead letter: the broker can be made to write an answer of its own there."""
        try:
            place, letter = self._subjects.parse(stored.subject), read_letter(stored.headers, stored.body)
            sent = self._subjects.parse(letter.subject)
        except (Refused, MalformedMessage):
            return None
        family = self._families.get(type(sent))
        told = None if family is None or not isinstance(place, Dead) else family.tell(place.target, sent, letter)
        if told is None or not isinstance(place, Dead):
            return None
        return Kept(stored.seq, stored.time_ns, place.target, sent, told.sender, told.priority, told.type, letter, told.item)


def as_dict(kept: Kept) -> dict[str, Any]:
    """For `--json`, and for people."""
    letter = kept.letter
    return {
        "number": kept.number,
        "target": kept.target,
        "sender": kept.sender,
        "priority": kept.priority,
        "type": kept.type,
        "code": letter.code,
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "attempts": [{"at": clock.iso(each.at_ns), "error": each.error} for each in letter.attempts],
        "sent": clock.iso(letter.stored_ns),
        "at": clock.iso(kept.at_ns),
        **({"subscription": letter.subscription} if letter.subscription else {}),
        **({"trace": letter.trace} if letter.trace else {}),
        "message": None if kept.item is None else _readable(letter.body),
    }


def _readable(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return base64.b64encode(body).decode()
