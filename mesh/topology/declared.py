"""The topology of a mesh: which streams and buckets there are, and with which bounds. Each durable subject belongs to exactly one
stream.

This module is long because each stream and bucket is declared with all of its bounds, in one place.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Final

from mesh.subjects import PRIORITIES, Subjects, escape, given_up
from mesh.topology.specs import BucketSpec, ConsumerSpec, StreamSpec, bucket_stream, bucket_subject

DAY: Final = 86_400.0
MIB: Final = 1024 * 1024

JOURNAL: Final = "JOURNAL"
REGISTRY: Final = "registry"
HEALTH: Final = "health"

DEAD_LETTERS: Final = "DEAD_LETTERS"
ADVISORIES: Final = "ADVISORIES"
GIVEN_UP: Final = "given-up"
"""The control planes' consumer of ADVISORIES."""

EVENTS: Final = "EVENTS"
JOBS: Final = "JOBS"
STREAMS: Final = "STREAMS"
MARKS: Final = "MARKS"
SCHEDULES: Final = "SCHEDULES"
DUE: Final = "due"
"""The control planes' consumer of SCHEDULES."""

JOB_STATES: Final = "jobs"
HANDLED: Final = "handled"
SCHEMAS: Final = "schemas"
SCHEDULED: Final = "schedules"
SUBSCRIPTIONS: Final = "subscriptions"

LANES: Final = {priority: f"MESSAGES_{priority.upper()}" for priority in PRIORITIES}
"""The stream of each priority. A flood of one fills its own and no other (decision 9)."""

MOST_WAITING: Final = 10_000
"""Messages of one sender to one name in one priority. The next one is refused, and its sender told (`mailbox_full`)."""

MOST_JOBS: Final = 10_000
"""Jobs of one caller for one tool of one name that wait or run."""

STREAM_WINDOW: Final = 1_000
"""Messages of one direction of a durable stream that nobody has read. Its sender waits then."""

MOST_EVENTS: Final = 1_000_000
"""Of one publisher on one topic in one priority."""

ATTEMPTS: Final = 6
ACK_WAIT: Final = 30.0
"""Seconds without a word from a receiver after which a message is delivered again. It says a word of each that it holds, in time."""

HEALTH_TTL: Final = 4
"""Seconds that a heartbeat counts for. At one beat a second three may be lost, and a hung instance is gone in under six seconds."""


REGISTRY_AGE: Final = 3600
"""Seconds that the registry knows of an instance that says nothing of itself: what says that it left, or was lost, stays as long. A shorter
time for that, or none for entries, and a broker that is killed would bring back who left long ago (`mesh.link.buckets`)."""


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
    lanes = tuple(
        StreamSpec(
            name=LANES[priority],
            description=f"{priority} messages that nobody has done yet",
            subjects=(subjects.lanes(priority),),
            retention="workqueue",
            discard="new",
            discard_new_per_subject=True,
            max_msgs_per_subject=MOST_WAITING,
            max_bytes=1024 * MIB,
            max_age=7 * DAY,
            max_consumers=20_000,  # one for each name that anybody ever listened under
            duplicate_window=600,
            replicas=replicas,
        )
        for priority in PRIORITIES
    )
    dead = StreamSpec(
        name=DEAD_LETTERS,
        description="messages that are not tried again",
        subjects=(subjects.dead_of(),),
        discard="new",
        discard_new_per_subject=True,
        max_msgs_per_subject=1,  # whoever writes it, and however often: the receiver and the control plane both may
        max_bytes=1024 * MIB,
        max_age=30 * DAY,
        replicas=replicas,
    )
    advisories = StreamSpec(
        name=ADVISORIES,
        description="the broker's word on messages that it does not deliver again",
        subjects=tuple(map(given_up, (*LANES.values(), EVENTS, JOBS))),
        max_bytes=64 * MIB,
        max_age=DAY,
        replicas=replicas,
    )
    registry = BucketSpec(
        name=REGISTRY,
        description="who there is: agents, instances, their tools",
        max_age=REGISTRY_AGE,
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
    return Topology(
        streams=(journal, *lanes, *_families(subjects, replicas), dead, advisories),
        buckets=(registry, health, *_buckets(subjects, replicas)),
        consumers=(
            ConsumerSpec(stream=ADVISORIES, name=GIVEN_UP),
            ConsumerSpec(stream=SCHEDULES, name=DUE, filters=(subjects.schedules[1],)),
        ),
    )


def _families(subjects: Subjects, replicas: int) -> tuple[StreamSpec, ...]:
    """Events, jobs, durable streams, schedules."""
    return (
        StreamSpec(
            name=EVENTS,
            description="events and broadcasts, also those that were read",
            subjects=(subjects.events(), subjects.casts()),
            # Full, it refuses the new one: nothing that somebody has still to read gives way. What all have read is trimmed in time.
            discard="new",
            discard_new_per_subject=True,
            max_msgs_per_subject=MOST_EVENTS,
            max_bytes=2048 * MIB,
            max_age=7 * DAY,
            max_consumers=50_000,
            duplicate_window=600,
            allow_msg_ttl=True,  # so that figures of health do not stay for a week
            replicas=replicas,
        ),
        StreamSpec(
            name=JOBS,
            description="jobs that wait or run",
            subjects=(subjects.jobs_to(),),
            retention="workqueue",
            discard="new",
            discard_new_per_subject=True,
            max_msgs_per_subject=MOST_JOBS,
            max_bytes=1024 * MIB,
            max_age=7 * DAY,
            max_consumers=20_000,
            duplicate_window=600,
            replicas=replicas,
        ),
        StreamSpec(
            name=STREAMS,
            description="messages of durable streams that nobody has read",
            subjects=(subjects.flows,),
            retention="workqueue",
            discard="new",
            discard_new_per_subject=True,
            max_msgs_per_subject=STREAM_WINDOW,
            max_bytes=512 * MIB,
            max_age=7 * DAY,
            max_consumers=20_000,
            duplicate_window=600,
            republish=subjects.marks_republish,
            republish_headers=True,
            replicas=replicas,
        ),
        StreamSpec(
            name=MARKS,
            description="how far each direction of a durable stream is, also where all was read",
            subjects=(subjects.marks,),
            max_msgs_per_subject=1,
            max_bytes=128 * MIB,
            max_age=7 * DAY,
            replicas=replicas,
        ),
        StreamSpec(
            name=SCHEDULES,
            description="the clock of what is to be sent later",
            subjects=subjects.schedules,
            retention="workqueue",  # what was due goes when it was sent
            max_bytes=128 * MIB,  # full, it would throw out the oldest, as the broker insists where there are schedules
            allow_msg_schedules=True,
            allow_rollup_hdrs=True,  # the server insists on it
            allow_msg_ttl=True,
            replicas=replicas,
        ),
    )


def _buckets(subjects: Subjects, replicas: int) -> tuple[BucketSpec, ...]:
    """States of jobs, what was handled, schemas, subscriptions."""
    return (
        BucketSpec(
            name=JOB_STATES,
            description="how each job stands, by target, caller and id",
            max_age=8 * DAY,
            max_bytes=512 * MIB,
            republish=subjects.bucket_republish(JOB_STATES),
            replicas=replicas,
        ),
        BucketSpec(
            name=HANDLED,
            description="what receivers have done, for as long as it may come again",
            max_age=DAY,
            max_bytes=256 * MIB,
            discard="old",
            republish=subjects.bucket_republish(HANDLED),
            replicas=replicas,
        ),
        BucketSpec(
            name=SCHEMAS,
            description="schemas of events, by topic and version",
            max_bytes=64 * MIB,
            written_once=True,
            republish=subjects.bucket_republish(SCHEMAS),
            replicas=replicas,
        ),
        BucketSpec(name=SCHEDULED, description="what is to be sent later, by sender and id", max_bytes=128 * MIB, replicas=replicas),
        BucketSpec(
            name=SUBSCRIPTIONS,
            description="durable subscriptions to events, by agent and name",
            max_bytes=64 * MIB,
            written_once=True,
            replicas=replicas,
        ),
    )


def lane_spec(subjects: Subjects, target: str, priority: str) -> ConsumerSpec:
    """The consumer of a name's messages of one priority, shared by all who answer to it. Its name is the name, as a token: so a permission
    can hold each to its own."""
    return ConsumerSpec(
        stream=LANES[priority],
        name=escape(target),
        filters=(subjects.lane(target, priority),),
        ack_wait=ACK_WAIT,
        max_deliver=ATTEMPTS,
    )


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

    What a bucket republishes counts too: a stream that took the copies would store every change of the bucket again. Headers alone do not.
    """
    taken = [(spec.name, subject) for spec in topology.all_streams() for subject in spec.subjects]
    copies = [(spec.name, spec.republish[1]) for spec in topology.all_streams() if spec.republish and not spec.republish_headers]
    pairs = [*combinations(taken, 2), *((copy, take) for copy in copies for take in taken)]
    return tuple((*one, *other) for one, other in pairs if overlaps(one[1], other[1]))
