"""`mesh events schemas`: the schemas of topics, looked at, checked and registered."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mesh.cli import options
from mesh.cli.running import execute, joined

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="Words with dots between them: build.done.", show_default=False)]
RULES: Final = "none, backward, forward, full, or one of the last three with _transitive"
Rule = Annotated[
    str | None, typer.Option("--rule", metavar="RULE", help=f"The topic's rule from now on: {RULES}.", show_default="as it is; backward")
]
Defaults = Annotated[
    str | None, typer.Option("--defaults", metavar="JSON", help="Members that older events get where they lack them.", show_default=False)
]
Convert = Annotated[
    str,
    typer.Option(
        "--convert", metavar="CEL", help="Makes the new data out of the old: \"{'n': int(data.count)}\". Rule none.", show_default=False
    ),
]
FileHelp: Final = "The schema, JSON Schema 2020-12; `-` reads it from stdin."


def list_(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="* is any word, > the rest of them.")] = ">",
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """List the schemas of the topics that you may publish or hear."""

    async def work() -> None:
        from mesh import clock
        from mesh.cli import render

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            found = await mesh.events.schemas.list(topic)
        if as_json:
            render.print_json(found)
            return
        now = clock.wall_ns()
        rows = [(each["topic"], each["version"], each["rule"], each["by"], render.age((now - each["at_ns"]) / 1e9)) for each in found]
        render.console().print(render.table(("topic", "version", "rule", "registered by", "age"), rows, right=("version", "age")))

    execute(work, as_json=as_json)


def show(
    topic: Topic,
    version: Annotated[int | None, typer.Option("--version", min=1, metavar="N", help="Which.", show_default="the newest")] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Show one version: the schema, and what is done to older events."""

    async def work() -> None:
        from mesh.cli.render import plain, print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            said = await mesh.events.schemas.get(topic, version)
        if as_json:
            print_json(said)
            return
        by = f"by {plain(said['by'])}" + ("" if said["by"] == said["owner"] else f", the topic's owner is {plain(said['owner'])}")
        print_text(f"{plain(said['topic'])}, version {said['version']}, rule {said['rule']}, registered {by}")
        if said["defaults"]:
            print_text(f"older events get: {json.dumps(said['defaults'], ensure_ascii=False)}")
        if said["convert"]:
            print_text(f"older events become: {plain(said['convert'])}")
        print_text(json.dumps(said["document"], indent=2, ensure_ascii=False))

    execute(work, as_json=as_json)


def register(
    topic: Topic,
    file: Annotated[str, typer.Argument(metavar="FILE", help=FileHelp, show_default=False)],
    rule: Rule = None,
    defaults: Defaults = None,
    convert: Convert = "",
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Register a schema of a topic that you may publish on, or its next version."""
    document, filling = _json(file), _object(defaults)

    async def work() -> None:
        from mesh.cli.render import plain, print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            schemas = mesh.events.schemas
            version = await schemas.register(topic, document, compatibility=rule, defaults=filling, convert=convert)
        if as_json:
            print_json({"topic": topic, "version": version})
        else:
            print_text(f"{plain(topic)}: version {version}")

    execute(work, as_json=as_json)


def check(
    topic: Topic,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help=FileHelp, show_default="the newest one that there is")] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="JSON", help="Whether this would fit it; `-` reads it from stdin.", show_default=False)
    ] = None,
    rule: Rule = None,
    defaults: Defaults = None,
    convert: Convert = "",
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Check whether a schema could be registered, and whether data fits it. Nothing is stored."""
    if file is None and data is None:
        raise typer.BadParameter("give a FILE with a schema, --data, or both")
    document, filling = None if file is None else _json(file), _object(defaults)
    instance = None if data is None else _parse(sys.stdin.read() if data == "-" else data, "--data")

    async def work() -> int:
        from mesh.cli.render import plain, print_json, print_text
        from mesh.errors import InvalidEvent
        from mesh.policy.schemas import Unfit, take

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            schemas = mesh.events.schemas
            if document is None:
                found = await schemas.get(topic)
                version, schema = int(found["version"]), found["document"]
            else:
                version = await schemas.check_schema(topic, document, compatibility=rule, defaults=filling, convert=convert)
                schema = document
        if data is not None:
            try:
                take(schema).check(instance)
            except Unfit as problem:
                raise InvalidEvent(
                    f"the data does not fit version {version} of {topic!r}: at {problem.path or '/'}: {problem.why}",
                    hint=f"the schema says so at {problem.rule or '/'}",
                    topic=topic,
                    version=version,
                    path=problem.path,
                    rule=problem.rule,
                ) from None
        if as_json:
            print_json({"topic": topic, "version": version, "fits": True})
        else:
            what = [] if document is None else [f"could be registered as version {version}"]
            print_text(f"{plain(topic)}: " + ", and ".join([*what, *([] if data is None else ["the data fits"])]))
        return 0

    execute(work, as_json=as_json)


def delete(
    topic: Topic,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    name: options.Name = None,
    credentials: options.Credentials = None,
    as_json: options.Json = False,
) -> None:
    """Delete all versions of a topic that you registered first. From then on anything may be published there."""

    async def work() -> None:
        from mesh.cli.render import plain, print_json, print_text

        async with joined(state_dir, broker, name, credentials, quiet=as_json) as mesh:
            deleted = await mesh.events.schemas.delete(topic)
        if as_json:
            print_json({"topic": topic, "deleted": deleted})
        else:
            print_text(f"{plain(topic)}: {deleted} version{'s' if deleted != 1 else ''} deleted")

    execute(work, as_json=as_json)


def _json(file: str) -> Any:
    try:
        return _parse(sys.stdin.read() if file == "-" else Path(file).read_text(), file)
    except (OSError, UnicodeDecodeError) as problem:
        raise typer.BadParameter(f"{file}: {problem}") from None


def _object(text: str | None) -> dict[str, Any]:
    said = {} if text is None else _parse(text, "--defaults")
    if not isinstance(said, dict):
        raise typer.BadParameter('--defaults is a JSON object: {"by": "nobody"}')
    return said


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise typer.BadParameter(f"{where} is no JSON: {problem}") from None


def add_to(events: typer.Typer) -> None:
    help = "Schemas of topics: what events must look like."
    group = typer.Typer(no_args_is_help=True, epilog="Example: mesh events schemas list", help=help)
    group.command("list", epilog="Example: mesh events schemas list 'build.>'")(list_)
    group.command("show", epilog="Example: mesh events schemas show build.done --version 1")(show)
    group.command("register", epilog="Example: mesh events schemas register build.done build.json --rule backward")(register)
    group.command("check", epilog="Example: mesh events schemas check build.done build.json --data '{\"ok\": true}'")(check)
    group.command("delete", epilog="Example: mesh events schemas delete build.done")(delete)
    events.add_typer(group, name="schemas")
