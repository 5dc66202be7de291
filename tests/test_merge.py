"""Several readings of the journal become one, in the order of the stream, whatever the sizes of their lists."""

from collections.abc import AsyncGenerator

from hypothesis import given
from hypothesis import strategies as st

from mesh.audit.reading import merge
from mesh.link.reader import Stored


async def batches(seqs: list[int], size: int, closed: list[int]) -> AsyncGenerator[list[Stored], None]:
    try:
        for at in range(0, len(seqs), size):
            yield [Stored("s", b"", None, seq, seq) for seq in seqs[at : at + size]]
    finally:
        closed.append(1)


@given(st.lists(st.integers(0, 4), max_size=60), st.lists(st.integers(1, 7), min_size=5, max_size=5))
async def test_the_order_is_that_of_the_stream(owners: list[int], sizes: list[int]) -> None:
    closed: list[int] = []
    readings = [batches([seq for seq, who in enumerate(owners) if who == owner], sizes[owner], closed) for owner in range(5)]
    merged = [found async for found in merge(readings)]
    assert [message.seq for found in merged for message in found] == list(range(len(owners)))
    assert all(merged)
    assert len(closed) == 5


async def test_leaving_early_closes_every_reading() -> None:
    closed: list[int] = []
    reading = merge([batches([1, 3, 5], 1, closed), batches([2, 4, 6], 1, closed)])
    assert [message.seq for message in await anext(reading)] == [1]
    await reading.aclose()
    assert len(closed) == 2
