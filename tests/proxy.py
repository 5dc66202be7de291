"""A proxy between a participant and the broker, that cuts, refuses, forges and chops."""

import asyncio
import contextlib
from typing import Any, Self


class Proxy:
    """Stands before a port. `cut` ends all connections as a crash does, `refuse` lets none in, `to_client` forges what the broker says."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("nats://").rpartition(":")
        self._target = host, int(port)
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refuse = False
        self.greeting: bytes | None = None
        """What each new connection gets instead of the broker."""
        self.chunk = 1 << 16
        """The broker's bytes come in pieces of this size."""
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._server is not None
        return "nats://127.0.0.1:%d" % self._server.sockets[0].getsockname()[1]  # noqa: UP031 - shorter so

    def cut(self) -> int:
        """End all connections with a reset: nothing that is under way arrives."""
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for writer in pair:
                writer.transport.abort()
        return len(pairs)

    def to_client(self, raw: bytes) -> None:
        for _, client in self._pairs:
            client.write(raw)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            writer.transport.abort()
            return
        if self.greeting is not None:
            writer.write(self.greeting)
            writer.close()
            return
        try:
            from_broker, to_broker = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = (to_broker, writer)
        self._pairs.add(pair)
        for source, sink, chunk in ((reader, to_broker, 1 << 16), (from_broker, writer, 0)):
            task = asyncio.create_task(self._pump(source, sink, chunk, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, chunk: int, pair: Any) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(chunk or self.chunk):
                sink.write(data)
                await sink.drain()
        self._pairs.discard(pair)
        for writer in pair:
            writer.transport.abort()
