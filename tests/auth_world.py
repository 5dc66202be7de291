"""What the tests of who gets in share: users with different rights, an agent that notes who calls, and a front that asks for tokens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from mesh.crypto.creds import read_credentials
from mesh.identity.authority import Authority
from mesh.identity.finding import find_credentials
from mesh.identity.tokens import make_token
from tests.conftest import Broker
from tests.helpers import Recorder, serving
from tests.web_world import Client, agent, front

ME, OTHER, NOBODY = "alice", "bob b", "carol"
"""Two hosts, and one whose roles let it call nobody."""


class World:
    """A front with an agent behind it, and its users' tokens."""

    def __init__(self, url: str, broker: Broker, recorder: Recorder) -> None:
        self.url = url
        self.broker = broker
        self.authority: Authority = broker.authority
        self.recorder = recorder

    def token(self, name: str = ME, audience: str = "", lifetime: timedelta = timedelta(hours=1)) -> str:
        path = self.authority.credentials(name)
        assert path is not None
        return make_token(read_credentials(path), audience or self.url, lifetime)[0]

    @asynccontextmanager
    async def client(self, name: str = ME, *, agent: str = "witness", url: str = "", token: str | None = None) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {self.token(name, url) if token is None else token}"}
        async with httpx2.AsyncClient(timeout=20, headers=headers) as http:
            yield Client(http, f"{url or self.url}/agents/{agent}/mcp")


def state_of(broker: Broker) -> Path:
    return broker.server.state_dir.path


async def issue(broker: Broker, name: str, *roles: str) -> None:
    await find_credentials(state_of(broker), name, broker.url, roles)


@asynccontextmanager
async def made(broker: Broker, **spec: Any) -> AsyncIterator[World]:
    for name, roles in ((ME, ("agent", "host")), (OTHER, ("agent", "host")), (NOBODY, ("agent",))):
        await issue(broker, name, *roles)
    recorder = Recorder()
    async with serving(broker.url, "witness", recorder), agent(broker.url, "old", "asker"), front(broker.url, auth="token", **spec) as url:
        yield World(url, broker, recorder)


@asynccontextmanager
async def join(world: World, token: str, url: str = "") -> AsyncIterator[Any]:
    headers = {"Authorization": f"Bearer {token}"}
    address = f"ws{(url or world.url).removeprefix('http')}/agents/witness/ws"
    async with connect(address, subprotocols=[Subprotocol("mcp")], additional_headers=headers) as socket:
        yield socket
