"""Feeds mutated inputs to the parsers. A crash, and an input that takes longer than a parser may, is a finding."""

import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzzing.mutate import mutate
from tests.fuzzing.targets import TARGETS, Target

HANG_SECONDS = 2.0
"""No input is longer than 64 KiB, and none takes a hundredth of this."""


class Hang(BaseException):
    """An input took too long. No Exception: no parser may catch it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What went wrong with which input."""

    target: str
    problem: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.target}: {self.problem}\n  input: {self.data[:300]!r}{'…' if len(self.data) > 300 else ''}"


def fuzz(
    inputs: int, seed: int, *, targets: tuple[Target, ...] = TARGETS, on_progress: Callable[[int], None] = lambda _: None
) -> list[Finding]:
    """`inputs` in all, shared among the targets. The same seed makes the same inputs. For the main thread: the watch is an alarm."""
    found: list[Finding] = []
    turns = [target for target in targets for _ in range(target.share)]
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        for number in range(inputs):
            target = turns[number % len(turns)]
            rng = random.Random(f"{seed}/{number}")
            data = mutate(rng.choice(target.good), target.good, rng)
            if (problem := _feed(target, data)) is not None:
                found.append(Finding(target.name, problem, data))
            if number % 10_000 == 0:
                on_progress(number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return found


def _feed(target: Target, data: bytes) -> str | None:
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        target.feed(data)
    except target.allowed:
        return None
    except Hang:
        return f"no answer after {HANG_SECONDS:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def _too_long(*_: object) -> None:
    raise Hang


def report(inputs: int, seed: int) -> int:
    """Run and say what was found. Returns the number of findings."""
    begun = time.monotonic()

    def progress(number: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{number:,} of {inputs:,}")

    found = fuzz(inputs, seed, on_progress=progress)
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    for each in found[:20]:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write(
        f"parsers: {inputs:,} inputs for {len(TARGETS)} parsers in {time.monotonic() - begun:.0f} s, seed {seed}: {len(found)} findings\n"
    )
    return len(found)
