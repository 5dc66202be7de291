"""Messages and events as a host sees them: letters, and those that are in the hands of a participant's hosts until it says what became of
each."""

import asyncio
import contextlib
from functools import partial
from typing import Any, Final, Literal

from mesh import clock
from mesh.broker import AgentMessage, Reject, Retry
from mesh.wire.event import Event

GONE_SECONDS: Final = 1.0
"""After this what was held is delivered again when the hosts leave: to others, and not to ourselves as we go."""

Outcome = Literal["done", "retry", "reject"]

Letter = dict[str, Any]
"""What `bridge.mesh_tools.shapes.Letter` takes. One with a `topic` is an event."""

Key = tuple[str, str, str, str]
"""Subscription and topic (empty: it is a message), sender, id."""


def letter(message: AgentMessage) -> Letter:
    return {
        "id": message.id,
        "sender": message.sender,
        "type": message.type,
        "content": message.content,
        "priority": message.priority,
        "sent": clock.iso(message.sent_ns),
        "deadline": None if message.deadline_ns is None else clock.iso(message.deadline_ns),
        "correlation_id": message.correlation_id,
        "metadata": dict(message.metadata),
        "delivery": message.delivery,
    }


def letter_of(event: Event, subscription: str) -> Letter:
    """`sent` is when the broker stored it: that is nobody's claim."""
    said = event.as_dict()
    return {
        "id": event.id,
        "sender": event.publisher,
        "type": event.type,
        "content": said.get("data", said.get("data_base64")),
        "priority": event.priority,
        "sent": clock.iso(event.stored_ns),
        "metadata": {} if event.subject is None else {"subject": event.subject},
        "delivery": event.delivery,
        "topic": event.topic,
        "subscription": subscription,
    }


class Held:
    """The letters in our hands, the oldest first. It has no bound of its own: who puts them there has."""

    def __init__(self) -> None:
        self._held: dict[Key, tuple[Letter, asyncio.Future[Any]]] = {}
        self._arrived = asyncio.Event()

    @property
    def letters(self) -> list[Letter]:
        return [letter for letter, _ in self._held.values()]

    def put(self, letter: Letter) -> "asyncio.Future[Any]":
        """It ends with the answer, with Retry or with Reject. Cancelled, the letter is in our hands no more. What is there
        already, and came once more, ends with the first."""
        key = letter.get("subscription", ""), letter.get("topic", ""), letter["sender"], letter["id"]
        if (there := self._held.get(key)) is not None:
            return there[1]
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.add_done_callback(partial(self._drop, key))
        self._held[key] = letter, done
        self._arrived.set()
        return done

    async def until_some(self, seconds: float) -> None:
        """Wait at most so long for the first one, where there is none."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._held:
                    self._arrived.clear()
                    await self._arrived.wait()

    def settle(
        self, id: str, outcome: Outcome, *, sender: str | None = None, topic: str | None = None, answer: Any = None, reason: str = ""
    ) -> None:
        """Say what became of a message, or of an event in all subscriptions that brought it. Raises KeyError with the senders and topics
        where none of that id is held (then there are none), or several are."""
        keys = [key for key in self._held if key[3] == id and sender in (None, key[2]) and topic in (None, key[1])]
        which = sorted({(key[2], key[1]) for key in keys})
        if len(which) != 1:
            raise KeyError(which)
        for key in keys:
            _, done = self._held.pop(key)
            if done.done():
                continue
            if outcome == "done":
                done.set_result(answer)
            else:
                done.set_exception(Retry(reason) if outcome == "retry" else Reject(reason))

    def give_back(self, subscription: str | None = None) -> None:
        """What one subscription brought (None: everything) is no more in our hands, and comes again."""
        for key, (_, done) in list(self._held.items()):
            if subscription in (None, key[0]):
                del self._held[key]
                if not done.done():
                    done.set_exception(Retry("its host left", after=GONE_SECONDS))

    def _drop(self, key: Key, done: "asyncio.Future[Any]") -> None:
        if (there := self._held.get(key)) is not None and there[1] is done:
            del self._held[key]
