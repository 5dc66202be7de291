"""Children of a handshake server that were initialized for one modern client.

A question of such a server names no call, so a call that may be asked something back **owns** its child while it runs: on a shared one
nobody could say whose it is. Requests that are not asked back only **borrow** one: there may be several on it, beside the owner.

A child is made for one caller's connection and one wish (capabilities, client info), since both are said in its `initialize`. When it has
no owner it is kept a while for the same connection with the same wish, as long as that is there. There are `limit` of them at most; at the
limit the one that has been idle longest goes, and if none is idle the call is refused as busy.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from bridge.channel import Channel
from bridge.eras.shapes import Wish
from bridge.eras.words import HANDSHAKE
from bridge.errors import ServerUnreachable
from bridge.facts import CLIENT, START_SECONDS
from bridge.ports.base import PortFactory
from bridge.translation.listens import Listens
from mesh.background import Background
from mesh.errors import Busy, CallError, MeshError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error

MOST_CHILDREN: Final = 32
"""Children of a bridge for modern calls, idle ones included. Each is a process."""

MOST_EARLY: Final = 16
"""Questions that are kept for the next call on a child."""

IDLE_SECONDS: Final = 60.0
"""How long a child without a call is kept. To start one takes a second; to keep one, its memory."""

_log = structlog.get_logger("bridge")


class Owner(Protocol):
    """The call that owns a child."""

    def on_stray(self, frame: Frame) -> None:
        """What the server says that belongs to no request."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who may use a child again: what a server remembers of one client (its roots, say) is not for another."""

    caller: str
    """The caller's name and connection."""
    capabilities: bytes
    info: bytes


class Child:
    """A connection with a handshake of its own."""

    def __init__(self, agent: str, key: Key, channel: Channel) -> None:
        self.key = key
        self.channel = channel
        self.listens = Listens(agent)
        self.owner: Owner | None = None
        self.borrowed = 0
        """Requests that are on it without owning it."""
        self.timer: asyncio.TimerHandle | None = None
        self._early: list[Frame] = []

    def on_stray(self, frame: Frame) -> None:
        self.listens.heard(frame)
        if self.owner is not None:
            self.owner.on_stray(frame)
        elif frame.kind is Kind.REQUEST:
            if len(self._early) < MOST_EARLY:
                self._early.append(frame)
            else:
                self.channel.send(error(dumps(frame.id), control.INVALID_REQUEST, "no call is under way"))

    def take_early(self) -> list[Frame]:
        """What the server has asked while no call owned this child: the next one asks it. Some ask for the roots after `initialize`."""
        early, self._early = self._early, []
        return early


class Pool:
    """The children of one bridge. `take` and `give` one, or `borrow` it and `give_back`."""

    def __init__(self, agent: str, make_port: PortFactory, limit: int, idle_seconds: float) -> None:
        self._agent = agent
        self._make_port = make_port
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._idle: dict[Child, None] = {}
        self._busy: set[Child] = set()
        self._retired: set[Child] = set()
        """Of which a call has left something; they go when nothing is on them any more."""
        self._gates: dict[Key, asyncio.Event] = {}
        """Children that are being made."""
        self._leaving = Background()
        self._starting = 0

    @property
    def size(self) -> int:
        return len(self._idle) + len(self._busy) + len(self._retired) + self._starting

    async def take(self, call: Call, wish: Wish, owner: Owner) -> Child:
        """A child for a call to own. Raises Busy, ServerUnreachable."""
        key = _key(call, wish)
        child = next((each for each in self._idle if each.key == key and not each.channel.ended), None)
        if child is not None:
            self._wake(child)
        else:
            child = await self._make(key)
        self._busy.add(child)
        child.owner = owner
        return child

    def give(self, child: Child, *, clean: bool) -> None:
        """The call has ended. `clean`: nothing of it is left at the server, so another one may own the child."""
        child.owner = None
        self._busy.discard(child)
        if clean and not child.channel.ended:
            self._rest(child)
        elif child.borrowed and not child.channel.ended:
            self._retired.add(child)
        else:
            self._close(child, "its call has ended")

    async def borrow(self, call: Call, wish: Wish) -> Child:
        """A child for a request that is not asked back. Raises Busy, ServerUnreachable."""
        key = _key(call, wish)
        while True:
            child = next((each for each in (*self._busy, *self._idle) if each.key == key and not each.channel.ended), None)
            if child is None and (gate := self._gates.get(key)) is not None:
                await gate.wait()
                continue
            if child is None:
                child = await self._make(key)
                self._rest(child)
            child.borrowed += 1
            return child

    def give_back(self, child: Child) -> None:
        child.borrowed -= 1
        if not child.borrowed and child in self._retired:
            self._retired.discard(child)
            self._close(child, "its last request has ended")

    def gone(self, caller: str, connection: str) -> None:
        """A connection of a caller's is there no more: nobody can use its idle children."""
        for child in [each for each in self._idle if each.key.caller == _caller(caller, connection) and not each.borrowed]:
            self._drop(child, "its client is gone")

    async def close(self) -> None:
        for child in self._idle:
            if child.timer is not None:
                child.timer.cancel()
        all_children = [*self._idle, *self._busy, *self._retired]
        self._idle.clear()
        self._retired.clear()
        await asyncio.gather(*(self._end(child, "the bridge is being stopped") for child in all_children))
        await self._leaving.wait()  # what had a call on it was given back just now

    def _make_room(self) -> None:
        """Raises Busy."""
        free = next((child for child in self._idle if not child.borrowed), None)
        if free is None:
            raise Busy(
                f"{self._agent} has {self._limit} servers for clients that can be asked back, and takes no more calls of such",
                retry_after=1.0,
            )
        self._drop(free, "another call needs its place")

    async def _make(self, key: Key) -> Child:
        if self.size >= self._limit:
            self._make_room()
        gate = self._gates.setdefault(key, asyncio.Event())
        self._starting += 1
        try:
            return await self._start(key)
        finally:
            self._starting -= 1
            gate.set()
            self._gates.pop(key, None)

    async def _start(self, key: Key) -> Child:
        def on_end(_: str) -> None:
            child.listens.lost()
            if child in self._idle:
                self._drop(child, "it ended")

        channel = Channel(self._agent, self._make_port(), on_stray=lambda frame, _: child.on_stray(frame), on_end=on_end)
        child = Child(self._agent, key, channel)
        params: dict[str, Any] = {
            "protocolVersion": HANDSHAKE,
            "capabilities": json.loads(key.capabilities),
            "clientInfo": json.loads(key.info) if key.info else CLIENT,
        }
        try:
            async with asyncio.timeout(START_SECONDS):
                await channel.open()
                found = await channel.request("initialize", params, timeout=START_SECONDS)
            channel.notify("notifications/initialized")
        except (CallError, TimeoutError) as problem:
            await channel.close("it did not answer")
            raise ServerUnreachable(f"{self._agent}: a server for this call cannot be started: {problem}") from None
        except BaseException:
            await channel.close("it was not waited for")
            raise
        capabilities = found.get("capabilities")
        child.listens.attach(channel, capabilities if isinstance(capabilities, dict) else {})
        return child

    def _rest(self, child: Child) -> None:
        self._idle[child] = None
        child.timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire, child)

    def _expire(self, child: Child) -> None:
        if child.borrowed:
            child.timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire, child)
        else:
            self._drop(child, "it is not used any more")

    def _wake(self, child: Child) -> None:
        del self._idle[child]
        if child.timer is not None:
            child.timer.cancel()

    def _drop(self, child: Child, reason: str) -> None:
        self._wake(child)
        self._close(child, reason)

    def _close(self, child: Child, reason: str) -> None:
        self._leaving.start(self._end(child, reason), f"end of a child of {self._agent}")

    async def _end(self, child: Child, reason: str) -> None:
        try:
            child.listens.lost()
            await child.listens.close()
            await child.channel.close(reason)
        except MeshError as problem:
            _log.warning("a child did not end well", agent=self._agent, why=str(problem))


def _key(call: Call, wish: Wish) -> Key:
    return Key(_caller(call.caller, call.peer.connection), wish.capabilities, wish.info)


def _caller(name: str, connection: str) -> str:
    return f"{name}.{connection}"
