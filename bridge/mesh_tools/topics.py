"""The events that a participant's hosts have asked to hear (`subscribe_events`), put beside their messages until a host acknowledges them.

Of each subscription at most `MOST_OF_EACH` events are in hand. What comes beyond stays with the broker until some of those were
acknowledged, so a host that does not look loses nothing: of a durable subscription as long as events are kept at all, of one without a name
as long as the stream of events has room.

A durable one goes on where it stood when it is subscribed to again under its name, in this process or another one of the same participant.
What was not acknowledged when the last host leaves comes again, as a message does. One without a name ends with this process.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from bridge.mesh_tools.letters import Held, letter_of
from mesh import Mesh
from mesh.errors import ConfigError, MeshError
from mesh.wire.event import Event

MOST_OPEN: Final = 16
"""Subscriptions of the hosts of one participant in one process."""

MOST_OF_EACH: Final = 50
"""Events of one subscription in the hands of the hosts."""


@dataclass(slots=True)
class Open:
    """One subscription."""

    topic: str
    filter: str | None
    durable: bool
    stack: AsyncExitStack
    held: int = 0


class Topics:
    """`close` it once."""

    def __init__(self, mesh: Mesh, held: Held, on_event: Callable[[], None], held_seconds: float) -> None:
        """`held_seconds`: after this a durable event that nobody acknowledged counts as a failed attempt, and comes again."""
        self._mesh = mesh
        self._held = held
        self._on_event = on_event
        self._held_seconds = held_seconds
        self._open: dict[str, Open] = {}
        self._changing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def full(self) -> list[str]:
        """Those that bring nothing more until some of their events were acknowledged."""
        return sorted(name for name, each in self._open.items() if each.held >= MOST_OF_EACH)

    async def subscribe(self, topic: str, filter: str | None, name: str | None) -> str:
        """The subscription's name. With a `name` it is durable; that name again is the same subscription, with another filter from now on.

        Raises BadExpression, ConfigError where the name hears another topic or there are too many, Denied.
        """
        async with self._changing:
            id, there = name or f"now-{secrets.token_hex(4)}", self._open.get(name or "")
            if there is not None and (there.topic, there.filter, there.durable) == (topic, filter, True):
                return id
            if there is not None and (there.topic != topic or not there.durable):
                hint = "choose another name, or unsubscribe_events"
                raise ConfigError(f"the subscription {id!r} hears {there.topic!r}, and not {topic!r}", hint=hint)
            if there is None and len(self._open) >= MOST_OPEN:
                there_are = ", ".join(f"{name} ({each.topic})" for name, each in sorted(self._open.items()))
                raise ConfigError(f"there are {MOST_OPEN} subscriptions: {there_are}", hint="unsubscribe_events ends one that nobody needs")
            opened = Open(topic, filter, name is not None, AsyncExitStack())
            subscription = self._subscription(id, opened)
            if there is not None:
                await self._end(id)
            await opened.stack.enter_async_context(subscription)
            self._open[id] = opened
            return id

    async def unsubscribe(self, name: str) -> None:
        """What it had still to bring nobody gets. Raises ConfigError where there is none of that name."""
        async with self._changing:
            ephemeral = name in self._open and not self._open[name].durable
            if name in self._open:
                await self._end(name)
            if not ephemeral:
                await self._mesh.events.unsubscribe(name)

    async def close(self) -> None:
        async with self._changing:
            for name in list(self._open):
                with contextlib.suppress(MeshError):
                    await self._end(name)

    async def _end(self, name: str) -> None:
        opened = self._open.pop(name)
        self._held.give_back(name)  # before its receiver, which waits for what is in hand
        await opened.stack.aclose()
        self._held.give_back(name)  # what came meanwhile

    def _subscription(self, name: str, opened: Open) -> Any:
        events, topic, filter = self._mesh.events, opened.topic, opened.filter
        room = asyncio.Semaphore(MOST_OF_EACH)

        def put(event: Event) -> "asyncio.Future[Any]":
            opened.held += 1
            done = self._held.put(letter_of(event, name))
            done.add_done_callback(lambda _: setattr(opened, "held", opened.held - 1))
            self._on_event()
            return done

        async def until_settled(event: Event) -> Any:
            return await put(event)

        def left(done: "asyncio.Future[Any]") -> None:
            room.release()
            if not done.cancelled():
                done.exception()  # Retry, Reject: nobody else asks

        async def keep(event: Event) -> None:
            """There is no second delivery: whatever a host says of it ends it."""
            await room.acquire()
            put(event).add_done_callback(left)

        if not opened.durable:
            return events.subscribe(topic, keep, filter=filter)
        many = MOST_OF_EACH
        return events.subscribe(
            topic, until_settled, name=name, filter=filter, workers=many, prefetch=many, handler_seconds=self._held_seconds
        )
