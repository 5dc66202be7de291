"""When to try again what failed: exponential backoff with jitter. Pure: chance is handed in.

Jitter, because what failed together would otherwise come back together.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds: `first` after the first attempt, then `factor` times as much each time, up to `longest`. Of that, the share `jitter` is left
    to chance."""

    first: float = 0.5
    factor: float = 2.0
    longest: float = 60.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not (self.first > 0 and self.factor >= 1 and self.longest >= self.first and 0 <= self.jitter <= 1):
            raise ValueError("a backoff begins above 0, does not shrink, and leaves 0 to 1 of it to chance")

    def wait(self, attempt: int, chance: float) -> float:
        """How long to wait after the failed attempt number `attempt` (from 1). `chance` is in [0, 1)."""
        try:
            full = min(self.longest, self.first * self.factor ** (attempt - 1))
        except OverflowError:
            full = self.longest
        return full * (1 - self.jitter * chance)
