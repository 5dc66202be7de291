"""Durable subscriptions, as the control plane keeps them (`mesh/subscribe`, `mesh/unsubscribe`, `mesh/subscriptions`).

The bucket `subscriptions` holds under `{agent}.{name}` what one hears, where in the stream it was made, and a secret of 128 bits. Each of
its priorities has a durable consumer `sub-{secret}-{priority}`, made when the first event of that priority is there, or when its subscriber
says so. Whoever knows the name of a consumer may pull from it (`mesh.registry.readers`), so it is told to its owner alone, and to the owner
again and again: a restarted process finds its own. An entry is created if it is absent, so two that subscribe at once get the same.

A consumer begins where its subscription was made, also where it is made later: so nothing is lost by making it late.

The rights are looked at at every question. Who may not hear a topic any more is told no consumers, and `mesh.events.retention` takes them
away (`suspend`). Should the right come back, the subscription goes on where it stood.
"""

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from mesh import clock
from mesh.delivery import OWNER, SUBSCRIPTION
from mesh.errors import ApiError, ConfigError, Denied, MalformedMessage, Refused
from mesh.events.subscribing import filters_of
from mesh.link.buckets import Bucket, Entry
from mesh.link.jetstream import CONSUMER_NOT_FOUND, NO_MESSAGE, JetStream
from mesh.link.reconcile import ensure
from mesh.subjects import PRIORITIES, Subjects, escape, unescape
from mesh.topology import ACK_WAIT, ATTEMPTS, EVENTS, SUBSCRIPTIONS, ConsumerSpec
from mesh.wire.entries import SubscribeQuestion, SubscriptionsQuestion, UnsubscribeQuestion

MOST: Final = 200
"""Durable subscriptions of one participant. Each may have four consumers, of 50,000 that the stream takes."""

PREFIX: Final = "sub-"


class Sight(Protocol):
    """What the control plane knows of rights (`mesh.registry.sight`)."""

    def check_hears(self, caller: str, filter: str) -> None:
        """Raises Denied where `caller` may not hear all that `filter` takes."""

    def rules(self, caller: str) -> bool:
        """Whether `caller` looks after what belongs to others."""


class Subscription(NamedTuple):
    """One entry. It hears either the events of `topic`, or the broadcasts to `roles`."""

    agent: str
    name: str
    topic: str | None
    roles: tuple[str, ...]
    start_seq: int
    secret: str
    made: str
    starts: Mapping[str, int] = {}
    """Where a priority goes on whose consumer was taken away."""
    revision: int = 0

    def start(self, priority: str) -> int:
        return self.starts.get(priority, self.start_seq)

    def consumer(self, priority: str) -> str:
        return f"{PREFIX}{self.secret}-{priority}"

    def filters(self, subjects: Subjects, priority: str | None = None) -> tuple[str, ...]:
        return filters_of(subjects, self.topic, self.roles, priority)

    def spec(self, subjects: Subjects, priority: str) -> ConsumerSpec:
        return ConsumerSpec(
            stream=EVENTS,
            name=self.consumer(priority),
            filters=self.filters(subjects, priority),
            ack_wait=ACK_WAIT,
            max_deliver=ATTEMPTS,
            start_seq=self.start(priority),
            metadata={OWNER: self.agent, SUBSCRIPTION: self.name},
        )


class Subscriptions:
    """Of all participants. For who may write the bucket and make consumers: the control plane."""

    def __init__(self, js: JetStream, subjects: Subjects, sight: Sight) -> None:
        self._js = js
        self._subjects = subjects
        self._sight = sight
        self._bucket = Bucket(js, SUBSCRIPTIONS, written_once=True)

    async def subscribe(self, caller: str, question: SubscribeQuestion) -> dict[str, Any]:
        """The consumers that there are: `{"consumers": {PRIORITY: NAME}}`.

        Raises Denied, ConfigError where the name is another subscription's, or there are too many, MalformedMessage.
        """
        if (question.topic is None) != bool(question.roles):
            raise MalformedMessage("a subscription hears a topic, or the broadcasts to roles")
        name, topic, roles = question.name, question.topic, tuple(sorted(set(question.roles)))
        asked = Subscription(caller, name, topic, roles, 0, "", "")
        self._check(asked)
        found = await self._get(caller, name)
        if found is None:
            found = await self._create(asked)
        if (found.topic, found.roles) != (topic, roles):
            raise ConfigError(
                f"the subscription {name!r} hears {found.topic or 'broadcasts'!r}, and not {topic or 'broadcasts'!r}",
                hint=f"choose another name, or delete it: `mesh events subscriptions delete {name}`",
            )
        consumers = {}
        for priority in PRIORITIES:
            if await self._is_there(found.consumer(priority)):
                consumers[priority] = found.consumer(priority)
            elif priority in question.wanted or await self.first_waiting(found, priority) is not None:
                await ensure(self._js, found.spec(self._subjects, priority))
                consumers[priority] = found.consumer(priority)
        return {"consumers": consumers}

    async def unsubscribe(self, caller: str, question: UnsubscribeQuestion) -> dict[str, Any]:
        """What it had still to hear is heard by nobody: `{}`. Raises ConfigError where there is none, Denied."""
        agent = question.agent or caller
        self._check_owner(caller, agent)
        found = await self._get(agent, question.name)
        if found is None:
            raise ConfigError(
                f"{agent!r} has no subscription {question.name!r}", hint="`mesh events subscriptions list` shows those that there are"
            )
        await self.remove(found)
        return {}

    async def describe(self, caller: str, question: SubscriptionsQuestion) -> dict[str, Any]:
        """Those of one participant, or of all: `{"subscriptions": [{"agent", "name", "topic"?, "roles"?, "made", "waiting", "in_hand"}]}`.
        Raises Denied."""
        self._check_owner(caller, None if question.all else caller)
        told = []
        for each in await self.all(None if question.all else caller):
            about = {"topic": each.topic} if each.topic is not None else {"roles": list(each.roles)}
            waiting, in_hand = await self._state(each)
            told.append({"agent": each.agent, "name": each.name, **about, "made": each.made, "waiting": waiting, "in_hand": in_hand})
        return {"subscriptions": told}

    async def all(self, agent: str | None = None) -> tuple[Subscription, ...]:
        """Those of one participant, or of everybody."""
        entries = await self._bucket.snapshot(">" if agent is None else f"{escape(agent)}.*")
        return tuple(each for each in map(_read_entry, entries.values()) if each is not None)

    async def remove(self, subscription: Subscription) -> None:
        for priority in PRIORITIES:
            await remove_consumer(self._js, subscription.consumer(priority))
        await self._bucket.delete(_key(subscription))

    async def suspend(self, subscription: Subscription) -> None:
        """Take its consumers away, which its owner knows by name. What they had not acknowledged comes when they are made again."""
        starts, found = dict(subscription.starts), []
        for priority in PRIORITIES:
            with suppress(ApiError):
                info = await self._js.api(f"CONSUMER.INFO.{EVENTS}.{subscription.consumer(priority)}")
                found.append(subscription.consumer(priority))
                starts[priority] = max(subscription.start(priority), int(info["ack_floor"]["stream_seq"]) + 1)
        if found:
            await self._bucket.put(_key(subscription), _entry(subscription._replace(starts=starts)), revision=subscription.revision)
        for consumer in found:
            await remove_consumer(self._js, consumer)

    async def first_waiting(self, subscription: Subscription, priority: str) -> int | None:
        """The first event from its beginning on that a priority has no consumer for yet."""
        found = []
        for each in subscription.filters(self._subjects, priority):
            try:
                said = await self._js.api(f"STREAM.MSG.GET.{EVENTS}", {"seq": subscription.start(priority), "next_by_subj": each})
            except ApiError as error:
                if error.err_code != NO_MESSAGE:
                    raise
            else:
                found.append(int(said["message"]["seq"]))
        return min(found, default=None)

    def allowed(self, subscription: Subscription) -> bool:
        """Whether its owner may still hear it."""
        try:
            self._check(subscription)
        except Denied:
            return False
        return True

    def _check(self, asked: Subscription) -> None:
        for each in asked.filters(self._subjects):
            self._sight.check_hears(asked.agent, each)

    def _check_owner(self, caller: str, agent: str | None) -> None:
        if agent != caller and not self._sight.rules(caller):
            raise Denied(f"{caller!r} may not look after the subscriptions of others", hint="ask as `operator`: --name operator")

    async def _create(self, asked: Subscription) -> Subscription:
        if len(await self.all(asked.agent)) >= MOST:
            raise ConfigError(
                f"{asked.agent!r} has {MOST} durable subscriptions, which is all that one may have",
                hint="`mesh events subscriptions delete` removes those that nobody needs",
            )
        last = int((await self._js.api(f"STREAM.INFO.{EVENTS}"))["state"]["last_seq"])
        made = asked._replace(start_seq=last + 1, secret=secrets.token_hex(16), made=clock.iso(clock.wall_ns()))
        entry = await self._bucket.get(_key(made))
        if entry is not None and _read_entry(entry) is None:
            await self._bucket.clear(_key(made))  # an answer of the broker's own, that somebody has had it put there
        with suppress(Refused):  # another process of the same participant was first
            await self._bucket.create(_key(made), _entry(made))
        found = await self._get(asked.agent, asked.name)
        if found is None:
            raise Refused(f"the subscription {asked.name!r} was deleted while it was made")
        return found

    async def _get(self, agent: str, name: str) -> Subscription | None:
        entry = await self._bucket.get(f"{escape(agent)}.{escape(name)}")
        return None if entry is None else _read_entry(entry)

    async def _is_there(self, consumer: str) -> bool:
        try:
            await self._js.api(f"CONSUMER.INFO.{EVENTS}.{consumer}")
        except ApiError as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise
            return False
        return True

    async def _state(self, subscription: Subscription) -> tuple[int, int]:
        waiting = in_hand = 0
        for priority in PRIORITIES:
            with suppress(ApiError):
                info = await self._js.api(f"CONSUMER.INFO.{EVENTS}.{subscription.consumer(priority)}")
                waiting, in_hand = waiting + int(info["num_pending"]), in_hand + int(info["num_ack_pending"])
        return waiting, in_hand


async def remove_consumer(js: JetStream, consumer: str) -> None:
    try:
        await js.api(f"CONSUMER.DELETE.{EVENTS}.{consumer}")
    except ApiError as error:
        if error.err_code != CONSUMER_NOT_FOUND:
            raise


def _key(subscription: Subscription) -> str:
    return f"{escape(subscription.agent)}.{escape(subscription.name)}"


def _entry(made: Subscription) -> bytes:
    about = {"topic": made.topic} if made.topic is not None else {"roles": list(made.roles)}
    return json.dumps(
        {**about, "start_seq": made.start_seq, "secret": made.secret, "made": made.made, "starts": dict(made.starts)}
    ).encode()


def _read_entry(entry: Entry) -> Subscription | None:
    try:
        said = json.loads(entry.value)
        agent, name = map(unescape, entry.key.split("."))
        return Subscription(
            agent,
            name,
            said.get("topic"),
            tuple(said.get("roles", ())),
            int(said["start_seq"]),
            str(said["secret"]),
            str(said["made"]),
            {str(priority): int(seq) for priority, seq in said.get("starts", {}).items()},
            entry.revision,
        )
    except (ValueError, KeyError, TypeError, AttributeError, Refused):
        return None
