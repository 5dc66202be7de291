"""How every command runs: an event loop around it, errors as one line or as JSON, and an exit code.

| code | when |
|---|---|
| 0 | it did what was asked |
| 1 | it did not: a MeshError, a tool that failed (`isError`), a check that found something |
| 2 | it was not asked properly: unknown option, missing argument |
| 130 | Ctrl-C |

They are the same with `--json` and without.

Logs: a command that ends by itself shows warnings on stderr, and with `--json` none, so that stderr holds the error and nothing else.
"""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from mesh.errors import MeshError, RemoteError

if TYPE_CHECKING:
    from mesh.node import Mesh
    from mesh.settings import Settings

INTERRUPTED: Final = 130
"""128 and SIGINT's number: what a shell expects of a program that Ctrl-C ended."""

Work = Callable[[], Coroutine[Any, Any, int | None]]
"""What a command does. It returns its exit code, or None for 0."""


def execute(work: Work, *, as_json: bool, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Run a command to its end. Raises typer.Exit where the code is not 0."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            code = runner.run(work())
        sys.stdout.flush()
    except MeshError as error:
        show_error(error, as_json=as_json)
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # `mesh journal | head`: the reader has enough. Python would complain once more when it flushes stdout at its end.
        sys.stdout = None
        code = 0
    if code:
        raise typer.Exit(code)


def show_error(error: MeshError, *, as_json: bool) -> None:
    """One error on stderr: a line and its hint, or one line of JSON. An MCP server's own error keeps its code, message and data."""
    from mesh.cli.render import plain

    if as_json:
        sys.stderr.write(json.dumps(error_dict(error)) + "\n")
        return
    lines = [f"error: {plain(error.message)}"]
    if isinstance(error, RemoteError):
        lines[0] += f" (code {error.rpc_code})"
        if error.data is not None:
            lines.append(f"data: {plain(json.dumps(error.data, ensure_ascii=False))}")
    if error.hint:
        lines.append(f"hint: {plain(error.hint)}")
    sys.stderr.write("\n".join(lines) + "\n")


def error_dict(error: MeshError) -> dict[str, Any]:
    """`{"code", "message", "data"?}` as the MCP server sent it, or the mesh's own `as_dict()`: a number or a text as code tells which."""
    if isinstance(error, RemoteError):
        return {"code": error.rpc_code, "message": error.message} | ({} if error.data is None else {"data": error.data})
    return error.as_dict()


@asynccontextmanager
async def joined(
    state_dir: Path | None,
    broker: str | None,
    name: str | None = None,
    credentials: Path | None = None,
    *,
    quiet: bool,
    timeout: float | None = None,
    usually: str | None = None,
) -> "AsyncIterator[Mesh]":
    """On the mesh that the options name. `quiet`: no log line on stderr, whatever happens. `usually`: as whom, where neither an option nor
    a variable says it. Raises ConfigError, and what Mesh raises."""
    from mesh.cli.logging import configure
    from mesh.node import Mesh

    configure(stderr=None if quiet else logging.WARNING)
    settings = settings_of(usually, state_dir=state_dir, broker=broker, name=name, credentials=credentials, timeout=timeout)
    async with Mesh(settings=settings) as mesh:
        yield mesh


def settings_of(usually: str | None = None, /, **given: Any) -> "Settings":
    """The settings of a command that asks a running mesh, as `make_settings`.

    Raises ConfigError also for a name that nobody has here: nobody is made by being named."""
    from mesh.identity.finding import must_be_known
    from mesh.settings import make_settings

    settings = make_settings(usually, **given)
    if "name" in settings.model_fields_set and settings.credentials is None:
        must_be_known(settings.state_dir, settings.name, prefix=settings.prefix)
    return settings
