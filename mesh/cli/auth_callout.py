"""`mesh auth callout`: guests of an outside identity provider at the broker. The command itself is the service; `enable` and `disable` say
whom it believes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.background import end_tasks
from mesh.cli import options
from mesh.cli.running import execute

if TYPE_CHECKING:
    from mesh.identity.authority import Authority


def serve(context: typer.Context, state_dir: options.StateDir = None, broker: options.Broker = None, as_json: options.Json = False) -> None:
    """Answer the broker when guests come, until Ctrl-C. Several may run; while none does, guests are refused, and only they."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> None:
        import asyncio

        from mesh.cli import logging, render
        from mesh.cli.stopping import Stop
        from mesh.cli.telling import authority_of
        from mesh.identity.callout import Callout
        from mesh.identity.fetching import fetch_keys
        from mesh.settings import make_settings

        logging.configure()
        settings = make_settings(state_dir=state_dir, broker=broker)
        service = Callout(authority_of(state_dir), settings.broker_url(), fetch_keys, settings.broker_tls())
        stop = Stop()
        async with stop.listening():
            running = asyncio.create_task(service.run(), name="guests")
            try:
                ready = asyncio.create_task(service.ready.wait())
                await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    ready.cancel()
                    running.result()
                said = {"event": "ready", "issuer": service.issuer.name, "audience": service.issuer.audience}
                render.print_json(said) if as_json else render.print_text(f"guests of {said['issuer']} are admitted")
                await stop.wait()
            finally:
                await end_tasks(running)

    execute(work, as_json=as_json)


def enable(
    issuer: Annotated[str, typer.Option("--issuer", metavar="URL", help="What its tokens say in `iss`.")],
    jwks: Annotated[str, typer.Option("--jwks", metavar="URL|FILE", help="Its keys: an https address, or a file.")],
    audience: Annotated[str, typer.Option("--audience", metavar="NAME", help="What they must say in `aud`.")],
    claim: Annotated[str, typer.Option("--claim", metavar="NAME", help="The claim that names the participant.")] = "sub",
    algorithms: Annotated[
        list[str] | None, typer.Option("--algorithm", metavar="NAME", help="EdDSA, RS256 or ES256; may be repeated. [default: all]")
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="ROLE", help="For who is no participant yet; may be repeated. [default: such are refused]"),
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Believe a provider: who brings `guests.creds`, which is no secret, and its token, is the participant that the token names."""

    async def work() -> None:
        from mesh.cli.telling import authority_of
        from mesh.identity import outside
        from mesh.identity.issuers import ALGORITHMS, Issuer

        authority = authority_of(state_dir)
        keys = jwks if "://" in jwks else str(Path(jwks).resolve())
        believed = Issuer(issuer, keys, tuple(algorithms or ALGORITHMS), claim, audience)
        token = outside.enable(authority, outside.Outside(believed, tuple(roles or ())))
        path = authority.keyring.path / outside.GUESTS
        await _tell(authority, token, str(path), {"file": str(path)}, state_dir, broker, as_json)

    execute(work, as_json=as_json)


def disable(state_dir: options.StateDir = None, broker: options.Broker = None, as_json: options.Json = False) -> None:
    """Believe nobody any more. Guests that are there stay until their connection ends, five minutes at most."""

    async def work() -> None:
        from mesh.cli.telling import authority_of
        from mesh.identity import outside

        authority = authority_of(state_dir)
        token = outside.disable(authority)
        text = "no provider is believed" if token is None else "no provider is believed any more"
        await _tell(authority, token, text, {"changed": token is not None}, state_dir, broker, as_json)

    execute(work, as_json=as_json)


async def _tell(
    authority: "Authority", token: str | None, text: str, facts: dict[str, Any], state_dir: Path | None, broker: str | None, as_json: bool
) -> None:
    """The running broker, or the one that starts next; then say what was done."""
    from mesh.cli import render
    from mesh.errors import BrokerUnavailable, NotAdmitted
    from mesh.identity.outside import keep
    from mesh.identity.push import push_other
    from mesh.settings import make_settings

    told = False
    if token is not None:
        try:
            settings = make_settings(state_dir=state_dir, broker=broker)
            await push_other(authority, token, settings.broker_url(), settings.broker_tls())
            told = True
        except NotAdmitted:
            raise
        except BrokerUnavailable:
            keep(authority, token)
    if as_json:
        render.print_json(facts | {"told": told})
    else:
        render.print_text(text)


def add_to(group: typer.Typer) -> None:
    """`group` is `mesh auth`."""
    callout = typer.Typer(epilog="Example: mesh auth callout", help="Guests of an outside identity provider. By itself: answer for them.")
    callout.callback(invoke_without_command=True)(serve)
    example = "mesh auth callout enable --issuer https://id.example --jwks https://id.example/jwks --audience mesh --role host"
    callout.command("enable", epilog=f"Example: {example}")(enable)
    callout.command("disable", epilog="Example: mesh auth callout disable")(disable)
    group.add_typer(callout, name="callout")
