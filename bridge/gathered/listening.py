"""`subscriptions/listen` at the aggregate: list changes come from the roster, updates of resources from the agents that have them.

For each agent whose resources are listened to there is a listen request of ours; when its stream ends (the agent was started anew) it is
asked again, later and later. So a host's own stream lasts as long as the host wants it.

Source: MCP 2026-07-28, subscriptions/listen.
"""

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from bridge.gathered.answers import CHANGED, changed, id_of, read_params
from bridge.gathered.catalog import PROMPTS, RESOURCES, TOOLS
from bridge.visible import Sink
from mesh.wire.jsonrpc import Frame, dumps, locate, scan

FLAGS: Final = {"toolsListChanged": TOOLS, "promptsListChanged": PROMPTS, "resourcesListChanged": RESOURCES}

FIRST_DELAY: Final = 0.5
LAST_DELAY: Final = 30.0

Take = Callable[[str, Frame, Sink], None]
"""Sends a request to an agent."""

Give = Callable[[str, Frame], None]
"""Tells an agent that a request is cancelled."""

_numbers = itertools.count(1)


class Listening:
    """One listen request of a host. `route` says whose resource a URI is; None: nobody's that is known. `own` are the mesh's own resources,
    of whose changes we are told (`updated`)."""

    def __init__(
        self,
        frame: Frame,
        to: Sink,
        route: Callable[[str], tuple[str, str] | None],
        take: Take,
        cancel: Give,
        own: frozenset[str] = frozenset(),
    ) -> None:
        params = read_params(frame.raw)
        said = params.get("notifications")
        wanted: dict[str, Any] = said if isinstance(said, dict) else {}
        self._id = id_of(frame)
        self._to = to
        self._take = take
        self._cancel = cancel
        self._meta = {key: value for key, value in (params.get("_meta") or {}).items() if key != "progressToken"}
        self._methods = {CHANGED[kind] for flag, kind in FLAGS.items() if wanted.get(flag) is True}
        self._uris: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """Agent → its own URI → the host's."""
        uris = wanted.get("resourceSubscriptions")
        honored = []
        for uri in uris if isinstance(uris, list) else ():
            if isinstance(uri, str) and uri in own:
                honored.append(uri)
            elif isinstance(uri, str) and (pair := route(uri)) is not None:
                self._uris[pair[0]][pair[1]] = uri
                honored.append(uri)
        self.own = own.intersection(honored)
        """Those of the mesh's own that are listened to."""
        granted: dict[str, Any] = {flag: True for flag in FLAGS if wanted.get(flag) is True}
        if honored:
            granted["resourceSubscriptions"] = honored
        self._say("notifications/subscriptions/acknowledged", {"notifications": granted})
        self._tasks = [asyncio.create_task(self._follow(agent), name=f"resources of {agent}") for agent in self._uris]

    def tell(self, kinds: frozenset[str]) -> None:
        """These lists have changed."""
        for method in changed(kinds):
            if method in self._methods:
                self._say(method, {})

    def updated(self, uri: str) -> None:
        """A resource of the mesh's own has changed."""
        if uri in self.own:
            self._say("notifications/resources/updated", {"uri": uri})

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _say(self, method: str, params: dict[str, Any]) -> None:
        meta = b'{"_meta":{"io.modelcontextprotocol/subscriptionId":' + self._id + b"}"
        rest = dumps(params)[1:]
        body = meta + (b"," if params else b"") + rest
        self._to(b'{"jsonrpc":"2.0","method":' + dumps(method) + b',"params":' + body + b"}", False)

    async def _follow(self, agent: str) -> None:
        delay = FIRST_DELAY
        while True:
            ended = asyncio.Event()
            id = f"mesh/listen/{next(_numbers)}"
            params = {"_meta": self._meta, "notifications": {"resourceSubscriptions": list(self._uris[agent])}}
            request = scan(dumps({"jsonrpc": "2.0", "id": id, "method": "subscriptions/listen", "params": params}))
            try:
                self._take(agent, request, partial(self._on_frame, agent, ended))
                await ended.wait()
            except asyncio.CancelledError:
                said = {
                    "jsonrpc": "2.0",
                    "method": "notifications/cancelled",
                    "params": {"requestId": id, "reason": "nobody listens any more"},
                }
                self._cancel(agent, scan(dumps(said)))
                raise
            await asyncio.sleep(delay)
            delay = min(LAST_DELAY, delay * 2)

    def _on_frame(self, agent: str, ended: asyncio.Event, raw: bytes, final: bool) -> None:
        if final:
            ended.set()
            return
        frame = scan(raw)
        if frame.method != "notifications/resources/updated":
            return
        span = locate(raw, "params", "uri")
        own = json.loads(raw[slice(*span)]) if span is not None else None
        uri = self._uris[agent].get(own) if isinstance(own, str) else None
        self._to(frame.splice([(frame.subscription_span, self._id), (span, dumps(uri)) if uri is not None else (None, b"")]), False)
