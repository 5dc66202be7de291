"""The account's signing keys, one for each set of roles in use, and what each lets its users do: the policy in force, compiled.

The policy in force is kept as `policy.json`, with its patterns resolved. What people write (`policy.toml`) counts once it is applied, so a
file that somebody is editing changes nothing, and a mistake in it keeps nobody from revoking.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from mesh.crypto import jwt
from mesh.crypto.keys import KeyPair, Kind
from mesh.errors import ConfigError, MeshError
from mesh.identity.keyring import Keyring
from mesh.identity.records import Records
from mesh.policy.rights import READY_MADE, Permissions, Policy, Power, Role, compile_scope, memberships_of, parse_rule, scope_name, scope_of
from mesh.policy.rights.model import INTERNAL
from mesh.subjects import CONTROL_PLANE, Subjects, escape, unescape

IN_FORCE: Final = "policy.json"
PLANE: Final = "plane"
"""The role of the control plane, and of it alone."""

LONGEST_NAME: Final = 200
"""Characters of an escaped name: a file name takes 255."""

NOTHING: Final = scope_name(())
"""The scope of users none of whose roles the policy defines."""


def placed(policy: Policy, roles: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Scope and memberships of a user with these roles."""
    return scope_name(scope_of(policy, roles)), memberships_of(roles)


class Scopes:
    """Over a Keyring. What changes files is called within `Keyring.locked`."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._given: Policy | None = None

    @property
    def policy(self) -> Policy:
        """The policy in force: the one that is tried, or the file's, or the ready-made roles."""
        if self._given is not None:
            return self._given
        text = self._keyring.read(IN_FORCE)
        return Policy() if text is None else _load(text, str(self._keyring.path / IN_FORCE))

    @contextmanager
    def trying(self, policy: Policy) -> Iterator[None]:
        """Another policy counts meanwhile, and for good once `save` was called."""
        self._given = policy
        try:
            yield
        finally:
            self._given = None

    def save(self) -> None:
        """Write the policy that is tried."""
        if self._given is not None:
            self._keyring.write(IN_FORCE, _dump(self._given))

    def checked(self, known: Records, name: str, roles: Collection[str]) -> tuple[str, ...]:
        """The roles, if a participant of this name may have them. Raises ConfigError."""
        wanted = tuple(sorted(set(roles)))
        scope, memberships = placed(self.policy, wanted)
        if not name or len(escape(name)) > LONGEST_NAME:
            raise ConfigError(f"a participant's name has 1 to {LONGEST_NAME} characters", name=name)
        if (name == CONTROL_PLANE) != (PLANE in wanted) or CONTROL_PLANE in wanted:
            raise ConfigError(
                f"the name {CONTROL_PLANE!r} and the role {PLANE!r} belong to the control plane",
                hint=f"Together they make one: `mesh auth issue {CONTROL_PLANE} --role {PLANE}`.",
            )
        if not scope_of(self.policy, wanted):
            raise ConfigError(
                f"the policy says of none of these roles what it may do: {', '.join(wanted) or 'none given'}",
                hint=f"Add one that it knows: {', '.join(sorted(self.policy.roles.keys() - INTERNAL))}.", scope=scope,
            )  # fmt: skip
        taken = next((each for each in memberships if each in known.users), None)
        if taken is not None:
            raise ConfigError(
                f"{taken!r} is a participant; who holds it as a role would answer in its place", hint="Name the role otherwise."
            )
        member = next((each.name for each in known.users.values() if name in each.memberships and each.revoked is None), None)
        if member is not None:
            raise ConfigError(f"{name!r} is a role, of {member!r} for one, who would answer in its place", hint="Use another name.")
        return wanted

    def key(self, scope: str) -> KeyPair:
        """The signing key of a scope, made when it is first used."""
        return self._keyring.key_or_new(_seed(scope), Kind.ACCOUNT)

    def new_key(self, scope: str) -> KeyPair:
        return self._keyring.new_key(_seed(scope), Kind.ACCOUNT)

    def names(self, known: Records) -> tuple[str, ...]:
        """The scopes that the account has. Those of the ready-made roles are always there, so that no broker must be told of the first."""
        used = {user.scope for user in known.users.values() if user.revoked is None}
        return tuple(sorted({scope_name([role.name]) for role in READY_MADE} | used | known.retiring.keys()))

    def compiled(self, policy: Policy, known: Records, subjects: Subjects) -> dict[str, Permissions]:
        """What a policy comes to for each scope that the account has."""
        members, made = members_of(known), {}
        for name in self.names(known):
            roles = () if name == NOTHING else [unescape(token) for token in name.split("+")]
            made[name] = compile_scope(policy, roles, subjects, members)
        return made

    def claims(self, known: Records, subjects: Subjects) -> list[jwt.Scope]:
        """What the account says of its scopes; the older keys of a scope say the same as the one in use."""
        made = []
        for name, rights in self.compiled(self.policy, known, subjects).items():
            keys = [self.key(name).public, *known.retiring.get(name, ())]
            made += [jwt.Scope(key, name, rights.publish, rights.subscribe) for key in keys]
        return made


def members_of(known: Records) -> dict[str, list[str]]:
    """Who answers to a role."""
    members: dict[str, list[str]] = {}
    for user in known.users.values():
        for each in user.memberships if user.revoked is None else ():
            members.setdefault(each, []).append(user.name)
    return members


def _seed(scope: str) -> str:
    return f"scopes/{scope}.seed"


def _dump(policy: Policy) -> str:
    roles = [
        {
            "name": role.name,
            "call": [str(rule) for rule in role.call],
            "powers": sorted(role.powers),
            "about": role.about,
            "send": role.send,
            "publish": role.publish,
            "subscribe": role.subscribe,
        }
        for role in policy.own
    ]
    return json.dumps({"roles": roles}, indent=1) + "\n"


def _load(text: str, where: str) -> Policy:
    try:
        return Policy.of(
            Role(
                str(said["name"]),
                tuple(parse_rule(rule) for rule in said["call"]),
                frozenset(Power(power) for power in said["powers"]),
                str(said["about"]),
                *(tuple(None if each is None else str(each) for each in said.get(key, ())) for key in ("send", "publish", "subscribe")),
            )
            for said in json.loads(text)["roles"]
        )
    except (ValueError, KeyError, TypeError, MeshError) as error:
        raise ConfigError(f"{where} is damaged: {error!r}", hint="Apply the policy again: `mesh auth apply`.") from None
