"""Messages that nobody came for: before their stream drops them for their age, they become dead letters `unread`.

A message that was handed to a receiver already is left alone: it ends by itself, and would lie in two places otherwise.
"""

import asyncio
from typing import Final

import structlog

from mesh import clock
from mesh.delivery.given_up import keep
from mesh.errors import ApiError, MeshError, Refused
from mesh.link.jetstream import NO_MESSAGE, JetStream
from mesh.link.reader import read_message_at
from mesh.subjects import Msg, Subjects, escape
from mesh.topology import LANES

AGE: Final = 7 * 86_400 - 3600
"""Seconds: an hour before the stream drops them, so that a control plane that was away for a while is not late."""

PERIOD: Final = 600.0
"""Seconds between two looks. Each asks for one message a stream, and for those that are too old."""

_log: Final = structlog.get_logger("mesh.delivery")


async def keep_unread(js: JetStream, subjects: Subjects) -> None:
    """Until it is cancelled."""
    while True:
        for stream in LANES.values():
            try:
                await keep_older(js, subjects, stream, clock.wall_ns() - AGE * 10**9)
            except MeshError as problem:
                _log.info("nobody looked for messages that nobody reads", stream=stream, why=str(problem))
        await asyncio.sleep(PERIOD)


async def keep_older(js: JetStream, subjects: Subjects, stream: str, before_ns: int) -> int:
    """Keep what was stored before a time and never handed to anybody. Returns how many."""
    kept = seq = 0
    reached: dict[str, int] = {}
    while True:
        try:
            seq = int((await js.api(f"STREAM.MSG.GET.{stream}", {"seq": seq + 1, "next_by_subj": ">"}))["message"]["seq"])
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise
            return kept
        found = await read_message_at(js, stream, seq)
        if found is None:
            continue
        if found.time_ns >= before_ns:
            return kept
        try:
            sent = subjects.parse(found.subject)
        except Refused:
            continue
        if not isinstance(sent, Msg):
            continue
        if sent.target not in reached:
            reached[sent.target] = await _reached(js, stream, escape(sent.target))
        if seq > reached[sent.target]:
            await keep(js, subjects, stream, found, sent.target, "", code="unread", reason="nobody came for it in seven days", deliveries=0)
            await js.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
            kept += 1


async def _reached(js: JetStream, stream: str, consumer: str) -> int:
    """Up to where a lane's messages were handed out."""
    said = await js.consumer(stream, consumer)
    return 0 if said is None else int(said["delivered"]["stream_seq"])
