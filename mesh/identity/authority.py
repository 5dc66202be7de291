"""Who is on the mesh and what the broker is told of them: users, their scopes, and the account's claims that follow from both.

A user's rights come from its **scope**: the set of its roles that the policy defines. Each scope has a signing key, and the template of
what its users may do stands in the account's claims. The other names that a user may answer to, its **memberships**, are tags of its
token. So the account grows with the roles, never with the users.

Whatever changes is written first, and `account_jwt` is what a broker should know then. To tell a running one is `mesh.identity.push`.
A token counts until it expires or is void: the account's claims say of each key up to which second its tokens are. A renewed token is dated
after that second, so a client that is cut off comes back with the file's new content.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from mesh import clock
from mesh.crypto import jwt, keys
from mesh.crypto.creds import format_credentials, parse_credentials
from mesh.crypto.keys import KeyPair, Kind, read_seed
from mesh.errors import ConfigError
from mesh.identity import records
from mesh.identity.keyring import Keyring, creds_file, token_file
from mesh.identity.ledger import Ledger
from mesh.identity.records import Records, User
from mesh.identity.scopes import Scopes, placed
from mesh.identity.trust import Trust
from mesh.policy.rights import Permissions, Policy, expand
from mesh.subjects import Subjects, escape

LARGEST_USER: Final = 3_000
"""Bytes of a user's JWT. It travels in one line of at most 4,096, with the signature and the client's name."""


@dataclass(frozen=True, slots=True)
class Issued:
    """What came of `issue`. `path` holds the credentials, or the JWT alone where the key was made elsewhere."""

    user: User
    path: Path
    account_changed: bool
    """Whether a running broker must be told: before the user can connect, or to cut off who holds older tokens."""


class Authority:
    """Over the files of one state directory. Every change is made alone and from what the files say, so several processes may do it.

    Errors are ConfigError, with the next step as hint, and StateDirUnusable.
    """

    def __init__(self, state_dir: Path, *, prefix: str = "mesh") -> None:
        self.keyring = Keyring(state_dir)
        self.trust = Trust(self.keyring)
        self.subjects = Subjects(prefix)
        self.scopes = Scopes(self.keyring)
        self.ledger = Ledger(self.keyring, self.trust, self.scopes, self.subjects)

    @classmethod
    def open(cls, state_dir: Path, *, create: bool = False, prefix: str = "mesh") -> Self:
        """With `create` what is missing is made: operator, accounts, keys. ConfigError where there is nothing and `create` is not given."""
        self = cls(state_dir, prefix=prefix)
        if create:
            self.keyring.make()
            with self.keyring.locked():
                if not self.trust.exists:
                    self.trust.create()
        elif not self.trust.exists:
            raise ConfigError(
                f"{self.keyring.path} holds no identities yet", hint="`mesh up` makes them when it starts, or `mesh auth init`."
            )
        return self

    # what there is

    @property
    def policy(self) -> Policy:
        """What the roles may do: the policy that was applied last, the ready-made roles before."""
        return self.scopes.policy

    def awaits_signature(self) -> bool:
        """Whether the account lacks something that only its operator, whose keys are not here, can sign."""
        with self.keyring.locked():
            return not self.trust.can_sign and self.ledger.commit(self.ledger.load(), {})

    def users(self) -> tuple[User, ...]:
        """Everybody that was ever issued something here, the revoked too, by name."""
        return tuple(user for _, user in sorted(self.ledger.load().users.items()))

    def user(self, name: str) -> User:
        return _find(self.ledger.load(), name)

    def known(self, name: str) -> User | None:
        """None for one that was never issued anything here."""
        return self.ledger.load().users.get(name)

    def rights(self, name: str) -> Permissions:
        """What the broker lets a participant do."""
        with self.keyring.locked():
            known = self.ledger.load()
            user = _find(known, name)
            if user.revoked is not None:
                return Permissions()
            return expand(self.scopes.compiled(self.policy, known, self.subjects)[user.scope], name, user.memberships)

    def scope_names(self) -> tuple[str, ...]:
        return self.scopes.names(self.ledger.load())

    def credentials(self, name: str) -> Path | None:
        """The file of a participant whose credentials are here, None otherwise."""
        return self.keyring.secret(creds_file(name))

    def account_public(self) -> str:
        return self.trust.account_key().public

    def system_account(self) -> str:
        """Its public key."""
        return self.trust.system_public()

    def account_jwt(self) -> str:
        """What a broker should know of the account now. The same text until something changes."""
        with self.keyring.locked():
            return self.ledger.account_jwt()

    def account_template(self) -> str:
        """The same, signed by the account itself: for the owner of an operator whose keys are not here, who signs it anew."""
        with self.keyring.locked():
            return jwt.sign_account(self.trust.account_key(), self.ledger.account(self.ledger.load()), issued=clock.wall_s())

    def server_config(self) -> str:
        """The part of a server's configuration that makes it trust this operator and know these accounts. No secrets."""
        return self.trust.server_config(self.account_jwt(), self.keyring.path / "accounts")

    # what changes

    def issue(
        self,
        name: str,
        roles: Collection[str] = ("agent",),
        *,
        expires: timedelta | None = None,
        public: str | None = None,
        new_key: bool = False,
        again: bool = False,
    ) -> Issued:
        """Credentials for a participant, new or renewed. A renewal keeps the key, and who is connected stays so.

        With other roles than before, or `new_key`, older tokens are void. With `public`, a user's key, its secret half stays elsewhere.
        Who was revoked gets something only with `again`: a person must mean it.
        """
        with self.keyring.locked():
            known = self.ledger.load()
            old = known.users.get(name)
            if old is not None and old.revoked is not None and not again:
                raise ConfigError(f"{name} was revoked", hint=f"`mesh auth issue {name}` lets it in again, with a new key.")
            key: KeyPair | None = None
            if public is None:
                key = (self._kept_key(old) if old is not None and not new_key else None) or keys.new_key(Kind.USER)
            elif keys.kind_of(public) is not Kind.USER:
                raise ConfigError("a participant's key begins with U", public=public)
            elif public in known.voided and (old is None or old.revoked is not None or old.public != public):
                raise ConfigError("this key was revoked", hint="Let a new one be made.", public=public)
            until = None if expires is None else clock.wall_s() + round(expires.total_seconds())
            return self._issue(known, name, self.scopes.checked(known, name, roles), key or str(public), until)

    def issue_all(self, names: Iterable[str], roles: Collection[str] = ("agent",)) -> bool:
        """Credentials for many who have none, at the cost of few. Whether a running broker must be told."""
        with self.keyring.locked():
            known = self.ledger.load()
            files: dict[str, str] = {}
            for name in names:
                if name not in known.users:
                    files |= self._grant(known, name, self.scopes.checked(known, name, roles), keys.new_key(Kind.USER), None)
            return self.ledger.commit(known, files)

    def renew(self, name: str, *, new_key: bool = False) -> Issued:
        """A new token with the roles that the participant has, for as long as the last one was for."""
        user = self.user(name)
        if new_key and not user.local:
            raise ConfigError(f"{name} keeps its key elsewhere", hint=f"Make one there, then: `mesh auth issue {name} --public-key U…`.")
        return self.issue(name, user.roles, expires=user.lifetime, public=None if user.local else user.public, new_key=new_key)

    def revoke(self, name: str) -> User:
        """Void every token of a participant and forget its credentials. Idempotent. A running broker must be told."""
        with self.keyring.locked():
            known = self.ledger.load()
            user = _find(known, name)
            if user.revoked is None:
                now = clock.wall_s()
                known.void(user.public, max(now, user.issued), user.lasts)
                user = known.users[name] = records.revoked(user, now)
                self.ledger.commit(known, {})
            self.keyring.remove(creds_file(name))
            self.keyring.remove(token_file(name))
            return user

    def rotate_scope(self, scope: str, *, retire: bool = False) -> tuple[str, ...]:
        """A new signing key for a scope. Its users get new tokens, and are named in the result.

        The old key counts on, so that nobody is cut off; with `retire` it does not any more, and who still has a token of it is.
        """
        with self.keyring.locked():
            known = self.ledger.load()
            there = self.scopes.names(known)
            if scope not in there:
                raise ConfigError(f"there is no scope {scope!r}", hint=f"There are: {', '.join(there)}.")
            if retire:
                known.retiring.pop(scope, None)
                self.ledger.commit(known, {})
                return ()
            known.retiring.setdefault(scope, []).append(self.scopes.key(scope).public)
            self.scopes.new_key(scope)
            return self._reissue(known, [user for user in known.users.values() if user.scope == scope])

    def rotate_operator(self, *, retire: bool = False) -> None:
        """`Trust.rotate_operator`, and the account signed by the key that counts then."""
        with self.keyring.locked():
            self.trust.rotate_operator(retire=retire)
            self.ledger.commit(self.ledger.load(), {})

    def apply_policy(self, policy: Policy) -> tuple[str, ...]:
        """Let this policy count, its patterns resolved. Users whose scope it changes get new tokens, and are named in the result."""
        with self.keyring.locked():
            known = self.ledger.load()
            moved = [user for user in known.users.values() if placed(policy, user.roles) != (user.scope, user.memberships)]
            with self.scopes.trying(policy):
                return self._reissue(known, moved)

    def adopt(self, **given: str) -> None:
        """`Trust.adopt`: use an operator and an account that were made elsewhere, or what else there is of theirs."""
        self.keyring.make()
        with self.keyring.locked():
            self.trust.adopt(**given)
            self.ledger.commit(self.ledger.load(), {})

    # within the lock

    def _issue(self, known: Records, name: str, roles: Collection[str], key: KeyPair | str, until: int | None) -> Issued:
        files = self._grant(known, name, roles, key, until)
        changed = self.ledger.commit(known, files)
        return Issued(known.users[name], self.keyring.path / next(iter(files)), changed)

    def _reissue(self, known: Records, users: Iterable[User]) -> tuple[str, ...]:
        """New tokens with the same keys, for as long as the old ones. Names those that got one."""
        files: dict[str, str] = {}
        renewed = [user for user in users if user.revoked is None]
        for user in renewed:
            files |= self._grant(known, user.name, user.roles, self._kept_key(user) or user.public, user.expires)
        self.ledger.commit(known, files)
        return tuple(sorted(user.name for user in renewed))

    def _grant(self, known: Records, name: str, roles: Collection[str], key: KeyPair | str, until: int | None) -> dict[str, str]:
        """Put a new token on record and give the file that it goes to: `{name: text}`."""
        public = key.public if isinstance(key, KeyPair) else key
        scope, memberships = placed(self.policy, roles)
        issued, lasts, old = clock.wall_s(), until, known.users.get(name)
        if old is not None and old.revoked is None:
            if old.public != public or (old.scope, old.memberships) != (scope, memberships):
                known.void(old.public, old.issued, old.lasts)
            if old.public == public:
                lasts = None if until is None or old.lasts is None else max(until, old.lasts)
        if public in known.voided:
            issued = max(issued, known.voided[public].at + 1)
        tags = [f"role:{escape(each)}" for each in memberships]
        signer, account = self.scopes.key(scope), self.account_public()
        token = jwt.sign_user(signer, public, escape(name), account=account, tags=tags, issued=issued, expires=until)
        if len(token) > LARGEST_USER:
            raise ConfigError(
                f"the token of {name} would take {len(token)} bytes", hint="Give it fewer or shorter roles.", limit=LARGEST_USER
            )
        local = isinstance(key, KeyPair)
        known.users[name] = User(name, public, tuple(sorted(set(roles))), scope, memberships, issued, until, lasts, local)
        if isinstance(key, KeyPair):
            return {creds_file(name): format_credentials(token, key.seed)}
        return {token_file(name): token + "\n"}

    def _kept_key(self, user: User) -> KeyPair | None:
        """The key of a user whose credentials are here and count."""
        text = self.keyring.read(creds_file(user.name)) if user.local and user.revoked is None else None
        return None if text is None else read_seed(parse_credentials(text, str(self.keyring.path / creds_file(user.name))).seed)


def _find(known: Records, name: str) -> User:
    user = known.users.get(name)
    if user is None:
        raise ConfigError(f"nobody is named {name!r} here", hint="`mesh auth list` shows who is.", known=sorted(known.users)[:20])
    return user
