"""`mesh agents` and `mesh tools`: who is there and what they offer. With `--watch`, as it changes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mesh.cli import options
from mesh.cli.running import execute, joined

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mesh.admin import AgentView, ToolView
    from mesh.node import Mesh
    from mesh.registry.directory import Directory

REDRAW: Final = 1.0
"""Seconds after which a watching terminal is drawn anew though nothing changed: ages grow."""

SETTLE: Final = 0.05
"""Seconds that a change waits for others that come with it."""


def agents(
    watch: options.Watch = False,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Show the control plane's own agent too.")] = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show who is on the mesh, how they are, how many of their tools you may call, and who was lost within the last hour."""

    async def work() -> None:
        from mesh import admin

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:

            def look(directory: "Directory") -> "tuple[AgentView, ...]":
                return admin.agents(directory, everything=everything, reach=mesh.reach)

            await _show(mesh, look, agents_table, watch=watch, as_json=as_json)

    execute(work, as_json=as_json)


def tools(
    agent: Annotated[str | None, typer.Argument(metavar="AGENT", help="Of this agent or role only.", show_default=False)] = None,
    watch: options.Watch = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show the tools that agents offer and that you may call; of one agent with their parameters."""

    async def work() -> None:
        from mesh import admin
        from mesh.errors import NoSuchAgent

        def draw(views: "Sequence[ToolView]") -> "RenderableType":
            return tools_table(views, parameters=agent is not None)

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:

            def look(directory: "Directory") -> "tuple[ToolView, ...]":
                try:
                    return admin.tools(directory, agent, reach=mesh.reach)
                except NoSuchAgent:
                    if watch:
                        return ()  # it may come
                    raise

            await _show(mesh, look, draw, watch=watch, as_json=as_json)

    execute(work, as_json=as_json)


async def _show(
    mesh: "Mesh", look: "Callable[[Directory], Sequence[Any]]", draw: "Callable[[Any], RenderableType]", *, watch: bool, as_json: bool
) -> None:
    """Once, or at each change: a table, or one line of JSON."""
    from mesh.cli import render

    if not watch:
        async with mesh.directory() as directory:
            views = look(directory)
        if as_json:
            render.print_json([view.as_dict() for view in views])
        else:
            render.console().print(draw(views))
        return
    async with aclosing(_changes(mesh, look, every=None if as_json else REDRAW)) as changes:
        if as_json:
            told: object = None
            async for views in changes:
                outline = [getattr(view, "outline", view.as_dict)() for view in views]
                if outline != told:
                    told = outline
                    render.print_json([view.as_dict() for view in views])
            return
        from rich.live import Live

        with Live(console=render.console(), auto_refresh=False, screen=render.console().is_terminal) as live:
            async for views in changes:
                live.update(draw(views), refresh=True)


async def _changes(
    mesh: "Mesh", look: "Callable[[Directory], Sequence[Any]]", *, every: float | None
) -> AsyncGenerator[Sequence[Any], None]:
    changed = asyncio.Event()
    async with mesh.directory(lambda _what, _key, _reason: changed.set()) as directory:
        while True:
            yield look(directory)
            try:
                async with asyncio.timeout(every):
                    await changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(SETTLE)
            changed.clear()


def agents_table(views: "Sequence[AgentView]") -> "RenderableType":
    """A row for each instance; below the table, for each agent who was lost last, and why. What is not needed at a glance (host, pid, the
    others that were lost) is in the JSON."""
    from rich.console import Group
    from rich.text import Text

    from mesh.cli.render import age, plain, table

    rows: list[tuple[Any, ...]] = []
    lost: list[Text] = []
    for view in views:
        head: tuple[Any, ...] = (view.name, ", ".join(view.roles), view.version, view.tools)
        for each in view.instances:
            rows.append((*head, each.id, each.state, age(each.age), age(each.beat_age), each.running, each.served, each.failed))
            head = ("", "", "", "")
        if (last := view.last_lost) is not None:
            before = f"; {len(view.lost)} within the hour" if len(view.lost) > 1 else ""
            said = f"lost {age(last.ago)} ago: {view.name} {last.id}: {last.reason}{before}"
            lost.append(Text(plain(said), style="yellow" if view.instances or not view.serves else "red"))
    if not rows and not lost:
        return Text("nobody is here whom you may see. Start agents with `mesh up FILE`, or one with `mesh-bridge serve NAME -- COMMAND`")
    columns = ("agent", "roles", "version", "tools", "instance", "state", "age", "beat", "now", "calls", "failed")
    return Group(table(columns, rows, right=("tools", "age", "beat", "now", "calls", "failed")), *lost)


def tools_table(views: "Sequence[ToolView]", *, parameters: bool) -> "RenderableType":
    from rich.text import Text

    from mesh.cli.render import first_line, table

    if not views:
        return Text("no tools are here that you may call. `mesh agents` shows who is here")
    if not parameters:
        return table(
            ("agent", "tool", "what it does"), [(view.agent, view.name, view.title or first_line(view.description)) for view in views]
        )
    rows: list[tuple[str, ...]] = []
    for view in views:
        rows.append((view.name, "", "", view.title or first_line(view.description)))
        properties = view.input_schema.get("properties")
        required = view.input_schema.get("required")
        for name, said in properties.items() if isinstance(properties, dict) else ():
            said = said if isinstance(said, dict) else {}
            needed = isinstance(required, list) and name in required
            kind = said.get("type", "")
            kind = "|".join(map(str, kind)) if isinstance(kind, list) else str(kind)
            rows.append(("", f"{name}{'' if needed else '?'}", kind, first_line(str(said.get("description") or ""))))
    return table(("tool", "parameter", "type", "what it is"), rows)


def add_to(app: typer.Typer) -> None:
    app.command("agents", epilog="Example: mesh agents --watch")(agents)
    app.command("tools", epilog="Example: mesh tools time")(tools)
