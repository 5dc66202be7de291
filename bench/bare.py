"""A broker that admits everybody and holds nobody to anything: what identity and permissions are measured against. Tests have it too, of
what receivers check by themselves."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent

EVERYBODY: Final = """
accounts {
  SYS { exports: [{ stream: "$SYS.ACCOUNT.MESH.DISCONNECT", accounts: [MESH] }] }
  MESH {
    jetstream: enabled
    users: [{ user: mesh, password: "" }]
    imports: [{ stream: { account: SYS, subject: "$SYS.ACCOUNT.MESH.DISCONNECT" }, to: "mesh.v1.broker.disconnect" }]
  }
}
system_account: SYS
no_auth_user: mesh
"""


def bare_config(directory: Path) -> Path:
    """nats-server.conf with no identities in it."""
    text = (ROOT / "nats-server.conf").read_text()
    bare, cut = re.subn(r"(?s)\n# ---- Identity:.*?(?=\n# ---- )", "", text)
    assert cut == 1, "nats-server.conf has lost its part about identity"
    path = directory / "bare.conf"
    path.write_text(bare + EVERYBODY)
    return path
