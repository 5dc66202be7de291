"""`mesh topology plan | apply`: what the mesh keeps at the broker, and what has to be done about it."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import options
from mesh.cli.running import execute, joined
from mesh.subjects import OPERATOR

if TYPE_CHECKING:
    from mesh.node import Mesh
    from mesh.topology import Action

Prune = Annotated[bool, typer.Option("--prune", help="Delete streams that the mesh does not declare, with all that they hold.")]


def plan(
    prune: Prune = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if anything has to be done.")] = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show what `apply` would do. Changes nothing."""

    async def work() -> int:
        from mesh.topology import Kind

        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            actions = await _planned(mesh, prune=prune)
        _print(actions, as_json=as_json)
        return int(check and any(action.kind not in (Kind.UNCHANGED, Kind.UNDECLARED) for action in actions))

    execute(work, as_json=as_json)


def apply(
    prune: Prune = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before something is deleted.")] = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Make the broker have what the mesh declares. Nothing is deleted but with --prune."""

    async def work() -> None:
        from mesh.link.jetstream import JetStream
        from mesh.link.reconcile import apply as carry_out
        from mesh.topology import Kind

        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            actions = await _planned(mesh, prune=prune)
            doomed = [action.name for action in actions if action.kind is Kind.DELETE]
            if doomed and not yes:
                # Asked on stderr: stdout is for the answer, which a program may read.
                question = f"Delete {', '.join(doomed)} with all that they hold?"
                await asyncio.to_thread(typer.confirm, question, abort=True, err=True)
            await carry_out(JetStream(mesh.connection), actions)
        _print(actions, as_json=as_json)

    execute(work, as_json=as_json)


async def _planned(mesh: "Mesh", *, prune: bool) -> "tuple[Action, ...]":
    from mesh.errors import Denied
    from mesh.link.denial import denied
    from mesh.link.jetstream import JetStream
    from mesh.link.reconcile import read_actual
    from mesh.topology import declare
    from mesh.topology import plan as make_plan

    declared = declare(mesh.settings.prefix)
    try:
        actual = await read_actual(JetStream(mesh.connection), declared)
    except Denied as problem:
        raise denied(problem.details["subject"], mesh.name, "change topology") from None
    return make_plan(declared, actual, prune=prune)


def as_dict(action: "Action") -> dict[str, Any]:
    """One action for `--json`."""
    return {
        "action": action.kind.value,
        "name": action.name,
        "differences": [{"setting": each.setting, "actual": each.actual, "declared": each.declared} for each in action.differences],
        "advice": action.advice,
    }


def _print(actions: "Sequence[Action]", *, as_json: bool) -> None:
    from mesh.cli import render

    if as_json:
        render.print_json([as_dict(action) for action in actions])
        return
    rows: list[tuple[str, str, str]] = []
    for action in actions:
        said = [f"{each.setting}: {each.actual!r} → {each.declared!r}" for each in action.differences]
        rows.append((action.kind.value, action.name, "; ".join([*said, *([action.advice] if action.advice else [])])))
    render.console().print(render.table(("action", "stream or consumer", "what differs"), rows))


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, epilog="Example: mesh topology plan", help="What the mesh keeps at the broker: streams, consumers, buckets."
    )
    group.command("plan", epilog="Example: mesh topology plan --check")(plan)
    group.command("apply", epilog="Example: mesh topology apply")(apply)
    app.add_typer(group, name="topology")
