"""Bridges in processes of their own, and other processes: started, killed, waited for."""

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Bridge:
    """`mesh-bridge serve NAME -- SERVER` as a process. Methods are synchronous: from an async test use `asyncio.to_thread` for `wait`."""

    def __init__(self, broker_url: str, name: str, server: str | list[str], *options: str) -> None:
        command = server if isinstance(server, list) else [sys.executable, "-m", f"tests.servers.{server}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bridge", "serve", name, "--broker", broker_url, "--json", *options, "--", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        self.errors: list[str] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._threads = [threading.Thread(target=target) for target in (self._read_events, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def wait(self, kind: str = "ready", timeout: float = 20.0) -> dict[str, Any]:
        """The next event of a kind."""
        while True:
            event = self._events.get(timeout=timeout)
            assert event["event"] != "ended" or kind == "ended", f"the bridge ended: {''.join(self.errors)[-2000:]}"
            if event["event"] == kind:
                return event

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def close(self) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for thread in self._threads:
            thread.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put({"event": "ended"})

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line.decode("utf-8", "replace"))


@contextmanager
def bridges(broker_url: str, *plans: tuple[Any, ...]) -> Iterator[list[Bridge]]:
    """Several bridges at once: `(name, server, *options)` each. Yields when all are ready."""
    made = [Bridge(broker_url, *plan) for plan in plans]
    try:
        for each in made:
            each.wait()
        yield list(made)
    finally:
        for each in made:
            each.close()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def ended(pid: int, timeout: float = 10.0) -> None:
    """Wait for the end of a process that may be no child of ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, event.set)
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
