"""The topology of a mesh: which streams and buckets there are, and with which bounds. Each durable subject belongs to exactly one
stream."""

from dataclasses import dataclass
from itertools import combinations
from typing import Final

from mesh.subjects import Subjects
from mesh.topology.specs import BucketSpec, ConsumerSpec, StreamSpec, bucket_stream, bucket_subject

DAY: Final = 86_400.0
MIB: Final = 1024 * 1024

JOURNAL: Final = "JOURNAL"
REGISTRY: Final = "registry"
HEALTH: Final = "health"

HEALTH_TTL: Final = 4
"""Seconds that a heartbeat counts for. At one beat a second three may be lost, and a hung instance is gone in under six seconds."""


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
        storage="memory",  # on a single broker it is gone after a restart, settings and all: so reconcile after each reconnection
        max_age=10.0,
        max_bytes=64 * MIB,
        marker_ttl=1.0,
        discard="old",  # one that fills it pushes out what the next beat brings back; otherwise nobody's beat would be taken any more
        republish=subjects.bucket_republish(HEALTH),
        replicas=replicas,
    )
    return Topology(streams=(journal,), buckets=(registry, health))


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
