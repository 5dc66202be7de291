"""Messages that nobody comes for: before their stream drops them for their age, they become dead letters.

`unread` where they were never handed out, `undelivered` where they were, and whoever had them said nothing more. What may be in somebody's
hands is left alone: it ends by itself, and would lie in two places otherwise.
"""

import asyncio
from typing import Any, Final

import structlog

from mesh import clock
from mesh.delivery.given_up import keep
from mesh.errors import ApiError, MeshError, Refused
from mesh.link.jetstream import NO_MESSAGE, JetStream, time_ns
from mesh.link.reader import read_message_at
from mesh.subjects import Msg, Subjects, escape
from mesh.topology import LANES

AGE: Final = 7 * 86_400 - 3600
"""Seconds: an hour before the stream drops them, so that a control plane that was away for a while is not late."""

PERIOD: Final = 600.0
"""Seconds between two looks. Each asks for one message a stream, and for those that are too old."""

QUIET: Final = 900.0
"""Seconds without a delivery or an acknowledgement after which nobody is there, if nobody asks for more either."""

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


async def keep_older(js: JetStream, subjects: Subjects, stream: str, before_ns: int, *, quiet: float = QUIET) -> int:
    """Keep what was stored before a time and is in nobody's hands. Returns how many."""
    kept = seq = 0
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
        lane = await js.consumer(stream, escape(sent.target))
        if lane is not None and _in_hand(lane, seq, quiet):
            continue
        if lane is None or seq > lane["delivered"]["stream_seq"]:
            code, reason = "unread", "nobody came for it in seven days"
        else:
            code, reason = "undelivered", "its receiver ended, or lost its connection, and nobody came for it again"
        await keep(js, subjects, stream, found, sent.target, "", code=code, reason=reason, deliveries=0)
        await js.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
        kept += 1


def _in_hand(lane: dict[str, Any], seq: int, quiet: float) -> bool:
    """Whether a message was handed out, has not ended, and somebody is there. What has ended for the lane and still lies in the stream was
    given up, and the broker's word on it was lost."""
    delivered, ended = lane["delivered"], lane["ack_floor"]
    if not lane["num_ack_pending"] or not ended["stream_seq"] < seq <= delivered["stream_seq"]:
        return False
    last = max((time_ns(each["last_active"]) for each in (delivered, ended) if "last_active" in each), default=0)
    return bool(lane["num_waiting"]) or time_ns(lane["ts"]) - last < quiet * 1e9
