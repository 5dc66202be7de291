"""What agents ask of the host: their requests under ids of ours, so that those of several agents never meet, and the way back."""

import itertools
from dataclasses import dataclass
from typing import Final

from bridge.gathered.agent_link import AgentLink
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps

MOST_ASKED: Final = 1_000
"""Requests that the host has not answered. Over it the oldest is given up: its agent has its own patience."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of an agent: its id and progress token as the agent wrote them."""

    link: AgentLink
    id: bytes
    key: str | int | None
    token: bytes | None


class Backward:
    """Of one host."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}
        self._ids: dict[tuple[AgentLink, str | int | None], str] = {}
        self._numbers = itertools.count(1)

    def ask(self, link: AgentLink, frame: Frame) -> bytes:
        """A request of an agent, as the host is to get it."""
        assert frame.id_span is not None
        if len(self._asked) >= MOST_ASKED:
            self._pop(next(iter(self._asked)))
        id = f"mesh-{next(self._numbers)}"
        token = frame.raw[slice(*frame.token_span)] if frame.token_span is not None else None
        self._asked[id] = Asked(link, frame.raw[slice(*frame.id_span)], frame.id, token)
        self._ids[link, frame.id] = id
        return frame.splice([(frame.id_span, dumps(id)), (frame.token_span, dumps(id))])

    def answer(self, frame: Frame) -> None:
        """The host's answer, to the agent that asked."""
        if isinstance(frame.id, str) and (asked := self._pop(frame.id)) is not None:
            asked.link.tell(frame.splice([(frame.id_span, asked.id)]))

    def progress(self, frame: Frame) -> None:
        """The host's report on what an agent asked."""
        asked = self._asked.get(frame.token) if isinstance(frame.token, str) else None
        if asked is not None and asked.token is not None:
            asked.link.tell(frame.splice([(frame.token_span, asked.token)]))

    def cancel(self, link: AgentLink, frame: Frame) -> bytes | None:
        """An agent gives up what it asked: the notification as the host is to get it."""
        id = self._ids.get((link, frame.cancels))
        if id is None:
            return None
        self._pop(id)
        return frame.splice([(frame.cancels_span, dumps(id))])

    def forget(self, link: AgentLink) -> list[bytes]:
        """The agent is gone: notifications that nobody waits for the host's answers any more."""
        gone = [id for id, asked in self._asked.items() if asked.link is link]
        for id in gone:
            self._pop(id)
        return [control.cancelled(id, f"{link.agent} is gone") for id in gone]

    def _pop(self, id: str) -> Asked | None:
        asked = self._asked.pop(id, None)
        if asked is not None and self._ids.get((asked.link, asked.key)) == id:
            del self._ids[asked.link, asked.key]
        return asked
