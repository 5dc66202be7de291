"""What the tests of one connection share: a connection with a subscription, whether it works, and ways into it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.transport import TcpTransport

from mesh.errors import NoResponders
from mesh.link.client import FastClient
from mesh.link.connection import Connection, Message
from tests.helpers import Signals


class Heard:
    """What a subscription brought."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.signals = Signals()

    def __call__(self, message: Message) -> None:
        self.bodies.append(message.body)
        self.signals.tell()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[Connection, Heard]]:
    async with asyncio.timeout(25), await Connection.open(url, name="test") as connection:
        await connection.subscribe("here", heard := Heard())
        yield connection, heard


async def works(connection: Connection, heard: Heard, text: bytes = b"still") -> None:
    """Its subscription brings what is sent, and requests are answered."""
    await connection.publish("here", text)
    await heard.signals.until(lambda: heard.bodies and heard.bodies[-1] == text)
    with pytest.raises(NoResponders):
        await connection.request("nobody.here", b"", timeout=5)


def client_of(connection: Connection) -> FastClient:
    return connection._client


async def in_lane(connection: Connection) -> None:
    """Wait until the fast lane is taken: at the first moment without a half-read frame."""
    async with asyncio.timeout(5):
        while client_of(connection)._wire is None:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)


def abort(connection: Connection) -> None:
    transport = client_of(connection)._transport
    assert isinstance(transport, TcpTransport)
    assert transport._io_writer is not None
    transport._io_writer.transport.abort()
