"""`mesh.events`: events of one participant, published, heard and replayed."""

import asyncio
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal, Self, Unpack

from mesh.delivery import Handler, Participant, ReceiverOptions
from mesh.errors import ConfigError
from mesh.events import expressions
from mesh.events.asking import Asking
from mesh.events.publishing import EventOptions, Publishing
from mesh.events.reading import EventFamily, EventReader, Filter, Transform
from mesh.events.replay import REPLAYED, Replay, Submit, tell_again
from mesh.events.schemas import Schemas
from mesh.events.subscribing import DurableSubscription, EphemeralSubscription, Subscribed, filters_of, notices_of, only
from mesh.link.jetstream import JetStream
from mesh.link.reader import MakeConsumer
from mesh.subjects import ANY
from mesh.wire.event import Event

When = datetime | int
"""A time with its zone, or nanoseconds since 1970, UTC."""


class EventBridge:
    """Publishes and hears events under one name. What it needs it opens when it is first used."""

    def __init__(self, me: Participant, make_reader: MakeConsumer, submit: Submit, schemas: Schemas) -> None:
        self._connection = me.connection
        self._subjects = me.subjects
        self._name = me.name
        self._ask = Asking(me)
        self._publishing = Publishing(me, schemas)
        self._make_reader = make_reader
        self._submit = submit
        self.schemas = schemas
        """The schemas of topics: registered, looked at, held against events."""
        self._reader = EventReader(me.subjects)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for what is on its way."""
        await self._publishing.close()

    # publishing

    async def publish(self, topic: str, data: Any = None, **options: Unpack[EventOptions]) -> str:
        """Publish an event, and return its id once the broker has it.

        Raises Denied, EventsFull (nothing was stored), InvalidEvent (its topic's schema does not allow it; nothing was stored), TooLarge,
        ConfigError, and BrokerUnavailable where the broker did not answer: published again with the same id, it is stored once.
        """
        return await (await self.submit(topic, data, **options))

    async def submit(self, topic: str, data: Any = None, **options: Unpack[EventOptions]) -> "asyncio.Future[str]":
        """As `publish`; returns when there is room to send it, and the future ends when the broker has it. So one task can keep a whole
        window of events on their way."""
        return await self._publishing.event(topic, data, options)

    async def broadcast(self, to: str, data: Any = None, **options: Unpack[EventOptions]) -> str:
        """Send a broadcast to all who answer to a role, or to `any`: to everybody. Returns its id once the broker has it. Each hears it who
        has a subscription (`subscribe_to_broadcasts`). Raises as `publish`."""
        return await (await self._publishing.broadcast(to, data, options))

    # hearing

    def subscribe(
        self,
        topic: str,
        handler: Handler[Event],
        *,
        name: str | None = None,
        filter: Filter | str | None = None,
        transform: Transform | str | Mapping[str, str] | None = None,
        **options: Unpack[ReceiverOptions],
    ) -> DurableSubscription | EphemeralSubscription:
        """Hear the events of a topic (`*` is any word, `>` the rest of them) for as long as the `async with` block lasts. `filter` and
        `transform` are functions, or CEL (`mesh.events.expressions`): BadExpression at once where that is wrong.

        With a `name` the subscription is durable: it goes on where it stood, and `options` say how its events are received. Without one it
        begins now and forgets. Raises Denied and ConfigError when it is entered.
        """
        return self._subscribe(topic, (), handler, name, filter, transform, options)

    def subscribe_with_filter(
        self, topic: str, filter: Filter | str, handler: Handler[Event], *, name: str | None = None, **options: Unpack[ReceiverOptions]
    ) -> DurableSubscription | EphemeralSubscription:
        """As `subscribe`. What the filter does not want is acknowledged, and nobody sees it."""
        return self._subscribe(topic, (), handler, name, filter, None, options)

    def subscribe_to_broadcasts(
        self, handler: Handler[Event], *, roles: tuple[str, ...] = (), name: str | None = None, **options: Unpack[ReceiverOptions]
    ) -> DurableSubscription | EphemeralSubscription:
        """Hear the broadcasts to everybody, and to `roles`, which we must answer to. Durable with a `name`, as `subscribe`."""
        return self._subscribe(None, (ANY, *roles), handler, name, None, None, options)

    def _subscribe(
        self,
        topic: str | None,
        roles: tuple[str, ...],
        handler: Handler[Event],
        name: str | None,
        filter: Filter | str | None,
        transform: Transform | str | Mapping[str, str] | None,
        options: ReceiverOptions,
    ) -> DurableSubscription | EphemeralSubscription:
        filter, transform = filter_of(filter), transform_of(transform)
        filters = filters_of(self._subjects, topic, roles)
        admit = prepare = None
        if topic is not None:
            admit, prepare = self.schemas.admit, partial(self.schemas.prepare, topic)
        if name is None:
            if options:
                raise ConfigError("only a durable subscription takes options of receiving", hint="give it a name, or leave them out")
            return EphemeralSubscription(
                self._connection, self._make_reader, self._reader, filters, handler, admit, filter, transform, prepare
            )
        about = {"name": name, **({"topic": topic} if topic is not None else {"roles": list(roles)})}
        source = Subscribed(self._ask, self._name, about, notices_of(self._subjects, topic, roles))
        family = EventFamily(self._reader, only(self._name, name), admit, filter, transform)
        return DurableSubscription(JetStream(self._connection), self._subjects, family, source, handler, prepare, **options)

    async def unsubscribe(self, name: str, *, agent: str | None = None) -> None:
        """Delete a durable subscription of ours, or as an operator one of `agent`. What it had still to hear nobody hears. A process that
        has it open makes it anew, within a minute. Raises ConfigError where there is none, Denied."""
        await self._ask("mesh/unsubscribe", {"name": name} if agent is None else {"name": name, "agent": agent})

    async def subscriptions(self, *, all: bool = False) -> list[dict[str, Any]]:
        """Our durable subscriptions, or everybody's: `{"agent", "name", "topic"?, "roles"?, "made", "waiting", "in_hand"}`.
        Raises Denied."""
        return list((await self._ask("mesh/subscriptions", {"all": True} if all else {}))["subscriptions"])

    # hearing again

    def replay_events(
        self, topic: str, from_: When, to: When | None = None, *, filter: Filter | str | None = None, speed: float | None = None
    ) -> Replay:
        """The events of a topic that were stored from `from_` to `to` (both included; default: to now), in the order in which they were:
        `async for event in mesh.events.replay_events(…)`. As fast as it goes; with `speed` in the original rhythm, that many times as fast.

        Raises ConfigError; and while it runs Denied, BrokerUnavailable.
        """
        to_ns = None if to is None else _ns(to)
        events = self._subjects.events(topic)
        return Replay(
            self._connection,
            self._reader,
            self._make_reader,
            events,
            _ns(from_),
            to_ns,
            prepare=partial(self.schemas.prepare, topic),
            admit=self.schemas.admit,
            filter=filter_of(filter),
            speed=speed,
        )

    async def replay_into(
        self, agent: str, replay: Replay, *, id: str | None = None, priority: str = "low", over: Literal["slow", "ignore"] = "slow"
    ) -> int:
        """Send the events of a replay to an agent, as messages of type `event.replayed`, and return how many were stored, once all are.
        `mesh.events.replayed(message)` is the event again. We must be allowed to hear the topic and to send to the agent, and it is told in
        our name. Broken off and begun again with the same `id`, each event arrives once. Where the agent has no room we wait; `over` as
        `publish_message`.

        They are stored in the order of the events (docs/guarantees.md, Order), and an agent that handles one message at a time gets them in
        it.

        Raises as `publish_message`; MailboxFull where there was no room for half a minute. `details["stored"]` is how many were stored.
        """
        submit = partial(self._submit, agent, REPLAYED, priority=priority, over=over)
        return await tell_again(replay, submit, id or secrets.token_hex(8))


def filter_of(given: Filter | str | None) -> Filter | None:
    return expressions.Filter(given) if isinstance(given, str) else given


def transform_of(given: Transform | str | Mapping[str, str] | None) -> Transform | None:
    return expressions.Transform(given) if isinstance(given, str | Mapping) else given


def _ns(when: When) -> int:
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ConfigError("a time has a zone", hint="say datetime.now(UTC), not datetime.now()")
        return int((when - _EPOCH).total_seconds()) * 10**9 + when.microsecond * 1000
    return when


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
