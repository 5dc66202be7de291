"""An agent in a process of its own, since its code could block the event loop of the others: `mesh-bridge serve`, watched by its stdout."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from bridge.config import AgentSpec
from mesh.identity.finding import find_credentials
from mesh.settings import Settings


async def run_apart(spec: AgentSpec, settings: Settings, note: Callable[[str, str, str], None]) -> str:
    """One life of the process, and how it ended. `note(kind, agent, detail)` is told what it says of itself."""
    credentials = settings.credentials or await find_credentials(
        settings.state_dir, spec.name, settings.broker_url(), ("agent", *spec.roles), prefix=settings.prefix, tls=settings.broker_tls()
    )
    process = await asyncio.create_subprocess_exec(
        *serve_command(spec, credentials),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(spec, settings, credentials),
        cwd=spec.cwd,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            with contextlib.suppress(ValueError, AttributeError):
                said = json.loads(line)
                if said.get("event") in ("ready", "restarting"):
                    note(said["event"], spec.name, str(said.get("detail", "")))
        return f"its process ended with code {await process.wait()}"
    finally:
        await _end(process)


def serve_command(spec: AgentSpec, credentials: Path | None) -> list[str]:
    """`mesh-bridge serve` for an agent in Python."""
    command = [sys.executable, "-m", "bridge", "serve", spec.name, "--python", spec.python, "--json", "--sessions", spec.sessions]
    command += ["--with-stdin", "--journal", spec.journal, "--at-once", str(spec.at_once)]
    command += ["--inbox", spec.inbox] if spec.inbox else []
    command += ["--streams", spec.streams] if spec.streams else []
    command += [part for tool in spec.answers for part in ("--answer", tool)]
    command += [part for topic in spec.topics for part in ("--topic", topic)]
    command += ["--broadcasts"] if spec.broadcasts else []
    command += [part for role in spec.roles for part in ("--role", role)]
    command += [] if spec.rate is None else ["--rate", str(spec.rate)]
    command += [part for tool, said in spec.tools.items() if said.rate is not None for part in ("--tool-rate", f"{tool}={said.rate}")]
    command += [part for tool, said in spec.tools.items() for part in ("--tool-journal", f"{tool}={said.journal}")]
    return [*command, "--credentials", str(credentials.absolute())] if credentials else command


def environment(spec: AgentSpec, settings: Settings, credentials: Path | None) -> dict[str, str]:
    """Its variables: those of the agent, and what its entry says. Where the broker is stands here, not on the command line, which every
    user of the machine can read: an address may hold a password, and the bridge in that process needs it."""
    return {**settings.environment(credentials), "MESH_BROKER": settings.broker_url(), **spec.env}


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, five seconds, SIGKILL."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sent)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await process.wait()
