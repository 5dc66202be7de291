"""The process that forks into the commands of `tests/cli_helpers.py`: `python -m tests.commands`, one for each process of pytest.

It holds the packages of others that commands need, and nothing of ours: each command is a process of its own that imports our modules by
itself, but does not load cryptography and pydantic once more, which takes longer than what most of them do. That a command starts from
nothing is proven by all that are started without this: `started` and `up`, and bridges.

Its stdin is a Unix socket, over which comes a socket for each command, for one line of JSON, `{words, cwd, env}`, and the answer, one
object, `{code, out, err}`. Who closes it before that kills the command. The end of stdin is its own end.
"""

import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

HELD: Final = (
    *("cryptography.x509", "httpx2", "jwt", "nacl.signing", "nats.aio.client", "nkeys", "pydantic_settings", "rich.progress", "rich.table"),
    *("structlog", "typer", "uvloop", "websockets.asyncio.client"),
)
"""For speed alone: what is missing here, a command imports."""


def fork_for_each() -> socket.socket:
    """Returns in a new process for each command: where to answer."""
    requests = socket.socket(fileno=sys.stdin.fileno())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while True:
        _, handles, _, _ = socket.recv_fds(requests, 1, 1)
        if not handles:
            os._exit(0)
        if os.fork() == 0:
            requests.detach()  # stdin stays taken until the command has its own
            return socket.socket(fileno=handles[0])
        os.close(handles[0])


def become_command(answers: socket.socket) -> None:
    """Returns in a process that has the words, directory and environment of the command. The one that calls this answers and ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request: dict[str, Any] = json.loads(answers.makefile().readline())
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    command = os.fork()
    if command == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, handle in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
            os.dup2(handle, number)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = ["mesh", *request["words"]]
        sys.path[0] = request["cwd"]
        return
    ended = os.pidfd_open(command)
    if ended not in select.select([ended, answers.fileno()], [], [])[0]:
        os.kill(command, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    texts = [os.pread(each, os.fstat(each).st_size, 0).decode() for each in (out, err)]
    with suppress(BrokenPipeError):
        answers.sendall(json.dumps({"code": code, "out": texts[0], "err": texts[1]}).encode())
    os._exit(0)


if __name__ == "__main__":
    for name in HELD:
        import_module(name)
    become_command(fork_for_each())
    runpy.run_module("mesh", run_name="__main__", alter_sys=True)
