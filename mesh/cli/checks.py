"""The checks of `mesh doctor` that need no broker: this Python, the programs, the state directory, the ports."""

import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from mesh.errors import BrokerUnavailable, MeshError, StateDirInUse
from mesh.link.address import without_userinfo
from mesh.link.server_program import OLDEST_EMBEDDED, check_version, find_binary, find_config, version_of
from mesh.link.state_dir import StateDir
from mesh.settings import Settings, read_runtime

OLDEST_PYTHON: Final = (3, 11)

NATS_PY: Final = (2, 16)
"""The minor version of nats-py that mesh.link is written for; pyproject pins the same, and a test holds them together."""

FAST_PARSE: Final = "fast-mail-parser"
"""What nats-py's extra `fast-parse` brings. With it header values are lists, which breaks direct gets, buckets and expiry markers."""

DEFAULT_PORTS: Final = {"--broker-port": 4222, "--monitor-port": 8222, "--websocket-port": 8080}
"""The ports of nats-server.conf, and the options of `mesh up` for others."""

LITTLE: Final = 2 * 1024**3
VERY_LITTLE: Final = 200 * 1024**2
"""Bytes free on the disk. The journal alone may take 1 GB; a broker that cannot write stops all that is durable."""


class Result(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, and something should be known or done."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what to do next (empty where nothing is to be done)."""

    name: str
    result: Result
    said: str
    next_step: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"check": self.name, "result": self.result.value, "said": self.said, "next": self.next_step}


def ok(name: str, said: str) -> Check:
    return Check(name, Result.OK, said)


def warn(name: str, said: str, next_step: str) -> Check:
    return Check(name, Result.WARN, said, next_step)


def fail(name: str, said: str, next_step: str) -> Check:
    return Check(name, Result.FAIL, said, next_step)


def failed(name: str, error: MeshError) -> Check:
    """An error of the mesh as what a check found."""
    return fail(name, error.message, error.hint)


def local(settings: Settings) -> Iterator[Check]:
    """All checks that need neither a broker nor a child process."""
    yield python(sys.version_info[:3])
    yield client()
    runs = mesh_here(settings)
    yield runs
    yield state_directory(settings.state_dir)
    yield disk(settings.state_dir)
    if settings.broker is None:
        yield configuration()
        if runs.result is Result.WARN:  # nothing of ours has the ports
            yield ports()


def python(found: tuple[int, int, int]) -> Check:
    said = ".".join(map(str, found))
    if found[:2] >= OLDEST_PYTHON:
        return ok("Python", said)
    needed = ".".join(map(str, OLDEST_PYTHON))
    return fail("Python", f"{said}; the mesh needs {needed} or newer", f"install Python {needed} and make the environment anew")


def client() -> Check:
    """nats-py: the pinned minor version, and not its extra `fast-parse`."""
    pinned = ".".join(map(str, NATS_PY))
    again = f"pip install 'nats-py~={pinned}.0'"
    found = _version("nats-py")
    if found is None:
        return fail("nats-py", "it is not installed", again)
    if tuple(found.split(".")[:2]) != tuple(map(str, NATS_PY)):
        return fail("nats-py", f"version {found}; mesh.link is written for {pinned}", again)
    if _version(FAST_PARSE) is not None:
        return fail("nats-py", f"{found} with its extra fast-parse, which breaks header values", f"pip uninstall {FAST_PARSE}")
    return ok("nats-py", f"{found}, without fast-parse")


async def program(*, embedded: bool) -> Check:
    """The nats-server that `mesh up` would start. Where another broker is used, its absence is no failure."""
    name = "nats-server"
    try:
        binary = find_binary()
        said = await version_of(binary)
        check_version(said, OLDEST_EMBEDDED, str(binary))
    except MeshError as error:
        return failed(name, error) if embedded else warn(name, error.message, "not needed as long as --broker names one that runs")
    return ok(name, f"{said} at {binary}")


def configuration() -> Check:
    try:
        return ok("nats-server.conf", str(find_config()))
    except MeshError as error:
        return failed("nats-server.conf", error)


def mesh_here(settings: Settings) -> Check:
    """Whether a mesh is said to run where the commands look for it."""
    name = "mesh"
    if settings.broker is not None:
        return ok(name, f"the broker is said to be {without_userinfo(settings.broker)}")
    try:
        facts = read_runtime(settings.state_dir)
    except BrokerUnavailable as error:
        if (settings.state_dir / "mesh.json").exists():
            return failed(name, error)
        return warn(name, error.message, error.hint)
    return ok(name, f"process {facts.get('pid', '?')}, since {facts.get('started', '?')}, broker {facts['broker']}")


def state_directory(path: Path) -> Check:
    """It can be written, and whoever holds its lock is known. Nothing is created."""
    name, state = "state directory", StateDir(path)
    if not state.path.exists():
        return ok(name, f"{state.path}, made by the first `mesh up`")
    try:
        state.acquire()
    except StateDirInUse as error:
        return ok(name, f"{state.path}, in use by the mesh of process {error.details.get('pid') or 'unknown'}")
    except MeshError as error:
        return failed(name, error)
    orphan = state.orphan()
    state.release()
    if orphan is not None:
        said = f"{state.path}: the broker of an earlier mesh still runs, process {orphan}"
        return warn(name, said, "the next `mesh up` ends it")
    return ok(name, f"{state.path}, writable, no mesh runs on it")


def disk(path: Path) -> Check:
    from mesh.cli.render import size

    name = "disk"
    there = next(each for each in (path.resolve(), *path.resolve().parents) if each.exists())
    free = shutil.disk_usage(there).free
    said = f"{size(free)} free at {there}"
    if free < VERY_LITTLE:
        return fail(name, said, "make room, or name a state directory on another disk with --state-dir")
    if free < LITTLE:
        return warn(name, said, "the journal alone may take 1 GB; make room, or use another disk with --state-dir")
    return ok(name, said)


def ports() -> Check:
    """Whether a `mesh up` without options would find its ports free."""
    name = "ports"
    taken = {option: port for option, port in DEFAULT_PORTS.items() if not _is_free(port)}
    if not taken:
        return ok(name, f"{', '.join(map(str, DEFAULT_PORTS.values()))} are free")
    options = " ".join(f"{option} 0" for option in taken)
    return warn(name, f"another program listens on {', '.join(map(str, taken.values()))}", f"mesh up {options}")


def _is_free(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port in TIME_WAIT is free
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
