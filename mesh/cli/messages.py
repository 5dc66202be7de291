"""`mesh send` and `mesh listen`: durable messages, from a shell or a script."""

import asyncio
import json
import sys
from typing import Annotated, Any

import typer

from mesh.cli import options
from mesh.cli.running import execute, joined


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
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it was handled, and print the answer.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.001, metavar="S", help="Seconds to wait with --wait.")] = 60.0,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Send a message. It is kept until an agent that answers to the name has handled it, whenever that is."""
    said = read_content(sys.stdin.read() if content == "-" else content)

    async def work() -> None:
        from mesh.broker.broker import MessageOptions
        from mesh.cli.render import print_json, print_text

        chosen: MessageOptions = {"priority": priority}
        if id is not None:
            chosen["id"] = id
        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            if wait:
                print_json(await mesh.messages.send_message(to, type, said, timeout=timeout, **chosen))
                return
            stored = await mesh.messages.publish_message(to, type, said, expires=expires, **chosen)
        if as_json:
            print_json({"id": stored})
        else:
            print_text(stored)

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
        from mesh.broker import AgentMessage
        from mesh.cli.render import plain, print_json, print_text

        left, enough = count, asyncio.Event()

        async def show(message: AgentMessage) -> None:
            nonlocal left
            if left == 0:
                await asyncio.Event().wait()  # we are leaving, and it comes again to somebody else
            if as_json:
                print_json(as_dict(message))
            else:
                where = "" if message.target == mesh.name else f" → {message.target}"
                head = f"{plain(message.sender + where)} [{message.priority}] {plain(message.type)}"
                print_text(f"{head}: {json.dumps(message.content, ensure_ascii=False)}")
            if left is not None:
                left -= 1
                if left == 0:
                    enough.set()

        async with (
            joined(state_dir, broker, name, credentials, quiet=as_json) as mesh,
            mesh.messages.subscribe_to_messages(show, roles=tuple(roles or ()), prefetch=1 if count else 16),
        ):
            await enough.wait()

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
    app.command("listen", epilog="Example: mesh listen --name qa-manager")(listen)
