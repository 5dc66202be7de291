"""Other programs that the mesh is compared with. Optional: each is installed when it is asked for, into an environment of its own in
`.bench/peers/`, which git leaves alone. What is not installed is not measured, and its row says so.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench.stage import RESULTS, STDIO_SERVER, BenchError

LOG_LINES: Final = 5


class Peer(NamedTuple):
    """A package of PyPI, and what starts it: `{port}` and `{bin}` are filled in. `path` is where it serves our stdio server over HTTP, if
    it does; `extras` and `others` are what else it needs, as pip takes them."""

    package: str
    version: str
    command: tuple[str, ...]
    path: str = ""
    extras: str = ""
    others: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        return RESULTS / "peers" / f"{self.package}-{self.version}"

    @property
    def installed(self) -> bool:
        return (self.home / "whole").exists()


MCP_PROXY: Final = Peer("mcp-proxy", "0.13.0", ("{bin}/mcp-proxy", "--port", "{port}", "--log-level", "ERROR", "--", *STDIO_SERVER), "/mcp")
FASTMCP: Final = Peer("fastmcp", "4.1.2", ("{bin}/python", "bench/fastmcp_proxy.py", "{port}", *STDIO_SERVER), "/mcp")
FASTSTREAM: Final = Peer(
    "faststream",
    "0.7.8",
    ("{bin}/python", "bench/faststream_consumer.py", "{where}"),
    extras="[nats]",
    others=("nats-py==2.16.0", "uvloop"),
)
PEERS: Final = (MCP_PROXY, FASTMCP, FASTSTREAM)


def command_of(peer: Peer) -> Sequence[str]:
    """What starts it on a port, which `{port}` stands for. Raises BenchError where it is not installed."""
    if not peer.installed:
        raise BenchError(f"{peer.package} is not installed; `scripts/bench --peers` installs it")
    return [each.replace("{bin}", str(peer.home / "bin")) for each in peer.command]


async def install(peer: Peer) -> None:
    """Into its own environment, if it is not there. Raises BenchError with the end of what pip said."""
    if peer.installed:
        return
    await _run(sys.executable, "-m", "venv", "--clear", str(peer.home))
    await _run(str(peer.home / "bin" / "pip"), "install", "--quiet", f"{peer.package}{peer.extras}=={peer.version}", *peer.others)
    (peer.home / "whole").touch()


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise BenchError("\n".join(output.decode(errors="replace").strip().splitlines()[-LOG_LINES:]))
