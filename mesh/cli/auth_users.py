"""`mesh auth issue | revoke | rotate`: who may be on the mesh. A running broker is told at once."""

import re
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mesh.cli import options
from mesh.cli.running import execute
from mesh.cli.telling import Offline

if TYPE_CHECKING:
    from mesh.identity.records import User

NEVER: Final = "never"
_LIFETIME: Final = re.compile(r"(\d+)(s|m|h|d|w)").fullmatch
_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

Name = Annotated[str, typer.Argument(metavar="NAME", help="A participant.", show_default=False)]


class What(StrEnum):
    """What `rotate` makes anew."""

    USER = "user"
    SCOPE = "scope"
    ACCOUNT_SIGNING = "account-signing"
    OPERATOR = "operator"


def issue(
    name: Name,
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="ROLE", help="A role; may be repeated. [default: those it has, or agent]", show_default=False),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="30d, 12h, …, or never. [default: as last time, or never]", show_default=False),
    ] = None,
    rotate_key: Annotated[bool, typer.Option("--rotate-key", help="Make a new key; the old one counts no more.")] = False,
    public: Annotated[
        str | None,
        typer.Option("--public-key", metavar="U…", help="A key that was made elsewhere: only its JWT is written.", show_default=False),
    ] = None,
    offline: Offline = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Make credentials for a participant, or renew them. A renewal keeps the key, and who is connected stays so."""
    lifetime = read_lifetime(expires)

    async def work() -> None:
        from mesh.cli import render
        from mesh.cli.telling import authority_of, say, tell

        authority = authority_of(state_dir)
        old = next((user for user in authority.users() if user.name == name), None)
        elsewhere = old.public if old is not None and old.revoked is None and not old.local and not rotate_key else None
        issued = authority.issue(
            name,
            roles or (old.roles if old is not None else ("agent",)),
            expires=lifetime if expires is not None or old is None else old.lifetime,
            public=public or elsewhere,
            new_key=rotate_key,
            again=True,
        )
        told = await tell(authority, state_dir, broker, quiet=as_json, offline=offline) if issued.account_changed else {}
        if as_json:
            render.print_json(as_dict(issued.user) | {"file": str(issued.path)} | told)
        else:
            say([str(issued.path)], told)

    execute(work, as_json=as_json)


def revoke(
    name: Name,
    offline: Offline = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Let a participant's credentials count no more, and cut it off. `issue` lets it in again, with a new key."""

    async def work() -> None:
        from mesh.cli import render
        from mesh.cli.telling import authority_of, say, tell

        authority = authority_of(state_dir)
        user = authority.revoke(name)
        told = await tell(authority, state_dir, broker, quiet=as_json, offline=offline)
        if as_json:
            render.print_json(as_dict(user) | told)
        else:
            say([f"{name} is revoked"], told)

    execute(work, as_json=as_json)


def rotate(
    what: Annotated[What, typer.Argument(help="A participant's key; the signing key of a set of roles, or of all; the operator's.")],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Which participant, or which set of roles, as agent+host.", show_default=False)
    ] = None,
    retire: Annotated[bool, typer.Option("--retire", help="The second step: the old key counts no more.")] = False,
    offline: Offline = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Make a key anew. A participant's old key counts no more; a signing key does until --retire, so that nobody is cut off.

    The operator's signing key is in two steps, each with a restart of the servers after it, which read it when they start.
    """
    if (name is None) == (what in (What.USER, What.SCOPE)):
        raise typer.BadParameter(f"`rotate {what}` {'wants a' if name is None else 'takes no'} name", param_hint="NAME")
    if retire and what is What.USER:
        raise typer.BadParameter("a participant's old key counts no more at once", param_hint="--retire")

    async def work() -> None:
        from mesh.cli import render
        from mesh.cli.telling import authority_of, say, tell

        authority = authority_of(state_dir)
        renewed: tuple[str, ...] = ()
        match what, name:
            case What.USER, str():
                renewed = (authority.renew(name, new_key=True).user.name,)
            case What.SCOPE, str():
                renewed = authority.rotate_scope(name, retire=retire)
            case What.ACCOUNT_SIGNING, _:
                renewed = tuple(user for scope in authority.scope_names() for user in authority.rotate_scope(scope, retire=retire))
            case _:
                authority.rotate_operator(retire=retire)
        told: dict[str, Any] = {"told": False, "note": "Start the servers anew with it, then: mesh auth rotate operator --retire"}
        if what is not What.OPERATOR or retire:
            told = await tell(authority, state_dir, broker, quiet=as_json, offline=offline)
        if as_json:
            render.print_json({"rotated": what.value, "name": name, "retired": retire, "renewed": renewed} | told)
        else:
            say([f"new credentials: {', '.join(renewed)}"] if renewed else [], told)

    execute(work, as_json=as_json)


def as_dict(user: "User") -> dict[str, Any]:
    """One participant for `--json`, times as text."""
    from mesh import clock

    def time(second: int | None) -> str | None:
        return None if second is None else clock.iso(second * 1_000_000_000).replace(".000000Z", "Z")

    return {
        "name": user.name,
        "public_key": user.public,
        "roles": list(user.roles),
        "scope": user.scope,
        "memberships": list(user.memberships),
        "issued": time(user.issued),
        "expires": time(user.expires),
        "revoked": time(user.revoked),
        "key_is_here": user.local,
    }


def read_lifetime(text: str | None) -> timedelta | None:
    """`12h`; None for never."""
    if text is None or text == NEVER:
        return None
    found = _LIFETIME(text)
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no time: 90s, 30m, 12h, 30d, 4w, or {NEVER}", param_hint="--expires")
    try:
        return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long; {NEVER} is a choice", param_hint="--expires") from None


def add_to(group: typer.Typer) -> None:
    """`group` is `mesh auth`."""
    group.command("issue", epilog="Example: mesh auth issue qa-manager --role agent --role reviewer --expires 30d")(issue)
    group.command("revoke", epilog="Example: mesh auth revoke qa-manager")(revoke)
    group.command("rotate", epilog="Example: mesh auth rotate user qa-manager")(rotate)
