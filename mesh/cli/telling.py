"""After a change of identities: tell the broker that runs, or say when the change will count."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mesh.identity.authority import Authority

Offline = Annotated[bool, typer.Option("--offline", help="Change the files only. A running broker goes on by what it knows.")]

AT_ITS_START = "No broker runs here; it counts when one starts."
OFFLINE = "A running broker was not told; it counts when the broker starts anew."
ELSEWHERE = "It counts once its operator signed the account: mesh auth export --account-template, then mesh auth init --account-jwt FILE"


def authority_of(state_dir: Path | None) -> "Authority":
    """What the options name. Raises ConfigError where nothing was made yet."""
    from mesh.identity.authority import Authority
    from mesh.settings import make_settings

    settings = make_settings(state_dir=state_dir)
    return Authority.open(settings.state_dir, prefix=settings.prefix)


async def tell(authority: "Authority", state_dir: Path | None, broker: str | None, *, quiet: bool, offline: bool = False) -> dict[str, Any]:
    """`{"told": bool, "broker"?: URL, "note"?: TEXT}`. Raises BrokerError: the files say it then, and the broker does not know.

    `quiet`: no log line on stderr, whatever happens.
    """
    from mesh.errors import BrokerError, BrokerUnavailable
    from mesh.settings import make_settings

    if authority.awaits_signature():
        return {"told": False, "note": ELSEWHERE}
    if offline:
        return {"told": False, "note": OFFLINE}
    try:
        settings = make_settings(state_dir=state_dir, broker=broker)
        url, tls = settings.broker_url(), settings.broker_tls()
    except BrokerUnavailable:
        return {"told": False, "note": AT_ITS_START}
    from mesh.cli.logging import configure
    from mesh.identity.push import push
    from mesh.link.address import without_userinfo

    configure(stderr=None if quiet else logging.WARNING)
    try:
        await push(authority, url, tls)
    except BrokerError as error:
        error.hint = f"The files are changed, and the broker at {without_userinfo(url)} was not told. {error.hint}"
        raise
    return {"told": True, "broker": without_userinfo(url)}


def say(lines: list[str], told: dict[str, Any]) -> None:
    """For a person: what was done on stdout, what remains to be done on stderr."""
    from mesh.cli import render

    for line in lines:
        render.print_text(line)
    sys.stdout.flush()
    if "note" in told:
        render.print_text(told["note"], stderr=True)
