"""`mesh send` and `mesh listen`: durable messages, from a shell or a script."""

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh import clock
from mesh.cli import options
from mesh.cli.running import execute, joined
from mesh.cli.times import read_span, read_time

if TYPE_CHECKING:
    from mesh import Mesh
    from mesh.errors import NoSuchAgent


def send(
    to: Annotated[str, typer.Argument(metavar="AGENT", help="Name of an agent, or a role.", show_default=False)],
    type: Annotated[str, typer.Argument(metavar="TYPE", help="What kind of message it is: a word of yours.", show_default=False)],
    content: Annotated[
        str | None,
        typer.Argument(metavar="CONTENT", help="What it says: JSON, or else text; `-` reads it from stdin.", show_default=False),
    ] = None,
    priority: Annotated[str, typer.Option("--priority", "-p", metavar="P", help="critical, high, normal or low.")] = "normal",
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Sent twice with the same, it is handled once.", show_default=False)
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option("--expires", min=0.001, metavar="S", help="Seconds after which nobody begins to handle it.", show_default=False),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--in", metavar="10m", help="Send it in a while: 90s, 10m, 2h, 1d.", show_default=False)
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="Send it at a time, ISO 8601.", show_default=False)] = None,
    every: Annotated[str | None, typer.Option("--every", metavar="5m", help="Send it again and again.", show_default=False)] = None,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="LINE", help="Send it as a cron line says, in UTC: '0 9 * * 1-5'.", show_default=False)
    ] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", metavar="ZONE", help="Time zone of the cron line: Europe/Berlin.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it was handled, and print the answer.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, metavar="S", help="Seconds to wait with --wait.")] = 60.0,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Send a message, now or later. It is kept until an agent that answers to the name has handled it, whenever that is."""
    if sum(each is not None for each in (after, at, every, cron)) > 1 or (wait and any((after, at, every, cron))):
        raise typer.BadParameter("one of them at most, and none with --wait", param_hint="--in, --at, --every, --cron")
    if wait and expires is not None:
        raise typer.BadParameter("with --wait nobody begins to handle it after --timeout", param_hint="--expires")
    if zone is not None and cron is None:
        raise typer.BadParameter("it is the time zone of --cron; other times may say theirs", param_hint="--zone")
    if at is not None and at[-1:] in "smhdw":
        raise typer.BadParameter("a time, as 2026-01-31T12:00; for a while from now: --in 10m", param_hint="--at")
    delay, due = read_span("--in", after), read_time("--at", at)
    if due is not None and due < clock.wall_ns():
        raise typer.BadParameter("that time has passed; to send it now, leave --at out", param_hint="--at")
    period = read_span("--every", every)
    if period is not None and period != int(period):
        raise typer.BadParameter("whole seconds, at least one", param_hint="--every")
    said = read_content(sys.stdin.read() if content == "-" else content)

    async def work() -> None:
        from mesh.broker import MessageOptions
        from mesh.cli.render import print_json, print_text

        chosen: MessageOptions = {"priority": priority, "over": "ignore"}
        if id is not None:
            chosen["id"] = id
        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            if wait:
                if not as_json:  # then stderr is for how it ends
                    await warn_of_nobody(mesh, to, "the message waits for who listens there")
                print_json(await mesh.messages.send_message(to, type, said, timeout=timeout, **chosen))
                return
            if period is not None or cron is not None:
                seconds = None if period is None else int(period)
                stored = await mesh.messages.schedule_message(
                    to, type, said, every=seconds, cron=cron, zone=zone, expires=expires, **chosen
                )
            else:
                when = None if due is None else clock.iso(due)
                stored = await mesh.messages.publish_message(to, type, said, expires=expires, delay=delay, at=when, **chosen)
            await warn_of_nobody(mesh, to, "the message waits for who listens there")
        if as_json:
            print_json({"id": stored})
        else:
            print_text(stored)

    execute(work, as_json=as_json)


async def warn_of_nobody(mesh: "Mesh", to: str, so: str) -> None:
    from mesh.broker.mailboxes import nobody_at

    tell_of_nobody(to, await nobody_at(to, mesh.messages.mailbox, mesh.target), so)


def tell_of_nobody(to: str, nobody: "NoSuchAgent | None", so: str) -> None:
    """On stderr, with --json too: what is stored is stored, and `so` says what becomes of it."""
    if nobody is not None:
        typer.echo(f"no agent is here as {to!r}: {so}. {nobody.hint}", err=True)


def mailbox(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Of agents or roles; none: of all.", show_default=False)] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show how many messages wait for a name, in the hands of its receivers too, and whether anybody ever listened there. Of all names
    only operators see them."""

    async def work() -> None:
        from mesh.cli.render import console, print_json, table
        from mesh.subjects import PRIORITIES

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            found = {each: await mesh.messages.mailbox(each) for each in names} if names else await mesh.messages.mailboxes()
        if as_json:
            print_json([{"name": each, **box._asdict(), "waiting": box.waiting} for each, box in found.items()])
            return
        rows = [
            (each, *(box.lanes[priority] for priority in PRIORITIES), box.waiting, "yes" if box.listened else "never")
            for each, box in found.items()
        ]
        console().print(table(("name", *PRIORITIES, "waiting", "was listened to"), rows, right=(*PRIORITIES, "waiting")))

    execute(work, as_json=as_json)


def listen(
    roles: Annotated[list[str] | None, typer.Option("--role", metavar="ROLE", help="Also what is sent to this role.")] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, metavar="N", help="End after so many messages.", show_default=False)
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Print the messages to a name, and acknowledge each. Until Ctrl-C."""

    async def work() -> None:
        from mesh.broker import AgentMessage, Retry
        from mesh.cli.listening import LEAVE_SECONDS, Showing
        from mesh.cli.render import plain, print_json, print_text

        showing = Showing(count)

        async def take(message: AgentMessage) -> None:
            if not showing.show(partial(show, message)):
                raise Retry("nobody reads it here any more", after=LEAVE_SECONDS)

        def show(message: AgentMessage) -> None:
            if as_json:
                print_json(as_dict(message))
            else:
                where = "" if message.target == mesh.name else f" → {message.target}"
                head = f"{plain(message.sender + where)} [{message.priority}] {plain(message.type)}"
                print_text(f"{head}: {json.dumps(message.content, ensure_ascii=False)}")

        async with (
            joined(state_dir, broker, name, credentials, quiet=as_json) as mesh,
            mesh.messages.subscribe_to_messages(take, roles=tuple(roles or ()), prefetch=1 if count else 16),
        ):
            await showing.until_over()

    execute(work, as_json=as_json)


schedules = typer.Typer(
    no_args_is_help=True, epilog="Example: mesh schedules list", help="Messages of ours that are sent later, or again and again."
)


@schedules.command("list", epilog="Example: mesh schedules list --name qa-manager")
def list_schedules(
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """The messages that are still to be sent in our name."""

    async def work() -> None:
        from mesh.cli.render import plain, print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            found = await mesh.messages.list_schedules()
        if as_json:
            print_json(found)
            return
        for each in found:
            when = f"every {each['every']} s" if "every" in each else f"at {each['at']}" if "at" in each else f"cron {each['cron']}"
            when += f" {each['zone']}" if "zone" in each else ""
            text = json.dumps(each["content"], ensure_ascii=False)
            print_text(f"{plain(each['id'])}  {plain(when)}  → {plain(each['to'])} {plain(each['type'])}: {text}")
        if not found:
            print_text("none")

    execute(work, as_json=as_json)


@schedules.command("cancel", epilog="Example: mesh schedules cancel 9f2c4d1e7a3b5c60")
def cancel_schedule(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `mesh schedules list` shows it.", show_default=False)],
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Send a scheduled message no more."""

    async def work() -> None:
        from mesh.cli.render import print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            await mesh.messages.cancel_schedule(id)
        if as_json:
            print_json({"id": id})
        else:
            print_text("cancelled")

    execute(work, as_json=as_json)


def read_content(text: str | None) -> Any:
    """JSON, or the text itself where it is none."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return text


def as_dict(message: Any) -> dict[str, Any]:
    """One message for `--json`."""
    return {
        "sender": message.sender,
        "target": message.target,
        "priority": message.priority,
        "delivery": message.delivery,
        **json.loads(message.encode()),
    }


def add_to(app: typer.Typer) -> None:
    app.command("send", epilog="""Example: mesh send qa-manager review '{"pr": 7}' --priority high""")(send)
    app.add_typer(schedules, name="schedules")
    app.command("mailbox", epilog="Example: mesh mailbox qa-manager")(mailbox)
    app.command("listen", epilog="Example: mesh listen --name qa-manager")(listen)
