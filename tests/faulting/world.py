"""The broker and the processes around it: started, disturbed, started again, and ended.

Who takes part talks to the broker through a proxy of its own, so that its connections can be cut. A process that is gone is started again
at once, as a supervisor does; the broker is started again by `EmbeddedServer`, as in `mesh up`.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from mesh.clock import monotonic
from mesh.identity.authority import Authority
from mesh.identity.finding import roles_of
from mesh.identity.serving import server_trust
from mesh.link.server import EmbeddedServer
from tests.faulting.names import HAND, LISTENER, TOOL, WORKER
from tests.faulting.plan import Fault
from tests.processes import ROOT
from tests.proxy import Proxy

CAST: Final[Mapping[str, int]] = {"plane": 2, "bridge": 2, "worker": 2, "listener": 2, "hand": 2, "sender": 2, "caller": 2}
"""Processes of each kind."""

ORDER: Final = (("plane",), ("bridge", "worker", "listener", "hand"), ("sender", "caller"))
"""Who must be ready before whom: a subscription hears what is published from when it was made."""

SHORT: Final = 3.0
PAUSE: Final = 1.0
"""Seconds until one is started again that ran for less than `SHORT`: nobody can start while the broker is away."""

START: Final = 30.0
LEAVE: Final = 30.0
"""Seconds that a process has to end what it awaits, and itself."""


class WorldError(Exception):
    """It could not be started; the text says why."""


class Part:
    """One process, and those that take its place."""

    def __init__(self, kind: str, name: str, command: list[str], proxy: Proxy, directory: Path) -> None:
        self.kind = kind
        self.name = name
        self.starts = 0
        self.stuck = False
        """Whether it did not end when it was asked to."""
        self._command = command
        self._proxy = proxy
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._leaving = False

    def begin(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name=self.name)

    async def wait_ready(self) -> None:
        """Raises WorldError with the end of its log."""
        try:
            async with asyncio.timeout(START):
                await self._ready.wait()
        except TimeoutError:
            said = (self._directory / f"{self.name}.log").read_text(errors="replace").strip().splitlines()[-15:]
            raise WorldError("\n".join([f"{self.name} is not ready after {START:g} s", *said])) from None

    def signal(self, number: signal.Signals) -> bool:
        """Whether there was somebody to send it to."""
        if self._process is None or self._process.returncode is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)
            return True
        return False

    def cut(self) -> bool:
        return self._proxy.cut() > 0

    async def leave(self) -> None:
        """Ask it to end, and wait until it has."""
        self._leaving = True
        self.signal(signal.SIGCONT)
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        assert self._keeper is not None
        done, _ = await asyncio.wait([self._keeper], timeout=LEAVE)
        self.stuck = not done
        await self.close()

    async def close(self) -> None:
        self._leaving = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        if self._keeper is not None:
            await asyncio.wait([self._keeper], timeout=5.0)
            self._keeper.cancel()

    async def _keep(self) -> None:
        pipe = asyncio.subprocess.PIPE
        while not self._leaving:
            self.starts += 1
            begun = monotonic()
            with (self._directory / f"{self.name}.log").open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=pipe, stdout=pipe, stderr=log, cwd=ROOT, start_new_session=True
                )
            assert self._process.stdout is not None
            async for line in self._process.stdout:
                if b"ready" in line:
                    self._ready.set()
            await self._process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # the child of a bridge that was killed
            if monotonic() - begun < SHORT:
                await asyncio.sleep(PAUSE)


class World:
    """`async with world(...) as it`."""

    def __init__(self, server: EmbeddedServer, parts: list[Part], directory: Path) -> None:
        self.server = server
        self.parts = parts
        self.directory = directory
        self.pauses: list[tuple[str, float, float]] = []
        """Part, and from when to when it stood still."""
        self._resume: dict[str, asyncio.TimerHandle] = {}

    def do(self, fault: Fault) -> bool:
        """Whether it hit somebody."""
        if fault.whom == "broker":
            name, send = "broker", self._signal_broker
        else:
            some = [part for part in self.parts if part.kind == fault.whom]
            part = some[int(fault.which * len(some))]
            if fault.what == "cut":
                return part.cut()
            name, send = part.name, part.signal
        if fault.what == "cut":
            return sum(part.cut() for part in self.parts) > 0  # the broker's connections are everybody's
        if fault.what == "kill":
            return send(signal.SIGKILL)
        if name in self._resume or not send(signal.SIGSTOP):
            return False
        self._resume[name] = asyncio.get_running_loop().call_later(fault.seconds, self._go_on, name, send, monotonic())
        return True

    def _go_on(self, name: str, send: Callable[[signal.Signals], bool], since: float) -> None:
        del self._resume[name]
        send(signal.SIGCONT)
        self.pauses.append((name, since, monotonic()))

    def _signal_broker(self, number: signal.Signals) -> bool:
        if self.server.pid is None:
            return False
        os.kill(self.server.pid, number)
        return True

    async def calm(self) -> None:
        """Nobody stands still any more, and the broker is there."""
        while self._resume:  # noqa: ASYNC110 - timers end it, all within seconds
            await asyncio.sleep(0.05)
        await self.server.wait_ready()

    async def leave(self, *kinds: str) -> None:
        """End all processes of these kinds, in good order."""
        await asyncio.gather(*(part.leave() for part in self.parts if part.kind in kinds))


@asynccontextmanager
async def world(directory: Path, *, cast: Mapping[str, int] = CAST, worker: str = "worker") -> AsyncIterator[World]:
    """All of it, ready. `worker` is the role that workers play. What it leaves in `directory` is the evidence."""
    state = directory / "state"
    authority = Authority.open(state, create=True)
    senders = [f"{kind}-{number}" for kind in ("sender", "caller") for number in range(cast[kind])]
    for name in ("mesh", "operator"):
        authority.issue(name, roles_of(name))
    authority.issue_all((WORKER, TOOL, HAND), ("agent",))
    authority.issue_all((LISTENER,), ("agent", "host"))
    authority.issue_all(senders, ("host",))
    async with AsyncExitStack() as stack:
        server = EmbeddedServer(state, trust=server_trust(authority), port=0, monitor_port=0, websocket_port=0)
        await stack.enter_async_context(server)
        parts = []
        for kind, count in cast.items():
            for number in range(count):
                proxy = await stack.enter_async_context(Proxy(server.url))
                name = f"{kind}-{number}"
                command = _command(kind, worker if kind == "worker" else kind, name, proxy.url, directory)
                parts.append(Part(kind, name, command, proxy, directory))
                stack.push_async_callback(parts[-1].close)
        os.environ["MESH_STATE_DIR"] = str(state)  # where participants find their credentials
        stack.callback(os.environ.pop, "MESH_STATE_DIR", None)
        for kinds in ORDER:
            some = [part for part in parts if part.kind in kinds]
            for part in some:
                part.begin()
            await asyncio.gather(*(part.wait_ready() for part in some))
        yield World(server, parts, directory)


def _command(kind: str, role: str, name: str, broker: str, directory: Path) -> list[str]:
    if kind == "bridge":
        child = [sys.executable, "-m", "bench.stdio_server"]
        return [sys.executable, "-m", "bridge", "serve", TOOL, "--broker", broker, "--json", "--with-stdin", "--", *child]
    return [sys.executable, "-m", "tests.faulting.parts", role, name, broker, str(directory)]
