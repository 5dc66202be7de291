"""The command `mesh`: puts the command groups together. Each lies in a file of its own, and imports what it needs when it runs.

So `mesh --help` reads only the signatures: no broker client, no Rich tables, no pydantic.
"""

import sys
from typing import Annotated, Final

import typer

from mesh.cli import agents, auth, call, dlq, doctor, events, jobs, journal, messages, stream, topology, up
from mesh.errors import BadUsage

_UsageError: Final[type[BaseException]] = typer.BadParameter.__bases__[0]
"""Of all that a command line can be wrong in. Typer does not name it."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            said = version("mesh-for-agents")
        except PackageNotFoundError:
            said = "0.0.0"
        sys.stdout.write(f"mesh {said}\n")
        raise typer.Exit


def make_app() -> typer.Typer:
    """All commands, in the order in which a person meets them."""
    app = typer.Typer(
        name="mesh",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # a traceback is a mistake of ours, and is wanted whole
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Start with: mesh up",
    )

    @app.callback()
    def mesh(
        _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")] = False,
    ) -> None:
        """An event mesh for AI agents: MCP over NATS."""

    for group in (up, call, jobs, agents, messages, stream, events, dlq, journal, auth, topology, doctor):
        group.add_to(app)
    return app


def main() -> None:
    """The entry point of the console script."""
    if "--json" not in sys.argv:
        make_app()(prog_name="mesh")
        return
    try:
        code = make_app()(prog_name="mesh", standalone_mode=False)
    except _UsageError as problem:
        from mesh.cli.running import show_error

        context = getattr(problem, "ctx", None)
        hint = f"`{'mesh' if context is None else context.command_path} --help` shows what it takes"
        show_error(BadUsage(getattr(problem, "format_message", problem.__str__)(), hint=hint), as_json=True)
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
    sys.exit(code)
