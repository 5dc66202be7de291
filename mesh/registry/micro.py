"""NATS micro discovery, answered for all agents from the directory: so that `nats service ls` and its kin see the mesh.

The agents hold nothing on `$SRV`: whoever may subscribe there can pose as any service. The control plane answers for them, and only to
reply subjects below `_INBOX.`, since the asker chooses that subject.

Source: NATS ADR-32 (service API).
"""

import json
import re
from typing import Any, Final

from mesh import clock
from mesh.registry.directory import Agent, Instance
from mesh.subjects import Subjects, escape

PATTERN: Final = "$SRV.>"

_semver: Final = re.compile(r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?").fullmatch


def answers(subjects: Subjects, agents: tuple[Agent, ...], subject: str) -> list[bytes]:
    """One answer for each instance that a `$SRV.PING|INFO|STATS[.name[.id]]` asks for."""
    verb, *which = subject.removeprefix("$SRV.").split(".")
    if verb not in ("PING", "INFO", "STATS") or len(which) > 2:
        return []
    found = []
    for agent in agents:
        for instance in agent.instances:
            if which[:1] not in ([], [escape(agent.name)]) or which[1:] not in ([], [instance.entry.instance]):
                continue
            found.append(json.dumps(_answer(verb, subjects, agent, instance)).encode())
    return found


def _answer(verb: str, subjects: Subjects, agent: Agent, instance: Instance) -> dict[str, Any]:
    entry = instance.entry
    body: dict[str, Any] = {
        "type": f"io.nats.micro.v1.{verb.lower()}_response",
        "name": escape(agent.name),
        "id": entry.instance,
        "version": entry.version if _semver(entry.version) else "0.0.0",
        "metadata": {"agent": agent.name, "roles": ",".join(agent.roles), "mesh": entry.mesh_version},
    }
    endpoint = {"name": "call", "subject": subjects.calls_to(agent.name, "any"), "queue_group": escape(agent.name)}
    if verb == "INFO":
        body |= {"description": entry.description or entry.title, "endpoints": [{**endpoint, "metadata": {}}]}
    elif verb == "STATS":
        health = instance.health
        figures = {"num_requests": health.served if health else 0, "num_errors": health.failed if health else 0, "last_error": ""}
        times = {"processing_time": 0, "average_processing_time": 0}
        body |= {"started": clock.iso(entry.started_ns), "endpoints": [{**endpoint, **figures, **times}]}
    return body
