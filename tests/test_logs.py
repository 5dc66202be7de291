"""Log messages of a modern server on a pipe, where they name no request: they reach the call that asked for them, or nobody."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from bridge.connect import Connected
from mesh import Mesh
from mesh.wire.jsonrpc import dumps
from tests.helpers import Background, Signals
from tests.web_world import ENVELOPE, agent

LEVEL = "io.modelcontextprotocol/logLevel"
LOG = "notifications/message"


@asynccontextmanager
async def world(broker: str) -> AsyncIterator[None]:
    async with agent(broker, "chatty", sys.executable, "-m", "tests.servers.peer", "stdio"):
        yield


class Host:
    """What came for each request is under its id."""

    def __init__(self, mesh: Mesh) -> None:
        self.heard: dict[int, list[dict[str, Any]]] = {}
        self.signals = Signals()
        self.link = Connected(mesh, "chatty", lambda _: None)

    def start(self, id: int, method: str, **params: Any) -> None:
        self.heard[id] = []

        def hear(raw: bytes, _: bool) -> None:
            self.heard[id].append(json.loads(raw))
            self.signals.tell()

        meta = {**ENVELOPE, **params.pop("meta", {})}
        self.link.receive(dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": meta}}), hear)

    async def call(self, id: int, tool: str, level: str = "") -> list[dict[str, Any]]:
        """The log messages that came before its response."""
        self.start(id, "tools/call", name=tool, arguments={}, meta={LEVEL: level} if level else {})
        await self.signals.until(lambda: any("result" in each for each in self.heard[id]))
        *said, last = self.heard[id]
        assert not last["result"].get("isError"), last
        assert all(each["method"] == LOG for each in said)
        return [each["params"] for each in said]


@pytest.fixture(scope="module")
def chatty(plane: str) -> Iterator[None]:
    with Background(lambda: world(plane)):
        yield


@asynccontextmanager
async def hosts(plane: str, *names: str) -> AsyncIterator[list[Host]]:
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        made = [Host(await stack.enter_async_context(Mesh(name=name, broker=plane))) for name in names]
        for each in made:
            stack.push_async_callback(each.link.close)
        yield made


@pytest.mark.proves("server notification notifications/message, modern")
async def test_logs_come_on_the_call_that_asks_for_them(plane: str, chatty: None) -> None:
    async with hosts(plane, "host", "other") as [host, other]:
        other.start(1, "subscriptions/listen", notifications={"toolsListChanged": True})
        await other.signals.until(lambda: other.heard[1])
        assert [each["data"] for each in await host.call(1, "log", "debug")] == ["quiet", "loud"]
        assert [each["data"] for each in await host.call(2, "log", "warning")] == ["loud"]
        assert await host.call(3, "log") == []
        host.start(4, "tools/call", name="hang", arguments={})
        await host.call(5, "began")
        assert [each["data"] for each in await host.call(6, "log", "error")] == []
        assert [each["data"] for each in await host.call(7, "log", "info")] == ["loud"]
        assert host.heard[4] == []
        assert len(other.heard[1]) == 1


async def test_logs_that_may_be_anothers_reach_nobody(plane: str, chatty: None) -> None:
    async with hosts(plane, "host", "other") as [host, other]:
        other.start(1, "tools/call", name="hang", arguments={}, meta={LEVEL: "debug"})
        await host.call(1, "began")
        assert await host.call(2, "log", "debug") == []
        assert other.heard[1] == []
        other.link.receive(dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}))
        await host.call(3, "cancelled")
        assert len(await host.call(4, "log", "debug")) == 2
