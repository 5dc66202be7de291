"""Servers that nobody here wrote, behind each port that exposes one, reached over each way in, in both eras: what the client hears is
what it hears directly.

A server of the handshake era alone is translated for a client of the modern era. Then the answers are compared without what only one era
has.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from bridge import mesh_transport
from bridge.app import expose, make_spec, port_factory
from mesh import Mesh
from tests import npm_peers
from tests.helpers import ROOT, Background
from tests.peer_servers import EVERYTHING_SERVER, MODERN, SDK_SERVER, TIME_SERVER, Server, git_server, listening
from tests.peers import Record, Transport, has_tasks, over_stdio, over_url, over_websocket, play, without_tasks
from tests.web_world import front

pytestmark = [
    pytest.mark.timeout(300),  # the first test may install what npm has
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

EXPOSED: Final = ("everything-stdio", "everything-http", "everything-sse", "sdk-stdio", "sdk-http", "time-stdio", "git-stdio")
WAYS: Final = ("connect", "http", "websocket", "python")
ERAS: Final = ("handshake", "modern")


class World:
    """A front, and the servers, each as an agent for each transport that it speaks."""

    def __init__(self, broker_url: str, repository: Path) -> None:
        self.broker_url = broker_url
        self.servers = {each.name: each for each in (EVERYTHING_SERVER, SDK_SERVER, TIME_SERVER, git_server(repository))}
        self.urls: dict[str, str] = {}
        self.front = ""
        self._heard: dict[tuple[str, str], Record] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        async with AsyncExitStack() as stack:
            self.front = await stack.enter_async_context(front(self.broker_url))
            await asyncio.gather(*(stack.enter_async_context(self._agent(each)) for each in EXPOSED))
            yield self

    @asynccontextmanager
    async def _agent(self, agent: str) -> AsyncIterator[None]:
        server, transport = self.server(agent)
        async with AsyncExitStack() as stack:
            if transport == "stdio":
                spec = make_spec(name=agent, command=server.stdio, cwd=ROOT)
            else:
                self.urls[agent] = await stack.enter_async_context(listening(server, transport))
                spec = make_spec(name=agent, url=self.urls[agent], transport=transport)
            make_port = await stack.enter_async_context(port_factory(spec))
            mesh = await stack.enter_async_context(Mesh(name=agent, broker=self.broker_url))
            await stack.enter_async_context(expose(mesh, spec, make_port))
            yield

    def server(self, agent: str) -> tuple[Server, str]:
        name, _, transport = agent.partition("-")
        return self.servers[name], transport

    async def directly(self, agent: str, era: str) -> Record:
        """What a client hears from the server itself; once for all ways in."""
        if (agent, era) not in self._heard:
            server, transport = self.server(agent)
            self._heard[agent, era] = await play(
                over_stdio(*server.stdio) if transport == "stdio" else over_url(self.urls[agent]), era, server.steps
            )
        return self._heard[agent, era]

    async def through_the_mesh(self, way: str, agent: str, era: str) -> Record:
        ways: dict[str, Callable[[], Transport]] = {
            "connect": lambda: over_stdio(sys.executable, "-m", "bridge", "connect", agent, "--broker", self.broker_url),
            "http": lambda: over_url(f"{self.front}/agents/{agent}/mcp"),
            "websocket": lambda: over_websocket(f"{self.front}/agents/{agent}/ws".replace("http:", "ws:")),
            "python": lambda: mesh_transport(agent, broker=self.broker_url),
        }
        return await play(ways[way](), era, self.server(agent)[0].steps)


@pytest.fixture(scope="module")
def world(plane: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    npm_peers.install()
    repository = tmp_path_factory.mktemp("repository")
    person = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command], cwd=repository, check=True, env={**os.environ, **person})
    world = World(plane, repository)
    with Background(world.running):
        yield world


@pytest.mark.proves("servers that others wrote, through every pair of ports")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("agent", EXPOSED)
async def test_direct_and_through_the_mesh_are_the_same(world: World, agent: str, way: str) -> None:
    async with asyncio.timeout(50):
        played = [play(agent, era) for era in ERAS for play in (world.directly, partial(world.through_the_mesh, way))]
        records = await asyncio.gather(*played)
        for era, wanted, got in zip(ERAS, records[::2], records[1::2], strict=True):
            assert got.version == (MODERN if era == "modern" else wanted.version)
            if not has_tasks(wanted):
                got = without_tasks(got)
            if got.version != wanted.version:
                wanted, got = wanted.plain(), got.plain()
            assert not (found := differences(wanted, got)), "\n".join([era, *found])
            assert len(got.answers) >= len(world.server(agent)[0].steps) - 1, "one step is for one era"


def differences(wanted: Record, got: Record) -> list[str]:
    """What was wanted and what came, for each field or answer that differs."""
    found = []
    for name in Record.__dataclass_fields__:
        one, other = getattr(wanted, name), getattr(got, name)
        pairs = zip(one, other, strict=True) if isinstance(one, list) and len(one) == len(other) else [(one, other)]
        found += [f"{name}\n  direct {pair[0]}\n  mesh   {pair[1]}" for pair in pairs if pair[0] != pair[1]]
    return found
