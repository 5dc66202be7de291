"""A modern server as a handshake host sees it: a session of which the server knows nothing.

`initialize` is answered out of the server's own `server/discover`, `ping` and `logging/setLevel` here; each other request gets the
envelope of the modern era, with the host's capabilities and the log level of the session. "Input required" becomes requests to the host, as
frames of its exchange, and the retry is ours (`bridge.eras.rounds`). List changes and subscribed resources come from a listen that
the bridge holds (`bridge.eras.standing`).

The session has a connection of its own: log messages name no request over stdio, but they name this session so.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any, Final

from bridge.channel import Channel
from bridge.eras.edit import find_text
from bridge.eras.shapes import initialized, question, read_envelope, response
from bridge.eras.words import CAPABILITY_OF, CHANGES, LEVELS, LOG, UNSUPPORTED_VERSION, UPDATED
from bridge.errors import ServerDied
from bridge.facts import Facts
from bridge.ports.base import ServerPort
from bridge.session import Connected, Outgoing
from bridge.translation.asked import Asked
from bridge.translation.standing import Standing
from mesh import clock
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error, scan

MOST_URIS: Final = 1_000
"""Resources that a session may subscribe to."""


class TranslatedSession:
    """One host. `key` is the reply subject of its `initialize`, as with any session."""

    def __init__(
        self,
        agent: str,
        call: Call,
        port: ServerPort,
        facts: Facts,
        connected: Connected,
        on_end: "Callable[[TranslatedSession, str], None]",
    ) -> None:
        self.key = call.prefix + call.exchange
        self.heard_at = clock.monotonic()
        self.channel = Channel(agent, port, on_stray=self._on_stray, on_end=lambda reason: on_end(self, reason))
        self._agent = agent
        self.opener = call
        self.outgoing = Outgoing(call, connected)
        self._facts = facts
        self._envelope = read_envelope(call.frame)
        self._level = ""
        self._asked: dict[str, Asked] = {}
        """Calls with questions to the host, by each question's id."""
        self._numbers = itertools.count(1)
        self._uris: dict[str, None] = {}
        self._standing = Standing(self.channel, self._listen_params, self._on_change, self._denied)

    async def begin(self) -> None:
        """Reach the server, and answer `initialize`. Raises MeshError."""
        await self.channel.open()
        asked = find_text(self.opener.frame.raw, "params", "protocolVersion")
        self.opener.finish(response(dumps(self.opener.id), initialized(self._facts.said, asked, self._agent)))

    def take(self, call: Call) -> None:
        match call.frame.method:
            case "ping":
                call.finish(response(dumps(call.id), b"{}"))
            case "initialize":
                call.fail(control.INVALID_REQUEST, "this session is initialized already")
            case "logging/setLevel":
                self._set_level(call)
            case "resources/subscribe" | "resources/unsubscribe":
                self._subscribe(call, find_text(call.frame.raw, "params", "uri"))
            case _:
                Asked(self, call).send()

    def pass_on(self, frame: Frame) -> None:
        """What the host says besides its requests."""
        if frame.final:
            self.outgoing.answered(frame)  # an answer that comes twice has no `asked` any more
            asked = self._asked.pop(str(frame.id), None)
            if asked is not None:
                asked.answered(str(frame.id), frame)
        elif frame.method == "notifications/initialized":
            if any(self._offers(capability, "listChanged") for capability in CAPABILITY_OF.values()):
                self._standing.want()
        elif frame.method not in ("notifications/progress", "notifications/roots/list_changed"):
            self.channel.pass_on(frame)  # the modern era has not these two

    async def close(self, reason: str) -> None:
        problem = ServerDied(f"the session with {self._agent} is over: {reason}", hint="begin a new session")
        self._standing.close(problem)
        for asked in set(self._asked.values()):
            asked.on_died(problem)
        await self.channel.close(reason)

    # for the calls of this session

    def envelope(self) -> bytes:
        """What each request to the server carries now."""
        return self._envelope.members(self._level)

    def new_question(self, asked: Asked) -> str:
        """An id for a request to the host."""
        id = f"mesh-{next(self._numbers)}"
        self._asked[id] = asked
        return id

    def ask(self, call: Call, id: str, inside: bytes) -> None:
        """Send one to the host: `inside` are its method and params."""
        self.outgoing.say(scan(question(id, inside)), call)

    def withdraw(self, id: str, call: Call | None = None) -> None:
        """It is not waited for any more. The host is told so in `call`, if it was asked."""
        self._asked.pop(id, None)
        if call is not None:
            self.outgoing.say(scan(control.cancelled(id, "nobody waits for it any more")), call)

    # what is done here

    def _set_level(self, call: Call) -> None:
        level = find_text(call.frame.raw, "params", "level")
        if "logging" not in self._facts.capabilities:
            call.fail(control.METHOD_NOT_FOUND, "Method not found", "logging/setLevel")
        elif level not in LEVELS:
            call.fail(control.INVALID_PARAMS, f"params.level is one of {', '.join(LEVELS)}")
        else:
            self._level = level
            call.finish(response(dumps(call.id), b"{}"))

    def _subscribe(self, call: Call, uri: str | None) -> None:
        if not self._offers("resources", "subscribe"):
            call.fail(control.METHOD_NOT_FOUND, "Method not found", call.frame.method)
        elif uri is None or (uri not in self._uris and len(self._uris) >= MOST_URIS):
            call.fail(control.INVALID_PARAMS, f"params.uri is missing, or {MOST_URIS} resources are subscribed already")
        elif call.frame.method == "resources/unsubscribe":
            # The listen goes on, and is not opened again for less: what nobody wants any more is dropped below.
            self._uris.pop(uri, None)
            call.finish(response(dumps(call.id), b"{}"))
        else:
            self._uris[uri] = None
            self._standing.want(call, uri)

    def _listen_params(self) -> dict[str, Any]:
        wanted: dict[str, Any] = {field: True for field, name in CAPABILITY_OF.items() if self._offers(name, "listChanged")}
        if self._uris:
            wanted["resourceSubscriptions"] = list(self._uris)
        return {"_meta": json.loads(b"{" + self._envelope.members("") + b"}"), "notifications": wanted}

    def _denied(self, uri: str) -> None:
        self._uris.pop(uri, None)

    def _offers(self, capability: str, what: str) -> bool:
        said = self._facts.capabilities.get(capability)
        return isinstance(said, dict) and said.get(what) is True

    def _on_change(self, frame: Frame) -> None:
        """A frame of the listen."""
        if frame.method == UPDATED:
            uri = find_text(frame.raw, "params", "uri") or ""
            if not any(uri == each or uri.startswith(each.rstrip("/") + "/") for each in self._uris):
                return
        elif frame.method not in CHANGES:
            return
        self.outgoing.say(frame)

    def _on_stray(self, frame: Frame, origin: str | None) -> None:
        """What the server says to no request. In this era that is log messages; a request would be a mistake of the server's."""
        if frame.kind is Kind.REQUEST:
            self.channel.send(error(dumps(frame.id), control.METHOD_NOT_FOUND, "the modern era has no requests of the server"))
        elif frame.method == LOG or frame.method not in CHANGES:
            self.outgoing.say(frame)


def speaks_no_handshake(problem: Frame) -> bool:
    """Whether an error response to `initialize` says that the server has no such thing."""
    try:
        code = json.loads(problem.raw)["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return code in (control.METHOD_NOT_FOUND, UNSUPPORTED_VERSION)
