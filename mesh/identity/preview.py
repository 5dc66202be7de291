"""What a policy would change if it were applied: rights, tokens, and the size of the account's JWT. Changes nothing."""

from dataclasses import dataclass, replace

from mesh import clock
from mesh.crypto import jwt
from mesh.crypto.keys import Kind, new_key
from mesh.identity.authority import Authority
from mesh.identity.ledger import LARGEST_ACCOUNT
from mesh.identity.scopes import members_of, placed
from mesh.policy.rights import Policy, ScopeChange, diff


@dataclass(frozen=True, slots=True)
class Preview:
    """`roles` are those that are new, gone, or other than before. `changes` are of the scopes in use whose rights would change; `renewed`
    are the users whose scope itself does, so that they get new tokens."""

    roles: tuple[str, ...]
    changes: tuple[ScopeChange, ...]
    renewed: tuple[str, ...]
    size_before: int
    """Bytes of the account's JWT, to the byte but for the digits of a time."""
    size_after: int

    @property
    def fits(self) -> bool:
        """Whether a broker can be told."""
        return self.size_after <= LARGEST_ACCOUNT


def preview(authority: Authority, policy: Policy) -> Preview:
    """Raises ConfigError where the policy cannot be compiled: it has patterns (`Policy.resolve`)."""
    known, scopes, subjects = authority.ledger.load(), authority.scopes, authority.subjects
    active = {name: user for name, user in known.users.items() if user.revoked is None}
    roles = {name: user.roles for name, user in active.items()}
    changes = diff(authority.policy, policy, roles, subjects=subjects, members=members_of(known))
    moved = {name: user for name, user in active.items() if placed(policy, user.roles) != (user.scope, user.memberships)}
    later = replace(known, users=known.users | {name: replace(user, scope=placed(policy, user.roles)[0]) for name, user in moved.items()})
    account = authority.ledger.account(known)
    there = {scope.name: scope.key for scope in account.scopes}
    some_key = new_key(Kind.ACCOUNT).public
    made = [
        jwt.Scope(key, name, rights.publish, rights.subscribe)
        for name, rights in scopes.compiled(policy, later, subjects).items()
        for key in (there.get(name, some_key), *known.retiring.get(name, ()))
    ]
    now = clock.wall_s()
    voided = {**account.revocations, **{user.public: now for user in moved.values()}}
    before, after = authority.policy.roles, policy.roles
    return Preview(
        roles=tuple(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))),
        changes=tuple(change for change in changes if change.changes),
        renewed=tuple(sorted(moved)),
        size_before=_size(account, now),
        size_after=_size(replace(account, scopes=made, revocations=voided), now),
    )


def _size(account: jwt.Account, now: int) -> int:
    """All keys are equally long, so any operator's will do."""
    return len(jwt.sign_account(new_key(Kind.OPERATOR), account, issued=now))
