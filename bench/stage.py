"""Where a row is measured: a broker of its own on free ports, the control plane beside it as in `mesh up`, and participants in
processes of their own. All of it is gone when the block ends, however it ends."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.bare import ROOT, bare_config
from mesh import Mesh
from mesh.errors import ApiError
from mesh.identity.authority import Authority
from mesh.identity.finding import roles_of
from mesh.identity.serving import server_trust
from mesh.link.jetstream import JetStream
from mesh.link.reconcile import reconcile
from mesh.link.server import EmbeddedServer
from mesh.subjects import CONTROL_PLANE, OPERATOR
from mesh.topology import JOURNAL, declare

RESULTS: Final = ROOT / ".bench"
"""What runs leave behind: figures, and peers that were installed. Git leaves it alone."""

STDIO_SERVER: Final = (sys.executable, "-m", "bench.stdio_server")
SLOW_SERVER: Final = (sys.executable, "-m", "bench.slow_server")

START: Final = 30.0
"""Seconds that a participant may take to be ready."""

PATIENCE: Final = 5.0
"""Seconds that it has to go once its stdin is closed, or once it is asked to. Then it is killed, with what it started."""


class BenchError(Exception):
    """A measurement could not be made; the text says why."""


class Participant:
    """One process that takes part."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, log: Path, *, ends_with_stdin: bool = True) -> None:
        self.pid = process.pid
        self.url = ""
        """Where it serves HTTP, if it does."""
        self._role = role
        self._process = process
        self._log = log
        self._ends_with_stdin = ends_with_stdin

    async def ask(self, **order: Any) -> dict[str, Any]:
        """Have a caller call: the arguments and the answer of `participant.run`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return await self._read()

    async def wait_ready(self) -> None:
        async with asyncio.timeout(START):
            while (said := await self._read()).get("event") != "ready":
                pass
        self.url = said.get("http", "")

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines()[-15:]
            raise BenchError("\n".join([f"{self._role} ended while it was needed", *said]))
        return dict(json.loads(line))

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if not self._ends_with_stdin and self._process.returncode is None:
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # each leads a group of its own
        await self._process.wait()


class Stage:
    """`async with stage() as it`."""

    def __init__(self, server: EmbeddedServer, mesh: Mesh, authority: Authority, state: Path, stack: AsyncExitStack) -> None:
        self.broker = server.url
        self.mesh = mesh
        self.authority = authority
        self.server = server
        self.js = JetStream(mesh.connection)
        self._state = state
        self._stack = stack

    async def participant(self, role: str, *arguments: str) -> Participant:
        """One of `participant.ROLES`, ready."""
        return await self._start(role, sys.executable, "-m", "bench.participant", role, *arguments)

    async def foreign(self, role: str, *command: str) -> Participant:
        """A program of somebody else's that keeps to the same protocol."""
        return await self._start(role, *command)

    async def bridge(self, agent: str, *command: str, python: str = "") -> Participant:
        """`mesh-bridge serve`, ready, with that child, or with that server object in its own process."""
        what = ("--python", python) if python else ("--", *command)
        serve = ("-m", "bridge", "serve", agent, "--broker", self.broker, "--json", "--with-stdin", *what)
        return await self._start(f"bridge-{agent}", sys.executable, *serve)

    async def http(self) -> str:
        """`mesh-bridge http`, and where it serves the agents."""
        serve = ("-m", "bridge", "http", "--port", "0", "--broker", self.broker, "--json", "--auth", "none")  # as its contenders
        return (await self._start("http", sys.executable, *serve, ends_with_stdin=False)).url

    async def with_journal(self, wanted: bool) -> None:
        """Let the broker record calls, or not: its stream is made, empty, or deleted. Everybody else goes on and notices nothing."""
        if wanted:
            await reconcile(self.js, declare())
            return
        with contextlib.suppress(ApiError):  # it is not there
            await self.js.api(f"STREAM.DELETE.{JOURNAL}")

    async def _start(self, role: str, *command: str, ends_with_stdin: bool = True) -> Participant:
        pipe = asyncio.subprocess.PIPE
        log = self._state / f"{role}.log"
        env = {**os.environ, "MESH_STATE_DIR": str(self._state)}  # whence participants have their credentials
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=stderr, cwd=ROOT, env=env, start_new_session=True
            )
        participant = Participant(role, process, log, ends_with_stdin=ends_with_stdin)
        self._stack.push_async_callback(participant.end)
        await participant.wait_ready()
        return participant


@asynccontextmanager
async def stage(*, bare: bool = False) -> AsyncIterator[Stage]:
    """A broker with its control plane in this process, as `mesh up` has them; `bare`: without identities, as nobody should have them."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as directory:
        state = Path(directory)
        authority = Authority(state) if bare else Authority.open(state, create=True)
        for name in () if bare else (CONTROL_PLANE, OPERATOR):
            authority.issue(name, roles_of(name))
        trust, config = ({}, bare_config(state)) if bare else (server_trust(authority), None)
        async with (
            EmbeddedServer(state, trust=trust, config=config, port=0, monitor_port=0, websocket_port=0) as server,
            Mesh(name=CONTROL_PLANE, broker=server.url, state_dir=state) as plane,
            plane.control_plane(),
            Mesh(name=OPERATOR, broker=server.url, state_dir=state) as mesh,
            AsyncExitStack() as stack,
        ):
            yield Stage(server, mesh, authority, state, stack)
