"""Dead letters as an operator has them: looked through, mended, sent again, dropped.

Sent again is a message in its sender's name, with its id, so that who has done it already does not do it again; its deadline, which has
passed, and its wish for an answer, for which nobody waits, are left out. It is stored first and its dead letter removed then: what is
interrupted between the two and done again within ten minutes is stored once.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from mesh import clock
from mesh.broker.dead import write_letter
from mesh.broker.sending import Sender
from mesh.errors import ApiError, ConfigError, MalformedMessage, Refused
from mesh.link.connection import Connection
from mesh.link.jetstream import NO_MESSAGE, JetStream, time_ns
from mesh.link.reader import Stored, read_stream
from mesh.subjects import Dead, Msg, Subjects
from mesh.topology import DEAD_LETTERS
from mesh.wire.message import AgentMessage, DeadLetter, read_headers, read_letter, read_message


@dataclass(frozen=True, slots=True)
class Kept:
    """A dead letter as its stream holds it. `number` is its sequence there, which people name it by; `message` is None where it cannot be
    read."""

    number: int
    at_ns: int
    target: str
    sent: Msg
    letter: DeadLetter
    message: AgentMessage | None


async def read_letters(connection: Connection, subjects: Subjects, target: str | None = None) -> AsyncIterator[Kept]:
    """The dead letters of one name, or of all, oldest first."""
    async with aclosing(read_stream(connection, DEAD_LETTERS, subjects=(subjects.dead_of(target),))) as lists:
        async for stored in lists:
            for each in stored:
                if (found := _kept(subjects, each)) is not None:
                    yield found


def _kept(subjects: Subjects, stored: Stored) -> Kept | None:
    """None for what is no dead letter: the broker can be made to write an answer of its own there."""
    try:
        place, letter = subjects.parse(stored.subject), read_letter(stored.headers, stored.body)
        sent = subjects.parse(letter.subject)
    except (Refused, MalformedMessage):
        return None
    # Who may write dead letters may do so for its own names only: so what it claims was sent must be to that name.
    if not (isinstance(place, Dead) and isinstance(sent, Msg) and place.target == sent.target):
        return None
    try:
        message = read_message(sent, letter.body, letter.deliveries)
    except MalformedMessage:
        message = None
    return Kept(stored.seq, stored.time_ns, place.target, sent, letter, message)


class DeadLetters:
    """For who may read and change their stream: operators."""

    def __init__(self, connection: Connection, subjects: Subjects, sender: Sender) -> None:
        self._js = JetStream(connection)
        self._subjects = subjects
        self._sender = sender

    async def find(self, *, target: str | None = None, sender: str | None = None, code: str | None = None) -> list[Kept]:
        """Those that fit, oldest first."""
        found = [each async for each in read_letters(self._js.connection, self._subjects, target)]
        return [each for each in found if sender in (None, each.sent.sender) and code in (None, each.letter.code)]

    async def get(self, number: int) -> Kept:
        """Raises ConfigError where there is none of that number."""
        try:
            said = (await self._js.api(f"STREAM.MSG.GET.{DEAD_LETTERS}", {"seq": number}))["message"]
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise
            said = None
        kept = None
        if said is not None:
            headers = read_headers(base64.b64decode(said.get("hdrs", "")))
            body = base64.b64decode(said.get("data", ""))
            kept = _kept(self._subjects, Stored(said["subject"], body, headers, number, time_ns(said["time"])))
        if kept is None:
            raise ConfigError(f"there is no dead letter {number}", hint="`mesh dlq list` shows those that there are")
        return kept

    async def edit(self, kept: Kept, content: Any) -> None:
        """Replace what the message says. The mended letter gets a number of its own, and the old one goes."""
        if kept.message is None:
            old = AgentMessage(type="unreadable", content=None, id=f"dead-{kept.number}", sent_ns=kept.letter.stored_ns)
        else:
            old = kept.message
        letter = replace(kept.letter, body=replace(old, content=content).encode(), cut=False)
        await write_letter(self._js, self._subjects.dead(kept.target, DEAD_LETTERS, f"{kept.number}-{clock.wall_ns()}"), letter)
        await self.drop(kept)

    async def redrive(self, kept: Kept) -> None:
        """Send it again. Raises ConfigError where it cannot be read, MailboxFull where there is no room: then it stays."""
        if kept.message is None:
            raise ConfigError(
                f"the dead letter {kept.number} is no message", hint=f"`mesh dlq edit {kept.number}` makes one of it, or drop it"
            )
        again = replace(kept.message, deadline_ns=None, answer_to=None)
        await self._sender.send(again, msg_id=f"dead letter {kept.number} of {kept.at_ns}")
        await self.drop(kept)

    async def redrive_all(self, letters: list[Kept], rate: float) -> None:
        """`rate` of them a second at most."""
        for number, each in enumerate(letters):
            if number:
                await asyncio.sleep(1 / rate)
            await self.redrive(each)

    async def drop(self, kept: Kept) -> None:
        try:
            await self._js.api(f"STREAM.MSG.DELETE.{DEAD_LETTERS}", {"seq": kept.number, "no_erase": True})
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise


def as_dict(kept: Kept) -> dict[str, Any]:
    """For `--json`, and for people."""
    return {
        "number": kept.number,
        "target": kept.target,
        "sender": kept.sent.sender,
        "priority": kept.sent.priority,
        "code": kept.letter.code,
        "reason": kept.letter.reason,
        "deliveries": kept.letter.deliveries,
        "attempts": [{"at": clock.iso(each.at_ns), "error": each.error} for each in kept.letter.attempts],
        "sent": clock.iso(kept.letter.stored_ns),
        "at": clock.iso(kept.at_ns),
        "message": None if kept.message is None else json.loads(kept.letter.body),
    }
