"""An agent in a process of its own, since its code could block the event loop of the others: `mesh-bridge serve`, watched by its stdout."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bridge.config import AgentSpec
from bridge.lines import Lines
from mesh.background import end_tasks
from mesh.identity.finding import find_credentials
from mesh.settings import Settings

LONGEST_LINE: Final = 16 * 1024
"""Bytes of a line on its stderr that is passed on. A longer one is left out."""


async def run_apart(spec: AgentSpec, settings: Settings, note: Callable[[str, str, str], None]) -> str:
    """One life of the process, and how it ended. `note(kind, agent, detail)` is told what it says of itself."""
    credentials = settings.credentials or await find_credentials(
        settings.state_dir, spec.name, settings.broker_url(), ("agent", *spec.roles), prefix=settings.prefix, tls=settings.broker_tls()
    )
    process = await asyncio.create_subprocess_exec(
        *serve_command(spec, credentials),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(spec, settings, credentials),
        cwd=spec.cwd,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    telling = asyncio.create_task(_tell(process.stderr, spec.name), name=f"stderr of {spec.name}")
    try:
        async for line in process.stdout:
            with contextlib.suppress(ValueError, AttributeError):
                said = json.loads(line)
                if said.get("event") in ("ready", "restarting"):
                    note(said["event"], spec.name, str(said.get("detail", "")))
        ended = f"its process ended with code {await process.wait()}"
        await asyncio.wait({telling}, timeout=1.0)  # what it has started may still hold its stderr
        return telling.result() or ended if telling.done() else ended
    finally:
        await _end(process)
        await end_tasks(telling)


async def _tell(stderr: asyncio.StreamReader, agent: str) -> str:
    """Pass its stderr on to ours, each line with its name, since several write there. Returns the error that it says it ended with."""
    lines, problem = Lines(LONGEST_LINE), ""
    while not stderr.at_eof():
        for line in lines.feed(await stderr.read(2**16) or b"\n"):
            text = line.decode("utf-8", "replace")
            if error := _error_in(text):
                problem = error
                continue
            with contextlib.suppress(OSError):  # nobody reads ours any more; the process must not wait for that
                sys.stderr.write(f"{agent} | {''.join(each if each.isprintable() else ' ' for each in text)}\n")
    return problem


def _error_in(line: str) -> str:
    """What `mesh-bridge` says last with --json, where an error ended it, for a person; empty where a line is nothing of this kind."""
    try:
        said = json.loads(line)
        message, hint, _ = said["message"], said.get("hint"), said["retryable"]
    except (ValueError, TypeError, AttributeError, KeyError):
        return ""
    return f"{message} ({hint})" if hint else str(message)


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
