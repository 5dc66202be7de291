"""`mesh auth token`: a bearer token for HTTP and WebSocket, made out of credentials on this machine. No server is asked."""

from pathlib import Path
from typing import Annotated

import typer

from mesh.cli import options
from mesh.cli.auth_users import read_lifetime
from mesh.cli.running import execute

DEFAULT_NAME = "local"


def token(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A participant whose credentials are here.", show_default=DEFAULT_NAME)
    ] = None,
    audience: Annotated[
        str | None,
        typer.Option(
            "--audience",
            metavar="URL",
            help="Where it is to count: a front, or one path of it.",
            show_default="the front of the mesh that runs on the state directory",
        ),
    ] = None,
    expires: Annotated[str, typer.Option("--expires", metavar="TIME", help="30m, 12h, 30d at most.")] = "12h",
    credentials: Annotated[
        Path | None,
        typer.Option("--credentials", metavar="FILE", help="A .creds file instead of NAME. Also MESH_CREDENTIALS.", show_default=False),
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Print a token for `Authorization: Bearer`. Whoever has it is that participant where it counts, until it expires."""
    lifetime = read_lifetime(expires)
    if lifetime is None:
        raise typer.BadParameter("a token expires", param_hint="--expires")

    async def work() -> None:
        from mesh import clock
        from mesh.cli import render
        from mesh.crypto.creds import read_credentials
        from mesh.errors import ConfigError
        from mesh.identity.keyring import DIRECTORY, creds_file
        from mesh.identity.tokens import make_token
        from mesh.settings import make_settings, read_runtime
        from mesh.subjects import unescape

        settings = make_settings(state_dir=state_dir, credentials=credentials)
        path = settings.credentials if name is None or credentials is not None else None
        found = read_credentials(path or settings.state_dir / DIRECTORY / creds_file(name or DEFAULT_NAME))
        where = audience or read_runtime(settings.state_dir).get("http")
        if where is None:
            raise ConfigError(
                f"the mesh on {settings.state_dir} serves no HTTP", hint="start it with --http-port, or say where: --audience URL"
            )
        if not where.startswith(("http://", "https://")):
            raise ConfigError(f"{where!r} is no URL of a front", hint="it begins with http:// or https://")
        made, until = make_token(found, where, lifetime)
        if as_json:
            said = {"token": made, "name": unescape(found.name), "audience": where, "expires": clock.iso(until * 1_000_000_000)}
            render.print_json(said)
        else:
            render.print_text(made)

    execute(work, as_json=as_json)


def add_to(group: typer.Typer) -> None:
    """`group` is `mesh auth`."""
    group.command("token", epilog="Example: mesh auth token local --expires 1h")(token)
