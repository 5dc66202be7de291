"""The peers of the ports' conformance suite: a server a transport, in a process that can be killed, and what each port can do, as data."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from bridge.ports.base import PortFactory, ServerPort
from bridge.ports.child import ChildPort
from bridge.ports.http import HttpServer
from bridge.ports.local import LocalServer
from bridge.ports.sse_port import SseServer
from bridge.ports.ws import WebSocketServer
from tests.http_peers import Asked, Heard, event, raw_server
from tests.servers.mirror import Mirror
from tests.servers.peer import make

ROOT: Final = Path(__file__).resolve().parent.parent
PEER: Final = [sys.executable, "-m", "tests.servers.peer"]


@dataclass(frozen=True)
class Can:
    """What a port can do. Each False is a limit of its transport, and the reason stands beside it."""

    raw_bytes: bool = True
    """Every byte of a message passes."""
    killed: bool = True
    """Its server can die without us."""
    unreachable: bool = True
    """There may be nothing at the other end."""
    says_origin: bool = False
    """It knows which request a notification came with."""
    notices_death: bool = True
    """It hears of the server's death at once. Otherwise the next request tells."""


CAPABILITIES: Final = {
    "child": Can(),
    "http": Can(says_origin=True, notices_death=False),  # connections come and go; only a session that is not known any more is an end
    "sse": Can(),
    "ws": Can(),
    "local": Can(raw_bytes=False, killed=False, unreachable=False, says_origin=True),  # objects of the SDK, in this process
}

PATHS: Final = {"http": "/mcp", "sse": "/sse", "ws": "/"}


@dataclass
class Peer:
    """The SDK's server behind one transport. `kill` and `start` stay away from transports that cannot."""

    transport: str
    process: asyncio.subprocess.Process | None = None
    number: int = 0
    """Of its TCP port: the same after a restart."""
    factory: PortFactory | None = None
    children: list[ChildPort] = field(default_factory=list)

    @property
    def can(self) -> Can:
        return CAPABILITIES[self.transport]

    def port(self) -> ServerPort:
        assert self.factory is not None
        return self.factory()

    async def start(self) -> None:
        if self.transport in PATHS:
            self.process = await asyncio.create_subprocess_exec(
                *PEER, self.transport, str(self.number), cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            assert self.process.stdout is not None
            self.number = int(await self.process.stdout.readline())

    async def kill(self) -> None:
        if self.transport == "child":
            for child in self.children:
                if child.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
        elif self.process is not None:
            self.process.kill()
            await self.process.wait()

    def child(self) -> ChildPort:
        self.children.append(ChildPort("peer", [*PEER, "stdio"], cwd=ROOT))
        return self.children[-1]


def remote(transport: str, number: int, path: str | None = None) -> AbstractAsyncContextManager[Any]:
    """The factory of the ports to what listens on a TCP port."""
    kinds: dict[str, Any] = {"http": HttpServer, "sse": SseServer, "ws": WebSocketServer}
    where = f"{'ws' if transport == 'ws' else 'http'}://127.0.0.1:{number}{PATHS[transport] if path is None else path}"
    made: AbstractAsyncContextManager[Any] = kinds[transport]("peer", where)
    return made


@contextlib.contextmanager
def listening_peers() -> Iterator[dict[str, int]]:
    """The TCP ports of one peer for each transport that listens, for tests that leave them alive."""
    processes = {each: subprocess.Popen([*PEER, each, "0"], cwd=ROOT, stdout=subprocess.PIPE) for each in PATHS}
    try:
        yield {transport: int(process.stdout.readline()) for transport, process in processes.items() if process.stdout is not None}
    finally:
        for process in processes.values():
            with process:
                process.kill()


@asynccontextmanager
async def peer_of(transport: str, number: int | None = None) -> AsyncIterator[Peer]:
    """`number`: the TCP port of one that listens already. Otherwise it has a process of its own."""
    peer = Peer(transport)
    if transport == "child":
        peer.factory = peer.child
        yield peer
    elif transport == "local":
        async with LocalServer(make()).entered() as local:
            peer.factory = local.port
            yield peer
    else:
        if number is None:
            await peer.start()
        else:
            peer.number = number
        try:
            async with remote(transport, peer.number) as server:
                peer.factory = server.port
                yield peer
        finally:
            if peer.process is not None and peer.process.returncode is None:
                await peer.kill()


@asynccontextmanager
async def opened(port: ServerPort) -> AsyncIterator[Heard]:
    heard = Heard(port)
    await port.open(heard.on_frame, heard.on_end)
    try:
        yield heard
    finally:
        async with asyncio.timeout(8):
            await port.close()


@asynccontextmanager
async def mirror_of(transport: str) -> AsyncIterator[PortFactory]:
    """The server that answers with the bytes that came."""
    mirror = Mirror()
    if transport == "child":
        yield lambda: ChildPort("mirror", [sys.executable, "-m", "tests.servers.mirror"], cwd=ROOT)
    elif transport == "ws":

        async def talk(connection: ServerConnection) -> None:
            async for text in connection:
                if (answer := mirror.take(text.encode() if isinstance(text, str) else b"!")) is not None:
                    await connection.send(answer, text=True)

        async with contextlib.AsyncExitStack() as stack:
            listening = await stack.enter_async_context(serve(talk, "127.0.0.1", 0, subprotocols=[Subprotocol("mcp")], max_size=2**26))
            server = await stack.enter_async_context(remote("ws", listening.sockets[0].getsockname()[1]))
            yield server.port
    elif transport == "http":

        def say(asked: Asked) -> None:
            answer = mirror.take(asked.body)
            asked.say("202 Accepted", kind="") if answer is None else asked.say(body=answer)

        async with raw_server(say) as raw, HttpServer("mirror", raw.url) as http:
            yield http.port
    else:
        async with sse_mirror(mirror) as factory:
            yield factory


@asynccontextmanager
async def sse_mirror(mirror: Mirror) -> AsyncIterator[PortFactory]:
    streams: list[Asked] = []

    async def talk(asked: Asked) -> None:
        if asked.method == "GET":
            asked.stream(b"event: endpoint\ndata: /messages?session=1\n\n")
            streams.append(asked)
            await asked.gone()
            return
        if (answer := mirror.take(asked.body)) is not None:
            streams[-1].writer.write(event(answer))
        asked.say("202 Accepted", b"Accepted", "text/plain")

    async with raw_server(talk) as raw, SseServer("mirror", raw.url) as server:
        yield server.port
