"""Commands as a person runs them: processes of their own, from an empty directory, with no variable about the mesh."""

import asyncio
import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parent.parent

ENVIRONMENT: Final = {key: value for key, value in os.environ.items() if not key.startswith("MESH_")} | {"PYTHONPATH": str(ROOT)}


class Ended(NamedTuple):
    """A command that ended. `out` and `err` are text."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON value; there may be nothing else on it."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """stderr as one JSON value; there may be nothing else on it."""
        assert self.code == 1, self
        assert self.out == "", self
        return json.loads(self.err)


@asynccontextmanager
async def started(*words: object, cwd: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`mesh …` as a process. What is left of it at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mesh", *map(str, words),
        cwd=cwd, env=ENVIRONMENT, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def mesh(*words: object, cwd: Path) -> Ended:
    """Run `mesh …` to its end, in a process that `tests/commands.py` forks."""
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(_commands(), [b"."], [theirs.fileno()])
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            writer.write(json.dumps({"words": list(map(str, words)), "cwd": str(cwd), "env": ENVIRONMENT}).encode() + b"\n")
            return Ended(**json.loads(await reader.read()))
        finally:
            writer.close()
            await writer.wait_closed()


@functools.cache
def _commands() -> socket.socket:
    """Starts the process that forks, which ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-m", "tests.commands"], cwd=ROOT, env=ENVIRONMENT, stdin=theirs.fileno())
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


class Up:
    """A running `mesh up --json`, and what it said so far."""

    def __init__(self, process: asyncio.subprocess.Process, cwd: Path, state_dir: Path) -> None:
        self.process = process
        self.cwd = cwd
        self.state_dir = state_dir
        self.said: list[dict[str, Any]] = []

    async def until(self, event: str, **wanted: str) -> dict[str, Any]:
        """Read on until an event says this."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            while line := await self.process.stdout.readline():
                self.said.append(json.loads(line))
                if wanted.items() | {("event", event)} <= self.said[-1].items():
                    return self.said[-1]
        assert self.process.stderr is not None
        raise AssertionError(f"it ended and never said {event}: {self.said} {(await self.process.stderr.read()).decode()}")

    async def mesh(self, *words: object) -> Ended:
        """Another command on this mesh."""
        return await mesh(*words, "--state-dir", self.state_dir, cwd=self.cwd)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask for the end and wait for it. Returns the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(30):
            await self.until("stopped")
            return await self.process.wait()


@asynccontextmanager
async def up(directory: Path, *words: object) -> AsyncIterator[Up]:
    """`mesh up …` on free ports, with its state below `directory`."""
    state_dir = directory / "state"
    async with started("up", *words, "--json", "--state-dir", state_dir, "--broker-port", 0, cwd=directory) as process:
        yield Up(process, directory, state_dir)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
