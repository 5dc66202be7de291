"""What a host of the handshake era has said that each agent is to know: its greeting, its log level, its subscriptions to resources. An
agent hears of them in each session that is opened with it, and what it says in between comes back in the host's words."""

import json
from typing import Any

from bridge.eras.words import LOG
from bridge.gathered import answers
from bridge.gathered.agent_link import AgentLink
from bridge.gathered.answers import read_params
from bridge.gathered.backward import Backward
from bridge.gathered.catalog import Catalog
from bridge.gathered.names import Pair
from bridge.gathered.routing import Routed
from bridge.tasks.words import REVISION
from mesh.wire.jsonrpc import Frame, Kind, dumps, locate, scan


class Said:
    """By one host."""

    def __init__(self) -> None:
        self.greeting: bytes | None = None
        self.tasked = False
        """Whether its revision has tasks, which stand in front of this (`bridge.tasks`)."""
        self.level: dict[str, Any] | None = None
        self._subscribed: dict[Pair, str] = {}
        """An agent's resource → the host's URI for it."""

    def greet(self, frame: Frame) -> None:
        """A new session: what was said in an earlier one is gone."""
        self.greeting, self.level, self._subscribed = frame.raw, None, {}
        self.tasked = answers.agreed(read_params(frame.raw).get("protocolVersion")) == REVISION

    def answered(self, routed: Routed) -> None:
        """An agent did what it was asked for."""
        if routed.frame.method == "resources/subscribe":
            self._subscribed[routed.agent, routed.own] = routed.name
        elif routed.frame.method == "resources/unsubscribe":
            self._subscribed.pop((routed.agent, routed.own), None)

    def subscribed_at(self, agent: str) -> list[str]:
        """The agent's own URIs."""
        return [own for name, own in self._subscribed if name == agent]

    def repeat(self, link: AgentLink) -> None:
        """To an agent that there is a new session with."""
        if self.level is not None:
            link.post("logging/setLevel", self.level)
        for own in self.subscribed_at(link.agent):
            link.post("resources/subscribe", {"uri": own})

    def translate(self, link: AgentLink, raw: bytes, backward: Backward, catalog: Catalog) -> bytes | None:
        """What an agent says in the middle of a request, or of a session, as the host is to hear it; None: not at all. Raises
        MalformedMessage."""
        frame = scan(raw)
        if frame.kind is Kind.REQUEST:
            return backward.ask(link, frame)
        if frame.method == "notifications/cancelled":
            return backward.cancel(link, frame)
        if frame.method in answers.CHANGED.values():
            return None
        if frame.method == LOG:
            return answers.logged(frame, link.agent)
        if frame.method == "notifications/resources/updated" and (span := locate(raw, "params", "uri")) is not None:
            own = json.loads(raw[slice(*span)])
            if isinstance(own, str):
                uri = self._subscribed.get((link.agent, own)) or catalog.uri_of(link.agent, own)
                return frame.splice([(span, dumps(uri))])
        return raw
