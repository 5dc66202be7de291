"""The options that commands share, each defined once. Where one is not given, mesh.settings looks for a variable `MESH_…`."""

from pathlib import Path
from typing import Annotated

import typer

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", metavar="DIR", help="State directory of the mesh. Also MESH_STATE_DIR. [default: .mesh]", show_default=False
    ),
]
Broker = Annotated[
    str | None,
    typer.Option("--broker", metavar="URL", help="A broker that runs already, nats://host:port. Also MESH_BROKER.", show_default=False),
]
Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="As whom: a name that `mesh auth list` shows. Also MESH_NAME.", show_default=False),
]
Credentials = Annotated[
    Path | None,
    typer.Option(
        "--credentials", metavar="FILE", help="A .creds file, if not the one of that name here. Also MESH_CREDENTIALS.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs. Errors too, on stderr.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Go on and show each change, until Ctrl-C.")]
