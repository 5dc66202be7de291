"""The broker's log as this process reads it: its last lines for an error message, its new lines for what the broker says nowhere else.

When the log is full the server renames it and begins another. A reader therefore keeps its file open, reads it to the end, and only then
looks whether the path names a new one. So no line is lost, unless two logs fill between two looks.
"""

import contextlib
import os
import re
from collections import deque
from pathlib import Path
from typing import BinaryIO, Final

MAX_READ: Final = 4 * 1024 * 1024
"""Bytes taken at one look. A broker that logs more within a second is not to be followed line by line; the rest comes at the next look."""

_LOSS: Final = re.compile(
    r"\[WRN\] (?P<what>Dropping messages due to excessive stream ingest rate.*|.* limit reached, dropping \d+ requests.*)$"
)
"""The two lines by which nats-server 2.15 says that it dropped what it had taken: messages on the way into a stream, which for a stream
without acknowledgements (the journal) nobody else learns, and requests to the JetStream API.
"""


class LogReader:
    """The lines that were added since the last look."""

    def __init__(self, path: Path) -> None:
        """Start at the present end; what comes later is new. The file need not exist yet."""
        self._path = path
        self._rest = b""
        self._file = self._open()
        if self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def read(self) -> list[str]:
        """All complete lines since the last look. Never raises: a log that cannot be read has no new lines."""
        data = self._read()
        if len(data) < MAX_READ and self._replaced():
            self.close()
            self._file = self._open()
            data += self._read()
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO | None:
        with contextlib.suppress(OSError):
            return self._path.open("rb")
        return None

    def _read(self) -> bytes:
        try:
            return self._file.read(MAX_READ) if self._file is not None else b""
        except OSError:
            return b""

    def _replaced(self) -> bool:
        try:
            there = self._path.stat()
        except OSError:
            return False
        return self._file is None or os.fstat(self._file.fileno()).st_ino != there.st_ino


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, oldest first; none if there is no log. It is bounded by the server, so it is simply read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as log:
            return [line.rstrip("\n") for line in deque(log, maxlen=lines)]
    except OSError:
        return []


def loss_in(line: str) -> str:
    """What the server says it dropped, in its own words, or "" for every other line."""
    found = _LOSS.search(line)
    return found["what"] if found else ""
