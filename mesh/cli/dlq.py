"""`mesh dlq`: messages that are not tried again. Looked at, mended, sent again or dropped, one by one or by a filter."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import options
from mesh.cli.running import execute, joined
from mesh.subjects import OPERATOR

if TYPE_CHECKING:
    from mesh.delivery import DeadLetters, Kept

Number = Annotated[int, typer.Argument(metavar="NUMBER", help="As `mesh dlq list` shows it.", show_default=False)]
Numbers = Annotated[list[int] | None, typer.Argument(metavar="NUMBER…", help="As `mesh dlq list` shows them.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All, or all that the filters let through.")]
To = Annotated[str | None, typer.Option("--to", metavar="NAME", help="Only those to this agent or role.", show_default=False)]
From = Annotated[str | None, typer.Option("--from", metavar="NAME", help="Only those of this sender.", show_default=False)]
Code = Annotated[
    str | None,
    typer.Option(
        "--code",
        metavar="CODE",
        help="Only rejected, failed, expired, malformed, undelivered, unread, invalid or denied ones.",
        show_default=False,
    ),
]


def list_(
    to: To = None,
    sender: From = None,
    code: Code = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """List dead letters, oldest first."""

    async def work() -> None:
        from mesh import clock
        from mesh.cli import render
        from mesh.delivery import as_dict

        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            found = await mesh.messages.dead_letters.find(target=to, sender=sender, code=code)
        if as_json:
            render.print_json([as_dict(each) for each in found])
            return
        now = clock.wall_ns()
        rows = [
            (
                each.number,
                render.age((now - each.at_ns) / 1e9),
                each.sender,
                each.target,
                each.priority,
                each.type,
                each.letter.code,
                render.first_line(each.letter.reason),
            )
            for each in found
        ]
        columns = ("number", "age", "from", "to", "priority", "type", "code", "reason")
        render.console().print(render.table(columns, rows, right=("number", "age")))

    execute(work, as_json=as_json)


def show(
    number: Number,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show one: the message, why it lies here, and what is known of each attempt."""

    async def work() -> None:
        from mesh.cli.render import print_json, print_text
        from mesh.delivery import as_dict

        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            said = as_dict(await mesh.messages.dead_letters.get(number))
        if as_json:
            print_json(said)
        else:
            print_text(json.dumps(said, indent=2, ensure_ascii=False))

    execute(work, as_json=as_json)


def edit(
    number: Number,
    content: Annotated[
        str, typer.Option("--content", metavar="JSON", help="What it says instead; `-` reads it from stdin.", show_default=False)
    ],
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Mend what a message says. It gets another number; `mesh dlq redrive` sends it."""

    try:
        mended = json.loads(sys.stdin.read() if content == "-" else content)
    except ValueError as error:
        raise typer.BadParameter(f"this is no JSON: {error}") from None

    async def work() -> None:
        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            letters = mesh.messages.dead_letters
            await letters.edit(await letters.get(number), mended)

    execute(work, as_json=as_json)


def redrive(
    numbers: Numbers = None,
    everything: All = False,
    to: To = None,
    sender: From = None,
    code: Code = None,
    rate: Annotated[float, typer.Option("--rate", min=0.01, metavar="N", help="At most so many a second.")] = 100.0,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Send messages again, in their senders' names and under their ids. One that cannot be sent stays, and holds up no other."""

    async def work() -> None:
        from mesh.cli.render import print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            letters = mesh.messages.dead_letters
            chosen = await _chosen(letters, numbers, everything, to, sender, code)
            stay = await letters.redrive_all(chosen, rate)
        staying = {kept.number for kept, _ in stay}
        if len(staying) < len(chosen) or not chosen:
            _done([each for each in chosen if each.number not in staying], as_json=as_json)
        for kept, problem in stay[1:]:
            if not as_json:
                print_text(f"{kept.number} stays: {problem.message}", stderr=True)
        if stay:
            raise stay[0][1]

    execute(work, as_json=as_json)


def drop(
    numbers: Numbers = None,
    everything: All = False,
    to: To = None,
    sender: From = None,
    code: Code = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Remove dead letters for good."""

    async def work() -> None:
        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            letters = mesh.messages.dead_letters
            chosen = await _chosen(letters, numbers, everything, to, sender, code)
            for each in chosen:
                await letters.drop(each)
        _done(chosen, as_json=as_json)

    execute(work, as_json=as_json)


async def _chosen(
    letters: "DeadLetters", numbers: list[int] | None, everything: bool, to: str | None, sender: str | None, code: str | None
) -> "list[Kept]":
    from mesh.errors import ConfigError

    if bool(numbers) == everything or (numbers and (to or sender or code)):
        raise ConfigError("which dead letters?", hint="name their numbers, or --all with or without --to, --from and --code")
    if numbers:
        return [await letters.get(number) for number in numbers]
    return await letters.find(target=to, sender=sender, code=code)


def _done(chosen: "list[Kept]", *, as_json: bool) -> None:
    from mesh.cli.render import print_json, print_text

    done: Any = [each.number for each in chosen]
    if as_json:
        print_json(done)
    else:
        print_text(f"{len(done)} done")


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, epilog="Example: mesh dlq list", help="Messages that are not tried again: dead letters.")
    group.command("list", epilog="Example: mesh dlq list --to qa-manager")(list_)
    group.command("show", epilog="Example: mesh dlq show 7")(show)
    group.command("edit", epilog="""Example: mesh dlq edit 7 --content '{"pr": 8}'""")(edit)
    group.command("redrive", epilog="Example: mesh dlq redrive --all --to qa-manager --rate 10")(redrive)
    group.command("drop", epilog="Example: mesh dlq drop 7 8")(drop)
    app.add_typer(group, name="dlq")
