"""Exposing: an MCP server becomes an agent of the mesh.

Theory of operation
-------------------
The modern era has no session: one **shared channel** to the server carries all modern calls of all callers. The handshake era is a
session, and a stdio server keeps one session a process: so each `initialize` from the mesh gets a **session** with a channel of its own
(or all share one: `bridge.shared`), and what follows in that session arrives here because the caller addresses this instance.

At the start the bridge asks the server itself, in the modern era first (`server/discover`), then by the handshake: that tells era,
capabilities and lists for the registry. Where the server speaks only one era, the bridge translates for callers of the other: modern calls
go through `bridge.translation.modern`, handshake sessions become `bridge.translation.handshake`.

When the shared channel ends it is opened again, with a growing delay; meanwhile the instance says that it is degraded, and
calls wait for a while (`WAITING`) or are refused.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final, Literal

import structlog

from bridge.channel import Channel
from bridge.eras.carried import Carrier
from bridge.eras.state import Sealer, StateRefused
from bridge.eras.words import LOG, STATE_REFUSED
from bridge.errors import ServerUnreachable
from bridge.facts import META, START_SECONDS, Facts, ask, ask_by_handshake, learn
from bridge.lists import CHANGES, follow
from bridge.ports.base import PortFactory
from bridge.sessions import Sessions
from bridge.translation.modern import ModernFace
from mesh import clock
from mesh.background import Background
from mesh.errors import Busy, CallError, MeshError, RemoteError, TooLarge
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.entries import ProbeQuestion
from mesh.wire.jsonrpc import Frame, Kind, dumps, error

FIRST_DELAY: Final = 0.2
LAST_DELAY: Final = 30.0
STEADY: Final = 30.0
"""Seconds before a restart, at most, and how long a server must have run for its next end to be the first again."""

MOST_WAITING: Final = 1_000
"""Calls that wait while the server is being started."""

_LOOK: Final = "run its command by hand and look at what it writes"

_log = structlog.get_logger("bridge")


class Exposed:
    """The handler behind one instance. `start` before it is present on the mesh, `close` after it has left."""

    def __init__(
        self,
        agent: str,
        make_port: PortFactory,
        *,
        instance: str,
        on_event: Callable[[str, str], None],
        connected: Callable[[], bool] = lambda: True,
        sessions: Literal["own", "shared"] = "own",
        alone: bool = True,
    ) -> None:
        """`on_event(kind, detail)`: `ready`, `restarting`, `changed` (the facts are new). `connected`: the broker can be reached.
        `sessions`: whether those of the handshake era have a child each, or share one. `alone`: no other instance reaches this server."""
        self.agent = agent
        self.facts: Facts | None = None
        self._make_port = make_port
        self._on_event = on_event
        self._shared: Channel | None = None
        sealer = Sealer(agent, instance)
        self._carrier = Carrier(sealer, alone=alone)
        self._face = ModernFace(agent, sealer, make_port)
        self._sessions = Sessions(agent, make_port, connected, shared=sessions == "shared")
        self._waiting: list[Call] = []
        self._down = asyncio.Event()
        self._background = Background()

    async def start(self) -> Facts:
        """Reach the server and learn what it is. Raises ServerUnreachable."""
        facts = await self._open_shared()
        self._background.start(self._supervise(), f"supervisor of {self.agent}")
        self._sessions.start()
        return facts

    async def close(self) -> None:
        await self._background.end()
        await asyncio.gather(self._face.close(), self._sessions.close())
        if self._shared is not None:
            await self._shared.close("the bridge is being stopped")

    # what the mesh brings

    def on_call(self, call: Call) -> None:
        if call.series:
            self._sessions.take(call)
        elif call.frame.method == "initialize":
            self._sessions.open(call, self.facts)
        elif self._shared is None or self._shared.ended:
            self._wait(call)
        elif call.frame.era is not None and self.facts is not None and not self.facts.modern:
            self._face.take(call)
        else:
            try:
                call.frame = self._carrier.inward(call.caller, call.frame, clock.monotonic())
            except StateRefused as problem:
                _log.warning("request state refused", agent=self.agent, caller=call.caller, why=str(problem))
                call.fail(*STATE_REFUSED)
            else:
                self._shared.take(call)

    def on_cancel(self, call: Call, reason: str) -> None:
        if call.holder is not None:
            call.holder.cancel(call, reason)
        elif call in self._waiting:
            self._waiting.remove(call)

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        session = self._sessions.get(caller, reply)
        if frame.method == control.CLOSED:
            if session is not None:
                self._sessions.end(session, "the host has left")
        elif session is not None:
            session.pass_on(frame)
        elif frame.kind is Kind.NOTIFICATION and self._shared is not None:
            self._shared.pass_on(frame)

    def on_gone(self, caller: str, connection: str) -> None:
        """A host is gone, and with it its sessions and what is kept for its next call."""
        self._sessions.end_of(caller, connection)
        self._face.gone(caller, connection)

    def heard_session(self, caller: str, question: ProbeQuestion) -> None:
        """The host of a session gave a sign of life. That of another caller's session is none."""
        self._sessions.heard(caller, question.session, back=question.back)

    def _wait(self, call: Call) -> None:
        if len(self._waiting) >= MOST_WAITING:
            call.refuse(Busy(f"the server of {self.agent} is being started, and {MOST_WAITING} calls wait already"), retry_after=1.0)
        else:
            self._waiting.append(call)

    # the shared channel

    async def _open_shared(self) -> Facts:
        """A shared channel, and what the server says over it. Calls that waited are passed on."""
        channel, facts = await self._reach()
        self._shared = channel
        if channel.ended:
            self._down.set()
        changed, self.facts = facts != self.facts, facts
        if facts.modern:
            self._background.start(follow(channel, facts.capabilities, META), f"changes of {self.agent}")
        else:
            self._face.attach(channel, facts)
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self.on_call(call)
        self._on_event("ready", f"{len(facts.tools)} tools")
        if changed:
            self._on_event("changed", "")
        return facts

    async def _reach(self) -> tuple[Channel, Facts]:
        """A server, and what it says of itself. Raises ServerUnreachable."""
        try:
            async with asyncio.timeout(START_SECONDS):
                return await self._reach_in_an_era()
        except TimeoutError:
            raise ServerUnreachable(f"{self.agent}: the server does not answer within {START_SECONDS:g} s", hint=_LOOK) from None

    async def _reach_in_an_era(self) -> tuple[Channel, Facts]:
        """Whatever goes wrong, no server is left behind: also when the time is up or the bridge ends, which are cancellations here."""
        channel = await self._new_channel()
        try:
            return channel, await ask(channel)
        except (CallError, TimeoutError) as problem:
            await channel.close("it did not answer")
            if isinstance(problem, RemoteError) and problem.rpc_code == control.MESH_ERROR:
                raise ServerUnreachable(f"{self.agent}: {problem.message}") from None
        except BaseException:
            await channel.close("it was not waited for")
            raise
        channel = await self._new_channel()
        try:
            return channel, await ask_by_handshake(channel)
        except (CallError, TimeoutError) as problem:
            await channel.close("it did not answer")
            raise ServerUnreachable(f"{self.agent}: the server does not answer as an MCP server: {problem}", hint=_LOOK) from None
        except BaseException:
            await channel.close("it was not waited for")
            raise

    async def _new_channel(self) -> Channel:
        def on_end(_: str) -> None:
            if self._shared is channel:
                self._down.set()

        channel = Channel(self.agent, self._make_port(), on_stray=self._on_stray, on_end=on_end, on_asks=self._on_asks)
        await channel.open()
        return channel

    async def _supervise(self) -> None:
        """Open the shared channel again whenever it ends."""
        delay, since = FIRST_DELAY, clock.monotonic()
        while True:
            await self._down.wait()
            if clock.monotonic() - since > STEADY:
                delay = FIRST_DELAY
            self._shared = None
            self._face.lost()
            self._on_event("restarting", f"in {delay:.1f} s")
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(LAST_DELAY, delay * 2)
            self._down.clear()
            try:
                await self._open_shared()
                since = clock.monotonic()
            except (MeshError, TimeoutError) as problem:
                _log.warning("the server does not come back", agent=self.agent, why=str(problem))
                waiting, self._waiting = self._waiting, []
                for call in waiting:
                    call.refuse(ServerUnreachable(f"the server of {self.agent} cannot be started: {problem}"))
                self._down.set()

    def _on_asks(self, call: Call, response: Frame) -> None:
        try:
            call.finish(self._carrier.outward(call.caller, call.frame, response, clock.monotonic()))
        except TooLarge as problem:
            call.refuse(problem)

    def _on_stray(self, frame: Frame, _origin: str | None) -> None:
        """What the server says on the shared channel to nobody in particular."""
        if frame.kind is Kind.REQUEST and self._shared is not None:
            id = dumps(frame.id)
            if frame.method == "ping":
                self._shared.send(b'{"jsonrpc":"2.0","id":' + id + b',"result":{}}')
            else:
                self._shared.send(error(id, control.METHOD_NOT_FOUND, "no host is behind this connection"))
                self._face.asked(frame)
            return
        if frame.method == LOG and self.facts is not None and self.facts.modern and self._shared is not None:
            if (call := self._shared.logged(frame)) is not None:
                call.emit(frame.raw)
            return
        self._face.heard(frame)
        if frame.method in CHANGES:
            self._background.start(self._learn_again(), f"lists of {self.agent}")

    async def _learn_again(self) -> None:
        channel, facts = self._shared, self.facts
        if channel is None or facts is None:
            return
        try:
            self.facts = await learn(channel, facts)
            self._on_event("changed", "")
        except CallError as problem:
            _log.warning("a changed list cannot be read", agent=self.agent, why=str(problem))
