"""Lanes: the durable consumers from which a name's messages are pulled, one for each priority that was ever used.

Only the control plane makes consumers (`mesh.registry.readers` says why), for who may pull from them. Nothing tells it of messages to a
name that nobody listens under, and it need not know: they wait in their stream, and the lane is made when somebody listens.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any

from mesh.errors import Refused
from mesh.link.jetstream import JetStream
from mesh.link.reconcile import ensure
from mesh.subjects import PRIORITIES, Msg, Subjects, escape
from mesh.topology import LANES, lane_spec


async def make_lanes(js: JetStream, subjects: Subjects, target: str, wanted: Collection[str]) -> list[str]:
    """Have the lanes of a name that are wanted, and those of priorities of which messages wait. Returns all that there are. One that is
    there stays as it is, also where an operator has changed it."""
    found = []
    for priority in PRIORITIES:
        if await js.consumer(LANES[priority], escape(target)) is None:
            if priority not in wanted and not await _waiting(js, subjects.lane(target, priority), LANES[priority]):
                continue
            await ensure(js, lane_spec(subjects, target, priority))
        found.append(priority)
    return found


async def measure(js: JetStream, subjects: Subjects, target: str) -> dict[str, Any]:
    """What waits for a name, in the hands of receivers too: `{"name", "lanes": {priority: messages}, "listened"}`."""
    lanes, listened = {}, False
    for priority in PRIORITIES:
        consumer = await js.consumer(LANES[priority], escape(target))
        if consumer is None:
            lanes[priority] = sum((await _waiting(js, subjects.lane(target, priority), LANES[priority])).values())
        else:
            lanes[priority], listened = consumer["num_pending"] + consumer["num_ack_pending"], True
    return {"name": target, "lanes": lanes, "listened": listened}


async def measure_all(js: JetStream, subjects: Subjects) -> list[dict[str, Any]]:
    """The same of all names for which anything waits, the fullest first."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for priority in PRIORITIES:
        for subject, count in (await _waiting(js, ">", LANES[priority])).items():
            try:
                sent = subjects.parse(subject)
            except Refused:
                continue
            if isinstance(sent, Msg):
                found[sent.target][priority] += count
    listened = {name for name in found if any([await js.consumer(LANES[each], escape(name)) for each in found[name]])}
    fullest = sorted(found, key=lambda name: (-found[name].total(), name))
    return [{"name": name, "lanes": {each: found[name][each] for each in PRIORITIES}, "listened": name in listened} for name in fullest]


async def _waiting(js: JetStream, filter: str, stream: str) -> dict[str, int]:
    """How many messages wait, by subject. The broker tells at most 100,000 subjects at once."""
    found: dict[str, int] = {}
    while True:
        said = await js.api(f"STREAM.INFO.{stream}", {"subjects_filter": filter, "offset": len(found)})
        some = said["state"].get("subjects") or {}
        found |= some
        if not some or len(found) >= int(said.get("total", 0)):
            return found
