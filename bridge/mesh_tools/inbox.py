"""The messages to a participant that is only an MCP host: held until it says what became of each.

One for a participant, shared by all its hosts in this process. Nothing is taken from the broker before a host looks (`check_messages`, or
reading `mesh://inbox`): a message that nobody looks at stays with the broker, for another process of the same name too, and loses no
attempt. That there is something new is heard all the same: the broker shows what it stores to whoever listens to the lane.

What was taken and is not acknowledged when the last host leaves goes back. It counts as an attempt, as it does for any receiver.
"""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, Literal

from mesh import Mesh, clock
from mesh.broker import AgentMessage, Reject, Retry
from mesh.errors import Denied, MeshError
from mesh.link.connection import Message
from mesh.link.denial import check_answers
from mesh.subjects import PRIORITIES

MOST_HELD: Final = 100
"""Messages in the hands of the hosts. More stay with the broker."""

HELD_SECONDS: Final = 3600.0
"""After this a message that nobody acknowledged counts as a failed attempt, and comes again."""

GONE_SECONDS: Final = 1.0
"""After this what was held is delivered again when the hosts leave: to others, and not to ourselves as we go."""

Outcome = Literal["done", "retry", "reject"]

Key = tuple[str, str]
"""Sender and id."""


class Inbox:
    """`close` it once. All else opens by itself."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._held: dict[Key, tuple[AgentMessage, asyncio.Future[Any]]] = {}
        self._listeners: list[Callable[[], None]] = []
        self._arrived = asyncio.Event()
        self._opening = asyncio.Lock()
        self._taking = AsyncExitStack()
        self._hearing = AsyncExitStack()
        self._takes = self._hears = False

    def check(self) -> None:
        """Raises Denied where this participant may not answer under its name, and so has no messages."""
        try:
            check_answers(self._mesh.connection, self._mesh.subjects, self._mesh.name, self._mesh.name)
        except Denied as problem:
            raise Denied(
                f"nobody can send messages to {self._mesh.name!r}: it may not answer under its name",
                hint=f"whoever looks after this mesh lets it: `mesh auth issue {self._mesh.name} --role agent --role host`",
                **problem.details,
            ) from None

    @property
    def held(self) -> list[AgentMessage]:
        """What was taken and has no outcome yet, the oldest first."""
        return [message for message, _ in self._held.values()]

    async def look(self, wait: float = 0.0) -> list[AgentMessage]:
        """The same, once messages are being taken; where there are none, `wait` seconds for the first one. Raises Denied."""
        async with self._opening:
            if not self._takes:
                self.check()
                subscription = self._mesh.messages.subscribe_to_messages(
                    self._hold, workers=MOST_HELD, prefetch=MOST_HELD, handler_seconds=HELD_SECONDS
                )
                await self._taking.enter_async_context(subscription)
                self._takes = True
        give_up = clock.monotonic() + wait
        with contextlib.suppress(TimeoutError):
            while not self._held and (left := give_up - clock.monotonic()) > 0:
                self._arrived.clear()
                async with asyncio.timeout(left):
                    await self._arrived.wait()
        return self.held

    async def hear(self) -> None:
        """Tell the listeners from now on when a message has come. Raises Denied."""
        async with self._opening:
            if self._hears:
                return
            self.check()
            for priority in PRIORITIES:
                lane = self._mesh.subjects.lane(self._mesh.name, priority)
                subscription = await self._mesh.connection.subscribe(lane, self._on_notice)
                self._hearing.push_async_callback(subscription.unsubscribe)
            await self._mesh.connection.flush()  # from here on the broker shows us each
            self._hears = True

    def listen(self, on_news: Callable[[], None]) -> Callable[[], None]:
        """Call `on_news` when a message has come, once `hear` was called; the function that is returned ends that."""
        self._listeners.append(on_news)
        return lambda: self._listeners.remove(on_news) if on_news in self._listeners else None

    def settle(self, id: str, outcome: Outcome, *, sender: str | None = None, answer: Any = None, reason: str = "") -> AgentMessage:
        """Say what became of a message. Raises KeyError where none of that id is held, or several senders have one."""
        keys = [key for key in self._held if key[1] == id and sender in (None, key[0])]
        if len(keys) != 1:
            raise KeyError([each for each, _ in keys])
        message, done = self._held.pop(keys[0])
        if not done.done():
            if outcome == "done":
                done.set_result(answer)
            else:
                done.set_exception(Retry(reason) if outcome == "retry" else Reject(reason))
        return message

    async def close(self) -> None:
        for _, done in self._held.values():
            if not done.done():
                done.set_exception(Retry("its host left", after=GONE_SECONDS))
        with contextlib.suppress(MeshError):
            await self._taking.aclose()
            await self._hearing.aclose()

    async def _hold(self, message: AgentMessage) -> Any:
        key = message.sender, message.id
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._held[key] = message, done
        self._arrived.set()
        try:
            return await done
        finally:
            if (there := self._held.get(key)) is not None and there[1] is done:
                del self._held[key]

    def _on_notice(self, _: Message) -> None:
        for listener in list(self._listeners):
            listener()
