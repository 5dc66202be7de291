"""What the fault tests share: participants that record, and ways to wait. The proxy and the processes have files of their own."""

import asyncio
import gc
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Generic, Self, TypeVar

import pytest

from mesh import Mesh
from mesh.errors import MeshError
from mesh.link.call import Call
from mesh.link.connection import Connection
from mesh.link.heart import Beat, Heart, OpenConnection
from mesh.registry.directory import Directory
from mesh.registry.presence import Presence
from mesh.wire.jsonrpc import Frame, dumps
from tests.processes import ROOT, Bridge, alive, bridges, ended
from tests.proxy import Proxy

__all__ = [
    "CUT_WARNINGS", "ROOT", "Background", "Bridge", "Proxy", "Recorder", "Signals", "Still", "alive", "all_retrieved", "arguments_of",
    "back", "bridges", "control_plane", "ended", "figure", "finish", "hold", "live", "lost", "serving", "settled", "text_of", "up",
    "watching",
]  # fmt: skip

T = TypeVar("T")

CUT_WARNINGS = [
    pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""For tests that cut connections: nats-py leaves one that is cut while it greets to the garbage collector."""


# ---- waiting, without sleeping


class Signals:
    """Something has changed: `tell` it from any callback of the loop, `until` waits for a condition that changes with it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self, *_: object) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout):
            while not condition():
                self._event.clear()
                await self._event.wait()


@asynccontextmanager
async def watching(mesh: Mesh) -> AsyncIterator[tuple[Directory, Signals]]:
    """A directory, and a signal at each of its changes."""
    signals = Signals()
    async with mesh.directory(signals.tell) as directory:
        yield directory, signals


def live(directory: Directory, name: str) -> list[str]:
    """The instances of an agent that are alive."""
    return [each.entry.instance for agent in directory.agents() if agent.name == name for each in agent.instances]


def lost(directory: Directory, name: str) -> list[str]:
    return [each.instance for agent in directory.agents() if agent.name == name for each in agent.lost]


async def up(connection: Connection) -> None:
    """Wait until a connection is there again."""
    event = asyncio.Event()
    detach = connection.on_up(event.set)
    try:
        if not connection.connected:
            async with asyncio.timeout(15):
                await event.wait()
    finally:
        detach()


async def back(connection: Connection, disturb: Callable[[], object]) -> None:
    """Do what breaks a connection, and wait until it has broken and is there again."""
    event = asyncio.Event()
    detach = connection.on_up(event.set)
    try:
        disturb()
        async with asyncio.timeout(15):
            await event.wait()
    finally:
        detach()


async def settled(mesh: Mesh) -> None:
    """After the broker was away: wait until this participant and the control plane are there again, and the health bucket with them."""
    await up(mesh.connection)
    async with asyncio.timeout(15):
        while True:
            try:
                async with watching(mesh) as (directory, signals):
                    await signals.until(lambda: live(directory, "mesh"))
                    return
            except MeshError:
                await asyncio.sleep(0.05)  # the bucket is being made; nobody tells us when


@contextmanager
def all_retrieved() -> Iterator[None]:
    """No task and no future of this loop ends with an exception that nobody looks at."""
    loop, told = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: told.append(context))
    try:
        yield
        gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert told == []


class Background(Generic[T]):
    """An async context manager in a loop of its own, in a thread: for fixtures that outlive a test's loop. `value` is what it yields."""

    def __init__(self, manager: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._manager = manager
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="background")
        self.value: T

    def __enter__(self) -> Self:
        self._thread.start()
        self._context = self._manager()
        self.value = self.run(self._context.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self._context.__aexit__(None, None, None))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)
            self._loop.close()

    def freeze(self) -> threading.Event:
        """Block its loop until the event is set."""
        thaw = threading.Event()
        self._loop.call_soon_threadsafe(thaw.wait, 20)
        return thaw

    def run(self, work: Awaitable[Any], timeout: float = 30.0) -> Any:
        async def wait() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(timeout)


@asynccontextmanager
async def control_plane(broker_url: str) -> AsyncIterator[Any]:
    async with Mesh(name="mesh", broker=broker_url) as mesh, mesh.control_plane() as plane:
        yield plane


# ---- participants in this process


class Recorder:
    """A handler that notes what comes. `work(call)` answers; what it is given by default answers with the arguments."""

    def __init__(self, work: "Callable[[Recorder, Call], Coroutine[Any, Any, None]] | None" = None) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[str] = []
        self.messages: list[Frame] = []
        self.ran: dict[Any, int] = {}
        """By the argument `n`: how often it ran."""
        self.signals = Signals()
        self._work = work or _echo
        self._tasks: set[asyncio.Task[None]] = set()

    def on_call(self, call: Call) -> None:
        self.calls.append(call)
        n = arguments_of(call).get("n")
        self.ran[n] = self.ran.get(n, 0) + 1
        task = asyncio.create_task(self._work(self, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.signals.tell()

    def on_cancel(self, call: Call, reason: str) -> None:
        self.cancelled.append(call.id)
        self.signals.tell()

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        self.messages.append(frame)
        self.signals.tell()


def arguments_of(call: Call) -> dict[str, Any]:
    found = (json.loads(call.frame.raw).get("params") or {}).get("arguments")
    return found if isinstance(found, dict) else {}


def finish(call: Call, result: Any) -> None:
    call.finish(b'{"jsonrpc":"2.0","id":' + dumps(call.id) + b',"result":' + dumps(result) + b"}")


async def _echo(_: Recorder, call: Call) -> None:
    finish(call, {"echo": arguments_of(call)})


async def hold(_: Recorder, call: Call) -> None:
    """Never answer."""


class Still(Heart):
    """No heartbeats, so no thread to wait for at the end: for tests that take less than the four seconds that the first one lasts."""

    def add(self, subject: str, beat: Beat, open_connection: OpenConnection) -> None:
        """Nothing."""


@asynccontextmanager
async def serving(
    broker_url: str, name: str, *handlers: Recorder, heart: Heart | None = None, **options: Any
) -> AsyncIterator[list[Presence]]:
    """An agent of this process, an instance for each handler."""
    roles = ("agent", "host", *options.get("roles", ()))
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh(name=name, broker=broker_url, heart=heart, roles=roles))
        yield [await stack.enter_async_context(mesh.present(each, **options)) for each in handlers]


def figure(text: str) -> None:
    """Something measured, for who runs pytest with -rP."""
    sys.stdout.write(text + "\n")


def text_of(result: dict[str, Any]) -> str:
    """The text of a tool's result."""
    return str(result["content"][0]["text"])
