"""The streams, consumers and buckets of the mesh, declared as data, and what has to be done so that a broker has them.

Theory of operation
-------------------
`declare` gives the topology as frozen specs. A spec's `config()` is the JSON that the JetStream API takes. `plan` compares specs with what a
broker has and answers with actions; it does no I/O (`mesh.link.reconcile` reads the broker and applies). Nothing is deleted
unless `prune` asks for it.

A server that is too old ignores a setting it does not know, without an error. So the config that the server echoes is compared with the one
asked for by the same `differences` that finds drift: what still differs after an update was ignored.

Only what a spec declares is compared. The server leaves out of its echo what is off or empty (`false`, `0`, `""`), and adds values of
its own (`metadata`, `duplicate_window`, …); neither is a difference.

A bucket is a stream named `KV_{bucket}` over `$KV.{bucket}.>`, with the settings that NATS's own clients expect of one (ADR-8), so that
`nats kv` works on it.

Source: NATS ADR-8 (key-value), ADR-31 (republish), ADR-43 (TTL and markers); nats-server's `checkStreamCfg` and `configUpdateCheck`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import Any, Final, Literal

from mesh.subjects import Subjects

NO_LIMIT: Final = -1
"""How the server writes "unlimited"."""

DAY: Final = 86_400.0
MIB: Final = 1024 * 1024

JOURNAL: Final = "JOURNAL"
REGISTRY: Final = "registry"
HEALTH: Final = "health"

HEALTH_TTL: Final = 4
"""Seconds that a heartbeat counts for. At one beat a second three may be lost; a hung instance is gone in under six seconds (DESIGN section 4)."""

SERVER_NEEDED: Final = "2.14"
"""The oldest nats-server that CONSUMER.RESET exists on; TTL markers came with 2.11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One stream. Times are seconds, sizes bytes; -1 is "no limit"."""

    name: str
    subjects: tuple[str, ...]
    description: str = ""
    storage: Literal["file", "memory"] = "file"
    retention: Literal["limits", "workqueue", "interest"] = "limits"
    discard: Literal["old", "new"] = "old"
    """What gives way when the stream is full: the oldest message, or the new one (its sender is told)."""
    discard_new_per_subject: bool = False
    max_msgs: int = NO_LIMIT
    max_bytes: int = NO_LIMIT
    max_age: float = 0
    max_msgs_per_subject: int = NO_LIMIT
    max_consumers: int = 1000
    """Said explicitly: where it is -1 the server stops at 1,000 all the same. It cannot be changed later."""
    replicas: int = 1
    no_ack: bool = False
    duplicate_window: float | None = None
    """None leaves it to the server: two minutes, or `max_age` if that is less."""
    subject_transform: tuple[str, str] | None = None
    republish: tuple[str, str] | None = None
    allow_direct: bool = False
    allow_rollup_hdrs: bool = False
    allow_msg_ttl: bool = False
    subject_delete_marker_ttl: float = 0
    deny_delete: bool = False
    deny_purge: bool = False

    def config(self) -> dict[str, Any]:
        """The body of `STREAM.CREATE` and `STREAM.UPDATE`."""
        config: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "subjects": list(self.subjects),
            "storage": self.storage,
            "retention": self.retention,
            "discard": self.discard,
            "discard_new_per_subject": self.discard_new_per_subject,
            "max_msgs": self.max_msgs,
            "max_bytes": self.max_bytes,
            "max_age": _ns(self.max_age),
            "max_msgs_per_subject": self.max_msgs_per_subject,
            "max_consumers": self.max_consumers,
            "num_replicas": self.replicas,
            "no_ack": self.no_ack,
            "subject_transform": _source_and_destination(self.subject_transform),
            "republish": _source_and_destination(self.republish),
            "allow_direct": self.allow_direct,
            "allow_rollup_hdrs": self.allow_rollup_hdrs,
            "allow_msg_ttl": self.allow_msg_ttl,
            "subject_delete_marker_ttl": _ns(self.subject_delete_marker_ttl),
            "deny_delete": self.deny_delete,
            "deny_purge": self.deny_purge,
        }
        if self.duplicate_window is not None:
            config["duplicate_window"] = _ns(self.duplicate_window)
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """One pull consumer. The mesh has no push consumers: whoever may choose a `deliver_subject` can forge (facts on permissions)."""

    stream: str
    name: str
    filters: tuple[str, ...] = ()
    """Subjects of the stream that it takes; none means all."""
    durable: bool = True
    ack: Literal["explicit", "none"] = "explicit"
    ack_wait: float = 30.0
    max_deliver: int = NO_LIMIT
    max_ack_pending: int = 1000
    backoff: tuple[float, ...] = ()
    """Waits between attempts after ack timeouts. A nak names its own delay."""
    start_seq: int | None = None
    start_time_ns: int | None = None
    inactive_threshold: float = 0
    """Seconds without a pull after which the server removes it; 0 never (a durable one) or 5 s (any other)."""
    memory: bool = False
    replicas: int = 0
    """0: as many as the stream has."""

    def config(self) -> dict[str, Any]:
        """The `config` of `CONSUMER.CREATE`."""
        config: dict[str, Any] = {"name": self.name, "deliver_policy": "all", "ack_policy": self.ack, "replay_policy": "instant"}
        if self.durable:
            config["durable_name"] = self.name
        if len(self.filters) == 1:
            config["filter_subject"] = self.filters[0]
        elif self.filters:
            config["filter_subjects"] = list(self.filters)
        if self.start_seq is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self.start_seq}
        elif self.start_time_ns is not None:
            config |= {"deliver_policy": "by_start_time", "opt_start_time": _rfc3339(self.start_time_ns)}
        if self.ack == "explicit":
            config |= {"ack_wait": _ns(self.ack_wait), "max_ack_pending": self.max_ack_pending, "backoff": [_ns(wait) for wait in self.backoff]}
        config |= {
            "max_deliver": self.max_deliver,
            "inactive_threshold": _ns(self.inactive_threshold),
            "mem_storage": self.memory,
            "num_replicas": self.replicas,
        }
        return config


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSpec:
    """One key-value bucket."""

    name: str
    description: str = ""
    storage: Literal["file", "memory"] = "file"
    history: int = 1
    max_age: float = 0
    """Bounds also the keys that were put without a TTL of their own."""
    max_bytes: int = NO_LIMIT
    marker_ttl: float = 0
    """Seconds that the marker of an expired key stays. 0: keys expire without one, and nobody is told."""
    republish: tuple[str, str] | None = None
    replicas: int = 1

    @property
    def stream(self) -> StreamSpec:
        """The stream that the bucket is."""
        return StreamSpec(
            name=bucket_stream(self.name),
            subjects=(bucket_subject(self.name, ">"),),
            description=self.description,
            storage=self.storage,
            discard="new",
            max_bytes=self.max_bytes,
            max_age=self.max_age,
            max_msgs_per_subject=self.history,
            max_consumers=10_000,  # one reader an instance, and 1,000 agents may have several
            replicas=self.replicas,
            republish=self.republish,
            allow_direct=True,
            allow_rollup_hdrs=True,
            allow_msg_ttl=True,
            subject_delete_marker_ttl=self.marker_ttl,
            deny_delete=True,
        )


@dataclass(frozen=True, slots=True)
class Topology:
    """All that a mesh keeps at the broker."""

    streams: tuple[StreamSpec, ...] = ()
    buckets: tuple[BucketSpec, ...] = ()
    consumers: tuple[ConsumerSpec, ...] = ()

    def all_streams(self) -> tuple[StreamSpec, ...]:
        """The streams, those of the buckets among them."""
        return (*self.streams, *(bucket.stream for bucket in self.buckets))


def declare(prefix: str = "mesh", replicas: int = 1) -> Topology:
    """The topology of a mesh. `replicas` is 1 on a single broker, 3 in a cluster."""
    subjects = Subjects(prefix)
    journal = StreamSpec(
        name=JOURNAL,
        description="what the broker itself recorded of calls and replies",
        subjects=subjects.journaled,
        subject_transform=subjects.reply_fold,
        no_ack=True,  # a call's reply subject belongs to its caller; an ack there would be taken for an answer
        # The bounds are of count too, not only of bytes: each distinct subject costs the broker some 260 bytes of index.
        max_msgs=1_000_000,
        max_bytes=1024 * MIB,
        max_age=7 * DAY,
        replicas=replicas,
    )
    registry = BucketSpec(
        name=REGISTRY,
        description="who there is: agents, instances, their tools",
        max_bytes=256 * MIB,
        republish=subjects.bucket_republish(REGISTRY),
        replicas=replicas,
    )
    health = BucketSpec(
        name=HEALTH,
        description="heartbeats; a key that expired is an instance that hangs",
        storage="memory",
        max_age=10.0,
        max_bytes=64 * MIB,
        marker_ttl=1.0,
        republish=subjects.bucket_republish(HEALTH),
        replicas=replicas,
    )
    return Topology(streams=(journal,), buckets=(registry, health))


def bucket_stream(bucket: str) -> str:
    """The stream of a bucket (ADR-8)."""
    return f"KV_{bucket}"


def bucket_subject(bucket: str, key: str) -> str:
    """The subject of a key, or of several: the key may hold wildcards (ADR-8)."""
    return f"$KV.{bucket}.{key}"


def reader_spec(bucket: str, name: str, filters: tuple[str, ...] = (">",), *, inactive_threshold: float = 300.0) -> ConsumerSpec:
    """A reader for one holder of a copy of a bucket, limited to the keys that `filters` match. It is pulled, and reset to read all again.

    `deliver_policy` is `all`: with `last_per_subject` the server refuses the reset, and a second reading is empty.
    """
    return ConsumerSpec(
        stream=bucket_stream(bucket),
        name=name,
        filters=tuple(bucket_subject(bucket, key) for key in filters),
        durable=False,
        ack="none",
        inactive_threshold=inactive_threshold,
        memory=True,
    )


# Subjects: each durable one in exactly one stream


def overlaps(one: str, other: str) -> bool:
    """Whether some subject matches both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if a == ">" or b == ">":
            return True
        if a != b and a != "*" and b != "*":
            return False
    return len(left) == len(right)


def double_captures(topology: Topology) -> tuple[tuple[str, str, str, str], ...]:
    """Each `(stream, subject, stream, subject)` by which a message would be stored twice. None is right.

    What a bucket republishes counts too: a stream that took the copies would store every change of the bucket again.
    """
    taken = [(spec.name, subject) for spec in topology.all_streams() for subject in spec.subjects]
    copies = [(spec.name, spec.republish[1]) for spec in topology.all_streams() if spec.republish is not None]
    pairs = [*combinations(taken, 2), *((copy, take) for copy in copies for take in taken)]
    return tuple((*one, *other) for one, other in pairs if overlaps(one[1], other[1]))


# The plan


class Kind(StrEnum):
    """What is to be done about one stream or consumer."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    CONFLICT = "conflict"
    """It differs in something that the server cannot change."""
    UNDECLARED = "undeclared"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is not as declared. Times are nanoseconds, as the server writes them."""

    setting: str
    actual: Any
    declared: Any


@dataclass(frozen=True, slots=True)
class Action:
    """One line of the plan. `name` is the stream's name, or `{stream}/{consumer}`; `spec` is None for what nobody declared."""

    kind: Kind
    name: str
    spec: StreamSpec | ConsumerSpec | None = None
    differences: tuple[Difference, ...] = ()
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Actual:
    """What a broker has: configs as it echoes them, by stream, and by `(stream, consumer)` for the declared consumers."""

    streams: Mapping[str, Mapping[str, Any]]
    consumers: Mapping[tuple[str, str], Mapping[str, Any]]


_FIXED: Final = {
    StreamSpec: frozenset({"name", "storage", "retention", "max_consumers"}),
    ConsumerSpec: frozenset({"deliver_policy", "opt_start_seq", "opt_start_time", "ack_policy", "replay_policy", "durable_name", "mem_storage"}),
}
"""Settings that the server refuses to change once a stream or consumer exists."""

_ONE_WAY: Final = frozenset({"deny_delete", "deny_purge", "allow_msg_ttl"})
"""Settings of a stream that can be switched on later, but never off."""


def plan(declared: Topology, actual: Actual, *, prune: bool = False) -> tuple[Action, ...]:
    """What has to be done so that a broker that has `actual` has `declared`: streams first, then their consumers, then what nobody declared."""
    streams = declared.all_streams()
    actions = [_action(spec.name, spec, actual.streams.get(spec.name)) for spec in streams]
    actions += [_action(f"{spec.stream}/{spec.name}", spec, actual.consumers.get((spec.stream, spec.name))) for spec in declared.consumers]
    undeclared = sorted(actual.streams.keys() - {spec.name for spec in streams})
    kind, advice = (Kind.DELETE, "") if prune else (Kind.UNDECLARED, "nothing is done to it")
    return (*actions, *(Action(kind, name, advice=advice) for name in undeclared))


def differences(spec: StreamSpec | ConsumerSpec, config: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The settings of `spec` that `config`, as a server echoes it, does not have. After an update: those that the server ignored."""
    return tuple(
        Difference(setting, config.get(setting), wanted)
        for setting, wanted in spec.config().items()
        if _normal(setting, wanted) != _normal(setting, config.get(setting))
    )


def _action(name: str, spec: StreamSpec | ConsumerSpec, config: Mapping[str, Any] | None) -> Action:
    if config is None:
        return Action(Kind.CREATE, name, spec)
    found = differences(spec, config)
    stuck = [difference.setting for difference in found if _is_fixed(spec, difference)]
    if stuck:
        return Action(Kind.CONFLICT, name, spec, found, _advice(spec, stuck))
    return Action(Kind.UPDATE if found else Kind.UNCHANGED, name, spec, found)


def _is_fixed(spec: StreamSpec | ConsumerSpec, difference: Difference) -> bool:
    return difference.setting in _FIXED[type(spec)] or (difference.setting in _ONE_WAY and bool(difference.actual))


def _advice(spec: StreamSpec | ConsumerSpec, stuck: Iterable[str]) -> str:
    settings = ", ".join(stuck)
    if isinstance(spec, ConsumerSpec):
        return f"the server cannot change {settings} of a consumer: remove it (`nats consumer rm {spec.stream} {spec.name}`), and apply again"
    return (
        f"the server cannot change {settings} of a stream: save what it holds (`nats stream backup {spec.name} DIR`), "
        f"remove it (`nats stream rm {spec.name}`), and apply again"
    )


def _normal(setting: str, value: Any) -> Any:
    """A value in the one form in which the declared and the echoed are compared."""
    if setting in ("subject_transform", "republish") and value:
        return value.get("src"), value.get("dest")  # the echo may have more members
    if setting in ("subjects", "filter_subjects"):
        return sorted(value or ())
    if setting == "opt_start_time":
        return _without_trailing_zeros(value or "")
    return value or None  # absent, false, 0, "", [] and null are one and the same


def _without_trailing_zeros(time: str) -> str:
    return time.rstrip("Z").rstrip("0").rstrip(".") if "." in time else time.rstrip("Z")


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _rfc3339(ns: int) -> str:
    """To the nanosecond, which `datetime` cannot hold."""
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


def _source_and_destination(pair: tuple[str, str] | None) -> dict[str, str] | None:
    return None if pair is None else {"src": pair[0], "dest": pair[1]}


