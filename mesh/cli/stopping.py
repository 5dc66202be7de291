"""How `mesh up` and `mesh-bridge serve` end: once asked in order, asked again at once.

SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is closed) all ask for the same. While it starts, being asked cancels the
start, and what has been started by then ends in order too. A second signal means that somebody does not want to wait: all
children are killed, none is left behind, and the process is gone.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

FORCED: Final = 130


class Stop:
    """Whether somebody asked for the end.

    `async with stop.listening()` goes around everything, `await stop.wait()` inside, when all has started.
    """

    def __init__(self, *, patient: bool = False) -> None:
        """`patient`: being asked again changes nothing. A parent process may ask in more than one way, and kills by itself."""
        self.asked = asyncio.Event()
        self._patient = patient
        self._cancels: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take the signals. A start that they cancelled ends this block without an error."""
        loop = asyncio.get_running_loop()
        self._cancels = asyncio.current_task()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        except asyncio.CancelledError:
            if not self.asked.is_set():
                raise
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    async def wait(self) -> None:
        """Until somebody asks. From here on being asked cancels nothing, so that what ends in order can wait where it has to."""
        self._cancels = None
        await self.asked.wait()

    def ask(self) -> None:
        if self._cancels is not None and not self.asked.is_set():
            self._cancels.cancel()
        self.asked.set()

    def _on_signal(self) -> None:
        if self.asked.is_set() and not self._patient:
            force()
        self.ask()


def force() -> None:
    """Kill all children with what they started, and be gone. Every child of the mesh leads a group of its own."""
    for pid in children_of(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    os._exit(FORCED)


def children_of(parent: int) -> list[int]:
    """The pids of a process's children."""
    if (threads := Path(f"/proc/{parent}/task")).is_dir():
        with contextlib.suppress(OSError):
            return [int(pid) for thread in threads.iterdir() for pid in (thread / "children").read_text().split()]
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, timeout=5, check=False).stdout
    pairs = (line.split() for line in listed.splitlines())
    return [int(pair[0]) for pair in pairs if len(pair) == 2 and int(pair[1]) == parent]
