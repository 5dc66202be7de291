"""Handshake sessions of several hosts on one child: for servers that are slow to start, or whose hosts are to share what they remember.

Theory of operation
-------------------
The first host's `initialize` goes to the child, and its answer is every later host's answer too. Ids and progress tokens are unique on
the mesh, so requests, answers, progress and cancellations are kept apart by themselves. What the handshake era keeps for one host is kept
here for each, and the child has the union: the lowest log level that any host has set, each subscription once.

Unless the port can tell (HTTP), other messages of the server name no call. Such a notification goes to every host that wants it: log
messages of its level, updates of what it subscribed to, all list changes, and what vendors have. Such a **request** goes to the host, if
there is one only; of several none can be chosen, and the server gets an error. So what is not kept apart is the contents of log messages,
and what the server itself remembers. Whose server asks back, or logs secrets, leaves `sessions` as it is: one child for each.
"""

import asyncio
from typing import Any, Final

import structlog

from bridge.channel import Channel
from bridge.eras.edit import find_text
from bridge.eras.shapes import is_logged, response
from bridge.eras.words import LEVELS, LOG, UPDATED
from bridge.errors import ServerDied, ServerUnreachable
from bridge.facts import START_SECONDS
from bridge.ports.base import PortFactory
from bridge.shared_session import Relay, SharedSession
from mesh.background import Background
from mesh.errors import CallError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error

DEFAULT_LEVEL: Final = "info"
"""From which log messages go to a host that has set no level, once another host has set one for the child."""

MOST_URIS: Final = 1_000
"""Resources that a session may subscribe to."""

OWN_SECONDS: Final = 10.0
"""For what the bridge itself asks of the child when a host has left."""

_log = structlog.get_logger("bridge")


class Shared:
    """The child, and the sessions on it. It is started for the first, and stays when the last has left."""

    def __init__(self, agent: str, make_port: PortFactory) -> None:
        self.agent = agent
        self._make_port = make_port
        self._channel: Channel | None = None
        self._said: Frame | None = None
        """The child's answer to `initialize`."""
        self._initialized = False
        self._hosts: dict[str, SharedSession] = {}
        self._asked: dict[str | int | None, SharedSession] = {}
        """Requests of the child without an answer, and who was asked."""
        self._level = ""
        self._subscribed: set[str] = set()
        self._gate = asyncio.Lock()
        self._background = Background()

    async def join(self, host: SharedSession) -> Frame:
        """The answer to its `initialize`; an error where there is no child yet and it refuses this host. Raises MeshError."""
        async with self._gate:
            if self._channel is None or self._channel.ended:
                return await self._start(host)
        assert self._said is not None
        self._hosts[host.key] = host
        return self._said

    def leave(self, host: SharedSession, reason: str) -> None:
        """End what is the host's alone."""
        if self._hosts.pop(host.key, None) is None:
            return
        for id in [id for id, asked in self._asked.items() if asked is host]:
            del self._asked[id]
            self._send(error(dumps(id), control.INTERNAL_ERROR, "the host has left"))
        if self._channel is None or self._channel.ended:
            return
        self._channel.drop(host.key, ServerDied(f"the session with {self.agent} is over: {reason}", hint="begin a new session"), reason)
        for uri in host.uris:
            if uri in self._subscribed and not self._wanted(uri):
                self._subscribed.discard(uri)
                self._ask("resources/unsubscribe", {"uri": uri})
        self._tell_level()

    async def close(self) -> None:
        await self._background.end()
        if self._channel is not None:
            await self._channel.close("the bridge is being stopped")

    # what the hosts say

    def take(self, host: SharedSession, call: Call) -> None:
        channel = self._channel
        if channel is None or channel.ended:
            call.refuse(ServerDied(f"the server of {self.agent} is gone", hint="begin a new session"))
            return
        match call.frame.method:
            case "initialize":
                call.fail(control.INVALID_REQUEST, "this session is initialized already")
            case "logging/setLevel":
                self._set_level(host, call, channel, find_text(call.frame.raw, "params", "level") or "")
            case "resources/subscribe":
                self._subscribe(host, call, channel, call.frame.name or "")
            case "resources/unsubscribe":
                self._unsubscribe(host, call, channel, call.frame.name or "")
            case _:
                channel.take(call)

    def pass_on(self, host: SharedSession, frame: Frame) -> None:
        if self._channel is None:
            return
        if frame.final:
            if self._asked.get(frame.id) is host:
                del self._asked[frame.id]
                self._channel.pass_on(frame)
        elif frame.method == "notifications/initialized":
            if not self._initialized:
                self._initialized = True
                self._channel.pass_on(frame)
        elif frame.method != "notifications/roots/list_changed" or len(self._hosts) == 1:
            self._channel.pass_on(frame)  # several hosts cannot be asked for their roots

    def _set_level(self, host: SharedSession, call: Call, channel: Channel, level: str) -> None:
        if level not in LEVELS:
            Relay(call, channel, lambda _: None)  # the server says what is wrong with it
            return
        before, host.level = host.level, level
        if self._lowest() == level != self._level:
            lowest, self._level = self._level, level

            def on_answer(done: bool) -> None:
                if not done:
                    host.level, self._level = before, lowest

            Relay(call, channel, on_answer)
        else:
            self._tell_level()
            call.finish(response(dumps(call.id), b"{}"))

    def _subscribe(self, host: SharedSession, call: Call, channel: Channel, uri: str) -> None:
        if uri not in host.uris and len(host.uris) >= MOST_URIS:
            call.fail(control.INVALID_PARAMS, f"{MOST_URIS} resources are subscribed already")
        elif uri in self._subscribed:
            host.uris[uri] = None
            call.finish(response(dumps(call.id), b"{}"))
        else:

            def on_answer(done: bool) -> None:
                if done:
                    self._subscribed.add(uri)
                else:
                    host.uris.pop(uri, None)

            host.uris[uri] = None
            Relay(call, channel, on_answer)

    def _unsubscribe(self, host: SharedSession, call: Call, channel: Channel, uri: str) -> None:
        host.uris.pop(uri, None)
        if self._wanted(uri):
            call.finish(response(dumps(call.id), b"{}"))
        else:
            self._subscribed.discard(uri)
            Relay(call, channel, lambda _: None)

    def _wanted(self, uri: str) -> bool:
        return any(uri in host.uris for host in self._hosts.values())

    def _lowest(self) -> str:
        return min((host.level for host in self._hosts.values() if host.level), key=LEVELS.index, default="")

    def _tell_level(self) -> None:
        """The child keeps the level that it has when nobody wants one any more."""
        lowest = self._lowest()
        if lowest and lowest != self._level:
            self._level = lowest
            self._ask("logging/setLevel", {"level": lowest})

    # what the child says

    def _on_stray(self, frame: Frame, origin: str | None) -> None:
        assert self._channel is not None
        call = self._channel.call_of(origin) if origin is not None else None
        owner = self._hosts.get(call.prefix + call.series) if call is not None else None
        if frame.kind is Kind.REQUEST:
            self._on_request(frame, owner, call)
        elif owner is not None:
            owner.outgoing.say(frame, call)
        elif frame.method == "notifications/cancelled":
            if (asked := self._asked.pop(frame.cancels, None)) is not None:
                asked.outgoing.say(frame)
        else:
            for host in list(self._hosts.values()):
                if self._concerns(host, frame):
                    host.outgoing.say(frame)

    def _on_request(self, frame: Frame, owner: SharedSession | None, call: Call | None) -> None:
        assert self._channel is not None
        if owner is None and len(self._hosts) == 1:
            owner, call = next(iter(self._hosts.values())), self._channel.call_of(None)
        if owner is not None:
            self._asked[frame.id] = owner
            owner.outgoing.say(frame, call)
        elif frame.method == "ping":
            self._send(response(dumps(frame.id), b"{}"))
        else:
            said = f"{len(self._hosts)} hosts share this server, and the request does not say for which of them it is"
            self._send(error(dumps(frame.id), control.METHOD_NOT_FOUND, said, {"mesh": "shared"}))

    def _concerns(self, host: SharedSession, frame: Frame) -> bool:
        if frame.method == LOG:
            return not self._level or is_logged(frame, host.level or DEFAULT_LEVEL)
        if frame.method == UPDATED:
            uri = find_text(frame.raw, "params", "uri") or ""
            return any(uri == each or uri.startswith(each.rstrip("/") + "/") for each in host.uris)
        return True

    # the child

    async def _start(self, host: SharedSession) -> Frame:
        channel = self._channel = Channel(self.agent, self._make_port(), on_stray=self._on_stray, on_end=self._on_end)
        self._initialized, self._level, self._subscribed = False, "", set()
        self._hosts[host.key] = host
        try:
            async with asyncio.timeout(START_SECONDS):
                await channel.open()
                channel.ride(host.opener.id, host.opener.frame.raw, host)
                self._said = await host.answer
        except TimeoutError:
            await self._give_up(host, channel)
            raise ServerUnreachable(f"{self.agent} did not answer `initialize` within {START_SECONDS:g} s") from None
        except BaseException:
            await self._give_up(host, channel)
            raise
        if self._said.kind is Kind.ERROR:
            await self._give_up(host, channel)
        return self._said

    async def _give_up(self, host: SharedSession, channel: Channel) -> None:
        self._hosts.pop(host.key, None)
        self._channel = None
        await channel.close("it did not begin")

    def _on_end(self, reason: str) -> None:
        hosts, self._hosts = self._hosts, {}
        self._asked.clear()
        if self._channel is not None:
            self._background.start(self._channel.close(reason), f"end of the shared server of {self.agent}")
        for host in hosts.values():
            host.on_end(host, reason)

    def _send(self, raw: bytes) -> None:
        if self._channel is not None and not self._channel.ended:
            self._channel.send(raw)

    def _ask(self, method: str, params: dict[str, Any]) -> None:
        assert self._channel is not None
        self._background.start(self._asking(self._channel, method, params), f"{method} at {self.agent}")

    async def _asking(self, channel: Channel, method: str, params: dict[str, Any]) -> None:
        try:
            await channel.request(method, params, timeout=OWN_SECONDS)
        except CallError as problem:
            _log.info("the server refused", agent=self.agent, method=method, why=str(problem))
