"""Clients that nobody here wrote: the MCP inspector's command line, and the public conformance suite.

Directly and through the mesh they must come to the same. The suite takes a while, since each of its sessions starts a process of the
server: it runs beside the inspector's tests. Its `--spec-version` chooses among its scenarios, and the newest version has them all; the
version that is spoken is the newest that its client knows.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests import npm_peers
from tests.conftest import Broker
from tests.helpers import ROOT, Background
from tests.npm_peers import CONFORMANCE, INSPECTOR
from tests.peer_servers import EVERYTHING_SERVER, SDK_SERVER, TIME_SERVER, listening
from tests.peers import OF_AN_ERA
from tests.web_world import agent, front

pytestmark = pytest.mark.timeout(300)  # the first test may install what npm has

SERVERS: Final = {each.name: each for each in (EVERYTHING_SERVER, SDK_SERVER, TIME_SERVER)}

CALLS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "a tool": ("everything", ("--method", "tools/call", "--tool-name", "get-sum", "--tool-arg", "a=1", "b=2")),
    "a tool in its own era": (
        "time",
        (
            *("--method", "tools/call", "--tool-name", "convert_time", "--tool-arg"),
            *("source_timezone=UTC", "time=12:00", "target_timezone=Asia/Kathmandu"),
        ),
    ),
}


class World:
    """A front, the servers as agents behind it, and the suite, which runs from the beginning."""

    def __init__(self, broker: Broker, files: Path) -> None:
        self._broker = broker
        self._files = files
        self.suite: dict[str, asyncio.Task[dict[tuple[str, str], str]]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        async with AsyncExitStack() as stack:
            self.front = await stack.enter_async_context(front(self._broker.url))
            for each in SERVERS.values():
                await stack.enter_async_context(agent(self._broker.url, each.name, *each.stdio))
            urls = {
                "direct": await stack.enter_async_context(listening(SDK_SERVER, "http")),
                "mesh": f"{self.front}/agents/{SDK_SERVER.name}/mcp",
            }
            self.suite = {name: asyncio.create_task(self._run_suite(name, url)) for name, url in urls.items()}
            try:
                yield self
            finally:
                for task in self.suite.values():
                    task.cancel()
                await asyncio.gather(*self.suite.values(), return_exceptions=True)

    async def _run_suite(self, name: str, url: str) -> dict[tuple[str, str], str]:
        """The status of each check, by scenario and check."""
        results = self._files / name
        said = await self._run(*CONFORMANCE, "server", "--url", url, "--suite", "all", "--output-dir", str(results))
        found = {
            (path.parent.name[: -len("-2026-01-01T00-00-00-000Z")], each["id"]): each["status"]
            for path in results.glob("*/checks.json")
            for each in json.loads(path.read_bytes())
        }
        assert found, said
        return found

    async def inspect(self, way: str, server: str, era: str, *options: str) -> Any:
        """What the inspector prints. `way`: direct, connect (over stdio) or http."""
        mesh = ("--broker", self._broker.url, "--state-dir", str(self._broker.server.state_dir.path))
        argv = SERVERS[server].stdio if way == "direct" else (sys.executable, "-m", "bridge", "connect", server, *mesh)
        entry = {"type": "stdio", "command": argv[0], "args": list(argv[1:]), "cwd": str(ROOT)}
        if way == "http":
            entry = {"type": "http", "url": f"{self.front}/agents/{server}/mcp"}
        config = self._files / f"{way}-{server}-{era}.json"
        config.write_text(json.dumps({"mcpServers": {"peer": entry}}))
        said = await self._run(
            *INSPECTOR, "--config", str(config), "--server", "peer", "--protocol-era", era, "--format", "json", "--quiet", *options
        )
        return json.loads(said)

    async def _run(self, *argv: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=self._files,
            env=dict(npm_peers.environment(self._files)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            return (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture(scope="module")
def background(broker: Broker, plane: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background[World]]:
    npm_peers.install()
    world = World(broker, tmp_path_factory.mktemp("clients"))
    with Background(world.running) as background:
        yield background


def plain(said: Any) -> Any:
    """A result without what only one era has."""
    assert "result" in said, said
    return {key: value for key, value in said["result"].items() if key not in OF_AN_ERA}


@pytest.mark.proves("the inspector, both eras, stdio and HTTP")
@pytest.mark.parametrize("call", CALLS)
async def test_the_inspector(background: Background[World], call: str) -> None:
    server, options = CALLS[call]
    runs = [("direct", "legacy"), *((way, era) for era in ("legacy", "modern") for way in ("connect", "http"))]
    async with asyncio.timeout(50):
        direct, *through = await asyncio.gather(*(background.value.inspect(way, server, era, *options) for way, era in runs))
    assert plain(direct)
    for run, said in zip(runs[1:], through, strict=True):
        assert plain(said) == plain(direct), run


@pytest.mark.proves("the public conformance suite")
def test_the_conformance_suite(background: Background[World]) -> None:
    """Each check that passes directly passes through the mesh; and directly each scenario passes, so there is no excuse."""
    direct, mesh = (background.run(background.value.suite[name], 120) for name in ("direct", "mesh"))
    assert len({scenario for scenario, _ in direct}) >= 32
    assert "FAILURE" not in direct.values()
    assert {check: mesh.get(check) for check, status in direct.items() if status == "SUCCESS" and mesh.get(check) != "SUCCESS"} == {}
    assert {check for check, status in mesh.items() if status in ("FAILURE", "WARNING")} <= {
        check for check, status in direct.items() if status in ("FAILURE", "WARNING")
    }
