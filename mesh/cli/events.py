"""`mesh publish` and `mesh events`: events, from a shell or a script."""

import asyncio
import json
import secrets
import sys
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.background import end_tasks
from mesh.cli import event_schemas, options
from mesh.cli.running import execute, joined
from mesh.cli.times import TIMES, read_time
from mesh.subjects import OPERATOR

if TYPE_CHECKING:
    from mesh.events import Event, EventOptions, Replay

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="Words with dots between them: build.done.", show_default=False)]
Topics = Annotated[
    str, typer.Argument(metavar="TOPIC", help="Words with dots between them; * is any word, > the rest of them.", show_default=False)
]
Filter = Annotated[
    str | None,
    typer.Option("--filter", "-f", metavar="CEL", help="Only those for which it is true: 'event.data.n > 3'.", show_default=False),
]


def publish(
    topic: Topic,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Members of the data. KEY:=JSON is JSON.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="JSON", help="The data, as JSON; `-` reads it from stdin.", show_default=False)
    ] = None,
    type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="The event's type, if not the topic.", show_default=False)
    ] = None,
    priority: Annotated[str, typer.Option("--priority", "-p", metavar="P", help="critical, high, normal or low.")] = "normal",
    subject: Annotated[str | None, typer.Option("--subject", metavar="TEXT", help="What it is about.", show_default=False)] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Published twice with the same, it is heard once.", show_default=False)
    ] = None,
    ttl: Annotated[
        int | None, typer.Option("--ttl", min=1, metavar="S", help="Seconds after which it is gone.", show_default="a week")
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Publish an event. Who has a subscription to its topic hears it, also later."""
    said = _data(words or [], data)

    async def work() -> None:
        from mesh.cli.render import print_json, print_text

        chosen: EventOptions = {"type": type, "priority": priority, "subject": subject, "id": id, "ttl": ttl}
        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            stored = await mesh.events.publish(topic, said, **chosen)
        if as_json:
            print_json({"id": stored})
        else:
            print_text(stored)

    execute(work, as_json=as_json)


def listen(
    topic: Topics,
    durable: Annotated[
        str | None,
        typer.Option("--durable", "-d", metavar="NAME", help="A subscription of this name: it goes on where it stood.", show_default=False),
    ] = None,
    filter: Filter = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, metavar="N", help="End after so many events.", show_default=False)
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Print the events of a topic as they come, until Ctrl-C."""

    async def work() -> None:
        from mesh.cli.listening import LEAVE_SECONDS, Showing
        from mesh.events import Retry

        showing = Showing(count)

        async def hear(event: "Event") -> None:
            if not showing.show(partial(_show, event, as_json=as_json)) and durable is not None:
                raise Retry("nobody reads it here any more", after=LEAVE_SECONDS)

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            options: Any = {} if durable is None else {"prefetch": 1 if count else 16}
            async with mesh.events.subscribe(topic, hear, name=durable, filter=filter, **options):
                await showing.until_over()

    execute(work, as_json=as_json)


def replay(
    topic: Topics,
    from_: Annotated[str, typer.Option("--from", metavar="TIME", help=f"Stored after: {TIMES}", show_default=False)],
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Stored before: as --from.", show_default="now")] = None,
    speed: Annotated[
        float | None,
        typer.Option("--speed", metavar="X", help="In the original rhythm, X times as fast.", show_default="as fast as it goes"),
    ] = None,
    filter: Filter = None,
    into: Annotated[
        str | None, typer.Option("--into", metavar="AGENT", help="Send them to this agent, as messages.", show_default=False)
    ] = None,
    id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="With --into: begun again with the same, each arrives once.", show_default=False),
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show the events of a topic again, in their order, or send them to an agent again. There they are stored in their order; an agent that
    handles several messages at once begins each as soon as it can."""
    from_ns, to_ns = read_time("--from", from_) or 0, read_time("--to", to)
    run = id or secrets.token_hex(8)

    async def work() -> None:
        from mesh.cli.messages import warn_of_nobody
        from mesh.cli.render import print_json, print_text
        from mesh.errors import MeshError

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            told = mesh.events.replay_events(topic, from_ns, to_ns, filter=filter, speed=speed)
            if into is None:
                async with aclosing(told), _Bar(told, beside_events=True):
                    async for event in told:
                        _show(event, as_json=as_json)
                return
            await warn_of_nobody(mesh, into, "the events wait for who listens there")
            try:
                async with _Bar(told, beside_events=False):
                    count = await mesh.events.replay_into(into, told, id=run, over="ignore")
            except MeshError as problem:
                if stored := problem.details.get("stored"):
                    problem.hint = f"{stored} events were stored; with --id {run} it goes on behind them. {problem.hint}"
                raise
        if as_json:
            print_json({"into": into, "events": count})
        else:
            print_text(f"{count} events stored for {into}")

    execute(work, as_json=as_json)


def list_(
    everybody: Annotated[bool, typer.Option("--all", help="Those of all participants. Usually as `operator`.")] = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """List durable subscriptions: what they hear, and how much of it they have still to read."""

    async def work() -> None:
        from mesh.cli import render

        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR if everybody else None) as mesh:
            found = await mesh.events.subscriptions(all=everybody)
        if as_json:
            render.print_json(found)
            return
        columns = ("agent", "name", "topic", "made", "waiting", "in hand")
        rows = [
            (
                each["agent"],
                each["name"],
                each.get("topic") or f"broadcasts to {', '.join(each['roles'])}",
                each["made"],
                each["waiting"],
                each["in_hand"],
            )
            for each in found
        ]
        render.console().print(render.table(columns, rows, right=("waiting", "in hand")))

    execute(work, as_json=as_json)


def delete(
    subscription: Annotated[str, typer.Argument(metavar="NAME", help="Its name.", show_default=False)],
    agent: Annotated[
        str | None, typer.Option("--of", metavar="AGENT", help="Whose it is. Others' only as `operator`.", show_default=False)
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Delete a durable subscription. What it had still to read, nobody reads. Who has it open makes it anew, within a minute."""

    async def work() -> None:
        async with joined(state_dir, broker, name, credentials, quiet=as_json, usually=OPERATOR if agent else None) as mesh:
            await mesh.events.unsubscribe(subscription, agent=agent)

    execute(work, as_json=as_json)


def _data(words: list[str], data: str | None) -> Any:
    from mesh.cli.arguments import build, split

    try:
        said = None if data is None else json.loads(sys.stdin.read() if data == "-" else data)
        pairs = split(words)
    except (ValueError, RecursionError) as problem:
        raise typer.BadParameter(str(problem)) from None
    if not pairs:
        return said
    if not isinstance(said, dict | None):
        raise typer.BadParameter("KEY=VALUE adds members to an object, and --data is none")
    return build(pairs, None, said or {})


def _show(event: "Event", *, as_json: bool) -> None:
    from mesh.cli.render import plain, print_json, print_text

    if as_json:
        own = {"publisher": event.publisher, "topic": event.topic, "priority": event.priority, "number": event.number}
        print_json({**own, "stored_ns": event.stored_ns, "event": event.as_dict()})
        return
    said = event.as_dict()
    text = json.dumps(said.get("data", said.get("data_base64")), ensure_ascii=False)
    kind = "" if event.type == event.topic else f" {plain(event.type)}"
    print_text(f"{event.attributes.get('time', '')} {plain(event.publisher)} [{event.priority}] {plain(event.topic)}{kind}: {text}")


class _Bar:
    """How far a replay is, on stderr, where that is a terminal. Not `beside_events` that fill the terminal themselves."""

    def __init__(self, replay: "Replay", *, beside_events: bool) -> None:
        self._replay = replay
        self._on = sys.stderr.isatty() and not (beside_events and sys.stdout.isatty())

    async def __aenter__(self) -> None:
        if self._on:
            self._task = asyncio.create_task(self._draw(), name="progress")

    async def __aexit__(self, *_: object) -> None:
        if self._on:
            await end_tasks(self._task)

    async def _draw(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        from mesh.cli.render import console

        columns = (BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.description}"))
        with Progress(*columns, console=console(stderr=True), transient=True, redirect_stdout=False) as progress:
            task = progress.add_task("", total=1.0)
            while True:
                replay = self._replay
                progress.update(task, completed=replay.share, description=f"{replay.told:,} of {replay.read:,} read")
                await asyncio.sleep(0.1)


def add_to(app: typer.Typer) -> None:
    app.command("publish", epilog="Example: mesh publish build.done project=mesh ok:=true --priority high")(publish)
    group = typer.Typer(no_args_is_help=True, epilog="Example: mesh events listen 'build.*'", help="Hear events, now or again.")
    group.command("listen", epilog="Example: mesh events listen 'build.*' --durable nightly")(listen)
    group.command("replay", epilog="Example: mesh events replay 'build.>' --from 2h --speed 10")(replay)
    kept = typer.Typer(no_args_is_help=True, epilog="Example: mesh events subscriptions list", help="Durable subscriptions.")
    kept.command("list", epilog="Example: mesh events subscriptions list --all")(list_)
    kept.command("delete", epilog="Example: mesh events subscriptions delete nightly")(delete)
    group.add_typer(kept, name="subscriptions")
    event_schemas.add_to(group)
    app.add_typer(group, name="events")
