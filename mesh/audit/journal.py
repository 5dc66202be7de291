"""The journal as a person asks for it: calls by filter, one call in full, and whether anything is missing.

What the broker can filter (caller, target, time) it filters; the rest is chosen here. A filter by `agent` reads everything, since
subjects that name an agent in either place overlap, and the broker takes no overlapping filters.

Calls come in the order in which they were made: each waits for the ones before it, up to `choosing.MOST_HELD`. A call that is recorded
without bodies stands where its record is, at its end. With `follow` each comes when it ends. A call that was made before the range begins
is not in it, though its end may be.
"""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from mesh.audit.calls import OUTCOMES, Integrity, JournalCall, JournalExchange, JournalMessage
from mesh.audit.choosing import Order, Wanted, caller_in
from mesh.audit.counting import Counting
from mesh.audit.pairing import Pairing
from mesh.audit.parts import PartReader, What
from mesh.audit.reading import follow as follow_journal
from mesh.audit.reading import read_history
from mesh.errors import Denied, MalformedMessage, Refused, TooLarge
from mesh.link.connection import Connection
from mesh.link.denial import denied
from mesh.link.jetstream import JetStream
from mesh.link.reader import MakeConsumer, Stored
from mesh.subjects import Subjects
from mesh.topology import JOURNAL
from mesh.wire.bodies import Outcome

WINDOW: Final = 8
"""Messages looked at for each of the last calls that are asked for, at first; then eight times as many. A call has two or a few more."""


class Journal:
    """Reads the journal of the mesh that `connection` is on. `make` makes the consumers (`mesh.registry.readers`): an auditor may not."""

    def __init__(self, connection: Connection, subjects: Subjects, make: MakeConsumer | None = None) -> None:
        self._connection = connection
        self._subjects = subjects
        self._make = make
        self._js = JetStream(connection)

    async def calls(
        self,
        *,
        agent: str | None = None,
        caller: str | None = None,
        target: str | None = None,
        tool: str | None = None,
        outcome: Outcome | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        correlation_id: str | None = None,
        limit: int | None = None,
        last: int | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[JournalCall, None]:
        """The calls that all the given filters fit, from the first one that is kept or from `since_ns`, up to those stored when this
        begins.

        `agent` fits the caller, the target, and the agent that took a call to a role. `since_ns` and `until_ns` bound when a call was
        made (wall time of the broker). `limit` ends it after so many; `last` begins with the newest so many. With `follow` it goes on,
        each call comes when it ends, and only the caller's leaving ends it: use `contextlib.aclosing`.

        Raises BrokerUnavailable, Denied, and ApiError where the broker has no journal.
        """
        wanted = Wanted(
            agent=agent, caller=caller, target=target, tool=tool, outcome=outcome,
            since_ns=since_ns, until_ns=until_ns, correlation_id=correlation_id,
        )  # fmt: skip
        left = limit if limit is not None else -1
        async with aclosing(self._calls(wanted, last, follow)) as found:
            async for call in found:
                if left == 0:
                    return
                left -= 1
                yield call
                if left == 0:
                    return

    async def show(self, correlation_id: str) -> JournalExchange | None:
        """One call with all its messages. None where the journal does not hold its request (or its record)."""
        caller = caller_in(correlation_id)
        if caller is None:
            return None
        pairing, reader = Pairing(self._subjects, choose=lambda part: part.exchange == correlation_id), PartReader(self._subjects)
        name = correlation_id.encode()
        call: JournalCall | None = None
        messages: list[JournalMessage] = []
        _, end = await self._bounds()
        async with aclosing(read_history(self._connection, self._subjects.journal_filters(caller=caller), end, make=self._make)) as batches:
            async for batch in batches:
                for message in batch:
                    if name not in message.body and b"\\u" not in message.body and not message.headers:
                        continue
                    if (what := _what(reader, message, correlation_id)) is not None:
                        messages.append(
                            JournalMessage(message.seq, message.time_ns, what.value, message.subject, message.headers or {}, message.body)
                        )
                        call = next(iter(pairing.feed(message)), call)
        call = call or next(pairing.rest(), None)
        return JournalExchange(call, tuple(messages)) if call is not None else None

    async def check(self) -> Integrity:
        """Read all of it, and say what is there, what does not belong there and what is missing."""
        before = await self._state()
        counting = Counting()
        pairing = Pairing(self._subjects, counting=counting)
        outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        expected = max(1, int(before["state"]["first_seq"]))  # 0: nothing was ever written.
        skipped = first_ns = last_ns = 0
        async with aclosing(read_history(self._connection, (), int(before["state"]["last_seq"]), make=self._make)) as batches:
            async for batch in batches:
                for message in batch:
                    if message.seq != expected:
                        skipped += max(0, message.seq - expected)
                    expected = message.seq + 1
                    for call in pairing.feed(message):
                        outcomes[call.outcome] += 1
                first_ns, last_ns = first_ns or batch[0].time_ns, batch[-1].time_ns
        skipped += max(0, int(before["state"]["last_seq"]) + 1 - expected)
        pairing.settle()
        outcomes["open"] += pairing.open
        state, config = before["state"], before["config"]
        return Integrity(
            messages=pairing.messages,
            calls=sum(outcomes.values()),
            open=outcomes["open"],
            outcomes=outcomes,
            suspects=pairing.suspect_count,
            suspect=tuple(pairing.suspects),
            missing=counting.missing(from_start=int(state["first_seq"]) <= 1 and not skipped),
            duplicates=pairing.duplicates,
            resent=pairing.resent,
            late=pairing.late,
            unpaired=pairing.unpaired,
            unplaced=pairing.unplaced,
            skipped=skipped,
            first_ns=first_ns,
            last_ns=last_ns,
            first_seq=int(state["first_seq"]),
            last_seq=int(state["last_seq"]),
            discarded=max(0, int(state["first_seq"]) - 1),
            stored=int(state["messages"]),
            stored_bytes=int(state["bytes"]),
            max_msgs=int(config["max_msgs"]),
            max_bytes=int(config["max_bytes"]),
            max_age=int(config["max_age"]) / 1e9,
        )

    # reading

    async def _calls(self, wanted: Wanted, last: int | None, follow: bool) -> AsyncGenerator[JournalCall, None]:
        filters = wanted.filters(self._subjects)
        first, end = await self._bounds()
        if last is None:
            pairing = Pairing(self._subjects, choose=wanted.starts)
            order = Order(pairing, wanted, at_once=follow)
            async with aclosing(read_history(self._connection, filters, end, start_time_ns=wanted.since_ns, make=self._make)) as batches:
                async for batch in batches:
                    for call in order.take(batch):
                        yield call
                    if wanted.until_ns is not None and batch[-1].time_ns > wanted.until_ns and not pairing.open:
                        break
            if not follow:
                for call in order.rest():
                    yield call
        else:
            pairing, newest = await self._newest(wanted, last, first, end, with_open=not follow)
            for call in newest:
                yield call
        if follow:
            order = Order(pairing, wanted, at_once=True)
            async with aclosing(follow_journal(self._connection, end + 1, make=self._make)) as batches:
                async for batch in batches:
                    for call in order.take(batch):
                        yield call

    async def _newest(self, wanted: Wanted, count: int, first: int, end: int, *, with_open: bool) -> tuple[Pairing, list[JournalCall]]:
        """The last `count` calls that fit, read from as near the end as will do, and the pairing as it then stands."""
        filters, window = wanted.filters(self._subjects), max(1000, count * WINDOW)
        while True:
            start = max(first, end - window + 1)
            pairing, newest = Pairing(self._subjects, choose=wanted.starts), deque[JournalCall](maxlen=count)
            order = Order(pairing, wanted)
            async with aclosing(read_history(self._connection, filters, end, start_seq=start, make=self._make)) as batches:
                async for batch in batches:
                    newest.extend(order.take(batch))
            newest.extend(order.rest(with_open=with_open))
            if len(newest) >= count or start <= first:
                return pairing, list(newest)
            window *= WINDOW

    async def _bounds(self) -> tuple[int, int]:
        """The first sequence that is kept, and the last."""
        state = (await self._state())["state"]
        return int(state["first_seq"]), int(state["last_seq"])

    async def _state(self) -> dict[str, Any]:
        try:
            return await self._js.api(f"STREAM.INFO.{JOURNAL}")
        except Denied as problem:
            raise denied(problem.details["subject"], self._connection.name, "read journal") from None


def _what(reader: PartReader, message: Stored, exchange: str) -> What | None:
    """What `message` is in that exchange; None if nothing."""
    try:
        part = reader.read(message)
    except (Refused, MalformedMessage, TooLarge):
        return None
    return part.what if part.exchange == exchange or exchange in part.exchanges else None
