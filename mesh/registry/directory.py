"""Who is there: the registry's entries and the heartbeats, joined. A live copy that costs the broker one small reader a bucket."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Self, TypeVar

import structlog

from mesh.errors import MalformedMessage
from mesh.link.buckets import Entry
from mesh.link.jetstream import JetStream
from mesh.link.view import BucketView
from mesh.policy.lines import worth_a_line
from mesh.subjects import CONTROL_PLANE, Subjects, key_of
from mesh.topology import HEALTH, REGISTRY
from mesh.wire.entries import HEALTH_TTL_SECONDS, Health, InstanceEntry, read

T = TypeVar("T", InstanceEntry, Health)

_log = structlog.get_logger("mesh.registry")

OVERDUE_NS: Final = 2 * HEALTH_TTL_SECONDS * 1_000_000_000
"""A heartbeat that is so much older than the newest one of anybody has expired, whatever keeps its key."""

MOST_OF_ONE: Final = 64 * 1024 * 1024
"""Bytes of the registry that the keys of one agent may take: a quarter. The broker has no bound for that (facts of the broker)."""

KEY_BYTES: Final = 4_096
"""What a key counts for besides its value, so that many small ones are bounded too."""

MakeReader = Callable[[str], Awaitable[str]]
"""Has a reader of a bucket made for this process, and returns its name."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance: what it said when it came, its last heartbeat (None: it has none, so it is gone or not yet there), and when that was
    stored."""

    entry: InstanceEntry
    health: Health | None
    beaten_ns: int


@dataclass(frozen=True, slots=True)
class Agent:
    """One name, and its instances. `lost` are those that went without a word, within the last hour."""

    name: str
    roles: tuple[str, ...]
    instances: tuple[Instance, ...]
    lost: tuple[InstanceEntry, ...]

    @property
    def newest(self) -> InstanceEntry:
        """What the instance that came last said of the agent: title, version, tools."""
        entries = [each.entry for each in self.instances] or list(self.lost)
        return max(entries, key=lambda entry: entry.started_ns)


class Directory:
    """`async with Directory(…) as directory` begins with a complete copy. `on_change(what, key, reason)` is called after each change,
    with `what` `health` or `registry`; it runs in the read loop."""

    def __init__(
        self,
        js: JetStream,
        subjects: Subjects,
        make_reader: MakeReader,
        on_change: Callable[[str, str, str], None] | None = None,
        on_heavy: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_heavy(owner)`: the keys of this agent (its token) take more of the registry than those of one may."""
        self._js = js
        self._subjects = subjects
        self._make_reader = make_reader
        self._on_change = on_change
        self._stack = AsyncExitStack()
        self._entries: dict[str, InstanceEntry] = {}
        self._health: dict[str, tuple[Health, int]] = {}
        self._on_heavy = on_heavy
        self._sizes: dict[str, int] = {}
        self._weights: Counter[str] = Counter()
        """Of the keys of the registry, and of those of each agent together."""
        self._latest_ns = 0
        """When the newest heartbeat of anybody was stored."""
        self.refused = 0
        """Values that were no entries, or under another's key."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for bucket, note in ((REGISTRY, self._on_registry), (HEALTH, self._on_health)):
                await stack.enter_async_context(
                    BucketView(
                        self._js,
                        bucket,
                        live=self._subjects.bucket_copy(bucket),
                        make_reader=partial(self._make_reader, bucket),
                        on_change=note,
                    )
                )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def agents(self) -> tuple[Agent, ...]:
        """All agents, by name."""
        present: dict[str, list[Instance]] = defaultdict(list)
        lost: dict[str, list[InstanceEntry]] = defaultdict(list)
        for key, entry in self._entries.items():
            health = self._health.get(key)
            if entry.lost is not None:
                lost[entry.agent].append(entry)
            elif health is not None:
                present[entry.agent].append(Instance(entry, *health))
        agents = []
        for name in sorted(present.keys() | lost.keys()):
            instances = tuple(sorted(present[name], key=lambda each: each.entry.started_ns))
            entries = [each.entry for each in instances] or lost[name]
            roles = tuple(sorted({role for entry in entries for role in entry.roles}))
            agents.append(Agent(name, roles, instances, tuple(lost[name])))
        return tuple(agents)

    def instances_of(self, name: str) -> tuple[str, ...]:
        """The live instances of an agent, or of all agents with that role."""
        return tuple(
            health.instance
            for key, (health, _) in self._health.items()
            if health.agent == name or ((entry := self._entries.get(key)) is not None and name in entry.roles)
        )

    def close_to(self, name: str) -> tuple[str, ...]:
        """The names of live agents and roles that look like this one, best first."""
        names = {health.agent for health, _ in self._health.values()}
        names |= {role for key, entry in self._entries.items() if key in self._health for role in entry.roles}
        names -= {CONTROL_PLANE, name}
        folded = {each.casefold(): each for each in sorted(names)}
        close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
        return tuple(folded[each] for each in close)

    def entry(self, key: str) -> InstanceEntry | None:
        return self._entries.get(key)

    def health(self, key: str) -> Health | None:
        found = self._health.get(key)
        return found[0] if found else None

    def silent(self) -> tuple[str, ...]:
        """Entries that are not marked as lost and have no heartbeat, or none since others have beaten for long."""
        since = self._latest_ns - OVERDUE_NS
        found = self._health
        return tuple(key for key, entry in self._entries.items() if entry.lost is None and (key not in found or found[key][1] < since))

    def keys_of_client(self, server: str, client: int) -> tuple[str, ...]:
        """Whose heartbeats name this connection of the broker."""
        return tuple(key for key, (health, _) in self._health.items() if health.client.id == client and health.client.server == server)

    def _on_registry(self, key: str, entry: Entry | None, reason: str) -> None:
        self._weigh(key, entry)
        found = self._read(InstanceEntry, key, entry)
        if found is not None:
            self._entries[key] = found
        elif entry is None:
            self._entries.pop(key, None)
        else:
            return
        self._tell(REGISTRY, key, reason)

    def _on_health(self, key: str, entry: Entry | None, reason: str) -> None:
        found = self._read(Health, key, entry)
        self._latest_ns = max(self._latest_ns, entry.time_ns if entry is not None else 0)
        if found is not None and entry is not None:
            self._health[key] = (found, entry.time_ns)
        elif entry is None:
            self._health.pop(key, None)
        else:
            return
        self._tell(HEALTH, key, reason)

    def forget(self, owner: str) -> None:
        """The keys of an agent were purged from the registry, which nobody is told by the broker."""
        for key in [each for each in self._sizes if each.partition(".")[0] == owner]:
            self._on_registry(key, None, "deleted")

    def _weigh(self, key: str, entry: Entry | None) -> None:
        owner, new = key.partition(".")[0], 0 if entry is None else KEY_BYTES + len(entry.value)
        self._weights[owner] += new - self._sizes.pop(key, 0)
        if new:
            self._sizes[key] = new
        if not self._weights[owner]:
            del self._weights[owner]
        if new and self._weights[owner] > MOST_OF_ONE:
            self._on_heavy(owner)

    def _read(self, model: type[T], key: str, entry: Entry | None) -> T | None:
        """A value that says another name than its key is nobody's: the key is what the broker enforces. What cannot be read is no word of
        its owner's (the broker can be made to put an answer of its own under any key), so what the owner has said before goes on."""
        if entry is None:
            return None
        try:
            found = read(model, entry.value)
            if key_of(found.agent, found.instance) != key:
                raise MalformedMessage("an entry under another's key")
        except MalformedMessage as error:
            self.refused += 1
            if worth_a_line(self.refused):
                _log.warning("a bucket holds what is no entry", key=key, why=str(error), count=self.refused)
            return None
        return found

    def _tell(self, what: str, key: str, reason: str) -> None:
        if self._on_change is not None:
            self._on_change(what, key, reason)
