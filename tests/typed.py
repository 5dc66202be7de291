"""A mesh of a file, as after `mesh up FILE`, and commands on it as a person types them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
BIN: Final = Path(sys.executable).parent


@contextmanager
def mesh_of(file: str, directory: Path, *options: str, cwd: Path = ROOT) -> Iterator[Path]:
    """`mesh up FILE`, its state in `.mesh` of the directory, until the block ends. Yields the directory once all agents are ready."""
    state = directory / ".mesh"
    process = subprocess.Popen(
        [BIN / "mesh", "up", file, "--json", "--state-dir", state, "--broker-port", "0", *options],
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if json.loads(line)["event"] == "ready":
                break
        yield directory
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        process.stdout.close()
        assert process.wait(timeout=30) == 0


def run(command: Sequence[str | Path], directory: Path, code: int = 0) -> str:
    """What it prints, from the directory of a mesh."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "MESH_STATE_DIR": str(directory / ".mesh"), "COLUMNS": "160"}
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout
