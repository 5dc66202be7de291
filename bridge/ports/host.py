"""The host's stdio port: this process is the MCP server that a host started. One message a line on stdin and stdout; logs go to stderr.

Source: MCP basic/transports, stdio.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import BinaryIO, Final

from bridge.lines import Lines, as_line

MOST_WAITING: Final = 64 * 1024 * 1024
"""Bytes that may wait for a host that does not read. Over it the host counts as gone: nothing may be dropped, and memory is bounded."""


class StdioHost:
    """stdin and stdout of this process. `async with`, then `run`."""

    def __init__(self) -> None:
        self._writer: asyncio.WriteTransport | None = None
        self._file: BinaryIO | None = None
        self._gone = asyncio.Event()

    async def run(self, on_message: Callable[[bytes], None]) -> None:
        """Hand each line over until stdin ends."""
        loop = asyncio.get_running_loop()
        out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not become a message
        try:
            writer, _ = await loop.connect_write_pipe(lambda: _Writer(self._gone), out)
            self._writer = writer
        except ValueError:  # stdout is a file: a person is trying it out
            self._file = out
        try:
            transport, _ = await loop.connect_read_pipe(lambda: _Reader(on_message, self._gone), sys.stdin.buffer)
        except ValueError:  # stdin is a file: read it to its end
            lines = Lines()
            for line in lines.feed(await asyncio.to_thread(sys.stdin.buffer.read) + b"\n"):
                on_message(line)
        else:
            await self._gone.wait()
            transport.close()

    def send(self, raw: bytes) -> None:
        if self._file is not None:
            self._file.write(as_line(raw))
            self._file.flush()
        elif self._writer is not None and not self._writer.is_closing():
            self._writer.write(as_line(raw))
            if self._writer.get_write_buffer_size() > MOST_WAITING:
                self._writer.abort()
                self._gone.set()


class _Reader(asyncio.Protocol):
    def __init__(self, on_message: Callable[[bytes], None], gone: asyncio.Event) -> None:
        self._on_message = on_message
        self._gone = gone
        self._lines = Lines()

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            self._on_message(line)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()


class _Writer(asyncio.BaseProtocol):
    def __init__(self, gone: asyncio.Event) -> None:
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
