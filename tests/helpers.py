"""What the fault tests share: a proxy that cuts, participants that record, bridges in processes of their own, and ways to wait."""

import asyncio
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import pytest

from mesh import Mesh
from mesh.errors import MeshError
from mesh.link.call import Call
from mesh.link.connection import Connection
from mesh.registry.directory import Directory
from mesh.registry.presence import Presence
from mesh.wire.jsonrpc import Frame, dumps

T = TypeVar("T")

CUT_WARNINGS = [
    pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""For tests that cut connections: nats-py leaves one that is cut while it greets to the garbage collector."""

ROOT = Path(__file__).resolve().parent.parent


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

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(timeout=30)


@asynccontextmanager
async def control_plane(broker_url: str) -> AsyncIterator[Any]:
    async with Mesh(name="mesh", broker=broker_url) as mesh, mesh.control_plane() as plane:
        yield plane


# ---- a proxy between a participant and the broker


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


@asynccontextmanager
async def serving(broker_url: str, name: str, *handlers: Recorder, **options: Any) -> AsyncIterator[list[Presence]]:
    """An agent of this process, an instance for each handler."""
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh(name=name, broker=broker_url))
        yield [await stack.enter_async_context(mesh.present(each, **options)) for each in handlers]


def figure(text: str) -> None:
    """Something measured, for who runs pytest with -rP."""
    sys.stdout.write(text + "\n")


# ---- bridges in processes of their own


class Bridge:
    """`mesh-bridge serve NAME -- SERVER` as a process. Methods are synchronous: from an async test use `asyncio.to_thread` for `wait`."""

    def __init__(self, broker_url: str, name: str, server: str | list[str], *options: str) -> None:
        command = server if isinstance(server, list) else [sys.executable, "-m", f"tests.servers.{server}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bridge", "serve", name, "--broker", broker_url, "--json", *options, "--", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        self.errors: list[str] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._threads = [threading.Thread(target=target) for target in (self._read_events, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def wait(self, kind: str = "ready", timeout: float = 20.0) -> dict[str, Any]:
        """The next event of a kind."""
        while True:
            event = self._events.get(timeout=timeout)
            assert event["event"] != "ended" or kind == "ended", f"the bridge ended: {''.join(self.errors)[-2000:]}"
            if event["event"] == kind:
                return event

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def close(self) -> None:
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for thread in self._threads:
            thread.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put({"event": "ended"})

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line.decode("utf-8", "replace"))


@contextmanager
def bridges(broker_url: str, *plans: tuple[Any, ...]) -> Iterator[list[Bridge]]:
    """Several bridges at once: `(name, server, *options)` each. Yields when all are ready."""
    made = [Bridge(broker_url, *plan) for plan in plans]
    try:
        for each in made:
            each.wait()
        yield list(made)
    finally:
        for each in made:
            each.close()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def ended(pid: int, timeout: float = 10.0) -> None:
    """Wait for the end of a process that may be no child of ours."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, event.set)
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def text_of(result: dict[str, Any]) -> str:
    """The text of a tool's result."""
    return str(result["content"][0]["text"])
