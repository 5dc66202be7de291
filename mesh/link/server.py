"""The embedded broker: a real nats-server as a child process, started, watched, restarted and stopped.

Theory of operation
-------------------
The server runs with nats-server.conf as a person would start it. What differs for this mesh stands in a start file in the state directory
that includes the common one (mesh/link/server_start.py).

A free port is asked for as -1. The server takes one and writes all that it listens on into a ports file, just before it is ready: no
port is guessed, and none can be taken between guess and use. A restart asks for the same ports again, so that clients find it.

The server leads a session of its own: Ctrl-C in the terminal reaches the mesh alone, which stops the broker last. If this process dies
instead, the kernel sends the server SIGTERM (Linux). Elsewhere the server outlives us, and the next mesh on the state directory ends it.

Source: docs.nats.io, "Server configuration"; all of it seen on 2.15.1.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from mesh.background import end_tasks
from mesh.clock import monotonic
from mesh.errors import BrokerError, BrokerUnavailable, ConfigError
from mesh.link.address import is_loopback
from mesh.link.server_log import LogReader, loss_in, tail
from mesh.link.server_program import (
    OLDEST_EMBEDDED,
    check_server_info,
    check_version,
    find_binary,
    find_config,
    monitor_page,
    read_info,
    version_of,
)
from mesh.link.server_start import command, failure, loopback, processors, start_file
from mesh.link.state_dir import StateDir, private
from mesh.link.tls import ServerTls

__all__ = ["EmbeddedServer", "Event", "check_server_info"]

STEADY: Final = 30.0
"""Seconds that a server must have run for its next death to be the first again, not one more of a series."""

FIRST_DELAY: Final = 0.1
LAST_DELAY: Final = 10.0
"""Seconds before the first restart, and at most. In between they double; each is drawn from its upper half, so that hosts spread."""

LOG_INTERVAL: Final = 1.0
"""Seconds between two looks at the log."""

Event = Literal["died", "restarted", "restart_failed", "dropped"]
"""died, restarted, restart_failed: the process. dropped: the server discarded messages or requests that it had taken, and says which."""

logger = logging.getLogger(__name__)


class EmbeddedServer:
    """One nats-server on one state directory. `async with`, or `start` and `stop`.

    `trust` are the variables of nats-server.conf that say whom the broker admits: `MESH_OPERATOR`, a file, and `MESH_ACCOUNTS`, a
    directory. As a function it is called when the state directory is ours alone, and may change what is in it. Ports: None takes what
    the configuration says, 0 a free one, a number that one. `on_event(kind, detail)` is called in the event loop. The thread that calls
    `start` must live as long as the server is to: Linux ties the server to that thread.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        trust: Mapping[str, str] | Callable[[], Mapping[str, str]],
        port: int | None = None,
        monitor_port: int | None = None,
        websocket_port: int | None = None,
        host: str | None = None,
        tls: ServerTls | None = None,
        config: Path | None = None,
        on_event: Callable[[Event, str], None] | None = None,
        start_timeout: float = 30.0,
        stop_timeout: float = 20.0,
    ) -> None:
        """`start_timeout` leaves room for reading large streams again, `stop_timeout` for their consumers (10 ms each). ConfigError."""
        self.state_dir = StateDir(state_dir)
        self.url = ""
        """For clients. Empty before the first start; afterwards it stays the same."""
        self.monitor_url = ""
        """Where monitoring answers; empty also where the configuration has none. The same for `websocket_url`."""
        self.websocket_url = ""
        self.restarts = 0
        self._make_trust = trust if callable(trust) else lambda: trust
        self._ports = {"port": port, "http": monitor_port, "websocket": websocket_port}
        if host is not None and tls is None and not is_loopback(host):
            raise ConfigError(
                f"the broker does not listen on {host} without TLS: what travels could be read on the way",
                hint="`mesh auth tls` makes certificates, and `mesh up --listen` takes them.",
            )
        self._host = "127.0.0.1" if host == "localhost" else host
        self._tls = tls
        self.config = (config or find_config()).resolve()
        self._on_event = on_event
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._binary = Path()
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pid(self) -> int | None:
        """The server's process, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start, and return once the server takes connections. BrokerMissing, BrokerUnsuitable, PortTaken,
        StateDirUnusable, StateDirInUse, or BrokerUnavailable with the end of the log."""
        self._binary = find_binary()
        check_version(await version_of(self._binary), OLDEST_EMBEDDED, str(self._binary))
        self.state_dir.acquire()
        try:
            await self._end_orphan()
            self._trust = {name: json.dumps(value) for name, value in self._make_trust().items()}
            await self._launch()
        except BaseException:
            self.state_dir.release()
            raise
        self._tasks = [
            asyncio.create_task(self._watch(), name="broker-watch"),
            asyncio.create_task(self._follow_log(), name="broker-log"),
        ]

    async def stop(self) -> None:
        """End the server and wait for it: SIGTERM, and SIGKILL after `stop_timeout`. Then free the state directory. Idempotent."""
        await end_tasks(*self._tasks)
        self._tasks = []
        await self._end_process(self._stop_timeout)
        self.state_dir.release()

    async def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until the server takes connections, after a death too. BrokerUnavailable."""
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            raise BrokerUnavailable(f"the broker is not back after {timeout:g} s", hint=f"Read {self.state_dir.broker_log}.") from None

    async def monitor(self, path: str, timeout: float = 5.0) -> dict[str, Any]:
        """One page of the server's monitoring, `/varz` for example. BrokerUnavailable."""
        return await asyncio.to_thread(monitor_page, self.monitor_url, path, timeout)

    def tail_log(self, lines: int = 20) -> list[str]:
        """The end of the server's log, for an error message or a look."""
        return tail(self.state_dir.broker_log, lines)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    # ---- The process

    async def _launch(self) -> None:
        """One process, from its start to the first connection that it takes. Whatever goes wrong, none is left behind."""
        state = self.state_dir
        try:
            text = start_file(self.config, state, self._ports, self._host, self._tls)
            state.write_config(text)
            for stale in state.path.glob("*.ports"):
                stale.unlink()
            # It opens its log by itself. What it says before that (a mistake in the configuration), and a panic, go to the same file.
            stderr = os.fdopen(private(state.broker_log, os.O_WRONLY | os.O_APPEND), "ab")
        except OSError as error:
            raise state.unusable(str(error)) from error
        new_lines = LogReader(state.broker_log)
        with stderr:
            self._process = await asyncio.create_subprocess_exec(
                *command(self._binary, state),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                cwd=self.config.parent,  # Certificates are named relative to it.
                env={"GOMAXPROCS": processors(), **os.environ, **self._trust},
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(self._start_timeout):
                ports = await self._listening(self._process)
                self.url = loopback(ports.get("nats", []))
                self.monitor_url = loopback(ports.get("monitoring", []))
                self.websocket_url = loopback(ports.get("websocket", []))
                check_server_info(await read_info(self.url))
        except BaseException as error:
            await self._end_process(0.0)
            if isinstance(error, TimeoutError):
                late = f"the broker was not ready after {self._start_timeout:g} s"
                raise failure(late, new_lines.read(), self.config, state) from None
            if isinstance(error, (EOFError, OSError)):
                raise failure("the broker ended while it started", new_lines.read(), self.config, state) from None
            raise
        finally:
            new_lines.close()
        for key, url in (("port", self.url), ("http", self.monitor_url), ("websocket", self.websocket_url)):
            if self._ports[key] == 0:
                self._ports[key] = int(url.rpartition(":")[2])
        self._ready.set()

    async def _listening(self, process: asyncio.subprocess.Process) -> dict[str, list[str]]:
        """The ports file, once it is there: {"nats": [url], "monitoring": [url], "websocket": [url]}. EOFError if the server ends."""
        while process.returncode is None:
            for file in self.state_dir.path.glob(f"*_{process.pid}.ports"):
                try:
                    ports: dict[str, list[str]] = json.loads(file.read_text())
                except ValueError:  # Half written.
                    continue
                return ports
            await asyncio.sleep(0.02)
        raise EOFError

    async def _end_process(self, patience: float) -> None:
        """SIGTERM, unless there is no patience, and SIGKILL. Afterwards there is no process."""
        process = self._process
        self._ready.clear()
        if process is None:
            return
        try:
            if process.returncode is None and patience > 0:
                process.terminate()
                async with asyncio.timeout(patience):
                    await process.wait()
        except (TimeoutError, ProcessLookupError):
            pass
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            self.state_dir.broker_pid_file.unlink(missing_ok=True)

    async def _end_orphan(self) -> None:
        """End a broker that outlived its mesh: it holds the ports and the store."""
        for sent, patience in ((signal.SIGTERM, self._stop_timeout), (signal.SIGKILL, 5.0)):
            deadline = monotonic() + patience
            pid = self.state_dir.orphan()
            if pid is not None:
                logger.warning("ending the broker of an earlier mesh, process %d", pid)
                os.kill(pid, sent)
            while self.state_dir.orphan() is not None and monotonic() < deadline:  # noqa: ASYNC110 - no child of ours: nobody tells us
                await asyncio.sleep(0.05)

    # ---- The watch

    async def _watch(self) -> None:
        """Restart the server whenever it dies, for as long as this task lives. It never gives up, and reports each attempt."""
        deaths, since = 0, monotonic()
        while True:
            assert self._process is not None
            code = await self._process.wait()
            self._ready.clear()
            deaths = 1 if monotonic() - since > STEADY else deaths + 1
            delay = min(LAST_DELAY, FIRST_DELAY * 2 ** min(deaths - 1, 10)) * random.uniform(0.5, 1.0)
            self._report("died", f"the broker ended with {code}; it is started again in {delay:.1f} s")
            await asyncio.sleep(delay)
            try:
                await self._launch()
            except (BrokerError, OSError) as error:
                self._report("restart_failed", str(error))
            else:
                self.restarts += 1
                self._report("restarted", f"the broker runs again, process {self.pid}")
            since = monotonic()

    async def _follow_log(self) -> None:
        log = LogReader(self.state_dir.broker_log)
        try:
            while True:
                await asyncio.sleep(LOG_INTERVAL)
                for line in log.read():
                    if lost := loss_in(line):
                        self._report("dropped", lost)
        finally:
            log.close()

    def _report(self, kind: Event, detail: str) -> None:
        logger.log(logging.INFO if kind == "restarted" else logging.WARNING, "%s", detail)
        if self._on_event is None:
            return
        try:
            self._on_event(kind, detail)
        except Exception:
            logger.exception("a broker event's receiver failed; the watch goes on")
