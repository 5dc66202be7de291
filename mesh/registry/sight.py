"""Whom a caller may know of: whoever it may call, as its rights to the live copies of the buckets say. What the control plane answers
and the readers that it makes keep to the same."""

from collections.abc import Callable
from typing import Final

from mesh.errors import Denied
from mesh.link.denial import denied, hearing, hint
from mesh.policy.rights import Permissions
from mesh.subjects import EACH, OPERATOR, Subjects, escape, rights_api
from mesh.topology import HEALTH, JOBS, LANES, REGISTRY

RightsOf = Callable[[str], Permissions]


SEEN: Final = (REGISTRY, HEALTH)
"""Buckets that tell who there is."""


class Sight:
    """`rights_of` is None where nothing is known of anybody's rights: the roles are kept elsewhere, or the broker holds nobody to any."""

    def __init__(self, subjects: Subjects, rights_of: RightsOf | None) -> None:
        self._subjects = subjects
        self._rights_of = rights_of

    @property
    def limited(self) -> bool:
        return self._rights_of is not None

    def sees(self, caller: str, agent: str) -> bool:
        """Whether `caller` may know of an agent."""
        if self._rights_of is None:
            return True
        return self._rights_of(caller).may_subscribe(self._subjects.bucket_copy(REGISTRY, agent))

    def keys(self, caller: str, bucket: str) -> tuple[str, ...]:
        """The keys of a bucket that `caller` may read, as filters. Raises Denied where there are none."""
        if self._rights_of is None:
            return (">",)
        copies = self._subjects.bucket_copy(bucket)
        keys = tuple(each.removeprefix(copies[: -len("*.*")]) for each in self._rights_of(caller).narrow(copies))
        if not keys:
            raise denied(copies, caller, f"read {bucket}" if bucket in SEEN else f"answer {caller}")
        return (">",) if "*.*" in keys else keys

    def check_receives(self, caller: str, target: str) -> None:
        """Raises Denied where `caller` may not pull what is sent to `target`."""
        subject = rights_api(f"CONSUMER.MSG.NEXT.{LANES['normal']}.{escape(target)}")
        if self._rights_of is not None and not self._rights_of(caller).may_publish(subject):
            raise denied(subject, caller, f"answer {target}")

    def check_sends_or_receives(self, caller: str, target: str) -> None:
        """Raises Denied where `caller` may neither send messages to `target` nor pull those that are sent there."""
        try:
            self.check_receives(caller, target)
        except Denied:
            self.check_sends(caller, target, "normal")

    def is_operator(self, caller: str) -> bool:
        """Whether `caller` may read and change what the broker keeps of others. Where nobody's rights are known: who is called so."""
        if self._rights_of is None:
            return caller == OPERATOR
        return self._rights_of(caller).may_publish(rights_api(f"STREAM.MSG.DELETE.{JOBS}"))

    def check_sends(self, caller: str, target: str, priority: str) -> None:
        """Raises Denied where `caller` may not send messages to `target`."""
        subject = self._subjects.message(target, caller, priority)
        if self._rights_of is not None and not self._rights_of(caller).may_publish(subject):
            raise denied(subject, caller, f"send {target}")

    def check_reads(self, caller: str, stream: str) -> None:
        """Raises Denied where `caller` may not pull from readers of a stream."""
        subject = rights_api(f"CONSUMER.MSG.NEXT.{stream}.{EACH}")
        if self._rights_of is not None and not self._rights_of(caller).may_publish(subject):
            raise denied(subject, caller, f"read {stream.lower()}")

    def check_hears(self, caller: str, filter: str) -> None:
        """Raises Denied where `caller` may not hear every subject that `filter` takes."""
        if self._rights_of is not None and not self._rights_of(caller).may_hear_all(filter):
            raise denied(filter, caller, hearing(self._subjects, filter, caller))

    def check_publishes(self, caller: str, topic: str) -> None:
        """Raises Denied where `caller` may not publish on a topic."""
        subject = self._subjects.event(caller, "normal", topic)
        if self._rights_of is not None and not self._rights_of(caller).may_publish(subject):
            raise denied(subject, caller, f"publish {topic}")

    def sees_topic(self, caller: str, topic: str) -> bool:
        """Whether `caller` may know the schemas of a topic: whoever may publish or hear it."""
        return self._rights_of is None or self._rights_of(caller).may_hear_all(self._subjects.schemas_of(topic))

    def check_sees_topic(self, caller: str, topic: str) -> None:
        """Raises Denied where `caller` may neither publish nor hear a topic."""
        if not self.sees_topic(caller, topic):
            subject = self._subjects.schemas_of(topic)
            raise Denied(f"{caller!r} may neither publish nor hear {topic!r}", hint=hint(caller, f"subscribe {topic}"), subject=subject)

    def schemas(self, caller: str, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Keys of the schemas that `caller` may read, as filters: those that it asks for. Raises Denied."""
        copies = self._subjects.schemas_of().removesuffix(">")
        for key in keys or (">",):
            if self._rights_of is not None and not self._rights_of(caller).may_hear_all(copies + key):
                topics = key if key.endswith(">") else key.rpartition(".")[0]  # the last token is the version
                raise denied(copies + key, caller, hearing(self._subjects, self._subjects.events()[: -len(">")] + topics, caller))
        return keys or (">",)

    def rules(self, caller: str) -> bool:
        """Whether `caller` looks after what belongs to others: who may do all at the broker."""
        return self._rights_of is None or self._rights_of(caller).may_publish(rights_api(">"))
