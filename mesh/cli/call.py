"""`mesh call`: one call of a tool, from a shell or a script.

What a script can rely on: the code is 0 where the tool did it, and 1 where it gave a result whose `isError` is true, or an error came, of
the MCP server or of the mesh. With `--json` a result of either kind is MCP's object on stdout, and an error is JSON on stderr; without it
the text of a result with `isError` goes to stderr.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mesh.cli import options
from mesh.cli.running import execute, joined

if TYPE_CHECKING:
    from mesh.node import Mesh

SCHEMA_SECONDS: Final = 2.0
"""How long to wait for the registry. Values are text where it says nothing, and the tool then says what is wrong with them."""

EXAMPLES: Final = """\
Example: mesh call time get_current_time timezone=Europe/Berlin

Example: mesh call git git_log --args '{"repo_path": ".", "max_count": 3}' --json
"""


def call(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Name of an agent, or a role.", show_default=False)],
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Name of the tool.", show_default=False)],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Arguments of the tool. KEY=VALUE is text, or what the tool's schema wants there. KEY:=JSON is JSON.",
            show_default=False,
        ),
    ] = None,
    args: Annotated[
        str | None,
        typer.Option("--args", metavar="JSON", help="All arguments as one JSON object; `-` reads it from stdin.", show_default=False),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.001, metavar="S", help="Seconds to wait; a sign of progress starts them anew.", show_default="60"),
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Call a tool of an agent and print its result."""
    from mesh.cli.arguments import read_object, split

    try:
        pairs = split(words or [])
        start = read_object(sys.stdin.read() if args == "-" else args) if args is not None else {}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def work() -> int:
        from mesh.cli.arguments import build, needs_schema
        from mesh.cli.render import content_text, print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json, timeout=timeout) as mesh:
            schema = await tool_schema(mesh, agent, tool) if needs_schema(pairs) or start else None
            arguments = build(pairs, schema, start)
            warn_of_unknown(tool, arguments, schema, quiet=as_json)
            line = ProgressLine()
            try:
                result = await mesh.call(agent, tool, arguments, progress=line.show)
            finally:
                line.clear()
        failed = result.get("isError") is True
        if as_json:
            print_json(result)
        else:
            print_text(content_text(result), stderr=failed)
        return 1 if failed else 0

    execute(work, as_json=as_json)


async def tool_schema(mesh: "Mesh", agent: str, tool: str) -> dict[str, Any] | None:
    """The tool's input schema, if the registry knows it."""
    import asyncio

    from mesh import admin
    from mesh.errors import MeshError

    try:
        async with asyncio.timeout(SCHEMA_SECONDS), mesh.directory() as directory:
            return next((each.input_schema for each in admin.tools(directory, agent) if each.name == tool), None)
    except (MeshError, TimeoutError):
        return None  # the call itself says what is the matter, if anything is


def warn_of_unknown(tool: str, arguments: Iterable[str], schema: Mapping[str, Any] | None, *, quiet: bool) -> None:
    """On stderr, what is sent all the same: many servers ignore what they do not know. `quiet`: stderr is for JSON."""
    from mesh.cli.arguments import unknown
    from mesh.cli.render import print_text

    for name, near in unknown(arguments, schema) if not quiet else ():
        print_text(f"WARNING: {tool} has no argument {name!r}" + (f"; did you mean {near!r}?" if near else ""), stderr=True)


class ProgressLine:
    """The last line of a terminal, written anew with each report. Where stderr is no terminal it shows nothing."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._shown = False

    def show(self, progress: float, total: float | None, message: str | None) -> None:
        if not self._on:
            return
        from mesh.cli.render import plain

        part = f"{progress:g}/{total:g}" if total else f"{progress:g}"
        self._shown = True
        sys.stderr.write(f"\r\x1b[K{part} {plain(message or '')}"[: 10 + 120])
        sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def add_to(app: typer.Typer) -> None:
    app.command("call", epilog=EXAMPLES)(call)
