"""The messages of the journal, in the order of the stream, from the broker.

Traps answered:

- A consumer with several filters is slow where most of the stream matches them: 4,000 messages a second, where one with a single filter
  gives 37,000 and one without any 100,000. After ten seconds of that the broker says "no messages", with most of them still to come (with
  nats-server 2.15.1). So each filter gets a reading of its own, and the readings are merged here.
- A reading that follows cannot be merged like that: a family in which nothing happens would hold up the others. It takes everything.
"""

from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from operator import attrgetter
from typing import Final

from mesh.link.connection import Connection
from mesh.link.reader import MakeConsumer, Stored, read_stream
from mesh.topology import JOURNAL

PATIENCE: Final = 30.0
"""Seconds without the broker after which a reading fails with BrokerUnavailable. One that follows waits for as long as it takes."""

Batches = AsyncGenerator[list[Stored], None]
_seq: Final = attrgetter("seq")


def read_history(
    connection: Connection,
    filters: Sequence[str],
    until_seq: int,
    *,
    start_seq: int | None = None,
    start_time_ns: int | None = None,
    make: MakeConsumer | None = None,
) -> Batches:
    """Lists of messages that any of `filters` takes (none: all), up to `until_seq`. `filters` may not overlap. Errors as `read_stream`."""

    def read(*filter: str) -> Batches:
        return read_stream(
            connection,
            JOURNAL,
            subjects=filter,
            start_seq=start_seq,
            start_time_ns=start_time_ns if start_seq is None else None,
            until_seq=until_seq,
            patience=PATIENCE,
            make=make,
        )

    return merge([read(filter) for filter in filters]) if filters else read()


def follow(connection: Connection, start_seq: int, *, make: MakeConsumer | None = None) -> Batches:
    """Lists of all messages from `start_seq` on, without end."""
    return read_stream(connection, JOURNAL, start_seq=start_seq, follow=True, patience=None, make=make)


async def merge(readings: Sequence[Batches]) -> Batches:
    """Several readings as one, by sequence. Each is read ahead by one list."""
    async with AsyncExitStack() as stack:
        live = [await stack.enter_async_context(aclosing(reading)) for reading in readings]
        held: dict[int, list[Stored]] = {number: [] for number in range(len(live))}
        while True:
            for number, messages in list(held.items()):
                if not messages:
                    try:
                        held[number] = await anext(live[number])
                    except StopAsyncIteration:
                        del held[number]
            if not held:
                return
            upto = min(messages[-1].seq for messages in held.values())
            found: list[Stored] = []
            for number, messages in held.items():
                count = bisect_right(messages, upto, key=_seq)
                found += messages[:count]
                held[number] = messages[count:]
            found.sort(key=_seq)
            yield found
