"""The service that the broker asks about guests of an outside provider. It fails closed: what it does not answer is refused after two
seconds by the broker itself.

A guest is the participant that the token names, with that one's rights; who is none yet becomes one, with the roles that the settings
give, so that `mesh auth list`, `explain` and `revoke` hold for guests too. The broker makes a key for each connection of a guest, so a
revocation cannot name it: a guest's connection lasts `LONGEST`, then the client connects again and is asked about again.

Requests and answers are sealed: a token never crosses the broker readable but on the guest's own connection.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog

from mesh import clock
from mesh.background import Background
from mesh.crypto import jwt
from mesh.crypto.bearer import audiences, expiry, peek
from mesh.crypto.keys import KeyPair, Kind, new_key
from mesh.errors import BrokerError, ConfigError, InvalidToken, MeshError
from mesh.identity.authority import Authority
from mesh.identity.issuers import Fetch, Provider
from mesh.identity.outside import SEALING, SEED, SERVICE, believed
from mesh.identity.push import push
from mesh.identity.records import User
from mesh.link.connection import Connection, Message
from mesh.link.tls import ClientTls
from mesh.policy.lines import worth_a_line
from mesh.subjects import escape

SUBJECT: Final = "$SYS.REQ.USER.AUTH"
AUDIENCE: Final = "nats-authorization-request"
XKEY_HEADER: Final = "Nats-Server-Xkey"

LONGEST: Final = 300
"""Seconds that a guest's connection lasts. It is how long a guest that was revoked may stay."""

AT_ONCE: Final = 64
"""Requests under way. One more is not answered: the broker refuses that guest, who tries again."""

MOST_NEW: Final = 10_000
"""Participants here, from which on guests who are none yet are refused: a provider may have very many users."""

_log = structlog.get_logger("mesh.identity")


class Callout:
    """`run` it beside the broker. Several may run: each request is answered by one of them."""

    def __init__(self, authority: Authority, broker_url: str, fetch: Fetch, tls: ClientTls | None = None) -> None:
        """Raises ConfigError where no provider is believed."""
        self._authority = authority
        self._broker_url = broker_url
        self._tls = tls
        self._outside = believed(authority)
        self.issuer = self._outside.issuer
        self._provider = Provider(self.issuer, fetch)
        self._account = _key(authority, SEED, Kind.ACCOUNT)
        self._sealing = _key(authority, SEALING, Kind.CURVE)
        self._guests = Background()
        self._joining = asyncio.Lock()
        self.refused = 0
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled. Raises BrokerError, NotAdmitted."""
        path = self._authority.keyring.path / SERVICE
        async with await Connection.open(self._broker_url, name="mesh-guests", user_credentials=path, tls=self._tls) as connection:
            await connection.subscribe(SUBJECT, lambda message: self._on_request(connection, message), queue="mesh-guests")
            await connection.flush()
            async with self._guests:
                self.ready.set()
                await asyncio.Event().wait()

    def _on_request(self, connection: Connection, message: Message) -> None:
        if len(self._guests) >= AT_ONCE:
            self._refuse("too many guests at once")
            return
        self._guests.start(self._answer(connection, message), "a guest")

    async def _answer(self, connection: Connection, message: Message) -> None:
        server_key = (message.headers or {}).get(XKEY_HEADER, "")
        try:
            request = jwt.read(self._sealing.open(message.body, server_key).decode("ascii"), jwt.REQUEST)
            said = request.nats
            guest, server, options = str(said["user_nkey"]), str(said["server_id"]["id"]), dict(said["connect_opts"])
        except (ConfigError, ValueError, KeyError, TypeError) as problem:
            self._refuse(f"a request that cannot be read: {problem}")
            return
        try:
            answer = {"jwt": await self._admit(guest, options)}
        except MeshError as problem:
            self._refuse(problem.message)
            answer = {"error": problem.message}
        nats = {**answer, "type": "authorization_response", "version": jwt.VERSION}
        token = jwt.sign(self._account, guest, "", nats, issued=clock.wall_s(), audience=server)
        try:
            connection.send(message.reply, self._sealing.seal(token.encode(), server_key))
        except BrokerError as problem:
            self._refuse(problem.message)

    async def _admit(self, guest: str, options: Mapping[str, Any]) -> str:
        """The claims of one connection, for a guest whose token counts. Raises InvalidToken, ConfigError, BrokerError."""
        token = options.get("auth_token")
        if not isinstance(token, str) or not token:
            raise InvalidToken("a guest brings a token")
        name, claims = await self._provider.verify(token, peek(token))
        now = clock.wall_s()
        expires = int(expiry(claims, now, longest=None))
        if self._outside.issuer.audience not in audiences(claims):
            raise InvalidToken("the token is for another audience")
        user = await self._participant(name)
        signer, tags = self._authority.scopes.key(user.scope), [f"role:{escape(each)}" for each in user.memberships]
        _log.info("guest admitted", participant=name, scope=user.scope)
        account, until = self._authority.account_public(), min(expires, now + LONGEST)
        return jwt.sign_user(signer, guest, escape(name), account=account, tags=tags, issued=now, expires=until)

    async def _participant(self, name: str) -> User:
        async with self._joining:
            user = await self._found_or_new(name)
        if user.revoked is not None or (user.expires is not None and user.expires <= clock.wall_s()):
            raise InvalidToken("the participant that the token names was revoked or has expired")
        return user

    async def _found_or_new(self, name: str) -> User:
        known = self._authority.ledger.load().users
        if name in known:
            return known[name]
        if not self._outside.roles or len(known) >= MOST_NEW:
            raise InvalidToken("the token names no participant of this mesh")
        # Its key is nobody's: a guest has one of the broker's for each connection.
        issued = self._authority.issue(name, self._outside.roles, public=new_key(Kind.USER).public)
        if issued.account_changed:
            await push(self._authority, self._broker_url, self._tls)
        return issued.user

    def _refuse(self, why: str) -> None:
        self.refused += 1
        if worth_a_line(self.refused):
            _log.warning("guest refused", why=why, count=self.refused)


def _key(authority: Authority, name: str, kind: Kind) -> KeyPair:
    key = authority.keyring.key(name, kind)
    if key is None:
        raise ConfigError(f"{authority.keyring.path / name} is missing", hint="`mesh auth callout enable` makes it")
    return key
