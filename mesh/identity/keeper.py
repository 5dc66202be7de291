"""What is kept true of identities while a mesh runs: credentials are renewed before they expire, and rules that are patterns follow the
tools that there are."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final

import structlog

from mesh import clock
from mesh.errors import MeshError
from mesh.identity.authority import Authority
from mesh.identity.push import push, untold
from mesh.link.tls import ClientTls
from mesh.policy.rights import Policy

LOOK_SECONDS: Final = 2.0
"""Between two looks. A change of rights is to reach who is connected within five."""

RENEW_AT: Final = 0.2
"""The share of its lifetime that is left when a token is renewed. Who holds it takes the new one when the broker ends the old one's
connection; what runs then is taken up again (mesh/link/exchanges.py)."""

Tools = Callable[[], Mapping[str, Collection[str]]]
"""The tools that are known, by agent."""

_log = structlog.get_logger("mesh.identity")


class Keeper:
    """`run` it while the broker at `broker_url` runs. `wanted`: the policy that counts, its patterns kept resolved; None leaves
    the one that does."""

    def __init__(self, authority: Authority, broker_url: str, wanted: Policy | None, tools: Tools, tls: ClientTls | None = None) -> None:
        self._authority = authority
        self._broker_url = broker_url
        self._tls = tls
        self._wanted = wanted
        self._tools = tools
        self._resolved: Policy | None = None
        self._looked_at = _now()

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except MeshError as error:
                _log.warning("identities could not be kept up", why=str(error), hint=error.hint)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Renew what will expire, or did since the last look (a laptop sleeps). Resolve patterns anew where tools have changed. Tell the
        broker what somebody could not tell it."""
        now, before = _now(), self._looked_at
        for user in self._authority.users():
            if user.expires is None or user.revoked is not None or not user.local or user.expires <= before:
                continue
            if user.expires - now < max(RENEW_AT * (user.expires - user.issued), 2 * LOOK_SECONDS):
                self._renew(user.name)
        self._looked_at = now
        if self._wanted is not None:
            resolved = self._wanted.resolve(self._tools(), lenient=True)
            if resolved != self._resolved and resolved != self._authority.policy:
                self._authority.apply_policy(resolved)
                await push(self._authority, self._broker_url, self._tls)
            self._resolved = resolved
        if untold(self._authority):
            await push(self._authority, self._broker_url, self._tls)

    def _renew(self, name: str) -> None:
        """What keeps one from being renewed keeps no other."""
        try:
            self._authority.renew(name)
        except MeshError as error:
            _log.warning("credentials could not be renewed", participant=name, why=str(error), hint=error.hint)
        else:
            _log.info("credentials renewed", participant=name)


def _now() -> float:
    """Seconds since 1970."""
    return clock.wall_ns() / 1e9
