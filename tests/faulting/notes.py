"""What a process notes as it goes: one JSON object a line, written at once, so that a kill takes nothing of it away.

An await is noted before it begins, with its limit in seconds, and when it ends. Times are those of the machine's monotonic clock, which all
processes share. A process that could not run for a while (`SIGSTOP`, or others had the processors) is not to blame for what it ended late:
how long it waited for a processor is the kernel's word (`/proc/self/schedstat`), and is noted too.
"""

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from mesh.clock import monotonic
from mesh.errors import MeshError

T = TypeVar("T")

LOOK: Final = 0.1
"""Seconds between two looks at whether this process could run."""

WORTH_A_NOTE: Final = 0.3


class Notes:
    """Of one process."""

    def __init__(self, directory: Path, part: str) -> None:
        self._file = os.open(directory / f"{part}.{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count(1)
        self._common = {"part": part, "pid": os.getpid()}

    def write(self, what: str, **said: Any) -> None:
        os.write(self._file, json.dumps({"at": monotonic(), "what": what, **self._common, **said}).encode() + b"\n")

    async def within(self, kind: str, limit: float, work: Awaitable[T]) -> T | None:
        """Await something that must end within `limit` seconds. None where it ended with an error of the mesh."""
        number = next(self._numbers)
        self.write("begin", number=number, kind=kind, limit=limit)
        outcome, why = "failed", ""
        try:
            result = await work
            outcome = "ok"
        except MeshError as error:
            outcome, why = error.code, str(error)
            return None
        finally:
            self.write("end", number=number, kind=kind, outcome=outcome, why=why)
        return result

    async def watch_starvation(self) -> None:
        """Until it is cancelled."""
        at, waited = monotonic(), _waited()
        while True:
            await asyncio.sleep(LOOK)
            now, so_far = monotonic(), _waited()
            if so_far - waited > WORTH_A_NOTE:
                self.write("starved", begun=at, seconds=so_far - waited)
            at, waited = now, so_far


def _waited() -> float:
    """Seconds that this process was ready to run and did not."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def read_notes(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """All that was noted, a process after the other. The last line of one that was killed may be half a line."""
    for path in paths:
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    yield said
