"""A child that ends with this process, however this one ends: on Linux the kernel sends it SIGTERM then, elsewhere nobody does.

A program of its own arranges it and then becomes the child, under the same pid, since code between fork and exec is unsafe in a process
with threads. It takes some ten milliseconds.
"""

import os
import sys
from collections.abc import Sequence
from typing import Final

_LAUNCHER: Final = """
import os, sys, _signal
parent, umask, *command = sys.argv[1:]
if umask:
    os.umask(int(umask))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM; it survives the exec
if os.getppid() != int(parent):
    sys.exit("what started it has ended")
for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
    _signal.signal(number, _signal.SIG_DFL)  # Python ignores them, and what is ignored survives the exec too
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.exit(f"cannot run {command[0]!r}: {error.strerror}")
"""


def ending_with_us(command: Sequence[str], *, umask: int | None = None) -> list[str]:
    """The command line that starts `command` so. `umask` is its own, None: ours."""
    if umask is None and sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), "" if umask is None else str(umask), *command]
