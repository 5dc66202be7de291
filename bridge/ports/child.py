"""The stdio port: an MCP server as a child process, one message a line.

The child has a session of its own, so Ctrl-C in a terminal reaches the bridge alone, which ends the child in order: close its stdin, wait,
SIGTERM, wait, SIGKILL to the whole group. A bridge that is killed closes its stdin too, and where the kernel can, it sends it SIGTERM
(`mesh.link.launcher`). Its stderr goes to the log. What it writes on stdout that is no message is counted, logged in part, and slows down
the reading of this child alone: a child that floods cannot take the bridge's time from the others.

Source: MCP basic/lifecycle, shutdown over stdio.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast
from weakref import WeakSet

import structlog

from bridge.errors import ServerUnreachable
from bridge.lines import Lines, as_line, beginning
from bridge.ports.base import OnEnd, OnFrame, PortFactory, ServerPort
from mesh.errors import Busy, MalformedMessage
from mesh.link.launcher import ending_with_us
from mesh.wire.jsonrpc import Frame, peek_final, scan

GARBAGE_BYTES: Final = 256 * 1024
"""Bytes of nonsense for which the child is read on without a pause. Then it is read again after `PAUSE` seconds."""

PAUSE: Final = 1.0

MOST_WAITING: Final = 64 * 1024 * 1024
"""Bytes that may wait for a child that does not read its stdin. Over it, a call is refused as busy."""

PATIENCE: Final = 2.0
"""Seconds that a child has after its stdin closed, and again after SIGTERM."""

_log = structlog.get_logger("bridge.child")


class ChildPort:
    """One child process. `command` is not given to a shell; `env` is its whole environment, None: ours."""

    def __init__(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self.name = name
        self.garbage = 0
        """Lines that were no message."""
        self._command = list(command)
        self._env = env
        self._cwd = cwd
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._ended = asyncio.Event()
        self._closing = False

    @property
    def pid(self) -> int | None:
        return self._transport.get_pid() if self._transport is not None else None

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._ended.is_set()

    async def open(self, on_frame: OnFrame, on_end: OnEnd) -> None:
        """Start the child. Raises ServerUnreachable where the command cannot be run."""
        program = self._command[0]
        try:
            if shutil.which(program, path=(self._env or os.environ).get("PATH")) is None:
                raise FileNotFoundError(errno.ENOENT, "there is no such program")
            transport, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Protocol(self, on_frame, on_end),
                *ending_with_us(self._command),
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise ServerUnreachable(
                f"{self.name}: cannot run {program!r}: {error.strerror or error}",
                hint="give a command that the shell would find, or a full path",
            ) from None
        self._transport = transport
        self._stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))

    def send(self, frame: Frame) -> None:
        stdin = self._stdin
        if stdin is None or stdin.is_closing():
            return  # its end is on its way, and ends what it holds
        if stdin.get_write_buffer_size() > MOST_WAITING:
            raise Busy(f"{self.name} does not read what is sent to it", retry_after=1.0)
        stdin.write(as_line(frame.raw))

    async def close(self) -> None:
        transport = self._transport
        if transport is None or self._closing:
            return
        self._closing = True
        if self._stdin is not None:
            self._stdin.close()
        try:
            for sent in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        await self._ended.wait()
                    break
                self._signal(sent)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE):
                        await self._ended.wait()
        finally:  # also where this is cancelled: nothing may stay behind
            self._signal(signal.SIGKILL)  # what the child itself has started
            transport.close()

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)


class Children:
    """A factory of ports that knows the processes behind those that it has made."""

    def __init__(self, make: PortFactory) -> None:
        self._make = make
        self._made: WeakSet[ServerPort] = WeakSet()

    def __call__(self) -> ServerPort:
        port = self._make()
        self._made.add(port)
        return port

    def pids(self) -> list[int]:
        """Of those that live. A server that is reached in another way has none."""
        return [port.pid for port in self._made if isinstance(port, ChildPort) and port.alive and port.pid is not None]


class _Protocol(asyncio.SubprocessProtocol):
    """Reads without a task: each chunk is cut and handed over where it arrives."""

    def __init__(self, port: ChildPort, on_frame: OnFrame, on_end: OnEnd) -> None:
        self._port = port
        self._on_frame = on_frame
        self._on_end = on_end
        self._lines = Lines()
        self._stderr = Lines(longest=16 * 1024)
        self._transport: asyncio.SubprocessTransport | None = None
        self._nonsense = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: Any) -> None:
        if fd == 2:
            for line in self._stderr.feed(bytes(data)):
                _log.info("stderr", agent=self._port.name, line=line.decode("utf-8", "replace")[:2000])
            return
        dropped = self._lines.dropped
        for line in self._lines.feed(bytes(data)):
            try:
                frame = peek_final(line) or scan(line)
            except MalformedMessage as problem:
                self._on_nonsense(len(line), str(problem), line)
                continue
            self._on_frame(frame, None)
        if self._lines.dropped > dropped:
            self._on_nonsense(self._lines.dropped - dropped, "a line over the size limit", b"")

    def process_exited(self) -> None:
        self._port._ended.set()
        code = self._transport.get_returncode() if self._transport is not None else None
        if not self._port._closing:
            self._on_end(f"it ended with {_describe(code)}")

    def connection_lost(self, problem: Exception | None) -> None:
        """It has ended, and all that it wrote was read. Where nobody asked it to, nobody else closes what is left of it."""
        if self._transport is not None:
            self._transport.close()

    def _on_nonsense(self, size: int, why: str, line: bytes) -> None:
        self._port.garbage += 1
        if self._port.garbage <= 10:
            _log.warning("not a message on stdout", agent=self._port.name, why=why, starts=beginning(line))
        self._nonsense += size
        if self._nonsense > GARBAGE_BYTES and self._transport is not None:
            self._nonsense = 0
            stdout = cast(asyncio.ReadTransport, self._transport.get_pipe_transport(1))
            if stdout.is_reading():
                _log.warning("reading slowly: its stdout holds much that is no message", agent=self._port.name, lines=self._port.garbage)
                stdout.pause_reading()
                asyncio.get_running_loop().call_later(PAUSE, self._read_on, stdout)

    def _read_on(self, stdout: asyncio.ReadTransport) -> None:
        if not stdout.is_closing():
            stdout.resume_reading()


def _describe(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
