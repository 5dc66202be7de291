"""`mesh auth`: identities and what they may do. Here: making them, looking at them, and handing them to other tools.

`auth_users` changes who there is, `auth_policy` what roles may do, `auth_tls` makes certificates, `auth_token` tokens for HTTP.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import auth_callout, auth_policy, auth_tls, auth_token, auth_users, options
from mesh.cli.running import execute

if TYPE_CHECKING:
    from mesh.identity.authority import Authority


def _file(option: str, text: str) -> Any:
    return typer.Option(option, metavar="FILE", help=text, show_default=False)


def init(
    operator_jwt: Annotated[Path | None, _file("--operator-jwt", "Of an operator that was made elsewhere, as by nsc.")] = None,
    operator_seed: Annotated[Path | None, _file("--operator-seed", "Its seed, or one of its signing keys: to sign here.")] = None,
    account_seed: Annotated[Path | None, _file("--account-seed", "Of the account that the mesh is to use.")] = None,
    account_jwt: Annotated[Path | None, _file("--account-jwt", "Of that account; what it says besides is kept.")] = None,
    system_jwt: Annotated[Path | None, _file("--system-jwt", "Of the system account, for --server-config.")] = None,
    system_creds: Annotated[Path | None, _file("--system-creds", "Of a user in the system account: to tell a running broker.")] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Make operator, account and keys, or use those that were made elsewhere. What is there stays. `mesh up` does it by itself."""
    given = {
        "operator_jwt": operator_jwt, "operator_seed": operator_seed, "account_seed": account_seed, "account_jwt": account_jwt,
        "system_jwt": system_jwt, "system_creds": system_creds,
    }  # fmt: skip

    async def work() -> None:
        from mesh.cli import render
        from mesh.cli.telling import tell
        from mesh.identity.authority import Authority
        from mesh.settings import make_settings

        settings = make_settings(state_dir=state_dir, broker=broker)
        texts = {name: _text(path) for name, path in given.items() if path is not None}
        told: dict[str, Any] = {}
        if texts:
            authority = Authority(settings.state_dir, prefix=settings.prefix)
            authority.adopt(**texts)
            told = await tell(authority, state_dir, broker, quiet=as_json)
        else:
            authority = Authority.open(settings.state_dir, create=True, prefix=settings.prefix)
        if as_json:
            render.print_json(_summary(authority) | told)
            return
        for name, value in _summary(authority).items():
            if not isinstance(value, list):
                render.print_text(f"{name.replace('_', ' ')}: {value}")
        if "note" in told:
            render.print_text(told["note"], stderr=True)

    execute(work, as_json=as_json)


def show_all(
    everything: Annotated[bool, typer.Option("--all", "-a", help="The revoked too.")] = False,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Show who was issued credentials, with which roles, and until when they count."""

    async def work() -> None:
        from mesh.cli import render
        from mesh.cli.telling import authority_of

        found = [user for user in _users(authority_of(state_dir)) if everything or user["state"] != "revoked"]
        if as_json:
            render.print_json(found)
        elif not found:
            render.print_text("nobody was issued anything yet. `mesh auth issue NAME` makes credentials")
        else:
            rows = [(each["name"], ", ".join(each["roles"]), each["issued"], each["expires"] or "never", each["state"]) for each in found]
            render.console().print(render.table(("name", "roles", "issued", "expires", "state"), rows))

    execute(work, as_json=as_json)


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A participant.", show_default=False)],
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Show one participant: roles, key, file, and every subject that the broker lets it use."""

    async def work() -> None:
        from mesh.cli import render
        from mesh.cli.telling import authority_of

        authority = authority_of(state_dir)
        rights = authority.rights(name)
        facts = next(each for each in _users(authority) if each["name"] == name)
        if as_json:
            render.print_json(facts | {"publish": rights.publish, "subscribe": rights.subscribe})
            return
        rows = [(key, ", ".join(value) if isinstance(value, list) else value) for key, value in facts.items() if value not in (None, [])]
        rows += [("publish", each) for each in rights.publish] + [("subscribe", each) for each in rights.subscribe]
        render.console().print(render.table(("field", "value"), rows))

    execute(work, as_json=as_json)


def export(
    server_config: Annotated[bool, typer.Option("--server-config", help="What a nats-server's configuration is to include.")] = False,
    resolver_dir: Annotated[
        str, typer.Option("--resolver-dir", metavar="DIR", help="With --server-config: where that server keeps accounts.")
    ] = "accounts",
    account_template: Annotated[
        bool, typer.Option("--account-template", help="The account for its operator to sign: nsc import account.")
    ] = False,
    creds: Annotated[
        str | None, typer.Option("--creds", metavar="NAME", help="The credentials of a participant. Secret.", show_default=False)
    ] = None,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Print what other tools need, one thing at a time; without an option all that is public, as JSON."""

    async def work() -> None:
        from mesh.cli import render
        from mesh.cli.telling import authority_of
        from mesh.errors import ConfigError

        if server_config + account_template + (creds is not None) > 1:
            raise ConfigError("one thing at a time can be printed", hint="Use one of --server-config, --account-template, --creds.")
        authority = authority_of(state_dir)
        if creds is not None:
            path = authority.credentials(authority.user(creds).name)
            if path is None:
                raise ConfigError(f"the credentials of {creds} are not here", hint=f"`mesh auth issue {creds}` makes some.")
            text = _text(path)
        elif server_config:
            text = authority.trust.server_config(authority.account_jwt(), resolver_dir)
        elif account_template:
            text = authority.account_template()
        else:
            render.print_json(_summary(authority) | {"users": _users(authority)})
            return
        if as_json:
            render.print_json({"text": text})
        else:
            render.print_text(text.rstrip("\n"))

    execute(work, as_json=as_json)


def _summary(authority: "Authority") -> dict[str, Any]:
    """What is public of operator and accounts."""
    trust = authority.trust
    return {
        "directory": str(authority.keyring.path),
        "operator": trust.operator().subject,
        "account": authority.account_public(),
        "system_account": authority.system_account(),
        "signs_accounts": trust.can_sign,
        "roles": sorted(authority.policy.roles),
    }


def _users(authority: "Authority") -> list[dict[str, Any]]:
    """Everybody, without secrets."""
    from mesh import clock

    now, found = clock.wall_s(), []
    for user in authority.users():
        path = authority.credentials(user.name)
        expired = user.expires is not None and user.expires <= now
        state = "revoked" if user.revoked is not None else "expired" if expired else "ok"
        found.append(auth_users.as_dict(user) | {"state": state, "file": None if path is None else str(path)})
    return found


def _text(path: Path) -> str:
    from mesh.errors import ConfigError

    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, epilog="Example: mesh auth list", help="Who may be on the mesh, and what they may do there.")
    group.command("init", epilog="Example: mesh auth init")(init)
    auth_users.add_to(group)
    group.command("list", epilog="Example: mesh auth list")(show_all)
    group.command("show", epilog="Example: mesh auth show qa-manager")(show)
    group.command("export", epilog="Example: mesh auth export --server-config > mesh.conf")(export)
    auth_policy.add_to(group)
    auth_tls.add_to(group)
    auth_token.add_to(group)
    auth_callout.add_to(group)
    app.add_typer(group, name="auth")
