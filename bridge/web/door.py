"""The door of a front: who comes in, as whom, and how often.

Each request brings its token in `Authorization`; no session, cookie or address stands for it. Who was let in before with the same bytes
is let in without waiting (`known`); only a new token, or a user who is not there yet, takes the long way (`enter`).

Wrong tokens are answered slowly once there were many from one address: so guessing fills no log and takes no processor. What is
remembered of it is bounded, and a right token from there is let in as always; only while very many wrong ones wait for their answer is
nobody new heard. A page in a browser cannot set headers on a WebSocket, and a token in a subprotocol or an address ends up in logs; so
pages use HTTP.

Source: RFC 6750; MCP basic/authorization.
"""

import asyncio
import contextlib
import ipaddress
import math
from typing import Any, Final

import structlog

from bridge.web import challenge
from bridge.web.challenge import Header, Resource
from bridge.web.guests import Guest, Guests
from bridge.web.outlet import Message, Send
from bridge.web.rules import Headers, Problem
from mesh import clock
from mesh.errors import Busy, ConfigError, InvalidToken, MeshError, NotAdmitted
from mesh.identity.tokens import Bearer, Verifier
from mesh.policy.lines import worth_a_line
from mesh.policy.rate import Limiter, Rate
from mesh.wire import control

FAILURES: Final = Rate(10, 60.0)
"""Wrong tokens from one address that are answered at once."""

SLOW: Final = 1.0
"""Seconds until the others are answered."""

MOST_SLOW: Final = 64
"""Answers that wait so at once. From then on new tokens are not looked at until there is room."""

_log = structlog.get_logger("bridge.web")


class Door:
    """`verifier` None is a door that stands open: everybody is `nobody`. `rate`: requests of one caller."""

    def __init__(
        self, verifier: Verifier | None, guests: Guests, resource: Resource, *, nobody: str = "", rate: Rate | None = None
    ) -> None:
        self._verifier = verifier
        self._guests = guests
        self._resource = resource
        self._nobody = nobody
        self._limiter: Limiter[str] | None = None if rate is None else Limiter(rate)
        self._failures: Limiter[str] = Limiter(FAILURES)
        self._failed = 0
        self._slow = 0

    @property
    def protected(self) -> bool:
        return self._verifier is not None

    def known(self, headers: Headers, pairs: list[Header], path: str, gathered: bool) -> tuple[Guest, float] | None:
        """Who asks, and until when its token counts, where that takes no waiting. `gathered`: for all agents as one."""
        until = math.inf
        if self._verifier is None:
            guest = self._guests.there(self._nobody)
        else:
            said = headers.get(b"authorization", b"")
            bearer = self._verifier.known(said[7:]) if said[:7] == b"Bearer " and len(pairs) == len(headers) else None
            if bearer is None or not bearer.serves(path):
                return None
            guest, until = self._guests.there(bearer.user.name), bearer.expires
        return None if guest is None or (gathered and guest.roster is None) else (guest, until)

    async def enter(self, headers: Headers, pairs: list[Header], path: str, gathered: bool, client: Any) -> tuple[Guest, float] | Problem:
        """The same with waiting, or why nobody comes in. `client` is the address that it comes from, as ASGI has it."""
        name, file, until = self._nobody, None, math.inf
        if self._verifier is not None:
            try:
                bearer = await self._who(headers, pairs, path)
                name, file, until = bearer.user.name, bearer.user.path, bearer.expires
            except InvalidToken as problem:
                return await self._turn_away(headers, path, client, problem)
            except _Refused as refused:
                return refused.problem
        try:
            guest = await self._guests.enter(name, file)
            if gathered:
                await guest.browse()
        except (NotAdmitted, ConfigError):
            return await self._turn_away(headers, path, client, InvalidToken("its participant is not admitted any more"))
        except MeshError as problem:
            return self._unavailable(headers, path, problem)
        return guest, until

    def metadata(self, headers: Headers, path: str) -> bytes:
        """The document about one path of this front, or about all of it."""
        return self._resource.metadata(headers, path)

    def limit(self, guest: Guest, send: Send) -> tuple[Problem | None, Send]:
        """Count a request of a user: why it is one too many, or the `send` whose response says how many it has left."""
        if self._limiter is None:
            return None, send
        now = clock.monotonic()
        wait = self._limiter.take(guest.name, now)
        headers = (challenge.policy(self._limiter.rate), challenge.standing(*self._limiter.left(guest.name, now)))
        if wait:
            return challenge.too_many(f"{self._limiter.rate} for each caller", wait, headers), send
        return None, _with_headers(send, headers)

    def denied(self, headers: Headers, path: str) -> list[Header]:
        """What an answer says besides, where the mesh does not let the caller do it."""
        if self._verifier is None:
            return []
        return [self._resource.challenge(headers, path, challenge.INSUFFICIENT_SCOPE, "the roles of this participant do not allow it")]

    async def _who(self, headers: Headers, pairs: list[Header], path: str) -> Bearer:
        """Whose token the request brings. Raises InvalidToken, _Refused."""
        assert self._verifier is not None
        said = [value for key, value in pairs if key == b"authorization"]
        if not said:
            what = "send Authorization: Bearer TOKEN; `mesh auth token` makes one"
            raise _Refused(challenge.unauthorized(self._resource.challenge(headers, path), what))
        scheme, _, token = said[0].partition(b" ")
        if len(said) > 1 or scheme.lower() != b"bearer":
            header = self._resource.challenge(headers, path, "invalid_request", "one Authorization header, with the scheme Bearer")
            raise _Refused(Problem(400, control.INVALID_REQUEST, "Bad Request: Authorization", headers=(header,)))
        bearer = self._verifier.known(token.strip())
        if bearer is None:
            if self._slow >= MOST_SLOW:
                raise _Refused(challenge.too_many("too many wrong tokens are being answered", SLOW))
            bearer = await self._verifier.verify(token.strip())
        if not bearer.serves(path):
            raise InvalidToken("the token is for another audience")
        return bearer

    async def _turn_away(self, headers: Headers, path: str, client: Any, problem: InvalidToken) -> Problem:
        """The answer to a wrong token: at once, or after a while where there were many."""
        address = _address(client)
        self._failed += 1
        if worth_a_line(self._failed):
            _log.warning("a token was refused", address=address, path=path[:200], why=problem.message, count=self._failed)
        if wait := self._failures.take(address, clock.monotonic()):
            if self._slow < MOST_SLOW:
                self._slow += 1
                try:
                    await asyncio.sleep(SLOW)
                finally:
                    self._slow -= 1
            return challenge.too_many("too many wrong tokens came from this address", wait)
        header = self._resource.challenge(headers, path, challenge.INVALID_TOKEN, problem.message)
        return challenge.unauthorized(header, problem.message)

    def _unavailable(self, headers: Headers, path: str, problem: MeshError) -> Problem:
        data = {"mesh": problem.code, **({"hint": problem.hint} if problem.hint else {})}
        if problem.code == "permission_denied":
            return Problem(403, control.MESH_ERROR, problem.message, data, headers=tuple(self.denied(headers, path)))
        more = (challenge.retry_after(float(problem.details.get("retry_after", 1.0))),) if isinstance(problem, Busy) else ()
        return Problem(503, control.MESH_ERROR, problem.message, data, headers=more)


class _Refused(Exception):
    """A request without a token that could be looked at."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def _address(client: Any) -> str:
    """Who counts as one sender of wrong tokens: an IPv4 address, or the network of an IPv6 address, which one machine has to itself."""
    said = str(client[0]) if client else ""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(said.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address):
            return str(address.ipv4_mapped or ipaddress.ip_network((int(address), 64), strict=False))
    return said


def _with_headers(send: Send, headers: tuple[Header, ...]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return sending
