"""The state directory of one mesh on this machine, `.mesh/` unless another is named, and the lock that keeps it to one mesh.

| file | what |
|---|---|
| `lock` | held with flock while a mesh runs; the text is the pid of that mesh |
| `broker.conf` | the broker's start file: nats-server.conf and what this mesh sets on top of it (mesh/link/server.py) |
| `broker.pid` | the pid of the broker, written by the broker |
| `broker.log` | the broker's log, and `broker.log.<date>` the older ones |
| `jetstream/` | streams and buckets, the broker's own |
| `mesh.json` | where this mesh is reached, for the commands (written by `mesh up`) |

It is made 0700, and what is in it 0600: streams and logs hold what agents say to each other. The mode of one that was there is its owner's.

The lock goes with the process that holds it, also by kill -9, so it is never stale and nobody has to delete it. flock is Unix only, and so
is the embedded broker; elsewhere the mesh uses a broker that runs already.
"""

import contextlib
import fcntl
import os
import subprocess
from pathlib import Path

from mesh.errors import StateDirInUse, StateDirUnusable


class StateDir:
    """Paths below one directory, made absolute, and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.lock_file = self.path / "lock"
        self.broker_config = self.path / "broker.conf"
        self.broker_pid_file = self.path / "broker.pid"
        self.broker_log = self.path / "broker.log"
        self.jetstream = self.path / "jetstream"
        self._lock: int | None = None

    def acquire(self) -> None:
        """Make the directory if needed, see that it can be written, and take the lock. StateDirUnusable, StateDirInUse."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.jetstream.mkdir(mode=0o700, exist_ok=True)
            descriptor = private(self.lock_file, os.O_RDWR)
        except OSError as error:
            raise self.unusable(error.strerror or str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 20).decode().strip()
            os.close(descriptor)
            raise StateDirInUse(
                f"another mesh, process {holder or 'unknown'}, runs on {self.path}",
                hint=f"Stop it (kill {holder or 'PID'}), or name another state directory.",
                path=str(self.path),
                pid=int(holder) if holder.isdigit() else None,
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise self.unusable(f"it cannot be locked ({error.strerror})") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor
        if not os.access(self.jetstream, os.W_OK | os.X_OK):
            self.release()
            raise self.unusable(f"{self.jetstream.name}/ is not writable")

    def release(self) -> None:
        """Let the next mesh in. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_config(self, text: str) -> None:
        """The broker's start file. OSError."""
        with os.fdopen(private(self.broker_config, os.O_WRONLY | os.O_TRUNC), "w", encoding="utf-8") as file:
            file.write(text)

    def orphan(self) -> int | None:
        """The pid of a broker that outlived its mesh here, or None. Ask only while holding the lock: then no mesh owns it.

        A pid file may be old and its number given to another program, so it must have been started with this directory's start file.
        """
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.broker_pid_file.read_text())
            if str(self.broker_config) in _command_line(pid):
                return pid
        return None

    def unusable(self, why: str) -> StateDirUnusable:
        """The error that says why this directory cannot be used."""
        return StateDirUnusable(
            f"the state directory {self.path} cannot be used: {why}",
            hint="Name another state directory, or make this one writable for you.",
            path=str(self.path),
        )


def private(path: Path | str, flags: int) -> int:
    """A descriptor of a file, which is its owner's alone if it was not there."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _command_line(pid: int) -> str:
    """How a process was started, or "" if there is none with that pid."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return ""
        listed = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, timeout=5, check=False)
        return listed.stdout
