"""Whose credentials a participant of this machine uses: those of its name in the state directory, or new ones.

New ones are made only where the state directory holds the keys to make them with, so by somebody who may read them: the person whose
laptop it is. A bridge on another machine, or of another user of this one, brings a file that `mesh auth issue` made.
"""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Final

from mesh.clock import wall_ns
from mesh.crypto.creds import read_credentials
from mesh.errors import ConfigError
from mesh.identity.authority import Authority, Issued
from mesh.identity.push import push, untold
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
    """The credentials file for `name`; None where there is none, and nothing to make one with. `roles` as in `provide`, and errors too."""
    authority = Authority(state_dir, prefix=prefix)
    makes = authority.trust.exists and authority.keyring.has("account.seed")
    issued = provide(authority, name, roles) if makes else None
    if issued is None:
        return authority.credentials(name)  # made here, or a file that somebody brought
    if issued.account_changed or untold(authority):
        await push(authority, broker_url, tls)
    return issued.path


def provide(authority: Authority, name: str, roles: Collection[str] | None = None) -> Issued | None:
    """See that a participant of this machine has credentials that count: it gets new ones where it has none, where they have expired, and
    where it is to have other `roles`. None where what is there is good.

    Roles that are not given, and the lifetime, stay as they are. Raises ConfigError for one that was revoked, or whose key is elsewhere.
    """
    path = authority.credentials(name)
    good = path is not None and not _expired(path)
    if good and roles is None:
        return None
    user = authority.known(name)
    if user is None:
        return authority.issue(name, roles or roles_of(name))
    if good and set(user.roles) == set(roles or user.roles):
        return None
    if user.revoked is None and not user.local:
        hint = "Say where its credentials are: --credentials FILE, or MESH_CREDENTIALS."
        raise ConfigError(f"the key of {name!r} is kept elsewhere, so nothing is made for it here", hint=hint)
    return authority.issue(name, roles or user.roles, expires=user.lifetime)


def must_be_known(state_dir: Path, name: str, *, prefix: str = "mesh") -> None:
    """Raise ConfigError where the state directory has identities and no participant of that name, who would then be made with the rights of
    the person whose laptop it is: a name that is mistyped would have more of them than the one that was meant."""
    authority = Authority(state_dir, prefix=prefix)
    if authority.trust.exists and authority.known(name) is None and authority.credentials(name) is None:
        hint = f"`mesh auth list` shows who is; `mesh auth issue {shlex.quote(name)} --role ROLE` makes credentials."
        raise ConfigError(f"nobody is named {name!r} here", hint=hint)


def _expired(path: Path) -> bool:
    expires = read_credentials(path).expires
    return expires is not None and expires * 1_000_000_000 <= wall_ns()
