"""Which of many equal events get a line in the log: whoever sends nonsense must not fill the disk."""

from typing import Final

FIRST: Final = 20
EVERY: Final = 1_000


def worth_a_line(count: int) -> bool:
    """The first ones, then one in a thousand. `count` is how many there were, this one included."""
    return count <= FIRST or count % EVERY == 0
