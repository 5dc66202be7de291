"""A nats-server in operator mode, as in production: its configuration is what `mesh auth export --server-config` prints."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mesh.identity.authority import Authority
from mesh.link.server_program import find_binary


@asynccontextmanager
async def operator_server(authority: Authority, directory: Path, port: int = -1) -> AsyncIterator[str]:
    """The address of a server that trusts this authority. Its directory may be one that a server had before."""
    directory.mkdir(exist_ok=True)
    for old in directory.glob("*.ports"):
        old.unlink()
    config = directory / "server.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\nserver_name: production\njetstream {{ store_dir: "{directory}" }}\nports_file_dir: "{directory}"\n'
        f'log_file: "{directory / "log"}"\nping_interval: "5s"\n{authority.server_config()}'
    )
    process = await asyncio.create_subprocess_exec(str(find_binary()), "-c", str(config))
    try:
        async with asyncio.timeout(10):
            while (url := _address(directory)) is None:
                assert process.returncode is None, (directory / "log").read_text()
                await asyncio.sleep(0.01)  # the file appears when the server listens; nobody tells us
        yield url
    finally:
        process.terminate()
        await process.wait()


def _address(directory: Path) -> str | None:
    """Where the server listens, once it has written all of it."""
    for path in directory.glob("*.ports"):
        with contextlib.suppress(ValueError):
            return str(json.loads(path.read_text())["nats"][0])
    return None
