"""One participant of a measurement, in a process of its own: `python -m bench.participant ROLE [ARGUMENT…]`.

It prints `{"event": "ready"}` when it can be used, and ends when its stdin ends: whoever started it may die in any way and leaves nobody
behind. A caller takes orders from stdin, one JSON object a line (the arguments of `run`), and answers each with the figures.

All clients are thin: bytes and dicts, no types of MCP. Every caller does the same work for its user: it writes a request, reads an
answer, and hands back the result as a dict. Only the raw client of NATS is spared both; what that costs is part of what the rows `call-…`
show.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, cast

import nats
import structlog
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench import wire
from bench.crowd import Actor, Echo, crowd, greeter, others
from bench.http_caller import http_caller
from bench.http_servers import peer, sdk_http
from bench.queues import event_filler, filler, listeners, mesh_consumer, mesh_publisher, raw_publisher, replayer, slow_worker
from bench.streams import raw_sink, raw_source, stream_sink, stream_source
from mesh import Mesh
from mesh.identity.finding import find_credentials
from mesh.link.heart import Heart
from mesh.settings import make_settings
from mesh.subjects import client_name

Call = Callable[[], Awaitable[None]]

LISTED_TOOL: Final = {
    "description": "Looks up what is known about something, and says where it was found and how old it is.",
    "inputSchema": {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "what to look for"}, "limit": {"type": "integer", "default": 10}},
        "required": ["query"],
    },
}
"""One of many, of a usual size."""


async def run(call: Call, *, width: int = 1, seconds: float | None = None, calls: int | None = None) -> dict[str, float]:
    """Call with `width` at once, for so many seconds or so many calls. `{"calls", "rate" (a second), "p50", "p99" (µs)}`."""
    tickets: Iterable[int] = itertools.count() if calls is None else iter(range(calls))
    times: list[float] = []
    start = time.perf_counter()
    end = start + seconds if seconds is not None else float("inf")

    async def worker() -> None:
        for _ in tickets:
            began = time.perf_counter()
            if began >= end:
                return
            await call()
            times.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(worker())
    took = time.perf_counter() - start
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return {"calls": len(times), "rate": len(times) / took, "p50": cuts[49] * 1e6, "p99": cuts[98] * 1e6}


# who calls


@asynccontextmanager
async def mesh_caller(broker: str, agent: str, name: str = wire.CALLER) -> AsyncIterator[Call]:
    """Over the mesh, as any Python program does."""
    async with Mesh(name=name, broker=broker) as mesh:

        async def call() -> None:
            wire.check(await mesh.call(agent, "echo", wire.ARGUMENTS))

        yield call


@asynccontextmanager
async def raw_caller(broker: str) -> AsyncIterator[Call]:
    """nats-py's own request: the same bytes on subjects of the same shape, and no header, as on the mesh."""
    client = await _raw(broker, wire.CALLER, inbox_prefix=wire.RAW_INBOX.encode())
    body, expected = wire.request("cli.0123456789.12345"), wire.answer("cli.0123456789.12345")

    async def call() -> None:
        if (await client.request(wire.RAW_CALL, body, timeout=60)).data != expected:
            raise ValueError("not the answer that was expected")

    try:
        yield call
    finally:
        await client.close()


async def _raw(broker: str, name: str, **options: Any) -> Client:
    """nats-py as it is, with the rights that a participant of that name has."""
    credentials = await find_credentials(make_settings(name=name).state_dir, name, broker)
    return await nats.connect(broker, name=client_name(name, "raw"), user_credentials=str(credentials), **options)


@asynccontextmanager
async def direct_caller(*command: str) -> AsyncIterator[Call]:
    """A stdio server as our own child, without anything between."""
    transport, protocol = await asyncio.get_running_loop().subprocess_exec(_Direct, *command, stderr=None)

    async def call() -> None:
        wire.check((await protocol.request(wire.request))["result"])

    try:
        yield call
    finally:
        transport.close()


@asynccontextmanager
async def lister(expected: str, *command: str) -> AsyncIterator[Call]:
    """A host that reads the whole list of tools, page by page, of a stdio server: it must have so many."""
    transport, protocol = await asyncio.get_running_loop().subprocess_exec(_Direct, *command, stderr=None)

    async def call() -> None:
        names: list[str] = []
        cursor: str | None = None
        while cursor or not names:
            page = (await protocol.request(lambda id, cursor=cursor: wire.list_request(id, cursor)))["result"]  # type: ignore[misc]
            names += [tool["name"] for tool in page["tools"]]
            cursor = page.get("nextCursor")
        if len(set(names)) < int(expected):
            raise ValueError(f"{len(set(names))} tools, not {expected}")

    try:
        async with asyncio.timeout(30):
            while True:  # the host may be there before all agents have told it
                with contextlib.suppress(ValueError):
                    await call()
                    break
                await asyncio.sleep(0.05)
        yield call
    finally:
        transport.close()


class _Direct(asyncio.SubprocessProtocol):
    """As careful as the bridge's own port: no task and no stream between a line and who waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._parts: list[bytes] = []
        self._stdin: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stdin = cast(asyncio.WriteTransport, cast(asyncio.SubprocessTransport, transport).get_pipe_transport(0))

    def request(self, write: Callable[[str], bytes]) -> asyncio.Future[dict[str, Any]]:
        id = f"{wire.CALLER}.{next(self._numbers)}"
        future = self._waiting[id] = asyncio.get_running_loop().create_future()
        self._stdin.write(write(id) + b"\n")
        return future

    def pipe_data_received(self, fd: int, data: Any) -> None:
        self._parts.append(data)
        if b"\n" not in data:
            return
        *lines, rest = b"".join(self._parts).split(b"\n")
        self._parts = [rest]
        for line in lines:
            answer = json.loads(line)
            self._waiting.pop(answer["id"]).set_result(answer)

    def process_exited(self) -> None:
        for future in self._waiting.values():
            future.set_exception(ConnectionError("the server ended"))


# who answers


@asynccontextmanager
async def mesh_echo(broker: str, agent: str) -> AsyncIterator[None]:
    """An agent of Python."""
    tool = {"name": "echo", "inputSchema": {"type": "object"}}
    async with Mesh(name=agent, broker=broker) as mesh, mesh.present(Echo(), entry={"tools": (tool,)}):
        yield None


@asynccontextmanager
async def mesh_many(broker: str, agents: str, tools: str) -> AsyncIterator[None]:
    """So many agents with so many tools each."""
    offered = tuple({"name": f"look_up_{tool}", **LISTED_TOOL} for tool in range(int(tools)))
    heart = Heart()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(heart.close)
        for agent in range(int(agents)):
            mesh = await stack.enter_async_context(Mesh(name=f"agent-{agent}", broker=broker, heart=heart))
            await stack.enter_async_context(mesh.present(Echo(), entry={"tools": offered}))
        yield None


@asynccontextmanager
async def raw_echo(broker: str) -> AsyncIterator[None]:
    """A subscription of nats-py in a queue group, as an agent's is."""
    client = await _raw(broker, "raw")
    answer = wire.answer("cli.0123456789.12345")

    async def on_message(message: Msg) -> None:
        await client.publish(message.reply, answer)

    await client.subscribe(wire.RAW_CALL, queue="raw", cb=on_message)
    await client.flush()
    try:
        yield None
    finally:
        await client.close()


ROLES: Final[dict[str, Callable[..., AbstractAsyncContextManager[Call | Actor | str | None]]]] = {
    "mesh-caller": mesh_caller,
    "raw-caller": raw_caller,
    "direct-caller": direct_caller,
    "http-caller": http_caller,
    "lister": lister,
    "mesh-echo": mesh_echo,
    "mesh-many": mesh_many,
    "raw-echo": raw_echo,
    "crowd": crowd,
    "greeter": greeter,
    "others": others,
    "mesh-publisher": mesh_publisher,
    "raw-publisher": raw_publisher,
    "filler": filler,
    "event-filler": event_filler,
    "replayer": replayer,
    "mesh-consumer": mesh_consumer,
    "slow-worker": slow_worker,
    "listeners": listeners,
    "stream-sink": stream_sink,
    "stream-source": stream_source,
    "raw-sink": raw_sink,
    "raw-source": raw_source,
    "sdk-http": sdk_http,
    "peer": peer,
}


async def main(role: str, *arguments: str) -> None:
    """Play the role until stdin ends."""
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with ROLES[role](*arguments) as call:
        print(json.dumps({"event": "ready", **({"http": call} if isinstance(call, str) else {})}), flush=True)
        async for order in orders:
            if isinstance(call, Actor):
                print(json.dumps(await call.act(**json.loads(order))), flush=True)
            elif callable(call):
                print(json.dumps(await run(call, **json.loads(order))), flush=True)


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),  # stdout is for the figures
    )
    uvloop.run(main(*sys.argv[1:]))
