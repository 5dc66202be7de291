"""Who was issued what: the index `users.json`, without secrets.

```
{"users": {NAME: {"public", "roles", "scope", "memberships", "issued", "expires", "lasts", "revoked", "local"}},
 "voided": {PUBLIC: {"at", "lasts"}}, "retiring": {SCOPE: [PUBLIC, …]}}
```
Times are seconds since 1970. `lasts` is when the last token of that key expires, null for never; later, nothing is left to be void.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Final

from mesh.errors import ConfigError


@dataclass(frozen=True, slots=True)
class User:
    """One participant. From its `roles` follow `scope`, its rights, and `memberships`, the names that it may answer to."""

    name: str
    public: str
    roles: tuple[str, ...]
    scope: str
    memberships: tuple[str, ...]
    issued: int
    expires: int | None
    lasts: int | None
    local: bool
    """Whether its key is here, so that its credentials can be renewed here."""
    revoked: int | None = None

    @property
    def lifetime(self) -> timedelta | None:
        """For how long its token was issued."""
        return None if self.expires is None else timedelta(seconds=self.expires - self.issued)


_KEPT: Final = tuple(each.name for each in fields(User) if each.name != "name")


@dataclass(frozen=True, slots=True)
class Voided:
    """Tokens of one key, issued up to the second `at`, count no more."""

    at: int
    lasts: int | None


@dataclass(slots=True)
class Records:
    users: dict[str, User] = field(default_factory=dict)
    voided: dict[str, Voided] = field(default_factory=dict)
    """By public key."""
    retiring: dict[str, list[str]] = field(default_factory=dict)
    """By scope: public halves of its older signing keys, which still count."""

    def void(self, public: str, at: int, lasts: int | None) -> None:
        known = self.voided.get(public)
        self.voided[public] = Voided(max(at, known.at if known else 0), lasts)

    def revocations(self, now: int) -> dict[str, int]:
        """What the account's claims say. Entries whose tokens have all expired are left out."""
        return {key: each.at for key, each in sorted(self.voided.items()) if each.lasts is None or each.lasts > now}

    def dump(self) -> str:
        """A line for each user. With `indent` Python's own encoder would write it, ten times slower, for every user that is issued."""
        users = {name: {key: getattr(user, key) for key in _KEPT} for name, user in self.users.items()}
        voided = {public: {"at": each.at, "lasts": each.lasts} for public, each in self.voided.items()}
        parts: dict[str, Mapping[str, Any]] = {"users": users, "voided": voided, "retiring": self.retiring}
        return "{" + ",\n".join(f"{json.dumps(name)}: {_lines(part)}" for name, part in parts.items()) + "}\n"


def load(text: str | None, where: str) -> Records:
    """The index of a text, empty for None. `where` names it in errors. Raises ConfigError."""
    if text is None:
        return Records()
    try:
        found = json.loads(text)
        return Records(
            {name: _user(name, each) for name, each in found["users"].items()},
            {public: Voided(int(each["at"]), _second(each["lasts"])) for public, each in found["voided"].items()},
            {scope: [str(each) for each in keys] for scope, keys in found["retiring"].items()},
        )
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
        hint = "Restore it from a backup. It says who was revoked, so do not delete it."
        raise ConfigError(f"{where} is damaged: {error!r}", hint=hint) from None


def _lines(part: Mapping[str, Any]) -> str:
    return "{" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(part.items())) + "}"


def revoked(user: User, at: int) -> User:
    return replace(user, revoked=at)


def _user(name: str, said: Mapping[str, Any]) -> User:
    return User(
        name, str(said["public"]), _names(said["roles"]), str(said["scope"]), _names(said["memberships"]), int(said["issued"]),
        _second(said["expires"]), _second(said["lasts"]), bool(said["local"]), _second(said["revoked"]),
    )  # fmt: skip


def _names(said: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(str, said))


def _second(said: Any) -> int | None:
    return None if said is None else int(said)
