"""What has no business in a stream, taken out before it fills it: a duty of the control plane.

Whoever may ask the broker for anything chooses where it answers, and so can have it store two things in any stream:

- a message that was pulled, under the subject that it had. No consumer of that stream takes it, and nobody would ever read it; in a stream
  that refuses what is new when it is full it would keep out the others' until it is a week old. What lies in a stream under another one's
  subjects goes.
- an answer of its own, under any subject of the stream. A receiver drops it, but where nobody receives, such answers would fill what a
  sender may have waiting there. Where a sender's share is half full, they go.

An answer has no `id`, which everything has that is sent (`mesh.wire.reading.is_brokers`).
"""

import asyncio
from typing import Any, Final

import structlog

from mesh.errors import ApiError, MeshError
from mesh.link.jetstream import NO_MESSAGE, JetStream
from mesh.link.reader import stored_message
from mesh.subjects import Subjects
from mesh.topology import JOBS, LANES, MOST_JOBS, MOST_WAITING, SCHEDULES, StreamSpec, declare, overlaps
from mesh.wire.reading import is_brokers

EVERY: Final = 30.0
"""Seconds between two looks: some hundred questions that the broker answers from its index."""

CROWDED: Final = min(MOST_WAITING, MOST_JOBS) // 2

_log: Final = structlog.get_logger("mesh.plane")


async def keep_clean(js: JetStream, subjects: Subjects) -> None:
    """Until it is cancelled."""
    looked: dict[str, int] = {}
    while True:
        try:
            await remove_strays(js, subjects)
            await remove_words(js, looked)
        except MeshError as problem:
            _log.info("what strayed into streams stays for now", why=str(problem))
        await asyncio.sleep(EVERY)


def cleaned(subjects: Subjects) -> tuple[StreamSpec, ...]:
    """The streams that refuse what is new when they are full, and SCHEDULES."""
    return tuple(spec for spec in declare(subjects.prefix).all_streams() if spec.discard == "new" or spec.name == SCHEDULES)


async def remove_strays(js: JetStream, subjects: Subjects) -> int:
    """Take away what lies in a stream under the subjects of another. Returns how many there were."""
    streams, gone = declare(subjects.prefix).all_streams(), 0
    for spec in cleaned(subjects):
        if not (await js.api(f"STREAM.INFO.{spec.name}"))["state"]["messages"]:
            continue
        for subject in (each for other in streams if other.name != spec.name for each in other.subjects):
            if any(overlaps(subject, own) for own in spec.subjects):
                continue
            purged = int((await js.api(f"STREAM.PURGE.{spec.name}", {"filter": subject}))["purged"])
            if purged:
                _log.warning("somebody had messages stored where they do not belong", stream=spec.name, subject=subject, count=purged)
            gone += purged
    return gone


async def remove_words(js: JetStream, looked: dict[str, int], crowded: int = CROWDED) -> int:
    """Take away the broker's own answers where a sender's share is crowded. Returns how many there were.

    `looked` says how far the share of each subject is known already, and is kept from one look to the next: what waits does not change, and
    to read all of it again takes seconds for each share that waits for a receiver which is away.
    """
    gone, full = 0, set[str]()
    for stream in (*LANES.values(), JOBS):
        if int((await js.api(f"STREAM.INFO.{stream}"))["state"]["messages"]) < crowded:
            continue
        counts: dict[str, int] = (await js.api(f"STREAM.INFO.{stream}", {"subjects_filter": ">"}))["state"].get("subjects") or {}
        for subject in (each for each, count in counts.items() if count >= crowded):
            full.add(subject)
            removed, looked[subject] = await _remove_words(js, stream, subject, looked.get(subject, 0))
            if removed:
                _log.warning("answers of the broker's filled a sender's share", subject=subject, count=removed)
            gone += removed
    for subject in looked.keys() - full:
        del looked[subject]
    return gone


async def _remove_words(js: JetStream, stream: str, subject: str, seq: int) -> tuple[int, int]:
    """Of what lies behind `seq`: how many were removed, and the last one's sequence."""
    gone = 0
    while True:
        try:
            said: dict[str, Any] = await js.api(f"STREAM.MSG.GET.{stream}", {"seq": seq + 1, "next_by_subj": subject})
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise
            return gone, seq
        found = stored_message(said["message"])
        seq = found.seq
        if is_brokers(found.body):
            await js.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
            gone += 1
