"""Children that one modern call owns while it runs: a handshake server's questions name no call, so a shared child could not say whose
they are.

A child is made for one caller and one wish (capabilities, client info), since both were said in its `initialize`. When its call has ended
it is kept a while for the same caller with the same wish. There are `limit` of them at most; at the limit the one that has been idle
longest goes, and if none is idle the call is refused as busy.
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
from mesh.errors import Busy, CallError, MeshError
from mesh.wire.jsonrpc import Frame

MOST_CHILDREN: Final = 16
"""Children of a bridge for modern calls, idle ones included. Each is a process."""

IDLE_SECONDS: Final = 60.0
"""How long a child without a call is kept. To start one takes a second; to keep one, its memory."""

_log = structlog.get_logger("bridge")


class Owner(Protocol):
    """The call that owns a child."""

    def on_stray(self, frame: Frame) -> None:
        """What the server says that belongs to no request."""


@dataclass(frozen=True, slots=True)
class Key:
    """Who may use a child again."""

    caller: str
    capabilities: bytes
    info: bytes


class Child:
    """A connection with a handshake of its own."""

    def __init__(self, key: Key, channel: Channel) -> None:
        self.key = key
        self.channel = channel
        self.owner: Owner | None = None
        self.timer: asyncio.TimerHandle | None = None


class Pool:
    """The children of one bridge. `take` one, `give` it back."""

    def __init__(self, agent: str, make_port: PortFactory, limit: int, idle_seconds: float) -> None:
        self._agent = agent
        self._make_port = make_port
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._idle: dict[Child, None] = {}
        self._busy: set[Child] = set()
        self._starting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def size(self) -> int:
        return len(self._idle) + len(self._busy) + self._starting

    async def take(self, caller: str, wish: Wish, owner: Owner) -> Child:
        """A child that has been initialized for this caller and wish. Raises Busy, ServerUnreachable."""
        key = Key(caller, wish.capabilities, wish.info)
        child = next((each for each in self._idle if each.key == key and not each.channel.ended), None)
        if child is not None:
            self._wake(child)
        else:
            if self.size >= self._limit:
                self._make_room()
            self._starting += 1
            try:
                child = await self._start(key)
            finally:
                self._starting -= 1
        self._busy.add(child)
        child.owner = owner
        return child

    def give(self, child: Child, *, clean: bool) -> None:
        """The call has ended. `clean`: nothing of it is left at the server, so another one may use it."""
        child.owner = None
        self._busy.discard(child)
        if clean and not child.channel.ended:
            self._idle[child] = None
            child.timer = asyncio.get_running_loop().call_later(self._idle_seconds, self._drop, child, "it is not used any more")
        else:
            self._close(child, "its call has ended")

    async def close(self) -> None:
        for child in list(self._idle):
            self._wake(child)
            self._busy.add(child)
        await asyncio.gather(*(child.channel.close("the bridge is being stopped") for child in list(self._busy)))
        while self._tasks:  # what had a call on it was given back just now
            await asyncio.gather(*self._tasks)

    def _make_room(self) -> None:
        """Raises Busy."""
        if not self._idle:
            raise Busy(
                f"{self._agent} holds {self._limit} calls that may ask back, each with a server of its own, and takes no more",
                retry_after=1.0,
            )
        self._drop(next(iter(self._idle)), "another call needs its place")

    async def _start(self, key: Key) -> Child:
        def on_stray(frame: Frame, _: str | None) -> None:
            if child.owner is not None:
                child.owner.on_stray(frame)

        def on_end(_: str) -> None:
            if child in self._idle:
                self._drop(child, "it ended")

        channel = Channel(self._agent, self._make_port(), on_stray=on_stray, on_end=on_end)
        child = Child(key, channel)
        params: dict[str, Any] = {
            "protocolVersion": HANDSHAKE,
            "capabilities": json.loads(key.capabilities),
            "clientInfo": json.loads(key.info) if key.info else CLIENT,
        }
        try:
            async with asyncio.timeout(START_SECONDS):
                await channel.open()
                await channel.request("initialize", params, timeout=START_SECONDS)
            channel.notify("notifications/initialized")
        except (CallError, TimeoutError) as problem:
            await channel.close("it did not answer")
            raise ServerUnreachable(f"{self._agent}: a server for this call cannot be started: {problem}") from None
        except BaseException:
            await channel.close("it was not waited for")
            raise
        return child

    def _wake(self, child: Child) -> None:
        del self._idle[child]
        if child.timer is not None:
            child.timer.cancel()

    def _drop(self, child: Child, reason: str) -> None:
        self._wake(child)
        self._close(child, reason)

    def _close(self, child: Child, reason: str) -> None:
        task = asyncio.create_task(self._end(child, reason), name=f"end of a child of {self._agent}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, child: Child, reason: str) -> None:
        try:
            await child.channel.close(reason)
        except MeshError as problem:
            _log.warning("a child did not end well", agent=self._agent, why=str(problem))
