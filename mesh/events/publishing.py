"""Events on their way to the stream, in one participant's name."""

import asyncio
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any, TypedDict

from mesh.delivery import Participant, what_is_full
from mesh.errors import ConfigError, EventsFull
from mesh.events.schemas import Schemas
from mesh.link.jetstream import PubAck
from mesh.subjects import ANY, PRIORITIES
from mesh.topology import MOST_EVENTS
from mesh.wire.event import Event, encode, new_event


class EventOptions(TypedDict, total=False):
    """What an event may say besides what happened."""

    type: str | None
    """CloudEvents' type; default: the topic."""
    priority: str
    """critical, high, normal (default), low."""
    id: str | None
    """Published twice with the same id on the same topic, it is stored once (for ten minutes) and handled once. Default: a new one."""
    subject: str | None
    """What of its source it is about."""
    extensions: Mapping[str, str | int | bool] | None
    """Further attributes of CloudEvents: `traceparent`, or names of your own of a to z and 0 to 9."""
    ttl: int | None
    """Seconds, at least 1, after which it is gone, whoever has heard it. Default: a week."""
    binary: bool
    """In CloudEvents' binary mode: attributes in headers, the data as body."""


class Publishing:
    """What it stores it holds against the schemas first."""

    def __init__(self, me: Participant, schemas: Schemas) -> None:
        self._subjects = me.subjects
        self._name = me.name
        self._store = me.store()
        self._schemas = schemas

    async def close(self) -> None:
        """Waits for what is on its way."""
        await self._store.close()

    async def event(self, topic: str, data: Any, options: EventOptions) -> "asyncio.Future[str]":
        """`EventBridge.submit`."""
        if any(word in ("*", ">") for word in topic.split(".")):
            raise ConfigError(f"an event is published on one topic, not on {topic!r}", hint="write its words, as in build.done")
        self._subjects.events(topic)
        event = await self._schemas.check(self._new(topic, data, options))
        return await self._submit(event, self._subjects.event(self._name, event.priority, topic), f"publish {topic}", options)

    async def broadcast(self, to: str, data: Any, options: EventOptions) -> "asyncio.Future[str]":
        event = self._new("", data, {**options, "type": options.get("type") or "broadcast"})
        event.to = to
        return await self._submit(event, self._subjects.cast(self._name, event.priority, to), f"send {'*' if to == ANY else to}", options)

    def _new(self, topic: str, data: Any, options: EventOptions) -> Event:
        priority = options.get("priority", "normal")
        if priority not in PRIORITIES:
            raise ConfigError(f"an event has no priority {priority!r}", hint=f"the priorities are {', '.join(PRIORITIES)}")
        return new_event(
            self._name,
            topic,
            data,
            id=options.get("id") or secrets.token_hex(8),
            type=options.get("type") or topic,
            priority=priority,
            subject=options.get("subject"),
            extensions=options.get("extensions"),
        )

    async def _submit(self, event: Event, subject: str, action: str, options: EventOptions) -> "asyncio.Future[str]":
        encoded = encode(event, binary=options.get("binary", False))
        headers, ttl = dict(encoded.headers), options.get("ttl")
        if ttl is not None:
            if ttl < 1:
                raise ConfigError("an event stays for a second at least", hint="leave ttl out to keep it for a week")
            headers["Nats-TTL"] = f"{ttl}s"
        stored = await self._store.submit(subject, encoded.body, id=event.id, action=action, headers=headers)
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stored.add_done_callback(partial(_told, done, event.id))
        return done


def _told(done: "asyncio.Future[str]", id: str, stored: "asyncio.Future[PubAck]") -> None:
    error = stored.exception() if not stored.cancelled() else asyncio.CancelledError()
    if done.done():  # who published it waits no more
        return
    if error is None:
        done.set_result(id)
    elif full := what_is_full(error):
        where = f"the topic has {MOST_EVENTS:,} events of this publisher" if full == "subject" else "the stream of events is full"
        done.set_exception(
            EventsFull(where, hint="`mesh events subscriptions list --all --name operator` shows who has not read what it holds")
        )
    else:
        done.set_exception(error)
