"""What is missing: calls that a connection must have made, since it counts them, and that the journal does not hold. Pure.

A connection numbers its journaled exchanges 1, 2, 3, … , and apart from those the exchanges of each session. So a number that is not
there, below one that is, is a call that the broker did not record: it was over its ingest limit, or lost its last moments in a crash, or
somebody kept the call out of it by a header. An answer whose request is not there says the same. What was dropped at the end of a
connection, with its answers, leaves no trace.

The stream drops its oldest messages at its bounds. Where it has done so, a connection is counted from the first of its calls that is
still there.
"""

from bisect import bisect_right
from collections.abc import Iterator

from mesh.audit.calls import Missing
from mesh.audit.parts import place
from mesh.subjects import unescape


class _Seen:
    """The numbers of one connection, or of one session of it, as ranges: mostly one."""

    __slots__ = ("answered", "base", "firsts", "lasts")

    def __init__(self) -> None:
        self.base = 0
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.answered: set[int] = set()

    def add(self, number: int) -> None:
        firsts, lasts = self.firsts, self.lasts
        if lasts and lasts[-1] + 1 == number:
            lasts[-1] = number
            return
        self.base = self.base or number
        at = bisect_right(firsts, number)
        if at and number <= lasts[at - 1]:
            return
        joins_left = at > 0 and lasts[at - 1] + 1 == number
        joins_right = at < len(firsts) and firsts[at] == number + 1
        if joins_left and joins_right:
            lasts[at - 1] = lasts.pop(at)
            firsts.pop(at)
        elif joins_left:
            lasts[at - 1] = number
        elif joins_right:
            firsts[at] = number
        else:
            firsts.insert(at, number)
            lasts.insert(at, number)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.firsts, number)
        return at > 0 and number <= self.lasts[at - 1]

    def gaps(self, low: int) -> Iterator[tuple[int, int]]:
        """What is not there from `low` to the highest number seen, and single numbers above it that were answered."""
        expected = low
        for first, last in zip(self.firsts, self.lasts, strict=True):
            if last < low:
                continue
            if first > expected:
                yield expected, first - 1
            expected = max(expected, last + 1)
        above = sorted(number for number in self.answered if number >= expected)
        start = previous = 0
        for number in above:
            if start and number != previous + 1:
                yield start, previous
                start = 0
            start, previous = start or number, number
        if start:
            yield start, previous


class Counting:
    """Which exchanges of which connections were seen. What it holds grows with connections and gaps, and so is bounded by the stream's
    own bounds."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], _Seen] = {}

    def called(self, exchange: str) -> None:
        """A request is there."""
        seen, number = self._find(exchange)
        if number:
            seen.add(number)

    def answered(self, exchange: str) -> None:
        """A frame is there, and its request is not."""
        seen, number = self._find(exchange)
        if number and number not in seen:
            seen.answered.add(number)

    def has(self, exchange: str) -> bool:
        seen, number = self._find(exchange)
        return number in seen

    def missing(self, *, from_start: bool) -> tuple[Missing, ...]:
        """The ranges that are missing. `from_start`: the stream has discarded nothing, so every connection is there from its first call."""
        found = []
        for key, seen in self._seen.items():
            if from_start or seen.base:
                caller, connection, series = key
                gaps = seen.gaps(1 if from_start else seen.base)
                found += [Missing(unescape(caller), connection, first, last, last - first + 1, series) for first, last in gaps]
        return tuple(sorted(found))

    def _find(self, exchange: str) -> tuple[_Seen, int]:
        caller, connection, series, number = place(exchange)
        key = caller, connection, series
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen()
        return seen, number
