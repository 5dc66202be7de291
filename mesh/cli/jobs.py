"""`mesh jobs`: calls that are stored, done when somebody is there, and collected later."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mesh.cli import options
from mesh.cli.job_bar import Bar, how_far
from mesh.cli.running import execute, joined

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from mesh.jobs import JobRecord, Jobs

LAST_WORD: Final = 2.0
"""Seconds that Ctrl-C waits for the name of a job that was just submitted."""

WITH_ERROR: Final = "done, with an error"
"""For people, how a job stands whose tool gave a result that says `isError`. With `--json` it is `done`, as the result says the rest."""

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, as `submit` and `list` name it.", show_default=False)]


def submit(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Name of an agent, or a role.", show_default=False)],
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="Name of the tool.", show_default=False)],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Arguments of the tool. KEY=VALUE is text, KEY:=JSON is JSON.", show_default=False),
    ] = None,
    args: Annotated[
        str | None,
        typer.Option("--args", metavar="JSON", help="All arguments as one JSON object; `-` reads it from stdin.", show_default=False),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is over, and print the result. Ctrl-C leaves, and it goes on.")
    ] = False,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Submitted twice with the same key, it is one job.", show_default=False)
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option("--deadline", min=0.001, metavar="S", help="Seconds after which nobody works on it any more.", show_default=False),
    ] = None,
    attempts: Annotated[int, typer.Option("--attempts", min=1, max=20, metavar="N", help="How often it is begun at most.")] = 3,
    keep: Annotated[
        float, typer.Option("--keep", min=1, metavar="S", help="Seconds for which its result is kept; ten minutes at least.")
    ] = 86_400,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Have a tool called, now or when its agent is there. Prints the job's id."""
    from mesh.cli.arguments import read_object, split

    try:
        pairs = split(words or [])
        start = read_object(sys.stdin.read() if args == "-" else args) if args is not None else {}
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    async def work() -> int:
        from mesh.broker.mailboxes import nobody_takes
        from mesh.cli.arguments import build, needs_schema
        from mesh.cli.call import tool_schema, warn_of_unknown
        from mesh.cli.messages import tell_of_nobody
        from mesh.cli.render import print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            schema = await tool_schema(mesh, agent, tool) if needs_schema(pairs) or start else None
            arguments = build(pairs, schema, start)
            warn_of_unknown(tool, arguments, schema, quiet=as_json)

            async def submitted() -> "JobRecord":
                job = await mesh.jobs.submit(agent, tool, arguments, key=key, deadline=deadline, attempts=attempts, keep=keep)
                if not (wait and as_json):  # then stderr is for how it ends
                    nobody = await nobody_takes(job, mesh.jobs, mesh.messages.mailbox, mesh.target)
                    tell_of_nobody(agent, nobody, "the job waits for who answers to that name")
                return job

            job = await _known(submitted())
            if wait:
                return await _wait(mesh.jobs, job.id, None, as_json)
        if as_json:
            print_json(job.as_dict())
        else:
            print_text(job.id)
        return 0

    execute(work, as_json=as_json)


def list_jobs(
    everybody: Annotated[bool, typer.Option("--all", help="Those of everybody; for operators (--name operator).")] = False,
    most: Annotated[int, typer.Option("--most", min=1, metavar="N", help="Show so many.")] = 100,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show your jobs, the newest first, as long as they are kept."""

    async def work() -> None:
        from mesh import clock
        from mesh.cli.render import plain, print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            jobs = await mesh.jobs.list(all=everybody, most=most)
        if as_json:
            print_json([job.as_dict() for job in jobs])
            return
        if not jobs:
            print_text("no jobs")
        for job in jobs:
            who = f"{job.caller} → " if everybody else ""
            head = f"{job.id}  {_standing(job):<{len(WITH_ERROR)}}  {clock.iso(job.created_ns)[:19]}"
            print_text(f"{head}  {plain(f'{who}{job.target} {job.name}')}{how_far(job)}")

    execute(work, as_json=as_json)


def show(
    id: JobId,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show how a job stands, and its result or error."""

    async def work() -> None:
        from mesh.cli.render import content_text, plain, print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            job = await mesh.jobs.get(id)
        if as_json:
            print_json(job.as_dict())
            return
        for key, value in job.as_dict().items():
            if key not in ("result", "error"):
                print_text(f"{key:<14} {plain(_standing(job) if key == 'state' else str(value))}")
        if job.error is not None:
            print_text(f"{'error':<14} {plain(str(job.error.get('message', '')))}")
        if isinstance(job.result, dict):
            print_text(content_text(job.result))

    execute(work, as_json=as_json)


def wait(
    id: JobId,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.001, metavar="S", help="Seconds to wait; the job goes on.", show_default=False)
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Wait until a job is over, and print its result. Ctrl-C leaves, and the job goes on."""

    async def work() -> int:
        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            return await _wait(mesh.jobs, id, timeout, as_json)

    execute(work, as_json=as_json)


def cancel(
    id: JobId,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """End a job. Who works on it stops."""

    async def work() -> None:
        from mesh.cli.render import print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            job = await mesh.jobs.cancel(id)
        if as_json:
            print_json(job.as_dict())
        else:
            print_text(job.state if job.state == "cancelled" else f"it was over already: {_standing(job)}")

    execute(work, as_json=as_json)


async def _known(submitting: "Coroutine[Any, Any, JobRecord]") -> "JobRecord":
    """Ctrl-C while the broker is storing it: what it is called is told all the same."""
    import asyncio

    from mesh.errors import MeshError

    task = asyncio.ensure_future(submitting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(MeshError, TimeoutError):
            async with asyncio.timeout(LAST_WORD):
                _tell_the_way_back((await task).id)
        raise


def _tell_the_way_back(id: str) -> None:
    from mesh.cli.render import plain, print_text

    print_text(f"the job goes on; come back with: mesh jobs wait {plain(id)}", stderr=True)


async def _wait(jobs: "Jobs", id: str, timeout: float | None, as_json: bool) -> int:
    """0 for a result, 1 for a tool's failure and for what has no result, as `mesh call`."""
    import asyncio

    from mesh.cli.render import content_text, print_json, print_text
    from mesh.errors import CallTimeout
    from mesh.jobs.door import result_of

    bar = Bar()
    last: JobRecord | None = None
    try:
        async with asyncio.timeout(timeout):
            async for last in jobs.watch(id):
                bar.show(last)
    except TimeoutError:
        raise CallTimeout(f"the job {id} was not over within {timeout:g} s", hint=f"it goes on; `mesh jobs wait {id}`") from None
    except asyncio.CancelledError:
        bar.clear()
        _tell_the_way_back(id)
        raise
    finally:
        bar.clear()
    assert last is not None
    if as_json:
        print_json(last.as_dict())
        return 0 if last.state == "done" and not last.tool_failed else 1
    result: Any = result_of(last)
    print_text(content_text(result if isinstance(result, dict) else {}), stderr=last.tool_failed)
    return 1 if last.tool_failed else 0


def _standing(job: "JobRecord") -> str:
    return WITH_ERROR if job.tool_failed else job.state


def add_to(app: typer.Typer) -> None:
    help = "Calls that are stored, done when somebody is there, and collected later."
    group = typer.Typer(no_args_is_help=True, epilog="Example: mesh jobs list", help=help)
    group.command("submit", epilog="Example: mesh jobs submit time get_current_time timezone=Europe/Berlin --wait")(submit)
    group.command("list", epilog="Example: mesh jobs list")(list_jobs)
    group.command("show", epilog="Example: mesh jobs show 7-9df36260b63195da3c24")(show)
    group.command("wait", epilog="Example: mesh jobs wait 7-9df36260b63195da3c24 --timeout 60")(wait)
    group.command("cancel", epilog="Example: mesh jobs cancel 7-9df36260b63195da3c24")(cancel)
    app.add_typer(group, name="jobs")
