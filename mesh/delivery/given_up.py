"""Messages whose receiver ended each time, before it could say a word: the broker delivers them no more, and says so on an advisory.

The control plane makes a dead letter of each and takes it out of its stream, where it would lie for ever. Several control planes share the
work: the advisories are a stream with one durable consumer, and a dead letter is kept once.

Where the last receiver is gone and nobody pulls from the lane any more, the broker may say it only when the next one pulls.
"""

import contextlib
import json
from typing import Any, Final

import structlog

from mesh.delivery.dead import letter_subject, write_letter
from mesh.errors import MeshError, Refused
from mesh.link.connection import Message
from mesh.link.jetstream import JetStream
from mesh.link.pull import PullLoop
from mesh.link.reader import Stored, read_message_at
from mesh.subjects import Job, Msg, Subjects, escape
from mesh.topology import ADVISORIES, GIVEN_UP
from mesh.wire.letter import DeadLetter, own_headers

AGAIN: Final = 5.0
"""Seconds until an advisory is looked at again that could not be dealt with."""

OWNER: Final = "mesh-owner"
SUBSCRIPTION: Final = "mesh-subscription"
"""In the metadata of a consumer whose stream others read too: whose dead letters those of it are, and what it is called."""

_log: Final = structlog.get_logger("mesh.delivery")


async def keep_given_up(js: JetStream, subjects: Subjects) -> None:
    """Until it is cancelled."""
    async with PullLoop(js.connection, ADVISORIES, GIVEN_UP, batch=100) as pulls:
        async for messages in pulls:
            for message in messages:
                try:
                    await _deal_with(js, subjects, message)
                except MeshError as problem:
                    _log.warning("a message that was given up stays where it is for now", why=str(problem))
                    with contextlib.suppress(MeshError):
                        await js.nak(message, AGAIN)


async def _deal_with(js: JetStream, subjects: Subjects, message: Message) -> None:
    said = _read(message)
    if said is not None:
        stream, consumer, seq, deliveries = said
        found = await read_message_at(js, stream, seq)
        if found is not None:
            owner = await _owner(js, subjects, found.subject, stream, consumer)
            if owner is not None:
                why = f"its receiver ended, or lost its connection, at each of {deliveries} deliveries"
                await keep(js, subjects, stream, found, *owner, code="undelivered", reason=why, deliveries=deliveries)
                if owner[1]:  # others get the same
                    await js.connection.publish(f"$JS.ACK.{stream}.{consumer}.{deliveries}.{seq}.0.0.0", b"+TERM undelivered")
                else:
                    await js.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    await js.ack(message)


def _read(message: Message) -> tuple[str, str, int, int] | None:
    """Stream, consumer, sequence, deliveries."""
    try:
        said: dict[str, Any] = json.loads(message.body)
        stream, consumer = message.subject.split(".")[-2:]
        if (said["stream"], said["consumer"]) != (stream, consumer):
            return None
        return stream, consumer, int(said["stream_seq"]), int(said["deliveries"])
    except (ValueError, KeyError, TypeError):
        return None


async def _owner(js: JetStream, subjects: Subjects, subject: str, stream: str, consumer: str) -> tuple[str, str] | None:
    """Whose it was, and of which subscription; None where it was nobody's. A consumer of a work queue is called as who it belongs to, and
    has only what is sent to that name. Any other says it in its settings (`OWNER`, `SUBSCRIPTION`)."""
    try:
        sent = subjects.parse(subject)
    except Refused:
        return None
    if isinstance(sent, Msg | Job):
        return (sent.target, "") if escape(sent.target) == consumer else None
    metadata = (await js.consumer(stream, consumer) or {"config": {}})["config"].get("metadata") or {}
    if not metadata.get(OWNER) or not metadata.get(SUBSCRIPTION):
        return None
    return str(metadata[OWNER]), str(metadata[SUBSCRIPTION])


async def keep(
    js: JetStream, subjects: Subjects, stream: str, found: Stored, owner: str, subscription: str, *, code: str, reason: str, deliveries: int
) -> None:
    """Write a dead letter in a receiver's place. It is kept once, also where the receiver has written it."""
    letter = DeadLetter(
        subject=found.subject,
        body=found.body,
        code=code,
        reason=reason,
        deliveries=deliveries,
        stored_ns=found.time_ns,
        headers=own_headers(found.headers),
        subscription=subscription,
    )
    await write_letter(js, letter_subject(subjects, owner, stream, found.seq, found.time_ns, subscription), letter)
