"""What a stream, a consumer and a bucket are, as frozen data. `config()` is the JSON that the JetStream API takes.

A bucket is a stream named `KV_{bucket}` over `$KV.{bucket}.>`, with the settings that NATS's own clients expect of one, so that
`nats kv` works on it. What all specs have in common: times are seconds, sizes bytes, and -1 is "no limit".

Source: NATS ADR-8 (key-value), ADR-28 (republish), ADR-43 (TTL and markers).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

NO_LIMIT: Final = -1
"""How the server writes "unlimited"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One stream."""

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
    """Said explicitly: where it is -1 the server stops at 1,000 all the same."""
    replicas: int = 1
    no_ack: bool = False
    duplicate_window: float | None = None
    """None leaves it to the server: two minutes, or `max_age` if that is less."""
    subject_transform: tuple[str, str] | None = None
    republish: tuple[str, str] | None = None
    republish_headers: bool = False
    """Of what is republished only the headers."""
    allow_direct: bool = False
    allow_rollup_hdrs: bool = False
    allow_msg_ttl: bool = False
    allow_msg_schedules: bool = False
    """Whoever may publish to such a stream can have the broker publish under any subject of it: only `mesh` may."""
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
            "republish": _republished(self.republish, self.republish_headers),
            "allow_direct": self.allow_direct,
            "allow_rollup_hdrs": self.allow_rollup_hdrs,
            "allow_msg_ttl": self.allow_msg_ttl,
            "allow_msg_schedules": self.allow_msg_schedules,
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
    """Waits between attempts after ack timeouts, in the place of `ack_wait`. A nak names its own delay."""
    start_seq: int | None = None
    start_time_ns: int | None = None
    inactive_threshold: float = 0
    """Seconds without a pull after which the server removes it; 0 never (a durable one) or 5 s (any other)."""
    memory: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
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
            first = self.backoff[0] if self.backoff else self.ack_wait  # the server sets the ack wait to the first backoff
            config |= {"ack_wait": _ns(first), "max_ack_pending": self.max_ack_pending, "backoff": [_ns(wait) for wait in self.backoff]}
        config |= {
            "max_deliver": self.max_deliver,
            "inactive_threshold": _ns(self.inactive_threshold),
            "mem_storage": self.memory,
            "num_replicas": self.replicas,
        }
        if self.metadata:
            config["metadata"] = dict(self.metadata)
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
    discard: Literal["old", "new"] = "new"
    """What gives way when the bucket is full."""
    written_once: bool = False
    """A key that is there is not written over, only removed first (`mesh.link.buckets`): so whoever has the broker write an answer of its
    own under a key, as everybody can, destroys nothing."""
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
            discard=self.discard,
            discard_new_per_subject=self.written_once,
            max_bytes=self.max_bytes,
            max_age=self.max_age,
            max_msgs_per_subject=self.history,
            max_consumers=10_000,  # one reader an instance, and 1,000 agents may have several
            replicas=self.replicas,
            republish=self.republish,
            allow_direct=True,
            # A put with `Nats-Rollup: all` empties the whole stream, and whoever may write one key may send it. The server insists on
            # it where there are markers: so such a bucket must hold only what its writers soon put again.
            allow_rollup_hdrs=self.marker_ttl > 0,
            allow_msg_ttl=True,
            subject_delete_marker_ttl=self.marker_ttl,
            deny_delete=True,
        )


def bucket_stream(bucket: str) -> str:
    """The stream of a bucket (ADR-8)."""
    return f"KV_{bucket}"


def bucket_subject(bucket: str, key: str) -> str:
    """The subject of a key, or of several: the key may hold wildcards (ADR-8)."""
    return f"$KV.{bucket}.{key}"


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _rfc3339(ns: int) -> str:
    """To the nanosecond, which `datetime` cannot hold."""
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"


def _source_and_destination(pair: tuple[str, str] | None) -> dict[str, str] | None:
    return None if pair is None else {"src": pair[0], "dest": pair[1]}


def _republished(pair: tuple[str, str] | None, headers_only: bool) -> dict[str, Any] | None:
    said = _source_and_destination(pair)
    return None if said is None else {**said, "headers_only": headers_only}
