"""What is left at the end, read when nobody works any more: notes, effects, dead letters, and what the broker still holds."""

import asyncio
import base64
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from mesh import Mesh
from mesh.clock import monotonic
from mesh.errors import ApiError
from mesh.link.jetstream import CONSUMER_NOT_FOUND, NO_MESSAGE, JetStream
from mesh.subjects import Event as EventSubject
from mesh.subjects import Job, Msg
from mesh.topology import EVENTS, JOBS, LANES
from tests.faulting.check import Evidence, awaits
from tests.faulting.names import HAND, HEARD, WORKER
from tests.faulting.notes import read_notes

QUEUES: Final = {**dict.fromkeys(LANES.values(), WORKER), JOBS: HAND}
"""Streams, and whose consumer takes from each."""

MOST_JOBS: Final = 100_000
"""More than a run makes."""

LIMBO_SECONDS: Final = 5.0
"""For the control plane to take away what was delivered for the last time."""


async def left(mesh: Mesh) -> int:
    """How many messages, jobs and events are still to be done. `mesh` is the control plane's name: it may look everywhere."""
    js = JetStream(mesh.connection)
    messages = [int((await js.api(f"STREAM.INFO.{stream}"))["state"]["messages"]) for stream in QUEUES]
    events = [int(each["num_pending"] + each["num_ack_pending"]) for each in await _heard(js)]
    return sum(messages) + sum(events)


async def _heard(js: JetStream) -> list[dict[str, Any]]:
    """The consumers of the subscription to events. None of any other is durable here."""
    found = (await js.api(f"CONSUMER.LIST.{EVENTS}"))["consumers"]
    return [each for each in found if each["config"].get("durable_name")]


async def drained(mesh: Mesh, seconds: float) -> bool:
    """Wait until the broker holds nothing that is to be done."""
    end = monotonic() + seconds
    while await left(mesh):
        if monotonic() > end:
            return False
        await asyncio.sleep(0.1)
    return True


async def find_limbo(mesh: Mesh) -> list[str]:
    """Lanes that hold more than their consumer has still to deliver. Asked again for a while: the control plane may be at it."""
    end = monotonic() + LIMBO_SECONDS
    while True:
        found = [each for stream, who in QUEUES.items() if (each := await _limbo(JetStream(mesh.connection), stream, who))]
        if not found or monotonic() > end:
            return found
        await asyncio.sleep(0.1)


async def _limbo(js: JetStream, stream: str, who: str) -> str:
    """All that a queue holds is for one name, so one consumer has to deliver all of it."""
    try:
        info = await js.api(f"CONSUMER.INFO.{stream}.{who}")
    except ApiError as error:
        if error.err_code != CONSUMER_NOT_FOUND:
            raise
        return ""  # nobody ever listened there: they wait
    held = (await js.api(f"STREAM.INFO.{stream}"))["state"]["messages"]
    to_do = info["num_pending"] + info["num_ack_pending"]
    return f"{stream} holds {held} messages, {to_do} of them to be delivered" if held > to_do else ""


async def collect(
    mesh: Mesh, operator: Mesh, directory: Path, limbo: Sequence[str], pauses: Sequence[tuple[str, float, float]], stuck: Sequence[str]
) -> Evidence:
    """All of it. Only the control plane and the broker run."""
    notes = list(read_notes(directory.glob("*.jsonl")))
    acked: dict[str, set[str]] = defaultdict(set)
    for said in notes:
        if said["what"] == "acked":
            acked[said["family"]].add(said["key"])
    letters = await operator.messages.dead_letters.find()
    dead = Counter(_key(each.sent, each.letter.body) for each in letters)
    waiting = {key for stream in LANES.values() for key in await _held(mesh, stream)} | {key async for key in _unheard(mesh)}
    states = {f"{job.target} {job.caller} {job.nonce}": job.state for job in await operator.jobs.list(all=True, most=MOST_JOBS)}
    waiting |= {key for key, state in states.items() if state in ("queued", "running")}
    return Evidence(
        acked=acked,
        effects=_effects(directory),
        dead=dead,
        waiting=waiting,
        limbo=limbo,
        jobs=states,
        awaits=list(awaits(notes)),
        pauses=pauses,
        starved=[(said["pid"], said["begun"], said["at"], said["seconds"]) for said in notes if said["what"] == "starved"],
        stuck=stuck,
    )


def _effects(directory: Path) -> Counter[str]:
    base = sqlite3.connect(directory / "effects.sqlite")
    try:
        return Counter(key for (key,) in base.execute("SELECT key FROM effects"))
    finally:
        base.close()


async def _unheard(mesh: Mesh) -> AsyncIterator[str]:
    """Events that some consumer of the subscription has not yet acknowledged, or that lie above such a one."""
    floors = {
        each["config"]["filter_subject"]: each["ack_floor"]["stream_seq"]
        for each in await _heard(JetStream(mesh.connection))
        if each["num_pending"] + each["num_ack_pending"]
    }
    for filter, floor in floors.items():
        for key in await _held(mesh, EVENTS, filter, floor + 1):
            yield key


async def _held(mesh: Mesh, stream: str, filter: str = ">", seq: int = 1) -> list[str]:
    """What lies in a stream."""
    js = JetStream(mesh.connection)
    found: list[str] = []
    while True:
        try:
            said = (await js.api(f"STREAM.MSG.GET.{stream}", {"seq": seq, "next_by_subj": filter}))["message"]
        except ApiError as error:
            if error.err_code != NO_MESSAGE:
                raise
            return found
        found.append(_key(mesh.subjects.parse(said["subject"]), base64.b64decode(said.get("data", ""))))
        seq = int(said["seq"]) + 1


def _key(sent: object, body: bytes) -> str:
    id = json.loads(body)["id"]
    if isinstance(sent, EventSubject):
        return f"{HEARD} {sent.topic} {sent.publisher} {id}"
    if isinstance(sent, Job):
        return f"{sent.target} {sent.caller} {id}"
    assert isinstance(sent, Msg)
    return f"{sent.target} {sent.sender} {id}"
