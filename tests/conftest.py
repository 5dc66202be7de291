"""One real broker a test module: `broker.url` to connect to, `broker.server` to look at, `kill`, `stop` and `start` to disturb it.

The server is watched by an event loop in a thread of its own. So it does not matter which loop a test runs in, or whether any runs
between two tests, and a test that blocks its loop does not stop the watch. From an async test, call
`await asyncio.to_thread(broker.stop)`.
"""

import asyncio
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bench.bare import bare_config
from mesh.identity.authority import Authority
from mesh.identity.finding import roles_of
from mesh.identity.serving import server_trust
from mesh.link.server import EmbeddedServer

T = TypeVar("T")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job ignores Ctrl-C, and so would all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run side by side end together if long ones begin early: first those with tests that may take longer than all others, last
    the many short ones of the directories below."""
    longest: dict[Path, float] = defaultdict(float)
    for item in items:
        marker = item.get_closest_marker("timeout")
        longest[item.path] = max(longest[item.path], marker.args[0] if marker else 0)
    items.sort(key=lambda item: (-longest[item.path], len(item.path.parts)))


class Broker:
    """A broker on free ports, with a state directory of its own. All methods are synchronous."""

    def __init__(self, state_dir: Path, *, bare: bool = False, **options: Any) -> None:
        self._environment = pytest.MonkeyPatch()
        self._killed: int | None = None
        trust: dict[str, str] = {}
        config: Path | None = None
        if bare:
            config = bare_config(state_dir.parent)
        else:
            self.authority = Authority.open(state_dir, create=True)
            for name in ("mesh", "operator", "local"):
                self.authority.issue(name, roles_of(name))
            trust = server_trust(self.authority)
        self.server = EmbeddedServer(state_dir, trust=trust, config=config, port=0, monitor_port=0, websocket_port=0, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test-broker")
        self._thread.start()

    @property
    def url(self) -> str:
        """The client URL. It stays the same over `kill`, and over `stop` and `start`."""
        return self.server.url

    @property
    def options(self) -> tuple[str, ...]:
        """Where it is and where credentials are, for commands that are started without the environment."""
        return ("--broker", self.url, "--state-dir", str(self.server.state_dir.path))

    def start(self) -> None:
        self.run(self.server.start)
        self._environment.setenv("MESH_STATE_DIR", str(self.server.state_dir.path))  # where participants find their credentials

    def stop(self) -> None:
        """End the server cleanly. It stays away until `start`."""
        self.run(self.server.stop)

    def kill(self) -> None:
        """SIGKILL, as a crash. The watch brings the server back by itself; `wait_ready` waits for that."""
        assert self.server.pid is not None, "the broker does not run"
        self._killed = self.server.pid
        os.kill(self.server.pid, signal.SIGKILL)

    def wait_ready(self) -> None:
        """Wait until it takes connections; after `kill`, until another process does."""
        while self.server.pid in (None, self._killed):
            threading.Event().wait(0.01)
        self.run(self.server.wait_ready)

    def run(self, method: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call a coroutine method of the server in the server's own loop."""
        return asyncio.run_coroutine_threadsafe(method(), self._loop).result(timeout=30)

    def close(self) -> None:
        self.stop()
        self._environment.undo()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A running broker. What one test leaves in it, the next test of the module finds: use names of your own.

    In a module with `BARE = True` it admits everybody to everything.
    """
    broker = Broker(tmp_path_factory.mktemp("broker") / ".mesh", bare=getattr(request.module, "BARE", False))
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="module")
def plane(broker: Broker) -> Iterator[str]:
    """A broker with a running control plane; its URL."""
    from tests.helpers import Background, control_plane

    with Background(lambda: control_plane(broker.url)):
        yield broker.url
