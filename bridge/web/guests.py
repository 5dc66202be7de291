"""Whom the front acts for: one connection to the broker for each user, with that user's own credentials.

So what a user may do the broker decides, as if the user were there, and the front itself may do nothing but look at registry and health.
A connection is made when its user first comes, is shared by all of that user's requests, and closes when nothing has happened on it for a
while. There are so many at once; where all of them are in use, the next user is asked to come again.

A user that the broker turns away, or whose credentials are taken away, is gone at once, with all that is open for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from bridge.gathered.agent_link import MakeRoom
from bridge.gathered.catalog import TOOLS
from bridge.gathered.names import Pair
from bridge.gathered.roster import Roster
from bridge.host_link import HostLink
from bridge.links import Links
from mesh import Mesh, clock
from mesh.background import end_tasks
from mesh.errors import Busy, MeshError
from mesh.link.heart import Heart
from mesh.settings import Settings
from mesh.wire.jsonrpc import Frame

MOST_GUESTS: Final = 256
"""Users at once. Each is a connection, at the broker too."""

IDLE: Final = 300.0
"""Seconds after which a user's connection closes, where nothing is open on it."""

SWEEP: Final = 1.0
"""Seconds between two looks for who is gone. With it, a revoked user's streams end within two."""

CLOSE_SECONDS: Final = 10.0
"""For all that a user had open, and its connection, to end."""

_log = structlog.get_logger("bridge.web")


class Guest:
    """One user, there. `held` counts what is open for it: requests, sessions, WebSockets."""

    def __init__(self, name: str, path: Path | None, mesh: Mesh) -> None:
        self.name = name
        self.path = path
        self.mesh = mesh
        self.roster: Roster | None = None
        """All agents as one, as this user sees them; once it is asked for."""
        self.held = 0
        self.used_at = clock.monotonic()
        self.left = False
        self._opening = asyncio.Lock()
        self._links = Links(mesh)
        self._stack = AsyncExitStack()

    @property
    def there(self) -> bool:
        return not self.left and self.mesh.connection.connected

    @property
    def turned_away(self) -> bool:
        """Whether its participant counts no more, by the broker's word or since its credentials are gone."""
        return self.mesh.connection.turned_away or (self.path is not None and not self.path.exists())

    def link(
        self,
        agent: str | None,
        send: Callable[[bytes], None],
        on_over: Callable[[MeshError], None],
        make_room: MakeRoom | None = None,
    ) -> HostLink:
        """A way to one agent, or to all of them as one; `make_room` is for the sessions of the latter with each agent."""
        if agent is not None:
            return self._links.to_one(agent, send, on_over=on_over)
        assert self.roster is not None
        return self._links.to_all(self.roster, send, on_over=on_over, make_room=make_room)

    def tool(self, agent: str | None, frame: Frame) -> Pair | None:
        """Whose tool a request calls, and its name there; None for other requests, and where there is no such tool."""
        if frame.method != "tools/call" or frame.name is None:
            return None
        if agent is not None:
            return agent, frame.name
        return self.roster.catalog.find(TOOLS, frame.name) if self.roster is not None else None

    async def browse(self) -> None:
        """Have the roster. Raises MeshError."""
        async with self._opening:
            if self.roster is None:
                self.roster = await self._stack.enter_async_context(Roster(self.mesh))

    async def close(self) -> None:
        self.left = True
        await self._links.close()
        await self._stack.aclose()
        await self.mesh.__aexit__(None, None, None)


class Guests:
    """All users that are there. `on_leave` is awaited for each that goes while something may be open for it."""

    def __init__(self, settings: Settings, *, most: int = MOST_GUESTS, idle: float = IDLE) -> None:
        self.on_leave: Callable[[Guest], Awaitable[None]] | None = None
        self._settings = settings
        self._most = most
        self._idle = idle
        self._heart = Heart()
        self._guests: dict[str, Guest] = {}
        self._opening: dict[str, asyncio.Task[Guest]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._guests)

    def there(self, name: str) -> Guest | None:
        """A user whose connection is up."""
        guest = self._guests.get(name)
        return guest if guest is not None and guest.there else None

    async def enter(self, name: str, path: Path | None) -> Guest:
        """The user `name`, whose credentials are at `path`; None: those that this machine has of that name.

        Raises NotAdmitted, BrokerUnavailable, and Busy where there are too many.
        """
        guest = self._guests.get(name)
        if guest is not None and guest.turned_away:
            await self.dismiss(guest)
            guest = None
        if guest is not None:
            guest.used_at = clock.monotonic()
            return guest  # where its connection is just down, the request will say so
        task = self._opening.get(name)
        if task is None:
            self._make_room()
            task = self._opening[name] = asyncio.create_task(self._open(name, path), name=f"connection of {name}")
            task.add_done_callback(lambda _: self._opening.pop(name, None))
        return await asyncio.shield(task)

    async def dismiss(self, guest: Guest) -> None:
        """End what is open for a user, and its connection."""
        if self._guests.get(guest.name) is guest:
            await asyncio.shield(self._go(guest))

    async def run(self) -> None:
        """See who is gone, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP)
            before = clock.monotonic() - self._idle
            for guest in list(self._guests.values()):
                if guest.held:
                    guest.used_at = clock.monotonic()
                if guest.turned_away or guest.used_at < before:
                    self._leaving.add(self._go(guest))

    async def close(self) -> None:
        await end_tasks(*self._opening.values())
        for guest in list(self._guests.values()):
            await self.dismiss(guest)
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._heart.close()

    def _make_room(self) -> None:
        """Raises Busy where all that are there have something open."""
        if len(self._guests) + len(self._opening) < self._most:
            return
        idle = min((each for each in self._guests.values() if not each.held), key=lambda each: each.used_at, default=None)
        if idle is None:
            raise Busy(f"{self._most} users are here", hint="come again in a moment", retry_after=10.0)
        self._leaving.add(self._go(idle))

    def _go(self, guest: Guest) -> asyncio.Task[None]:
        del self._guests[guest.name]
        guest.left = True
        task = asyncio.create_task(self._end(guest), name=f"end of {guest.name}")
        task.add_done_callback(self._leaving.discard)
        self._leaving.add(task)
        return task

    async def _open(self, name: str, path: Path | None) -> Guest:
        mesh = Mesh(settings=self._settings.model_copy(update={"name": name, "credentials": path}), heart=self._heart)
        guest = self._guests[name] = Guest(name, path, await mesh.__aenter__())
        return guest

    async def _end(self, guest: Guest) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self.on_leave is not None:
                    await self.on_leave(guest)
                await guest.close()
        except Exception:
            _log.exception("a user's connection could not be closed", user=guest.name)
