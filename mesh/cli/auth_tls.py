"""`mesh auth tls`: certificates of a private authority, for those who have none."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import options
from mesh.cli.running import execute

if TYPE_CHECKING:
    from mesh.identity.tls import Certificate


def tls(
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="NAME", help="A name or address that others reach this machine by; may be repeated.", show_default=False
        ),
    ] = None,
    clients: Annotated[
        list[str] | None,
        typer.Option("--client", metavar="NAME", help="Make a client's certificate instead; may be repeated.", show_default=False),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, metavar="N", help="How long certificates count.")] = 397,
    state_dir: options.StateDir = None,
    broker: options.Broker = None,
    as_json: options.Json = False,
) -> None:
    """Make a private authority and this machine's certificate, or sign it anew. The authority and its key stay."""

    async def work() -> None:
        from mesh.cli import render
        from mesh.errors import ConfigError
        from mesh.identity.tls import Certificates
        from mesh.settings import make_settings

        if hosts and clients:
            raise ConfigError("--host is for a server's certificate, and --client makes another", hint="Make them one after the other.")
        there = Certificates(make_settings(state_dir=state_dir, broker=broker).state_dir)
        made = [there.make_client(name, days) for name in clients] if clients else [there.make_server(hosts or (), days)]
        authority = there.authority()
        assert authority is not None
        if as_json:
            what = {"clients": [_facts(each) for each in made]} if clients else {"server": _facts(made[0])}
            render.print_json({"authority": _facts(authority)} | what)
            return
        render.print_text(f"authority  {_told(authority)}")
        for each in made:
            render.print_text(f"{'client' if clients else 'server'}     {_told(each)}")
        render.print_text("")
        for line in _next_steps(authority, made, clients=bool(clients)):
            render.print_text(line)

    execute(work, as_json=as_json)


def _next_steps(authority: "Certificate", made: "list[Certificate]", *, clients: bool) -> list[str]:
    if clients:
        return [
            f"Copy to the client's machine, readable by its user alone: {' '.join(str(each.path) for each in made)}",
            "and name it there with MESH_CLIENT_CERT or --client-cert. A broker asks for it with `mesh up --tls --verify-clients`.",
        ]
    return [
        "Use it:  mesh up --listen 0.0.0.0      (a mesh that runs takes it at its next start)",
        f"Copy to each machine that connects:  {authority.path}",
        "and name it there with MESH_CA or --ca. Nothing else of this directory leaves this machine.",
    ]


def _facts(found: "Certificate") -> dict[str, Any]:
    return {"file": str(found.path), "names": list(found.names), "expires": f"{found.expires:%Y-%m-%dT%H:%M:%SZ}"}


def _told(found: "Certificate") -> str:
    names = f" for {', '.join(found.names)}" if found.names else ""
    return f"{found.path}{names}, until {found.expires:%Y-%m-%d}"


def add_to(group: typer.Typer) -> None:
    group.command("tls", epilog="Example: mesh auth tls --host mesh.example.com --host 192.0.2.7")(tls)
