"""The messages to a participant that is only an MCP host, and the events that it subscribed to: held until it says what became of each.

One for a participant, shared by all its hosts in this process. No message is taken from the broker before a host looks (`check_messages`,
or reading `mesh://inbox`): one that nobody looks at stays with the broker, for another process of the same name too, and loses no attempt.
That there is something new is heard all the same: the broker shows what it stores to whoever listens to the lane. Events come from when a
host subscribes to them (`bridge.mesh_tools.topics`).

What was taken and is not acknowledged when the last host leaves goes back. It counts as an attempt, as it does for any receiver.
"""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from bridge.mesh_tools.letters import Held, Letter, letter
from bridge.mesh_tools.topics import Topics
from mesh import Mesh, clock
from mesh.broker import AgentMessage
from mesh.errors import Denied, MeshError
from mesh.link.connection import Message
from mesh.link.denial import check_answers
from mesh.subjects import PRIORITIES

MOST_HELD: Final = 100
"""Messages in the hands of the hosts. More stay with the broker."""

HELD_SECONDS: Final = 3600.0
"""After this a message that nobody acknowledged counts as a failed attempt, and comes again."""


class Inbox:
    """`close` it once. All else opens by itself."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.held = Held()
        """Messages and events."""
        self.topics = Topics(mesh, self.held, self._tell, HELD_SECONDS)
        self._listeners: list[Callable[[], None]] = []
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
    def gets_messages(self) -> bool:
        """Whether anybody can send it some."""
        try:
            self.check()
        except Denied:
            return False
        return True

    @property
    def gets_events(self) -> bool:
        """Whether it may subscribe to some topic; where the broker does not say what it may, it may."""
        rights = self._mesh.connection.rights
        return rights is None or bool(rights.narrow(self._mesh.subjects.rights_hear(None)))

    async def look(self, wait: float = 0.0) -> list[Letter]:
        """What was taken and has no outcome yet, the oldest first; where there is nothing, `wait` seconds for the first one. Messages are
        taken from now on. Raises Denied where there can be none, and no event was subscribed to."""
        give_up = clock.monotonic() + wait
        async with self._opening:
            if not self._takes and (self.gets_messages or not self.topics):
                self.check()
                subscription = self._mesh.messages.subscribe_to_messages(
                    self._hold, workers=MOST_HELD, prefetch=MOST_HELD, handler_seconds=HELD_SECONDS
                )
                await self._taking.enter_async_context(subscription)
                self._takes = True
        await self.held.until_some(give_up - clock.monotonic())
        return self.held.letters

    async def hear(self) -> None:
        """Tell the listeners from now on when a message has come. Raises Denied where neither messages nor events can come."""
        async with self._opening:
            if self._hears or (self.gets_events and not self.gets_messages):
                return
            self.check()
            for priority in PRIORITIES:
                lane = self._mesh.subjects.lane(self._mesh.name, priority)
                subscription = await self._mesh.connection.subscribe(lane, self._on_notice)
                self._hearing.push_async_callback(subscription.unsubscribe)
            await self._mesh.connection.flush()  # from here on the broker shows us each
            self._hears = True

    def listen(self, on_news: Callable[[], None]) -> Callable[[], None]:
        """Call `on_news` when an event has come, and, once `hear` was called, when a message has; what is returned ends that."""
        self._listeners.append(on_news)
        return lambda: self._listeners.remove(on_news) if on_news in self._listeners else None

    async def close(self) -> None:
        self.held.give_back()
        await self.topics.close()
        with contextlib.suppress(MeshError):
            await self._taking.aclose()
            await self._hearing.aclose()

    async def _hold(self, message: AgentMessage) -> Any:
        return await self.held.put(letter(message))

    def _on_notice(self, _: Message) -> None:
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()
