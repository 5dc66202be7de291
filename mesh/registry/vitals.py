"""How an instance is, as events on the topic `agent.health`: every `period` seconds, and at once when its state changes.

`{"agentId", "instance", "status", "metrics": {"cpu", "memory", "memoryBytes", "calls", "errors", "running", "latency": {"p50", "p99"}}}`
and, of an instance that was lost, `{"agentId", "instance", "status", "metrics": {}, "lost": why, or null when it is back}`

`status` is `healthy`, `unhealthy` (its server is being started anew) or `stopped` (it leaves); `calls`, `errors` and `latency`
(milliseconds) are since the last event, `cpu` and `memory` those of its process (shares of one processor and of the machine's memory),
which may serve several agents. Where its server has processes of its own, `metrics` has `"server": {"cpu", "memory", "memoryBytes",
"processes"}`, of those and of what they have started.

They are told to whoever listens, and not kept for long: each lives for `KEPT` periods, so a thousand agents have four thousand events of
some 500 bytes at the broker. No answer is waited for: one that is lost is followed by the next.

An instance that went without a word says nothing any more. Then the control plane says it (`Losses`), with the same members, no figures
and the mark `lost`, so that who waits for `unhealthy` need not know the difference; and `healthy`, when that instance is back. These are
events of `mesh`, with the priority high, and kept for `LOST_SECONDS`. Where several control planes run, each may say it.
"""

import asyncio
import contextlib
import os
import random
import secrets
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from mesh import clock
from mesh.background import end_tasks
from mesh.errors import MeshError
from mesh.link.connection import Connection
from mesh.link.responder import Responder
from mesh.policy.rights.compile import HEALTH_TOPIC
from mesh.registry.usage import Use, spent, use_of
from mesh.subjects import CONTROL_PLANE, Subjects
from mesh.topology import REGISTRY_AGE
from mesh.wire.entries import Health, InstanceEntry
from mesh.wire.event import encode, new_event

KEPT: Final = 4
"""Periods after which the broker forgets an event."""

LOST_SECONDS: Final = REGISTRY_AGE
"""How long the mesh knows of an instance that went without a word: its entry in the registry, and what was said of its end."""

STATUS: Final = {"up": "healthy", "degraded": "unhealthy"}


class Vitals:
    """Of one instance. `start` once, `stop` once, `changed` at each change of its state."""

    def __init__(self, connection: Connection, subjects: Subjects, name: str, responder: Responder, period: float) -> None:
        """`name`: the participant's, in whose name events are published. `period` in seconds; 0: none are."""
        self._connection = connection
        self._subject = subjects.event(name, "low", HEALTH_TOPIC)
        self._name = name
        self._responder = responder
        self._period = period
        self.processes: Callable[[], Collection[int]] = tuple
        """The server's own, by their numbers."""
        self._used: dict[int, Use] = {}
        """What those had used at the last event."""
        self._last = clock.monotonic(), _processor_seconds(), 0, 0
        self._status = "healthy"
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        rights = self._connection.rights
        if self._period > 0 and (rights is None or rights.may_publish(self._subject)):
            self._task = asyncio.create_task(self._run(), name=f"health of {self._responder.agent}")

    def changed(self, state: str) -> None:
        status = STATUS.get(state, state)
        if status != self._status:
            self._status = status
            if self._task is not None:
                self._tell()

    async def stop(self) -> None:
        if self._task is not None:
            await end_tasks(self._task)
            self._status = "stopped"
            self._tell()
            self._task = None

    async def _run(self) -> None:
        self._tell()
        await asyncio.sleep(self._period * random.random())  # a thousand that were started together do not speak together
        while True:
            self._tell()
            await asyncio.sleep(self._period)

    def _tell(self) -> None:
        with contextlib.suppress(MeshError):  # no connection now: the next one is told
            event = new_event(
                self._name, HEALTH_TOPIC, self.figures(), id=secrets.token_hex(8), type=HEALTH_TOPIC, priority="low",
                subject=self._responder.agent,
            )  # fmt: skip
            said = encode(event)
            self._connection.send(self._subject, said.body, headers={**said.headers, "Nats-TTL": f"{max(1, round(KEPT * self._period))}s"})

    def figures(self) -> dict[str, Any]:
        """The data of the next event."""
        then, used, served, failed = self._last
        responder, now, seconds = self._responder, clock.monotonic(), _processor_seconds()
        self._last = now, seconds, responder.served, responder.failed
        took = sorted(responder.took)
        responder.took.clear()
        resident = _resident_bytes()
        used_before, self._used = self._used, use_of(self.processes())
        elapsed = max(now - then, 0.001)
        server = _server(self._used, spent(self._used, used_before) / elapsed)
        return {
            "agentId": responder.agent,
            "instance": responder.instance,
            "status": self._status,
            "metrics": {
                "cpu": round((seconds - used) / elapsed, 3),
                "memory": round(resident / _machine_bytes(), 4),
                "memoryBytes": resident,
                "calls": responder.served - served,
                "errors": responder.failed - failed,
                "running": responder.running,
                "latency": {"p50": _quantile(took, 0.5), "p99": _quantile(took, 0.99)},
                **server,
            },
        }


class Losses:
    """What the control plane says of instances that went without a word."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subject = subjects.event(CONTROL_PLANE, "high", HEALTH_TOPIC)
        self._told: dict[str, InstanceEntry] = {}
        """Those of which it said so, and that are still known, by their keys."""

    def lost(self, key: str, entry: InstanceEntry, reason: str) -> None:
        self._told[key] = entry
        self._tell(entry, "unhealthy", reason)

    def changed(self, key: str, entry: InstanceEntry | None, health: Health | None) -> None:
        """At each change of what is known of an instance."""
        if key not in self._told:
            return
        if entry is None:
            del self._told[key]
        elif entry.lost is None and health is not None:
            del self._told[key]
            self._tell(entry, STATUS[health.state], None)

    def _tell(self, entry: InstanceEntry, status: str, reason: str | None) -> None:
        data: dict[str, Any] = {"agentId": entry.agent, "instance": entry.instance, "status": status, "metrics": {}, "lost": reason}
        event = new_event(
            CONTROL_PLANE, HEALTH_TOPIC, data, id=secrets.token_hex(8), type=HEALTH_TOPIC, priority="high", subject=entry.agent
        )
        said = encode(event)
        with contextlib.suppress(MeshError):  # no connection now: the registry says it all the same
            self._connection.send(self._subject, said.body, headers={**said.headers, "Nats-TTL": f"{LOST_SECONDS}s"})


def _server(used: dict[int, Use], cpu: float) -> dict[str, Any]:
    if not used:
        return {}
    resident = sum(each.resident for each in used.values())
    memory = {"memory": round(resident / _machine_bytes(), 4), "memoryBytes": resident}
    return {"server": {"cpu": round(cpu, 3), **memory, "processes": len(used)}}


def _quantile(took: Sequence[int], share: float) -> float | None:
    """Milliseconds; None where nothing was called."""
    return round(took[min(len(took) - 1, int(len(took) * share))] / 1e6, 3) if took else None


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _machine_bytes() -> int:
    try:
        return max(1, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return 2**63
