"""Exposing: an MCP server becomes an agent of the mesh.

Theory of operation
-------------------
The modern era has no session: one **shared channel** to the server carries all modern calls of all callers. The handshake era is a
session, and a stdio server keeps one session a process: so each `initialize` from the mesh gets a **session** with a channel of its own,
and what follows in that session arrives here because the caller addresses this instance.

At the start the bridge asks the server itself, in the modern era first (`server/discover`), then by the handshake: that tells era,
capabilities and tools for the registry. A server that speaks only the handshake era gets its sessionless calls over the shared channel
too, which the bridge then has initialized; `server/discover` is answered "method not found" for it, so that a client falls back to
`initialize`.

When the shared channel ends it is opened again, with a growing delay; meanwhile the instance says that it is degraded, and
calls wait for a while (`WAITING`) or are refused.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from bridge.channel import Channel
from bridge.errors import ServerUnreachable
from bridge.lists import CHANGES, follow, read_lists
from bridge.ports.base import PortFactory
from bridge.session import Session
from mesh import clock
from mesh.errors import Busy, CallError, MeshError, RemoteError
from mesh.link.responder import Call
from mesh.rpc import CLIENT_CAPABILITIES, CLIENT_INFO, MODERN, PROTOCOL_VERSION
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error

HANDSHAKE: Final = "2025-11-25"
"""The newest revision of the handshake era: what the bridge itself offers to a server that speaks no modern one."""

DISCOVER_SECONDS: Final = 15.0
"""How long a server may take to answer the first question. A handshake server that stays silent at it is started anew and asked by
handshake."""

START_SECONDS: Final = 60.0
"""How long it may take to be ready (an interpreter that compiles, a package that is fetched)."""

FIRST_DELAY: Final = 0.2
LAST_DELAY: Final = 30.0
STEADY: Final = 30.0
"""Seconds before a restart, at most, and how long a server must have run for its next end to be the first again."""

MOST_WAITING: Final = 1_000
"""Calls that wait while the server is being started."""

MOST_SESSIONS: Final = 32
"""Handshake sessions at once, each with a channel (a child process) of its own."""

SESSION_SILENCE: Final = 60.0
"""Seconds after which a session whose host has given no sign of life is ended. Hosts give one every 15."""

CLIENT: Final = {"name": "mesh-bridge", "version": "1"}
META: Final = {"_meta": {PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: {}, CLIENT_INFO: CLIENT}}
"""What the bridge's own requests of the modern era carry."""

_log = structlog.get_logger("bridge")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself."""

    modern: bool
    protocol_versions: tuple[str, ...] = ()
    title: str = ""
    version: str = ""
    instructions: str = ""
    capabilities: dict[str, Any] = field(default_factory=dict)
    tools: tuple[dict[str, Any], ...] = ()
    prompts: tuple[dict[str, Any], ...] = ()
    resources: tuple[dict[str, Any], ...] = ()
    templates: tuple[dict[str, Any], ...] = ()

    def entry(self) -> dict[str, Any]:
        """The fields of the registry's entry that come from the server."""
        return {
            "title": self.title,
            "version": self.version,
            "description": self.instructions[:500],
            "protocol_versions": self.protocol_versions,
            "capabilities": self.capabilities,
            "tools": self.tools,
            "prompts": self.prompts,
            "resources": self.resources,
            "templates": self.templates,
        }


class Exposed:
    """The handler behind one instance. `start` before it is present on the mesh, `close` after it has left."""

    def __init__(self, agent: str, make_port: PortFactory, *, on_event: Callable[[str, str], None]) -> None:
        """`on_event(kind, detail)`: `ready`, `restarting`, `changed` (the facts are new)."""
        self.agent = agent
        self.facts: Facts | None = None
        self._make_port = make_port
        self._on_event = on_event
        self._shared: Channel | None = None
        self._waiting: list[Call] = []
        self._down = asyncio.Event()
        self._sessions: dict[str, Session] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self) -> Facts:
        """Reach the server and learn what it is. Raises ServerUnreachable."""
        facts = await self._open_shared()
        self._spawn(self._supervise(), f"supervisor of {self.agent}")
        self._spawn(self._sweep(), f"sessions of {self.agent}")
        return facts

    async def close(self) -> None:
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        channels = [session.channel for session in self._sessions.values()] + ([self._shared] if self._shared else [])
        await asyncio.gather(*(channel.close("the bridge is being stopped") for channel in channels))

    # what the mesh brings

    def on_call(self, call: Call) -> None:
        method = call.frame.method
        if method == "initialize":
            self._open_session(call)
        elif call.series:
            session = self._sessions.get(call.prefix + call.series)
            if session is None:
                call.fail(control.INVALID_REQUEST, "this session is over", {"mesh": "session_lost", "hint": "begin a new one"})
            else:
                session.channel.take(call)
        elif self._shared is None or self._shared.ended:
            self._wait(call)
        elif method in ("server/discover", "subscriptions/listen") and self.facts is not None and not self.facts.modern:
            call.fail(control.METHOD_NOT_FOUND, "Method not found", method)
        else:
            self._shared.take(call)

    def on_cancel(self, call: Call, reason: str) -> None:
        if isinstance(call.holder, Channel):
            call.holder.cancel(call, reason)
        elif call in self._waiting:
            self._waiting.remove(call)

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        session = self._sessions.get(reply)
        if frame.method == control.CLOSED:
            if session is not None:
                self._end_session(session, "the host has left")
        elif session is not None:
            session.channel.pass_on(frame)
        elif frame.kind is Kind.NOTIFICATION and self._shared is not None:
            self._shared.pass_on(frame)

    def heard_session(self, reply: str) -> None:
        """The host of a session gave a sign of life."""
        if (session := self._sessions.get(reply)) is not None:
            session.heard_at = clock.monotonic()

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
            self._spawn(follow(channel, facts.capabilities, META), f"changes of {self.agent}")
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self.on_call(call)
        self._on_event("ready", f"{len(facts.tools)} tools")
        if changed:
            self._on_event("changed", "")
        return facts

    async def _reach(self) -> tuple[Channel, Facts]:
        """Whatever goes wrong, no server is left behind: also when the time is up or the bridge ends, both of which are cancellations here."""
        async with asyncio.timeout(START_SECONDS):
            channel = await self._new_channel()
            try:
                return channel, await self._ask(channel)
            except (CallError, TimeoutError) as problem:
                await channel.close("it did not answer")
                if isinstance(problem, RemoteError) and problem.rpc_code == control.MESH_ERROR:
                    raise ServerUnreachable(f"{self.agent}: {problem.message}") from None
            except BaseException:
                await channel.close("it was not waited for")
                raise
            channel = await self._new_channel()
            try:
                return channel, await self._ask_by_handshake(channel)
            except (CallError, TimeoutError) as problem:
                await channel.close("it did not answer")
                raise ServerUnreachable(
                    f"{self.agent}: the server does not answer as an MCP server: {problem}",
                    hint="run its command by hand and look at what it writes",
                ) from None
            except BaseException:
                await channel.close("it was not waited for")
                raise

    async def _new_channel(self) -> Channel:
        def on_end(_: str) -> None:
            if self._shared is channel:
                self._down.set()

        channel = Channel(self.agent, self._make_port(), on_stray=self._on_stray, on_end=on_end)
        await channel.open()
        return channel

    async def _ask(self, channel: Channel) -> Facts:
        try:
            found = await channel.request("server/discover", META, timeout=DISCOVER_SECONDS)
        except RemoteError as problem:
            if problem.rpc_code == control.MESH_ERROR:
                raise
            return await self._ask_by_handshake(channel)
        return await self._facts(channel, True, tuple(map(str, found.get("supportedVersions", [MODERN]))), found, META)

    async def _ask_by_handshake(self, channel: Channel) -> Facts:
        params = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": CLIENT}
        found = await channel.request("initialize", params, timeout=START_SECONDS)
        channel.notify("notifications/initialized")
        return await self._facts(channel, False, (str(found.get("protocolVersion", HANDSHAKE)),), found, {})

    async def _facts(self, channel: Channel, modern: bool, versions: tuple[str, ...], found: dict[str, Any], meta: dict[str, Any]) -> Facts:
        capabilities = found.get("capabilities")
        capabilities = capabilities if isinstance(capabilities, dict) else {}
        info = found.get("serverInfo") or (found.get("_meta") or {}).get("io.modelcontextprotocol/serverInfo") or {}
        return Facts(
            modern=modern,
            protocol_versions=versions,
            title=str(info.get("title") or info.get("name") or ""),
            version=str(info.get("version") or ""),
            instructions=str(found.get("instructions") or ""),
            capabilities=capabilities,
            **await read_lists(channel, capabilities, meta, START_SECONDS),
        )

    async def _supervise(self) -> None:
        """Open the shared channel again whenever it ends."""
        delay, since = FIRST_DELAY, clock.monotonic()
        while True:
            await self._down.wait()
            if clock.monotonic() - since > STEADY:
                delay = FIRST_DELAY
            self._shared = None
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

    def _on_stray(self, frame: Frame, _origin: str | None) -> None:
        """What the server says on the shared channel to nobody in particular."""
        if frame.kind is Kind.REQUEST and self._shared is not None:
            id = dumps(frame.id)
            if frame.method == "ping":
                self._shared.send(b'{"jsonrpc":"2.0","id":' + id + b',"result":{}}')
            else:
                self._shared.send(error(id, control.METHOD_NOT_FOUND, "no host is behind this connection"))
        elif frame.method in CHANGES:
            self._spawn(self._learn_again(), f"lists of {self.agent}")

    async def _learn_again(self) -> None:
        channel, facts = self._shared, self.facts
        if channel is None or facts is None:
            return
        try:
            meta = META if facts.modern else {}
            said = {
                "capabilities": facts.capabilities,
                "instructions": facts.instructions,
                "serverInfo": {"title": facts.title, "version": facts.version},
            }
            self.facts = await self._facts(channel, facts.modern, facts.protocol_versions, said, meta)
            self._on_event("changed", "")
        except CallError as problem:
            _log.warning("a changed list cannot be read", agent=self.agent, why=str(problem))

    # handshake sessions

    def _open_session(self, call: Call) -> None:
        if len(self._sessions) >= MOST_SESSIONS:
            call.refuse(Busy(f"{self.agent} has {MOST_SESSIONS} sessions and takes no more"), retry_after=10.0)
            return
        session = Session(self.agent, call, self._make_port(), self._end_session)
        self._sessions[session.key] = session
        call.announce()
        self._spawn(self._begin_session(session, call), f"session of {call.caller} with {self.agent}")

    async def _begin_session(self, session: Session, call: Call) -> None:
        try:
            await session.channel.open()
        except MeshError as problem:
            self._sessions.pop(session.key, None)
            call.refuse(problem)
        else:
            if call.ended:
                self._end_session(session, "cancelled before it began")
            else:
                session.channel.take(call)

    def _end_session(self, session: Session, reason: str) -> None:
        if self._sessions.pop(session.key, None) is not None and not self._closing:
            self._spawn(session.channel.close(reason), f"end of a session with {self.agent}")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SESSION_SILENCE / 6)
            for session in list(self._sessions.values()):
                if clock.monotonic() - session.heard_at > SESSION_SILENCE:
                    self._end_session(session, "its host gave no sign of life")

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
