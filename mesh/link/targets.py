"""Whom this process calls, and whether they are alive: asked once, then watched.

The journal takes every call, so the broker never answers "no responders" on a call to nobody (facts of the broker: a stream counts as
interest). So before the first call to a name a probe asks on a subject that no stream takes; "no responders" there is the answer at
once. The answer to the probe also says which of the target's tools the journal must not hold. From then on the target's heartbeats,
which the broker copies to plain subscribers, keep it fresh; a name that has gone stale is probed again before it is called.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from mesh import clock
from mesh.background import end_tasks
from mesh.errors import BrokerUnavailable, CallTimeout, InstanceLost, MalformedMessage, NoResponders, NoSuchAgent
from mesh.link.buckets import gone
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.probes import Probes
from mesh.subjects import CONTROL_PLANE, Subjects
from mesh.topology import HEALTH, bucket_subject
from mesh.wire.entries import HEALTH_TTL_SECONDS, HEARTBEAT_SECONDS, Health, JournalPolicy, ProbeAnswer, ProbeQuestion, read

MOST_TARGETS: Final = 1_000
"""Names watched at once; the one that was called longest ago makes room."""

HEARD: Final = 2.0
"""Seconds for which a target counts as alive after it answered something."""

BEATEN: Final = HEALTH_TTL_SECONDS + HEARTBEAT_SECONDS
"""Seconds for which a target counts as alive after a heartbeat."""

PLANE: Final = 0.04
"""Seconds to wait for the control plane's word. It makes a call surer and an error kinder; nothing waits longer for it."""

ATTEMPTS: Final = 3
"""How often a name is asked for where the connection is lost over it."""

PROBES: Final = (0.3, 0.7, 1.5)
"""Seconds to wait for each probe in turn: an instance of a pool that hangs must not hide the others."""


@dataclass(slots=True, eq=False)
class Target:
    """A name to call. `fresh_until` is the monotonic time until which it may be called without a probe."""

    name: str
    journal: JournalPolicy = field(default_factory=JournalPolicy)
    fresh_until: float = 0.0
    instances: frozenset[str] = frozenset()
    """The live instances, as far as they were heard."""
    complete: bool = False
    """Whether `instances` is all of them: the control plane said so, or heartbeats were followed for long enough."""
    watched_since: float = 0.0
    """When it was resolved on this connection. 0: not yet, so whatever was heard of it, it is asked for anew."""
    subjects: dict[tuple[str, str | None, str], tuple[str, bool]] = field(default_factory=dict)
    """(method, name, instance) → subject and whether it is quiet: built once."""


class Targets:
    """Owned by one node. `on_gone(agent, instance)` is called for each watched instance that leaves, expires or is lost."""

    def __init__(self, connection: Connection, subjects: Subjects, probes: Probes, on_gone: Callable[[str, str], None]) -> None:
        self._connection = connection
        self._subjects = subjects
        self._probes = probes
        self._on_gone = on_gone
        self._targets: dict[str, Target] = {}
        self._watches: dict[str, Subscription] = {}
        self._resolving: dict[str, asyncio.Task[Target]] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._losses = 0
        connection.on_down(self._forget)

    def fresh(self, name: str) -> Target | None:
        """The target, if it may be called right now."""
        target = self._targets.get(name)
        if target is None or not target.watched_since or clock.monotonic() >= target.fresh_until or not self._connection.connected:
            return None
        return target

    async def resolve(self, name: str) -> Target:
        """Ask whether anyone answers to `name`. Raises NoSuchAgent, InstanceLost (there, but silent), Denied, BrokerUnavailable."""
        task = self._resolving.get(name)
        if task is None:
            task = self._resolving[name] = asyncio.create_task(self._resolve(name), name=f"resolve {name}")
            task.add_done_callback(partial(self._resolved, name))
        return await asyncio.shield(task)

    def _resolved(self, name: str, task: "asyncio.Task[Target]") -> None:
        del self._resolving[name]
        if not task.cancelled():
            task.exception()  # who asked may have gone meanwhile, and nobody is left to be told

    def forget_subjects(self) -> None:
        """The caller's rights have changed: each subject is checked anew."""
        for target in self._targets.values():
            target.subjects.clear()

    def stale(self, name: str) -> None:
        """Something the target said disagrees with what is known of it: probe it before the next call."""
        if (target := self._targets.get(name)) is not None:
            target.fresh_until = 0.0

    async def watch(self, agent: str) -> None:
        """Follow the heartbeats of an agent: one that is called, or that answers for a role."""
        if agent in self._watches or not self._connection.connected:
            return
        heartbeats, rights = self._subjects.bucket_copy("health", agent), self._connection.rights
        if rights is not None and not rights.may_subscribe(heartbeats):
            return
        try:
            watch = await self._connection.subscribe(heartbeats, partial(self._on_health, agent))
        except BrokerUnavailable:
            return  # who wants to know asks again once the connection is back
        if agent in self._watches:
            await watch.unsubscribe()
            return
        self._watches[agent] = watch
        if len(self._watches) > MOST_TARGETS:
            await self._drop(next(iter(self._watches)))

    def follow(self, agent: str) -> None:
        """`watch`, for who stands in the read loop."""
        if agent not in self._watches and agent not in self._following:
            task = self._following[agent] = asyncio.create_task(self.watch(agent), name=f"watch {agent}")
            task.add_done_callback(lambda _: self._following.pop(agent, None))

    async def close(self) -> None:
        await end_tasks(*self._resolving.values(), *self._following.values())

    async def _resolve(self, name: str) -> Target:
        """A call that is made while the connection comes back waits for it; what is asked while it is lost is asked again."""
        for attempt in range(ATTEMPTS):
            await self._connection.returned()
            losses = self._losses
            try:
                return await self._ask(name)
            except BrokerUnavailable:
                if losses == self._losses or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _ask(self, name: str) -> Target:
        losses = self._losses
        await self.watch(name)
        plane = asyncio.create_task(self._ask_plane(name), name=f"ask about {name}")
        try:
            found = await self._probe(name)
            said = await plane
        except NoSuchAgent as error:
            await self._drop(name)
            if close := (await plane).close:
                error.hint = f"did you mean {', '.join(close)}? `mesh agents` shows who is there"
                error.details["close"] = list(close)
            raise
        finally:
            await end_tasks(plane)
        if losses != self._losses:
            raise BrokerUnavailable(f"the connection to the broker was lost while asking for {name!r}")
        target = self._targets.setdefault(name, Target(name))
        now = clock.monotonic()
        if found.journal != target.journal:
            target.journal = found.journal
            target.subjects.clear()
        target.watched_since = target.watched_since or now
        target.instances |= {found.instance, *said.instances}
        # Who has a role is known for this moment only: the heartbeats that are followed are those of agents.
        target.complete = found.agent == name and (target.complete or bool(said.instances))
        target.fresh_until = max(target.fresh_until, now + HEARD)
        return target

    async def _probe(self, name: str) -> ProbeAnswer:
        for patience in PROBES:
            try:
                return await self._probes.ask(name, b"", patience)
            except NoResponders:
                if name == CONTROL_PLANE:
                    raise NoSuchAgent("no control plane runs, and it alone can answer this", hint="start `mesh up`") from None
                raise NoSuchAgent(f"nobody answers to {name!r}", hint="`mesh agents` shows who is there") from None
            except CallTimeout:
                continue
        raise InstanceLost(f"{name!r} is there but does not answer", hint="`mesh agents` shows its health; restart its bridge")

    async def _ask_plane(self, name: str) -> ProbeAnswer:
        """What the control plane knows of a name: its instances, or the names that come close. Nothing, where no control plane runs."""
        question = ProbeQuestion(about=name).encode()
        try:
            return await self._probes.ask(CONTROL_PLANE, question, PLANE)
        except (NoResponders, CallTimeout, BrokerUnavailable):
            return ProbeAnswer(agent=CONTROL_PLANE, instance="")

    async def _drop(self, name: str) -> None:
        self._targets.pop(name, None)
        if (watch := self._watches.pop(name, None)) is not None:
            await watch.unsubscribe()

    def _on_health(self, agent: str, message: Message) -> None:
        owner, instance = message.subject.split(".")[-2:]
        headers = message.headers or {}
        if headers.get("Nats-Subject") != bucket_subject(HEALTH, f"{owner}.{instance}"):
            return  # not the broker's copy of the bucket
        target = self._targets.get(agent)
        if gone(headers):
            if target is not None:
                target.instances -= {instance}
                if not target.instances:
                    target.fresh_until = 0.0
            self._on_gone(agent, instance)
        elif target is not None and _beats(message.body):
            now = clock.monotonic()
            target.fresh_until = now + BEATEN
            if instance not in target.instances:
                target.instances |= {instance}
            if not target.complete and target.watched_since and now - target.watched_since > 1.5 * HEARTBEAT_SECONDS:
                target.complete = True

    def _forget(self) -> None:
        """The connection is down: nothing that was known is known any more, but for what a subject looks like."""
        self._losses += 1
        for target in self._targets.values():
            target.fresh_until = target.watched_since = 0.0
            target.instances = frozenset()
            target.complete = False


def _beats(body: bytes) -> bool:
    """Whether it is a heartbeat. The broker can be made to put an answer of its own under anybody's key (docs/security.md)."""
    try:
        read(Health, body)
    except MalformedMessage:
        return False
    return True
