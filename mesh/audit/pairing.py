"""Requests and what came back for them, put together again. Pure: stored messages in, calls out.

Theory of operation
-------------------
An exchange's id is unique on the mesh, so pairing is a lookup; what takes thought is what may be believed. `mesh.audit.parts` has checked
each message by itself. Here the messages of one exchange must agree with each other: a frame comes from the name that was called, a
cancellation goes there (or to the agent that took the call), a request that comes again is the same request. What does not agree is
suspect, and changes nothing.

A call ends with its first final frame or with its cancellation, and is handed out then. After that its id is remembered for a while, so
that a final frame that is sent again, after a reconnection, is known for what it is. In a cluster an answer can be stored before its
request; frames without a call wait a while for it.

Everything has a bound: open calls, ended ones, frames that wait. Over it the oldest gives way: an open call is handed out as `open`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from mesh.audit.calls import JournalCall, Suspect
from mesh.audit.counting import Counting
from mesh.audit.parts import BACK, Part, PartReader, What
from mesh.errors import MalformedMessage, Refused, TooLarge
from mesh.link.reader import Stored
from mesh.subjects import Subjects

MOST_OPEN: Final = 100_000
MOST_ENDED: Final = 100_000
"""Ended calls that are remembered. A serving bridge sends a frame again for 30 s; this is as long at 3,000 calls a second."""
MOST_EARLY: Final = 10_000
"""Frames that wait for their request. Between the servers of a cluster messages overtake each other by milliseconds."""
MOST_SEQS: Final = 1_000
MOST_SUSPECTS: Final = 100
"""Suspects that are kept; the others are counted."""

Choose = Callable[[Part], bool]


class _Open:
    """A call without an end."""

    __slots__ = ("agent", "bytes_in", "bytes_out", "frames", "instance", "request", "seqs")

    def __init__(self, request: Part) -> None:
        self.request = request
        self.agent = ""
        self.instance = request.instance
        self.frames = 0
        self.bytes_in = request.size
        self.bytes_out = 0
        self.seqs = [request.seq]

    def note(self, part: Part) -> None:
        if len(self.seqs) < MOST_SEQS:
            self.seqs.append(part.seq)

    def close(self, part: Part | None) -> JournalCall:
        """The call, ended by `part`; None if it was not."""
        request, end = self.request, part.end if part is not None else None
        return JournalCall(
            correlation_id=request.exchange,
            time_ns=request.time_ns,
            caller=request.caller,
            target=request.target,
            agent=self.agent,
            instance=self.instance,
            method=request.method,
            name=request.name,
            outcome=end.outcome if end is not None else "open",
            duration_ms=None if part is None else max(0, part.time_ns - request.time_ns) / 1e6,
            code=end.code if end is not None else None,
            message=end.message if end is not None else "",
            mesh_code=end.mesh_code if end is not None else "",
            trace=request.trace,
            frames=self.frames,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            seqs=tuple(self.seqs),
        )


class _Ended(NamedTuple):
    """What is remembered of an ended call. `how` is what ended it: CALL where it had to make room, None where the request itself was
    suspect."""

    target: str
    subject: str
    digest: int
    how: What | None


class Pairing:
    """Feed it messages in the order of the stream. `choose` says which calls are of interest (of a request or a record); others are
    passed over."""

    def __init__(
        self, subjects: Subjects, *, choose: Choose | None = None, most_open: int = MOST_OPEN, counting: Counting | None = None
    ) -> None:
        self.messages = 0
        self.duplicates = 0
        """Final frames, and records, that came again."""
        self.resent = 0
        """Requests that came again."""
        self.late = 0
        """Other frames and cancellations of calls that had ended."""
        self.unplaced = 0
        """Messages from a caller that name no exchange."""
        self.suspect_count = 0
        self.suspects: list[Suspect] = []
        self._unpaired = 0
        self._reader = PartReader(subjects)
        self._choose = choose
        self._most_open = most_open
        self._counting = counting
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._ended: OrderedDict[str, _Ended] = OrderedDict()
        self._early: OrderedDict[str, list[Part]] = OrderedDict()
        self._waiting = 0

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def oldest_open(self) -> int | None:
        """The sequence of the open call that was stored first."""
        return next(iter(self._open.values())).request.seq if self._open else None

    @property
    def unpaired(self) -> int:
        """Frames whose call is not there, those that still wait for it among them."""
        return self._unpaired + self._waiting

    def feed(self, message: Stored) -> Sequence[JournalCall]:
        """Take one message. Returns the calls that it ended: none or one; and an old one that had to make room."""
        self.messages += 1
        try:
            part = self._reader.read(message)
        except (Refused, MalformedMessage, TooLarge) as problem:
            self._suspect(problem.message, message.seq, message.subject, message.time_ns)
            self._excuse(*self._reader.claimed(message))
            return ()
        if part.what in BACK or part.what is What.CANCEL or part.what is What.MESSAGE:
            return self._on_part(part)
        if part.what is What.CALL:
            return self._on_call(part)
        if part.what is What.RECORD:
            return self._on_record(part)
        self._on_resume(part)
        return ()

    def rest(self) -> Iterator[JournalCall]:
        """The calls that are open, oldest first."""
        return (call.close(None) for call in list(self._open.values()))

    def settle(self) -> None:
        """The reading is over: frames that wait for a call will not get one."""
        while self._early:
            self._give_up()

    def _on_call(self, part: Part) -> Sequence[JournalCall]:
        id = part.exchange
        known = self._open.get(id)
        if known is not None:
            if (known.request.subject, known.request.digest) != (part.subject, part.digest):
                return self._disagree(part, "a request under the id of another one")
            self.resent += 1
            known.note(part)
            return ()
        ended = self._ended.get(id)
        if ended is not None:
            if (ended.subject, ended.digest) != (part.subject, part.digest):
                return self._disagree(part, "a request under the id of another one")
            self.resent += 1
            return ()
        if self._counting is not None:
            self._counting.called(id)
        if self._choose is not None and not self._choose(part):
            return ()
        self._open[id] = _Open(part)
        out: Sequence[JournalCall] = ()
        if len(self._open) > self._most_open:
            _, oldest = self._open.popitem(last=False)
            self._remember(oldest.request, What.CALL)
            out = (oldest.close(None),)
        if self._early and id in self._early:
            early = self._early.pop(id)
            self._waiting -= len(early)
            for frame in early:
                out = (*out, *self._on_part(frame))
        return out

    def _on_part(self, part: Part) -> Sequence[JournalCall]:
        if not part.exchange:
            self.unplaced += 1
            return ()
        call = self._open.get(part.exchange)
        if call is None:
            self._on_stray(part)
            return ()
        back = part.what in BACK
        if part.target != call.request.target and (back or part.target != call.agent):
            return self._disagree(part, "a frame from another than the target" if back else "a message about a call to another target")
        call.note(part)
        if back:
            call.frames += 1
            call.bytes_out += part.size
        else:
            call.bytes_in += part.size
        if part.what is What.WORKING:
            call.agent = part.agent
            call.instance = call.request.instance or part.instance
        elif part.what is What.FINAL or part.what is What.CANCEL:
            del self._open[part.exchange]
            self._remember(call.request, part.what)
            return (call.close(part),)
        return ()

    def _on_stray(self, part: Part) -> None:
        """A message of an exchange that is not open: it has ended, or its request was not recorded, or is still to come."""
        ended = self._ended.get(part.exchange)
        if ended is not None:
            if part.target != ended.target and part.what in BACK:
                self._disagree(part, "a frame from another than the target")
            elif ended.how is What.FINAL and part.what is What.FINAL:
                self.duplicates += 1
            elif ended.how is not None:
                self.late += 1
        elif self._counting is not None and self._counting.has(part.exchange):
            self.late += 1
        elif part.what is What.UNKNOWN:
            self._unpaired += 1  # the call was lost on its way to the broker, and everyone says so
        elif part.what in BACK:
            self._early.setdefault(part.exchange, []).append(part)
            self._waiting += 1
            while self._waiting > MOST_EARLY:
                self._give_up()

    def _on_record(self, part: Part) -> Sequence[JournalCall]:
        if (call := self._open.get(part.exchange)) is not None:
            call.note(part)  # refused, since it should have come on `quiet`: the messages themselves say more
            return ()
        if part.exchange in self._ended:
            self.duplicates += 1
            return ()
        self._remember(part, What.RECORD)
        if part.end is None or (self._choose is not None and not self._choose(part)):
            return ()
        recorded = JournalCall(
            correlation_id=part.exchange,
            time_ns=part.time_ns,
            caller=part.caller,
            target=part.target,
            instance=part.instance,
            method=part.method,
            name=part.name,
            outcome=part.end.outcome,
            duration_ms=part.duration_ms,
            code=part.end.code,
            bytes_in=part.size,
            bytes_out=part.bytes_out,
            seqs=(part.seq,),
            metadata=True,
        )
        return (recorded,)

    def _on_resume(self, part: Part) -> None:
        for exchange in part.exchanges:
            if (call := self._open.get(exchange)) is not None:
                call.note(part)

    def _remember(self, request: Part, how: What) -> None:
        self._ended[request.exchange] = _Ended(request.target, request.subject, request.digest, how)
        if len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)

    def _excuse(self, exchange: str, target: str) -> None:
        """A request that is suspect was made all the same: it is not missing, and its refusal is the answer to it."""
        if exchange and exchange not in self._open and exchange not in self._ended:
            if self._counting is not None:
                self._counting.called(exchange)
            self._ended[exchange] = _Ended(target, "", 0, None)

    def _give_up(self) -> None:
        """The oldest of the frames that wait for their call waits no more."""
        exchange, parts = self._early.popitem(last=False)
        self._waiting -= len(parts)
        self._unpaired += len(parts)
        if self._counting is not None:
            self._counting.answered(exchange)

    def _disagree(self, part: Part, why: str) -> Sequence[JournalCall]:
        self._suspect(why, part.seq, part.subject, part.time_ns)
        return ()

    def _suspect(self, why: str, seq: int, subject: str, time_ns: int) -> None:
        self.suspect_count += 1
        if len(self.suspects) < MOST_SUSPECTS:
            self.suspects.append(Suspect(why, seq, subject, time_ns))
