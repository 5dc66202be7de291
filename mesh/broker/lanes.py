"""Lanes: the durable consumers from which a name's messages are pulled, one for each priority that was ever used.

Only the control plane makes consumers (`mesh.registry.readers` says why), for who may pull from them. Nothing tells it of messages to a
name that nobody listens under, and it need not know: they wait in their stream, and the lane is made when somebody listens.
"""

from collections.abc import Collection

from mesh.delivery import consumer_config
from mesh.link.jetstream import JetStream
from mesh.link.reconcile import ensure
from mesh.subjects import PRIORITIES, Subjects, escape
from mesh.topology import LANES, lane_spec


async def make_lanes(js: JetStream, subjects: Subjects, target: str, wanted: Collection[str]) -> list[str]:
    """Have the lanes of a name that are wanted, and those of priorities of which messages wait. Returns all that there are. One that is
    there stays as it is, also where an operator has changed it."""
    found = []
    for priority in PRIORITIES:
        if await consumer_config(js, LANES[priority], escape(target)) is None:
            if priority not in wanted and not await _waiting(js, subjects.lane(target, priority), LANES[priority]):
                continue
            await ensure(js, lane_spec(subjects, target, priority))
        found.append(priority)
    return found


async def _waiting(js: JetStream, lane: str, stream: str) -> bool:
    state = (await js.api(f"STREAM.INFO.{stream}", {"subjects_filter": lane}))["state"]
    return bool(state.get("subjects"))
