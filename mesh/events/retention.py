"""Room in the stream of events: two duties of the control plane.

EVENTS refuses what is new when it is full, so that nothing gives way that somebody has still to read. Before that, what every durable
subscription has acknowledged goes, oldest first, and no more of it than makes room: it is what replays are made of. What one has not
acknowledged stays, until it is a week old.

And consumers that nobody may pull from any more are removed: those of subscriptions that are gone, and of owners that lost the right.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog

from mesh.clock import monotonic, wall_ns
from mesh.errors import MeshError
from mesh.events.subscriptions import PREFIX, Sight, Subscriptions, remove_consumer
from mesh.link.jetstream import JetStream, time_ns
from mesh.subjects import PRIORITIES, Subjects
from mesh.topology import EVENTS, MOST_EVENTS

EVERY: Final = 1.0
"""Seconds between two looks at how full it is: one question. At 120 MB a second, which one publisher was seen to store, what is left from
`FULL` on takes three and a half."""

TIDY_EVERY: Final = 10.0
"""Seconds between two looks at all subscriptions and their consumers."""

FULL: Final = 0.8
"""Of its bytes, or of what one publisher may have on one topic: from here on room is made."""

ROOMY: Final = 0.6
"""Then there is room enough."""

YOUNG: Final = 60.0
"""Seconds that a consumer may be there before its subscription is."""

_log: Final = structlog.get_logger("mesh.events")


async def keep_room(js: JetStream, subjects: Subjects, sight: Sight) -> None:
    """Until it is cancelled."""
    subscriptions, tidied = Subscriptions(js, subjects, sight), -TIDY_EVERY
    while True:
        try:
            await trim(js, subscriptions)
            if monotonic() - tidied >= TIDY_EVERY:
                tidied = monotonic()
                await tidy(js, subscriptions)
        except MeshError as problem:
            _log.info("room cannot be made for events now", why=str(problem))
        await asyncio.sleep(EVERY)


async def trim(js: JetStream, subscriptions: Subscriptions, most_bytes: int | None = None) -> int:
    """Take away what all have acknowledged, where the stream is nearly full. Returns how many events went. `most_bytes`: the stream's own
    bound, if not given."""
    info = await js.api(f"STREAM.INFO.{EVENTS}")
    state = info["state"]
    bound = most_bytes or int(info["config"]["max_bytes"])
    gone = 0
    if 0 < bound * FULL < int(state["bytes"]):
        upto = await _acknowledged(js, subscriptions, int(state["last_seq"]))
        first, last = int(state["first_seq"]), int(state["last_seq"])
        share = 1 - bound * ROOMY / int(state["bytes"])  # of the oldest: events have about one size
        upto = min(upto, first + round((last - first + 1) * share) - 1)
        gone += await _purge(js, upto, {})
    if int(state["messages"]) > MOST_EVENTS * FULL:
        gone += await _thin(js, subscriptions, int(state["last_seq"]))
    return gone


async def _thin(js: JetStream, subscriptions: Subscriptions, last: int) -> int:
    """One publisher's events on one topic are bounded too."""
    state = (await js.api(f"STREAM.INFO.{EVENTS}", {"subjects_filter": ">"}))["state"]
    crowded = {subject: count for subject, count in (state.get("subjects") or {}).items() if count > MOST_EVENTS * FULL}
    gone = 0
    if crowded:
        upto = await _acknowledged(js, subscriptions, last)
        for subject, count in crowded.items():
            # The broker takes a sequence or how many to keep, not both: so the sequence below which just these lie is looked up.
            surplus = count - round(MOST_EVENTS * ROOMY)
            gone += await _purge(js, min(upto, await _nth(js, subject, surplus)), {"filter": subject})
    return gone


async def _nth(js: JetStream, subject: str, number: int) -> int:
    """About the sequence of the event number `number` of a subject: as far from the first to the last as its number is."""
    first = await _seq(js, {"seq": 1, "next_by_subj": subject})
    last = await _seq(js, {"last_by_subj": subject})
    count = (await js.api(f"STREAM.INFO.{EVENTS}", {"subjects_filter": subject}))["state"]["subjects"][subject]
    return first + round((last - first) * number / int(count))


async def _seq(js: JetStream, which: Mapping[str, Any]) -> int:
    return int((await js.api(f"STREAM.MSG.GET.{EVENTS}", which))["message"]["seq"])


async def _purge(js: JetStream, upto: int, which: Mapping[str, Any]) -> int:
    if upto < 1:
        return 0
    gone = int((await js.api(f"STREAM.PURGE.{EVENTS}", {**which, "seq": upto + 1}))["purged"])
    if gone:
        _log.info("events that all have acknowledged made room", count=gone, up_to=upto)
    return gone


async def _acknowledged(js: JetStream, subscriptions: Subscriptions, last: int) -> int:
    """The sequence up to which every durable subscription has acknowledged what concerns it."""
    upto = last
    consumers = {info["name"]: info for info in await consumers_of(js)}
    for info in consumers.values():
        if info["config"].get("ack_policy") == "explicit" and (info["num_pending"] or info["num_ack_pending"]):
            upto = min(upto, int(info["ack_floor"]["stream_seq"]) or int(info["config"].get("opt_start_seq", 1)) - 1)
    for subscription in await subscriptions.all():
        for priority in PRIORITIES:
            if subscription.consumer(priority) not in consumers:
                waiting = await subscriptions.first_waiting(subscription, priority)
                upto = upto if waiting is None else min(upto, waiting - 1)
    return upto


async def tidy(js: JetStream, subscriptions: Subscriptions) -> None:
    """Remove the consumers of subscriptions that are gone, and of those that their owners may not have any more."""
    allowed = set()
    for subscription in await subscriptions.all():
        if subscriptions.allowed(subscription):
            allowed |= {subscription.consumer(priority) for priority in PRIORITIES}
        else:
            await subscriptions.suspend(subscription)
    for info in await consumers_of(js):
        old = wall_ns() - time_ns(str(info["created"])) > YOUNG * 1e9
        if str(info["name"]).startswith(PREFIX) and info["name"] not in allowed and old:
            await remove_consumer(js, str(info["name"]))


async def consumers_of(js: JetStream) -> list[dict[str, Any]]:
    """All consumers of EVENTS."""
    found: list[dict[str, Any]] = []
    while True:
        page = await js.api(f"CONSUMER.LIST.{EVENTS}", {"offset": len(found)})
        found += page["consumers"] or []
        if not page["consumers"] or len(found) >= int(page["total"]):
            return found
