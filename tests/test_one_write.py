"""What a client's socket gets of a response, and when: over a real connection."""

import asyncio
from typing import Any

import pytest

from bridge.web.one_write import OneWrite

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Writes(asyncio.Transport):
    """A transport that notes each write and hands it on."""

    def __init__(self, transport: asyncio.Transport, seen: list[bytes]) -> None:
        self._transport = transport
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        self._seen.append(bytes(data))
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ([HEAD, b"ok"], [HEAD + b"ok"]),
        ([HEAD], [HEAD]),
        ([HEAD, b"ok", b"more"], [HEAD + b"ok", b"more"]),
        ([HEAD, b"ok", HEAD, b"ok"], [HEAD + b"ok", HEAD + b"ok"]),
        ([b"data: 1"], [b"data: 1"]),
    ],
)
@pytest.mark.parametrize("closed", [False, True])
async def test_a_head_waits_for_its_body_but_not_beyond_the_turn_or_the_end(said: list[bytes], written: list[bytes], closed: bool) -> None:
    seen: list[bytes] = []
    made: list[OneWrite] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            made.append(OneWrite(Writes(transport, seen)))
            for each in said:
                made[0].write(each)
            if closed:
                made[0].close()

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    async with asyncio.timeout(5), server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.readexactly(len(b"".join(said))) == b"".join(said)
        assert seen == written
        if not closed:
            made[0].close()
        assert await reader.read() == b""
        writer.close()
