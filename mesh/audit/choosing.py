"""Which calls are asked for, and in which order they are handed out. Pure."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mesh.audit.calls import JournalCall
from mesh.audit.pairing import Pairing
from mesh.audit.parts import Part, What
from mesh.errors import Refused
from mesh.link.reader import Stored
from mesh.subjects import Subjects, unescape
from mesh.wire.bodies import Outcome

MOST_HELD: Final = 100_000
"""Ended calls that wait for an earlier one that is still open. Some 600 bytes each."""

_TOOL: Final = "tools/call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which calls are asked for."""

    agent: str | None
    caller: str | None
    target: str | None
    tool: str | None
    outcome: Outcome | None
    since_ns: int | None
    until_ns: int | None
    correlation_id: str | None

    def starts(self, part: Part) -> bool:
        """By the request alone."""
        return (
            (self.caller is None or part.caller == self.caller)
            and (self.target is None or part.target == self.target)
            and (self.tool is None or (part.name == self.tool and part.method == _TOOL))
            and (self.since_ns is None or part.time_ns >= self.since_ns or part.what is What.RECORD)
            and (self.until_ns is None or part.time_ns <= self.until_ns)
            and (self.correlation_id is None or part.exchange == self.correlation_id)
        )

    def ends(self, call: JournalCall) -> bool:
        """By what only its end tells."""
        return (self.outcome is None or call.outcome == self.outcome) and (
            self.agent is None or self.agent in (call.caller, call.target, call.agent)
        )

    def filters(self, subjects: Subjects) -> tuple[str, ...]:
        caller = self.caller if self.caller is not None else caller_in(self.correlation_id)
        if self.target is None and caller is None:
            return ()
        return subjects.journal_filters(target=self.target, caller=caller)


class Order:
    """Calls in the order of their requests, or `at_once` in the order of their ends."""

    def __init__(self, pairing: Pairing, wanted: Wanted, *, at_once: bool = False) -> None:
        self._pairing = pairing
        self._wanted = wanted
        self._at_once = at_once
        self._held: list[tuple[int, JournalCall]] = []

    def take(self, messages: list[Stored]) -> Iterator[JournalCall]:
        feed, held, wanted = self._pairing.feed, self._held, self._wanted.ends
        for message in messages:
            for call in feed(message):
                if wanted(call):
                    if self._at_once:
                        yield call
                    else:
                        heapq.heappush(held, (call.seqs[0], call))
        oldest = self._pairing.oldest_open
        while held and (oldest is None or held[0][0] < oldest or len(held) > MOST_HELD):
            yield heapq.heappop(held)[1]

    def rest(self, *, with_open: bool = True) -> Iterator[JournalCall]:
        """What is held, and the calls that are still open, at the end of a reading."""
        if not self._at_once:
            still_open = [(call.seqs[0], call) for call in self._pairing.rest() if self._wanted.ends(call)] if with_open else []
            for _, call in sorted(self._held + still_open, key=lambda each: each[0]):
                yield call


def caller_in(correlation_id: str | None) -> str | None:
    """The caller that an exchange's id names. None for a text that is no such id."""
    if correlation_id is None or correlation_id.count(".") != 2:
        return None
    try:
        return unescape(correlation_id.partition(".")[0])
    except Refused:
        return None
