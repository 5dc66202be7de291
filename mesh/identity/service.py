"""Authentication as a service of a program: who comes with credentials gets a token, whose token it is, and what that one may do.

Thin doors to what the mesh itself uses: the account's claims say which credentials count, `tokens` makes and verifies what is handed out,
and the compiled policy decides. The broker goes by the same claims and the same policy, so this answers as the broker would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesh import clock
from mesh.crypto import jwt
from mesh.crypto.creds import Credentials, read_credentials
from mesh.crypto.keys import read_seed
from mesh.errors import ConfigError, NotAdmitted
from mesh.identity.authority import Authority
from mesh.identity.book import RightsBook
from mesh.identity.issuers import Provider
from mesh.identity.keyring import USERS
from mesh.identity.tokens import DEFAULT_LIFETIME, Verifier, make_token
from mesh.policy.rights.explain import asked_for
from mesh.subjects import unescape

AUDIENCE: Final = "mesh"


@dataclass(frozen=True, slots=True)
class AuthToken:
    """A bearer token. `expires` is in seconds since 1970."""

    value: str = field(repr=False)
    expires: int


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """A participant, by a token that counted when it was looked at. `roles` are those that it was issued."""

    name: str
    roles: tuple[str, ...]
    expires: float


class AuthenticationService:
    """Over the identities of a state directory. `audience` is what its tokens are for: with the URL of an HTTP front, that one takes them.
    `providers` are outside issuers whose tokens name participants of ours."""

    def __init__(
        self, state_dir: str | Path, *, audience: str = AUDIENCE, providers: Sequence[Provider] = (), prefix: str = "mesh"
    ) -> None:
        """Raises ConfigError where the directory holds no identities."""
        self._authority = Authority.open(Path(state_dir), prefix=prefix)
        self._audience = audience
        self._verifier = Verifier(self._authority.keyring.path / USERS, (audience,), providers)
        self._rights = RightsBook(self._authority)

    async def authenticate_agent(self, credentials: str | Path | Credentials) -> AuthToken:
        """A token for the owner of a credentials file. Raises NotAdmitted where they do not count: of another mesh, expired, revoked."""
        found = credentials if isinstance(credentials, Credentials) else read_credentials(Path(credentials))
        try:
            self._check(found)
        except ConfigError as problem:
            name = unescape(found.name)
            raise NotAdmitted(
                f"the credentials of {name!r} do not count: {problem.message}", hint=f"`mesh auth issue {name}` makes new ones"
            ) from None
        return AuthToken(*make_token(found, self._audience, DEFAULT_LIFETIME))

    async def validate_token(self, token: str) -> AgentIdentity:
        """Whose token it is. Raises InvalidToken."""
        value = token.encode()
        bearer = self._verifier.known(value) or await self._verifier.verify(value)
        return AgentIdentity(bearer.user.name, self._authority.user(bearer.user.name).roles, bearer.expires)

    def authorize_action(self, identity: AgentIdentity, action: str, resource: str) -> bool:
        """Whether it may: `"call", "git/git_log"`, or another action of `mesh auth explain`. By the rights that count now; who was revoked
        has none. Raises ConfigError for what is no action."""
        return asked_for(f"{action} {resource}", identity.name, self._authority.subjects).allowed_by(self._rights(identity.name))

    def _check(self, credentials: Credentials) -> None:
        """As the broker decides it, by the account's claims. Raises ConfigError."""
        account = jwt.read(self._authority.account_jwt(), "account").nats
        signers = {each["key"] if isinstance(each, dict) else each for each in account["signing_keys"]}
        claims = jwt.read(credentials.jwt, "user", issuers=signers, now=clock.wall_s())
        if read_seed(credentials.seed).public != claims.subject:
            raise ConfigError("the key is not the one that was issued")
        if account["revocations"].get(claims.subject, -1) >= claims.issued:
            raise ConfigError("they were revoked")
