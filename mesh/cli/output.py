"""Output of a process that runs for weeks: a stream that never blocks the event loop.

Whoever started `mesh up` may read its pipe only until it is ready, and a terminal may be stopped with Ctrl-S. After 64 kB a plain
write would then stop the whole mesh. So a thread of its own writes; while it is stuck, a bounded number of texts waits, and what
comes on top is dropped.
"""

import contextlib
import io
import os
import queue
import threading
from typing import Final

MOST_WAITING: Final = 1000
"""Texts, mostly lines."""

LAST_SECONDS: Final = 1.0
"""That the end waits for what is not written yet."""


class Output(io.TextIOBase):
    """A text stream on a file descriptor. Errors of writing (the reader is gone) are nobody's business."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._texts: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name=f"output {descriptor}", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        with contextlib.suppress(queue.Full):
            self._texts.put_nowait(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def finish(self) -> None:
        """Write what waits, for a moment. Nothing can be written afterwards."""
        with contextlib.suppress(queue.Full):
            self._texts.put(None, timeout=LAST_SECONDS)
            self._thread.join(LAST_SECONDS)

    def _run(self) -> None:
        while (text := self._texts.get()) is not None:
            rest = text.encode(self.encoding, self.errors)
            with contextlib.suppress(OSError):
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
