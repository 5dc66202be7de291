"""`mesh journal`: what the broker recorded of calls. Plain, it lists them; `show ID` is one in full; `check` looks for gaps."""

import json
from contextlib import aclosing
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mesh.cli import options
from mesh.cli.running import execute, joined
from mesh.cli.times import TIMES, read_time
from mesh.subjects import OPERATOR

if TYPE_CHECKING:
    from mesh.audit.calls import Integrity, JournalCall, JournalExchange, JournalMessage

SHOWN: Final = 50
"""Calls that a person is shown if no number is asked for. Programs get all."""

BEFORE: Final = 10
"""Calls from before that `--follow` begins with."""


class Outcomes(StrEnum):
    """`mesh.audit.calls.OUTCOMES` once more, because importing that costs `mesh --help` its speed. A test holds them together."""

    OK = "ok"
    TOOL_ERROR = "tool_error"
    ERROR = "error"
    CANCELLED = "cancelled"
    OPEN = "open"


def calls(
    context: typer.Context,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Called by it or taken by it.")] = None,
    caller: Annotated[str | None, typer.Option("--caller", metavar="NAME", help="Called by it.")] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="NAME", help="Addressed to this agent or role.")] = None,
    tool: Annotated[str | None, typer.Option("--tool", metavar="NAME", help="Calls of this tool.")] = None,
    outcome: Annotated[Outcomes | None, typer.Option("--outcome", help="How it ended.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help=f"Made after: {TIMES}")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Made before: as --since.")] = None,
    correlation_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="The call with this correlation id.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="The newest so many.", show_default=f"{SHOWN}; all with --json or --since")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on and show each call as it ends, until Ctrl-C.")] = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show calls: time, who called whom, duration, outcome, correlation id. JSON is one object a line."""
    if context.invoked_subcommand is not None:
        return
    since_ns, until_ns = read_time("--since", since), read_time("--until", until)
    last = limit if limit is not None else BEFORE if follow and since is None else None if as_json or since is not None else SHOWN

    async def work() -> None:
        from mesh.audit.journal import Journal
        from mesh.cli import render

        console = render.console()
        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            found = Journal(mesh.connection, mesh.subjects, mesh.readers.of_stream).calls(
                agent=agent, caller=caller, target=target, tool=tool, outcome=outcome.value if outcome else None,
                since_ns=since_ns, until_ns=until_ns, correlation_id=correlation_id, last=last, follow=follow,
            )  # fmt: skip
            async with aclosing(found) as each:
                if not as_json:
                    console.print(_row("TIME", "CALLER", "TARGET", "METHOD", "DURATION", "OUTCOME", "CORRELATION ID"), soft_wrap=True)
                async for call in each:
                    if as_json:
                        render.print_json(call.as_dict())
                    else:
                        console.print(_line(call), soft_wrap=True)

    execute(work, as_json=as_json)


def show(
    correlation_id: Annotated[str, typer.Argument(metavar="ID", help="Correlation id, as `mesh journal` shows it.", show_default=False)],
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show one call in full: the request and every frame that came back."""

    async def work() -> None:
        from mesh.audit.journal import Journal
        from mesh.cli import render
        from mesh.errors import ConfigError

        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            exchange = await Journal(mesh.connection, mesh.subjects, mesh.readers.of_stream).show(correlation_id)
        if exchange is None:
            raise ConfigError(
                f"the journal holds no call {correlation_id!r}", hint="`mesh journal` lists calls; its oldest go when it is full"
            )
        if as_json:
            render.print_json(exchange.as_dict())
        else:
            _print_exchange(exchange)

    execute(work, as_json=as_json)


def check(
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Read the whole journal and say what is missing or does not belong there. Exit code 1 if anything does."""

    async def work() -> int:
        from mesh.audit.journal import Journal
        from mesh.cli import render

        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR) as mesh:
            found = await Journal(mesh.connection, mesh.subjects, mesh.readers.of_stream).check()
        if as_json:
            render.print_json(found.as_dict())
        else:
            _print_integrity(found)
        return 0 if found.complete else 1

    execute(work, as_json=as_json)


def _line(call: "JournalCall") -> Any:
    duration = "" if call.duration_ms is None else f"{call.duration_ms:.1f} ms"
    what = call.name if call.method == "tools/call" and call.name else " ".join(filter(None, (call.method, call.name)))
    ended = f"{call.outcome} {call.mesh_code if call.code is None else call.code}".rstrip()
    return _row(call.time, call.caller, call.target, what, duration, ended, call.correlation_id, state=call.outcome)


def _row(time: str, caller: str, target: str, what: str, duration: str, outcome: str, correlation_id: str, *, state: str = "") -> Any:
    """One line of fixed columns, so that calls can be shown as they come. Longer text shifts what follows it, and nothing is cut."""
    from rich.text import Text

    from mesh.cli.render import STYLES, plain

    row = Text(f"{time:<27}  {plain(caller):<14}  {plain(target):<14}  {plain(what):<24}  {duration:>11}  ")
    row.append(f"{outcome:<12}", style=STYLES.get(state, ""))
    return row.append(f"  {plain(correlation_id)}")


def _print_exchange(exchange: "JournalExchange") -> None:
    from mesh.cli import render

    console = render.console()
    rows = [(key, value) for key, value in exchange.call.as_dict().items() if value not in (None, "", False)]
    console.print(render.table(("field", "value"), rows))
    for message in exchange.messages:
        since = (message.time_ns - exchange.call.time_ns) / 1e6
        heading = f"\n{message.what}  +{since:.1f} ms  seq {message.seq}  {render.size(len(message.body))}  {message.subject}"
        console.print(render.plain(heading, lines=True), style="bold", soft_wrap=True)
        for key, value in message.headers.items():
            console.print(render.plain(f"{key}: {value}"), style="dim", soft_wrap=True)
        render.print_text(_body(message))


def _body(message: "JournalMessage") -> str:
    text = message.body.decode("utf-8", "replace")
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _print_integrity(found: "Integrity") -> None:
    from mesh.cli import render

    console = render.console()
    said = found.as_dict()
    nested = ("complete", "missing", "suspect", "stream", "outcomes")
    rows = [(key, value) for key, value in said.items() if key not in nested]
    rows += [(f"ended: {key}", value) for key, value in said["outcomes"].items() if value]
    rows += [(f"stream: {key}", value) for key, value in said["stream"].items()]
    console.print(render.table(("what", "count"), rows))
    for gap in found.missing:
        console.print(render.plain(f"missing: calls {gap.first} to {gap.last} of {gap.caller}.{gap.connection}"), style="red")
    for each in found.suspect:
        console.print(render.plain(f"suspect: message {each.seq} on {each.subject}: {each.reason}"), style="red", soft_wrap=True)
    if found.near_bounds:
        console.print(f"The journal is {found.fullness:.0%} full; its oldest calls go next.", style="yellow")
    console.print("Complete." if found.complete else "Not complete.", style="green" if found.complete else "red")


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(invoke_without_command=True)
    group.callback(epilog="Example: mesh journal --agent time --since 10m --outcome error")(calls)
    group.command("show", epilog="Example: mesh journal show cli.3f2a9c01.1 --json")(show)
    group.command("check", epilog="Example: mesh journal check")(check)
    app.add_typer(group, name="journal")
