"""Messages whose receiver ended each time, before it could say a word: the broker delivers them no more, and says so on an advisory.

The control plane makes a dead letter of each and takes it out of its stream, where it would lie for ever. Several control planes share the
work: the advisories are a stream with one durable consumer, and a dead letter is kept once.

Where the last receiver is gone and nobody pulls from the lane any more, the broker may say it only when the next one pulls.
"""

import base64
import contextlib
import json
from typing import Any, Final

import structlog

from mesh.broker.dead import letter_subject, write_letter
from mesh.errors import ApiError, MeshError, Refused
from mesh.link.connection import Message
from mesh.link.jetstream import NO_MESSAGE, JetStream, time_ns
from mesh.link.pull import PullLoop
from mesh.subjects import Msg, Subjects, escape
from mesh.topology import ADVISORIES, GIVEN_UP, LANES
from mesh.wire.message import DeadLetter

AGAIN: Final = 5.0
"""Seconds until an advisory is looked at again that could not be dealt with."""

_log: Final = structlog.get_logger("mesh.broker")


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
        found = await _stored(js, stream, seq)
        if found is not None:
            subject, body, stored_ns = found
            with contextlib.suppress(Refused):
                sent = subjects.parse(subject)
                # The consumer says whose message it was; an advisory that names another one is none of the broker's.
                if isinstance(sent, Msg) and escape(sent.target) == consumer:
                    letter = DeadLetter(
                        subject=subject,
                        body=body,
                        code="undelivered",
                        reason=f"its receiver ended, or lost its connection, at each of {deliveries} deliveries",
                        deliveries=deliveries,
                        stored_ns=stored_ns,
                    )
                    await write_letter(js, letter_subject(subjects, sent.target, stream, seq, stored_ns), letter)
                    await js.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
    await js.ack(message)


def _read(message: Message) -> tuple[str, str, int, int] | None:
    """Stream, consumer, sequence, deliveries."""
    try:
        said: dict[str, Any] = json.loads(message.body)
        stream, consumer = message.subject.split(".")[-2:]
        if (said["stream"], said["consumer"]) != (stream, consumer) or stream not in LANES.values():
            return None
        return stream, consumer, int(said["stream_seq"]), int(said["deliveries"])
    except (ValueError, KeyError, TypeError):
        return None


async def _stored(js: JetStream, stream: str, seq: int) -> tuple[str, bytes, int] | None:
    try:
        found = (await js.api(f"STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
    except ApiError as error:
        if error.err_code != NO_MESSAGE:
            raise
        return None
    return found["subject"], base64.b64decode(found.get("data", "")), time_ns(found["time"])
