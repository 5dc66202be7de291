"""All commands, and what each says of itself: an example, the options that all have, and no time lost before it says so."""

import asyncio
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mesh.cli import checks
from mesh.cli.app import make_app
from tests.cli_helpers import ROOT


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that lead to it."""
    for name, each in getattr(command, "commands", {}).items():
        yield from leaves(each, (*path, name))
    if path and (not hasattr(command, "commands") or command.invoke_without_command):
        yield path, command


def groups(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that has others below it, `mesh` itself first."""
    if hasattr(command, "commands"):
        yield path, command
        for name, each in command.commands.items():
            yield from groups(each, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(make_app())))
GROUPS = dict(groups(typer.main.get_command(make_app())))


def test_every_command_is_here() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        "up", "call", "send", "listen", "publish", "mailbox", "stream", "agents", "tools", "doctor", "journal", "journal show",
        "journal check", "schedules list", "schedules cancel", "events listen", "events replay", "events subscriptions list",
        "events subscriptions delete", "topology plan", "topology apply",
        *(f"events schemas {each}" for each in ("list", "show", "check", "register", "delete")),
        *(f"jobs {each}" for each in ("submit", "list", "show", "wait", "cancel")),
        *(f"dlq {each}" for each in ("list", "show", "edit", "redrive", "drop")),
        *(f"auth {each}" for each in ("init", "issue", "list", "show", "revoke", "rotate", "export", "explain", "diff", "apply", "tls")),
        *(f"auth {each}" for each in ("token", "callout", "callout enable", "callout disable")),
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_the_common_options(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    assert f"Example: mesh {' '.join(path)}" in command.epilog
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--state-dir", "--broker", "--json"} <= options
    assert all(parameter.help for parameter in command.params if parameter.name != "help")


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_help_of_a_group_has_an_example_of_a_command_in_it(path: tuple[str, ...]) -> None:
    said = GROUPS[path].epilog or ""
    words = tuple(said[said.index("mesh ") :].split()[1:]) if "mesh " in said else ()
    assert any(words[: len(leaf)] == leaf for leaf in COMMANDS if leaf[: len(path)] == path), f"{GROUPS[path].name}: {said!r}"


async def test_help_starts_without_the_broker_client(tmp_path: Path) -> None:
    code = "import sys, mesh.cli.app; print([each for each in ('nats', 'pydantic', 'structlog', 'rich.table') if each in sys.modules])"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"


def test_no_command_reads_the_environment_by_itself() -> None:
    for path, command in COMMANDS.items():
        assert all(parameter.envvar is None for parameter in command.params), path
        assert "os.environ" not in inspect.getsource(inspect.getmodule(command.callback) or checks)
