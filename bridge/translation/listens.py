"""`subscriptions/listen` on a handshake server: its `list_changed` and `resources/updated`, and `resources/subscribe` for who wants a URI.

Listeners share a channel to the server, so each URI is subscribed once (`bridge.eras.interest`), for the first who wants it, until
the last has left. A listen is acknowledged when the server has answered for all its URIs, with what of it is honoured, and nothing is
told before. When the channel ends, so do the listens: there is no replay in this era, and the client listens again and reads anew.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from bridge.channel import Channel
from bridge.eras.edit import find_text
from bridge.eras.interest import TABLE, Do, Event, State
from bridge.eras.machine import Machine
from bridge.eras.shapes import Filter, acknowledged, read_filter, stamped
from bridge.eras.words import CAPABILITY_OF, CHANGES, UPDATED
from bridge.errors import ServerDied
from mesh.background import Background
from mesh.errors import Busy, CallError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame

MOST_LISTENS: Final = 1_000
"""Listens of a bridge at once. Precedent: the SDK's server allows 1,024."""

MOST_URIS: Final = 1_000
"""URIs of one listen."""

SUBSCRIBE_SECONDS: Final = 30.0

_log = structlog.get_logger("bridge")


class _Listen:
    """One listen. Its call is open as long as it lasts."""

    def __init__(self, call: Call, fields: frozenset[str], on_over: Callable[[], object]) -> None:
        self.call = call
        self.fields = fields
        self.on_over = on_over
        self.uris: dict[str, None] = {}
        self.pending: set[str] = set()
        """URIs that the server has not yet answered for."""
        self.told = False
        """Whether it has been acknowledged."""


class Listens:
    """All that are on one channel."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._channel: Channel | None = None
        self._capabilities: Mapping[str, Any] = {}
        self._listens: dict[Call, _Listen] = {}
        self._interest: dict[str, Machine[State, Event, Do]] = {}
        self._background = Background()

    def attach(self, channel: Channel, capabilities: Mapping[str, Any]) -> None:
        """The server is there, or there again."""
        self._channel = channel
        self._capabilities = capabilities

    def lost(self) -> None:
        """The server is gone."""
        self._channel = None
        self._interest.clear()
        listens, self._listens = self._listens, {}
        for call, listen in listens.items():
            call.refuse(ServerDied(f"the server of {self._agent} is gone", hint="listen again, and read anew what you rely on"))
            listen.on_over()

    async def close(self) -> None:
        await self._background.end()

    def take(self, call: Call, on_over: Callable[[], object] = lambda: None) -> None:
        """`on_over` is called when the listen has ended."""
        wanted = read_filter(call.frame)
        if wanted is None or len(wanted.uris) > MOST_URIS:
            call.fail(control.INVALID_PARAMS, "params.notifications is no filter, or one with too many URIs")
            on_over()
        elif len(self._listens) >= MOST_LISTENS:
            call.refuse(Busy(f"{self._agent} has {MOST_LISTENS} listeners and takes no more"), retry_after=10.0)
            on_over()
        else:
            self._begin(call, wanted, on_over)

    def cancel(self, call: Call, reason: str) -> None:
        listen = self._listens.pop(call, None)
        if listen is not None:
            for uri in listen.uris:
                self._left(uri)
            listen.on_over()

    def heard(self, frame: Frame, caller: str | None = None) -> bool:
        """A notification of the server's, from a child of `caller` or from the shared one: whether it is one to listen to."""
        method = frame.method or ""
        if method == UPDATED:
            uri = find_text(frame.raw, "params", "uri") or ""
            told = [listen for listen in self._listens.values() if any(_covers(each, uri) for each in listen.uris)]
        elif method in CHANGES:
            told = [listen for listen in self._listens.values() if CHANGES[method] in listen.fields]
        else:
            return False
        for listen in told:
            if listen.told and caller in (None, listen.call.caller):
                listen.call.emit(stamped(frame.raw, listen.call.id))
        return True

    def _begin(self, call: Call, wanted: Filter, on_over: Callable[[], object]) -> None:
        fields = frozenset(name for name in wanted.fields if self._offers(CAPABILITY_OF[name], "listChanged"))
        listen = self._listens[call] = _Listen(call, fields, on_over)
        call.holder = self
        if self._offers("resources", "subscribe"):
            listen.uris = dict.fromkeys(wanted.uris)
            for uri in wanted.uris:
                machine = self._interest.setdefault(uri, Machine(TABLE, State.OFF))
                if sum(uri in each.uris for each in self._listens.values()) == 1:
                    self._do(uri, machine.on(Event.WANTED))
                if machine.state is not State.ON:
                    listen.pending.add(uri)
        self._tell(listen)

    def _offers(self, capability: str, what: str) -> bool:
        said = self._capabilities.get(capability)
        return isinstance(said, dict) and said.get(what) is True

    def _tell(self, listen: _Listen) -> None:
        if not listen.told and not listen.pending:
            listen.told = True
            listen.call.emit(acknowledged(listen.call.id, listen.fields, listen.uris))

    def _left(self, uri: str) -> None:
        machine = self._interest.get(uri)
        if machine is not None and machine.state is not State.OFF and not any(uri in each.uris for each in self._listens.values()):
            self._do(uri, machine.on(Event.UNWANTED))

    def _do(self, uri: str, do: Do) -> None:
        if do is Do.SUBSCRIBE or do is Do.UNSUBSCRIBE:
            method = "resources/subscribe" if do is Do.SUBSCRIBE else "resources/unsubscribe"
            self._background.start(self._ask(method, uri), f"{method} at {self._agent}")
        elif do is Do.HONOUR or do is Do.DENY:
            for listen in list(self._listens.values()):
                if uri in listen.pending:
                    listen.pending.discard(uri)
                    if do is Do.DENY:
                        del listen.uris[uri]
                    self._tell(listen)
        if (machine := self._interest.get(uri)) is not None and machine.state is State.OFF:
            del self._interest[uri]

    async def _ask(self, method: str, uri: str) -> None:
        channel, machine = self._channel, self._interest[uri]
        if channel is None:
            return
        event = Event.DONE
        try:
            await channel.request(method, {"uri": uri}, timeout=SUBSCRIBE_SECONDS)
        except CallError as problem:
            _log.info("the server refused", agent=self._agent, method=method, why=str(problem))
            event = Event.FAILED
        if self._interest.get(uri) is machine:
            self._do(uri, machine.on(event))


def _covers(subscribed: str, uri: str) -> bool:
    """A server may tell of a part of what was subscribed (MCP 2026-07-28, server/resources)."""
    return uri == subscribed or uri.startswith(subscribed.rstrip("/") + "/")
