"""`mesh doctor`: looks at the set-up and at the mesh that runs, and says what to do about what it finds."""

from typing import TYPE_CHECKING, Final

import typer

from mesh.cli import options
from mesh.cli.running import execute, settings_of
from mesh.subjects import OPERATOR

if TYPE_CHECKING:
    from rich.text import Text

    from mesh.cli import checks

EXAMPLES: Final = """\
Example: mesh doctor

Example: mesh doctor --broker nats://127.0.0.1:4222 --json
"""


def doctor(
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Check Python, nats-server, state directory, broker, topology, agents and journal. Exit code 1 if something fails."""

    async def work() -> int:
        from mesh.cli import checks, live_checks, logging, render

        logging.configure(stderr=None)
        settings = settings_of(OPERATOR, state_dir=state_dir, broker=broker, name=name, credentials=credentials)
        found: list[checks.Check] = []
        console = render.console()

        def note(check: checks.Check) -> None:
            found.append(check)
            if not as_json:
                console.print(_row(check), soft_wrap=True)

        for check in checks.local(settings):
            note(check)
        note(await checks.program(embedded=settings.broker is None))
        async for check in live_checks.live(settings):
            note(check)
        failed = [check.name for check in found if check.result is checks.Result.FAIL]
        if as_json:
            render.print_json({"ok": not failed, "checks": [check.as_dict() for check in found]})
        return 1 if failed else 0

    execute(work, as_json=as_json)


def _row(check: "checks.Check") -> "Text":
    """A line, and below it what to do. Shown as each check ends: some take seconds."""
    from rich.text import Text

    from mesh.cli.render import STYLES, plain

    row = Text()
    row.append(f"{check.result.value:<6}", style=STYLES[check.result.value])
    row.append(f"{plain(check.name):<18} {plain(check.said)}")
    if check.next_step:
        row.append(f"\n{'':<25}→ {plain(check.next_step)}", style="bold")
    return row


def add_to(app: typer.Typer) -> None:
    app.command("doctor", epilog=EXAMPLES)(doctor)
