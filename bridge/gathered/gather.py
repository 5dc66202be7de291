"""All agents as one: an MCP host talks to every agent of the mesh as if they were one local server.

Theory of operation
-------------------
What the aggregate knows it answers itself (`bridge.gathered.desk`), from the catalogue that follows the registry. So no list waits for
an agent. What belongs to an agent (`bridge.gathered.routing`) goes to it, on a link of its own (`bridge.gathered.agent_link`), as the
bytes that the host wrote, but for the name: the agent's own is spliced in. What comes back passes as it is, but for what would be
ambiguous where many are heard at once: ids and progress tokens of an agent's own requests (`bridge.gathered.backward`), the URI in
`resources/updated`. And an error says whose it is, as does the logger of a log message.

A host of the handshake era gets its `initialize` answered here; each agent gets the same `initialize` when the host needs it first. A
log level and subscriptions are the host's: they are said again in each session that is opened anew (`bridge.gathered.said`). An agent's own
list_changed is not passed on: the registry hears of it too, and the host is told when the lists here have changed.

What the mesh itself offers, its tools and the inbox, is done here too (`bridge.gathered.own`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from bridge.connect import MOST_OPEN
from bridge.eras.words import LEVELS
from bridge.gathered import answers, desk
from bridge.gathered.agent_link import AgentLink, MakeRoom
from bridge.gathered.answers import id_of, read_params
from bridge.gathered.backward import Backward
from bridge.gathered.catalog import TOOLS
from bridge.gathered.listening import FIRST_DELAY, LAST_DELAY, Listening
from bridge.gathered.names import Pair
from bridge.gathered.own import INBOX, Own
from bridge.gathered.roster import Roster
from bridge.gathered.routing import Routed, route
from bridge.gathered.said import Said
from bridge.visible import Sink
from mesh.background import Background
from mesh.errors import MalformedMessage, MeshError
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error, scan

FAN_OUT: Final = 2.0
"""Seconds that something said to all agents waits for the slowest of them."""

_log = structlog.get_logger("bridge.gathered.gather")


@dataclass(slots=True, eq=False)
class Pending:
    """A request of the host that has no answer yet, and who has it: an agent, or we ourselves."""

    link: AgentLink | None = None
    listening: Listening | None = None
    task: asyncio.Task[None] | None = None


class Gathered:
    """One host on all agents. A `HostLink`, as `Connected` is for one agent."""

    def __init__(
        self,
        roster: Roster,
        send: Callable[[bytes], None],
        *,
        only_find: bool = False,
        timeout: float | None = None,
        on_over: Callable[[MeshError], None] | None = None,
        make_room: MakeRoom | None = None,
    ) -> None:
        """`only_find`: show `find_tools` and `call_tool` instead of all tools. `timeout`: seconds for each request, started anew by its
        progress. `on_over` is never called: this session is over when the host says so. `make_room` is asked when an agent refuses one."""
        self._roster = roster
        self._send = send
        self._to_host: Sink = lambda raw, _: send(raw)
        self._only_find = only_find
        self._said = Said()
        self._new_link = partial(
            AgentLink,
            roster.mesh,
            hear=self._on_stray,
            on_open=self._said.repeat,
            on_over=self._on_over,
            timeout=timeout,
            make_room=make_room,
        )
        self._links: dict[str, AgentLink] = {}
        self._pending: dict[str | int, Pending] = {}
        self._backward = Backward()
        self._background = Background()
        self._deaf = roster.listen(self._on_change)
        self._own = Own(roster.tools, send, self._on_news)

    @property
    def over(self) -> MeshError | None:
        return None

    def receive(self, raw: bytes, to: Sink | None = None) -> None:
        try:
            frame = scan(raw)
        except MalformedMessage as problem:
            (to or self._to_host)(error(b"null", control.PARSE_ERROR, problem.message, {"mesh": problem.code}), True)
            return
        self.take(frame, to)

    def take(self, frame: Frame, to: Sink | None = None) -> None:
        if frame.kind is Kind.REQUEST:
            self._on_request(frame, to or self._to_host)
        elif frame.kind is Kind.NOTIFICATION:
            self._on_notification(frame)
        else:
            self._backward.answer(frame)

    async def close(self) -> None:
        self._deaf()
        for listening in [each.listening for each in self._pending.values() if each.listening is not None]:
            listening.close()
        self._pending.clear()
        await self._own.close()
        await self._background.end()
        await asyncio.gather(*(link.close() for link in self._links.values()), return_exceptions=True)

    # from the host

    def _on_request(self, frame: Frame, to: Sink) -> None:
        assert frame.id is not None
        method, refuse, roster = frame.method or "", partial(answers.refusal, frame), self._roster
        if frame.id in self._pending:
            to(refuse(control.INVALID_REQUEST, f"the id {id_of(frame).decode()} is in use", mesh="refused"), True)
        elif len(self._pending) >= MOST_OPEN:
            to(refuse(control.MESH_ERROR, f"{MOST_OPEN} requests are under way", mesh="busy", retry_after=0.5), True)
        elif frame.era is not None and frame.era not in answers.MODERN_VERSIONS:
            to(answers.unsupported(frame), True)
        elif (answer := desk.answer(frame, roster, only_find=self._only_find, tasks=self._said.tasked)) is not None:
            if method == "initialize":
                self._greet(frame)
            to(answer, True)
        elif method == "logging/setLevel" and frame.era is None:
            self._set_level(frame, to)
        elif method == "subscriptions/listen":
            self._listen(frame, to)
        elif self._own.takes(frame):
            self._pending[frame.id] = Pending(task=self._own.start(frame, partial(self._on_own, frame, to)))
        else:
            try:
                routed = route(frame, roster.catalog, only_find=self._only_find, denial=roster.mesh.reach.denial)
            except MalformedMessage as problem:
                routed = refuse(control.INVALID_PARAMS, problem.message, mesh=problem.code)
            if isinstance(routed, bytes):
                to(routed, True)
            else:
                self._pass(routed, to)

    def _on_own(self, frame: Frame, to: Sink, raw: bytes) -> None:
        if frame.id is not None and self._pending.pop(frame.id, None) is not None:
            to(raw, True)

    def _greet(self, frame: Frame) -> None:
        """A new session of the host: what an earlier one had is gone."""
        self._own.greet()
        links, self._links = self._links, {}
        for link in links.values():
            self._background.start(link.close(), f"end of a session with {link.agent}")
        self._said.greet(frame)

    def _set_level(self, frame: Frame, to: Sink) -> None:
        params = read_params(frame.raw)
        if params.get("level") not in LEVELS:
            to(answers.refusal(frame, control.INVALID_PARAMS, "Invalid log level"), True)
            return
        assert frame.id is not None
        self._said.level = {"level": params["level"]}
        self._pending[frame.id] = Pending()
        self._background.start(self._tell_level(frame, to, self._said.level), "log level")

    async def _tell_level(self, frame: Frame, to: Sink, params: dict[str, Any]) -> None:
        """To all agents that there is a session with. Who has no logs refuses it, and who is slow hears it all the same."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAN_OUT):
                await asyncio.gather(*(link.ask("logging/setLevel", params) for link in self._links.values() if link.open))
        if frame.id is not None and self._pending.pop(frame.id, None) is not None:
            to(answers.result(frame, {}), True)

    def _listen(self, frame: Frame, to: Sink) -> None:
        assert frame.id is not None
        if INBOX.encode() in frame.raw:
            self._pending[frame.id] = Pending(task=self._own.once_heard(partial(self._start_listening, frame, to)))
        else:
            self._start_listening(frame, to)

    def _start_listening(self, frame: Frame, to: Sink, own: frozenset[str] = frozenset()) -> None:
        def whose(uri: str) -> Pair | None:
            pairs = self._roster.catalog.find_uri(uri)
            return pairs[0] if len(pairs) == 1 else None

        assert frame.id is not None
        self._pending[frame.id] = Pending(
            listening=Listening(
                frame,
                to,
                whose,
                lambda agent, request, sink: self._link(agent).take(request, sink),
                lambda agent, note: self._link(agent).cancel(note),
                own,
            )
        )

    def _pass(self, routed: Routed, to: Sink) -> None:
        assert routed.frame.id is not None
        link = self._link(routed.agent)
        self._pending[routed.frame.id] = Pending(link=link)
        link.take(routed.frame, partial(self._on_frame, link, routed, to))

    def _link(self, agent: str) -> AgentLink:
        link = self._links.get(agent)
        if link is None:
            link = self._links[agent] = self._new_link(agent, self._said.greeting)
        return link

    def _on_notification(self, frame: Frame) -> None:
        if frame.method == "notifications/cancelled":
            pending = self._pending.pop(frame.cancels, None) if frame.cancels is not None else None
            if pending is not None and pending.listening is not None:
                pending.listening.close()
            elif pending is not None and pending.task is not None:
                pending.task.cancel()
            elif pending is not None and pending.link is not None:
                pending.link.cancel(frame)
        elif frame.method == "notifications/progress":
            self._backward.progress(frame)
        elif frame.method != "notifications/initialized":
            for link in self._links.values():  # roots/list_changed, and what vendors have
                link.tell(frame.raw)

    # from the agents

    def _on_frame(self, link: AgentLink, routed: Routed, to: Sink, raw: bytes, final: bool) -> None:
        if not final:
            if (said := self._from_agent(link, raw)) is not None:
                to(said, False)
            return
        assert routed.frame.id is not None
        self._pending.pop(routed.frame.id, None)
        if b'"error"' in raw and (frame := scan(raw)).kind is Kind.ERROR:
            raw = answers.named(frame, link.agent)
        else:
            self._said.answered(routed)
        to(raw, True)

    def _on_stray(self, link: AgentLink, raw: bytes) -> None:
        if (said := self._from_agent(link, raw)) is not None:
            self._send(said)

    def _from_agent(self, link: AgentLink, raw: bytes) -> bytes | None:
        """What an agent says in the middle of a request, or of a session, as the host is to hear it; None: not at all."""
        try:
            return self._said.translate(link, raw, self._backward, self._roster.catalog)
        except MalformedMessage as problem:
            _log.warning("a message of an agent was dropped", agent=link.agent, why=problem.message)
            return None

    def _on_over(self, link: AgentLink) -> None:
        for said in self._backward.forget(link):
            self._send(said)
        if self._said.subscribed_at(link.agent):
            self._background.start(self._restore(link), f"subscriptions at {link.agent}")

    async def _restore(self, link: AgentLink) -> None:
        """Subscriptions outlive an instance: begin a session again once there is another one."""
        delay = FIRST_DELAY
        while self._links.get(link.agent) is link and not link.open:
            await asyncio.sleep(delay)
            delay = min(LAST_DELAY, delay * 2)
            if link.agent in self._roster.catalog.offers:
                link.begin()

    def _on_change(self, kinds: frozenset[str]) -> None:
        """The lists have changed."""
        if self._only_find:
            kinds -= {TOOLS}
        if self._said.greeting is not None:
            for method in answers.changed(kinds):
                self._send(dumps({"jsonrpc": "2.0", "method": method}))
        for pending in list(self._pending.values()):
            if pending.listening is not None:
                pending.listening.tell(kinds)

    def _on_news(self) -> None:
        """There is a message for the host's participant."""
        for pending in list(self._pending.values()):
            if pending.listening is not None:
                pending.listening.updated(INBOX)
