"""The policy as a person writes it: roles in TOML, in a file of their own or in `mesh.toml`.

[roles.reviewer]
about = "reads and comments"                                 # shown by `mesh auth`; optional
call = ["time/now", "git", "notes/prompt:weekly", "*/ping"]  # mesh/policy/rights/model.py has the table of rules
send = ["qa-manager", "*"]                                   # agents or roles; `*` is all of them
publish = ["review.done", "build.*"]                         # topics of events; `*` is any word, `>` the rest, "*" alone all topics
subscribe = ["agent.health", "*.done", "*"]                  # the same, but no `*` as the last of several words
extends = ["auditor"]                                        # all that these roles may do, too

What no role allows is denied. The ready-made roles are there without being written, and cannot be changed.
"""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from mesh.errors import ConfigError
from mesh.policy.rights import READY_MADE, Policy, Power, Role, Rule, parse_rule
from mesh.policy.rights.model import INTERNAL, STAR
from mesh.subjects import topic_pattern

POLICY_FILE: Final = "policy.toml"
"""Where `mesh auth diff` and `mesh auth apply` look, in `{state_dir}/auth`."""

KEYS: Final = ("about", "call", "send", "publish", "subscribe", "extends")
EXAMPLES: Final = {"extends": "host", "send": "AGENT", "publish": "TOPIC", "subscribe": "TOPIC"}

BESIDE: Final = ("agents", "http")
"""What else a mesh.toml may hold."""


def read_policy(path: Path) -> Policy:
    """The ready-made roles and those of the file's `[roles]`. Raises ConfigError: which file, role, rule, and what to write instead."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no policy file {path}", hint='write one: [roles.reviewer], then call = ["AGENT/TOOL"]', path=str(path)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:  # TOML that is none, and numbers with more digits than Python reads
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for key in found:
        if key != "roles" and (key not in BESIDE or "agents" not in found):
            raise ConfigError(f"{path}: a policy has no {key!r}", hint=f"write [roles.NAME]{_close(key, ('roles',))}")
    return Policy.of(read_roles(found.get("roles", {}), str(path)))


def read_roles(table: object, where: str) -> tuple[Role, ...]:
    """The roles of a `[roles]` table, each with what it extends taken in. `where` names the file in errors. Raises ConfigError."""
    if not isinstance(table, dict) or not all(isinstance(each, dict) for each in table.values()):
        raise ConfigError(f"{where}: roles are tables", hint="write [roles.NAME], then call = [...]")
    reader = _Reader(table, where)
    return tuple(reader.role(name) for name in table)


class _Reader:
    def __init__(self, table: Mapping[str, Mapping[str, Any]], where: str) -> None:
        self._table = table
        self._where = where
        self._known = {role.name: role for role in READY_MADE}
        self._reading: list[str] = []
        for name in table:
            if name in self._known:
                raise self._error(name, "it is ready made and cannot be changed", f"name yours otherwise, and write extends = [{name!r}]")

    def role(self, name: str) -> Role:
        if name not in self._known:
            self._reading.append(name)
            try:
                self._known[name] = self._read(name, self._table[name])
            finally:
                self._reading.pop()
        return self._known[name]

    def _read(self, name: str, said: Mapping[str, Any]) -> Role:
        for key in said:
            if key not in KEYS:
                raise self._error(name, f"a role has no {key!r}", f"it has {', '.join(KEYS)}{_close(key, KEYS)}")
        call: list[Rule] = []
        send: list[str | None] = []
        topics: dict[str, list[str | None]] = {"publish": [], "subscribe": []}
        powers: set[Power] = set()
        for text in self._texts(name, said, "extends"):
            base = self._base(name, text)
            call += base.call
            send += base.send
            topics["publish"] += base.publish
            topics["subscribe"] += base.subscribe
            powers |= base.powers
        for text in self._texts(name, said, "call"):
            try:
                call.append(parse_rule(text))
            except ConfigError as error:
                raise self._error(name, error.message, error.hint) from None
        for text in self._texts(name, said, "send"):
            if not text or (STAR in text and text != STAR):
                raise self._error(name, f"messages are sent to a whole name, not to {text!r}", 'write send = ["AGENT"], or "*" for all')
            send.append(None if text == STAR else text)
        for key, found in topics.items():
            for text in self._texts(name, said, key):
                try:
                    topic_pattern(text)
                except ConfigError as error:
                    raise self._error(name, error.message, error.hint) from None
                found.append(None if text in (STAR, ">") else text)
        about = said.get("about", "")
        if not isinstance(about, str):
            raise self._error(name, "about is a text", 'about = "what the role is for"')
        try:
            lists = (tuple(dict.fromkeys(each)) for each in (send, *topics.values()))
            return Role(name, tuple(dict.fromkeys(call)), frozenset(powers), about, *lists)
        except ConfigError as error:
            raise ConfigError(f"{self._where}: {error.message}", hint=error.hint) from None

    def _base(self, name: str, text: str) -> Role:
        if text in self._reading:
            raise self._error(name, f"it extends itself, by {' → '.join((*self._reading, text))}", "leave one of them out")
        if text in INTERNAL:
            raise self._error(name, f"the role {text!r} cannot be extended", "it is the control plane's alone")
        if text not in self._known and text not in self._table:
            names = sorted({*self._known, *self._table} - INTERNAL)
            raise self._error(name, f"it extends {text!r}, which is no role", f"one of {', '.join(names)}{_close(text, names)}")
        return self.role(text)

    def _texts(self, name: str, said: Mapping[str, Any], key: str) -> list[str]:
        found = said.get(key, [])
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            one = found if isinstance(found, str) else EXAMPLES.get(key, "AGENT/TOOL")
            raise self._error(name, f"{key} is a list of texts", f'write {key} = ["{one}"]')
        return found

    def _error(self, name: str, problem: str, hint: str) -> ConfigError:
        return ConfigError(f"{self._where}: role {name!r}: {problem}", hint=hint, role=name)


def _close(text: str, names: Collection[str]) -> str:
    found = difflib.get_close_matches(text, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
