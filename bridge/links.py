"""A host's ways to the mesh, of one participant: to one agent, or to all of them as one; with tasks in front (`bridge.tasks`).

What its hosts share is here: what agents say of tasks, and the door to its jobs.
"""

from collections.abc import Callable
from typing import Self

from bridge.connect import Connected
from bridge.gathered.agent_link import MakeRoom
from bridge.gathered.gather import Gathered
from bridge.gathered.roster import Roster
from bridge.host_link import HostLink
from bridge.tasks.desk import Desk
from bridge.tasks.link import Tasked
from bridge.tasks.whose import All, Known, One
from mesh import Mesh
from mesh.errors import MeshError

OnOver = Callable[[MeshError], None]


class Links:
    """`async with Links(mesh)`. The links are closed by who asked for them, before the block ends."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._desk = Desk(mesh)
        self._known = Known(mesh)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._known.close()
        await self._desk.close()

    def to_one(self, agent: str, send: Callable[[bytes], None], *, timeout: float | None = None, on_over: OnOver | None = None) -> HostLink:
        """Arguments as of `Connected`."""
        link = Connected(self._mesh, agent, send, timeout=timeout, on_over=on_over)
        return Tasked(link, self._desk, One(self._mesh, agent, self._known), send)

    def to_all(
        self,
        roster: Roster,
        send: Callable[[bytes], None],
        *,
        only_find: bool = False,
        timeout: float | None = None,
        on_over: OnOver | None = None,
        make_room: MakeRoom | None = None,
    ) -> HostLink:
        """Arguments as of `Gathered`."""
        link = Gathered(roster, send, only_find=only_find, timeout=timeout, on_over=on_over, make_room=make_room)
        return Tasked(link, self._desk, All(roster, self._known, only_find=only_find), send)
