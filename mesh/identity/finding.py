"""Whose credentials a participant of this machine uses: those of its name in the state directory, or new ones.

New ones are made only where the state directory holds the keys to make them with, so by somebody who may read them: the person whose
laptop it is. A bridge on another machine, or of another user of this one, brings a file that `mesh auth issue` made.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from mesh.clock import wall_ns
from mesh.crypto.creds import read_credentials
from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.identity.push import push
from mesh.link.tls import ClientTls
from mesh.subjects import CONTROL_PLANE, GATEWAY, OPERATOR

_ROLES: Final = {CONTROL_PLANE: ("plane",), OPERATOR: (OPERATOR,), GATEWAY: (GATEWAY,)}
_ANYBODY: Final = ("agent", "host")
"""Somebody on their own machine: answers under a name, and calls."""


def roles_of(name: str) -> tuple[str, ...]:
    """The roles of a name that nobody gave any."""
    return _ROLES.get(name, _ANYBODY)


async def find_credentials(
    state_dir: Path, name: str, broker_url: str, roles: Collection[str] | None = None, *, prefix: str = "mesh", tls: ClientTls | None = None
) -> Path | None:
    """The credentials file for `name`; None where there is none, and nothing to make one with.

    With `roles` those of other roles are replaced, as far as they can be made here.
    """
    try:
        authority = Authority.open(state_dir, prefix=prefix)
    except ConfigError:
        return Authority(state_dir, prefix=prefix).credentials(name)  # no keys here, but perhaps a file that somebody brought
    found = authority.credentials(name)
    good = found is not None and not _expired(found) and (roles is None or set(authority.user(name).roles) == set(roles))
    if good or not authority.keyring.has("account.seed"):
        return found
    issued = authority.issue(name, roles or roles_of(name))
    if issued.account_changed:
        await push(authority, broker_url, tls)
    return issued.path


def _expired(path: Path) -> bool:
    expires = read_credentials(path).expires
    return expires is not None and expires * 1_000_000_000 <= wall_ns()
