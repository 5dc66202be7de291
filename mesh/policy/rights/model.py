"""Roles and their rules, as a person means them. What they come to at the broker: `compile`.

Everything is denied that no role allows. An agent holds a set of roles. Those that the policy defines say what it may do; all but the
ready-made ones are also names that it answers to (memberships).

A rule says what may be called:

| written                | allows                                                                              |
|------------------------|-------------------------------------------------------------------------------------|
| `time`                 | everything of the agent (or role) `time`, whatever its methods are called            |
| `time/now`             | its tool `now`, and what a client needs besides: `mesh.policy.rights.compile.NEEDED` |
| `notes/prompt:weekly`  | its prompt, and the same besides                                                     |
| `docs/resource:URI`    | reading that resource and subscribing to its changes, and the same besides           |
| `qa/stream:test_run`   | opening streams of that type with it, and the same besides                          |
| `time/tool:prompt:x`   | a tool whose name begins like one of these words                                     |
| `*/ping`, `notes/*`    | `*` is a whole name: the tool `ping` of every agent, every tool of `notes`            |
| `git/git_*`            | the tools whose names fit, of those that are known when the policy is applied         |

Who may call a tool may have it called as a job, too. Messages and broadcasts may be sent to whole names of agents or roles, or to `*`.
Events may be published and heard on topics: words with dots between them, `*` for any word, `>` for the rest of them.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from mesh.errors import ConfigError
from mesh.policy.rights.matching import covers, includes, matches
from mesh.subjects import CONTROL_PLANE, escape

AGENT: Final = "agent"
NO_ROLES: Final = "none"
"""How the scope of users is called none of whose roles the policy defines. So it is no role's name."""

STAR: Final = "*"
"""How "any" is written in a rule, and what makes a tool's name a pattern. A name that holds one cannot be written in a rule."""


class Kind(StrEnum):
    """What of an agent a rule names."""

    ALL = "all"
    TOOL = "tool"
    PROMPT = "prompt"
    RESOURCE = "resource"
    STREAM = "stream"


class Power(StrEnum):
    """What the ready-made roles may do besides calling. A role of a policy file gets them by extending one of these."""

    ANSWER = "answer"
    """Take calls and messages under one's own name and memberships, and be in the registry."""
    BROWSE = "browse"
    """See who there is and what they offer, all of them."""
    JOURNAL = "journal"
    """Read the journal, through readers that the control plane makes."""
    ADMIN = "admin"
    """Change streams, buckets and consumers, and read all that they hold."""
    PLANE = "plane"
    """Be the control plane."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What may be called: an agent (None: each), or of one kind of thing of it that with this name (None: each)."""

    agent: str | None
    kind: Kind = Kind.ALL
    name: str | None = None

    @property
    def pattern(self) -> bool:
        """Whether its name stands for others, which must be known before it says anything to the broker."""
        return self.name is not None and STAR in self.name

    def __str__(self) -> str:
        """As it is written in a policy file."""
        agent, name = (STAR if each is None else each for each in (self.agent, self.name))
        if self.kind is Kind.ALL:
            return agent
        if self.kind is Kind.TOOL and _kind_before(name) is None:
            return f"{agent}/{name}"
        return f"{agent}/{self.kind}:{name}"


def parse_rule(text: str) -> Rule:
    """A rule as it is written. Raises ConfigError that says what to write instead."""
    agent, slash, named = text.partition("/")
    if not agent:
        raise ConfigError(f"the rule {text!r} names no agent", hint="write AGENT, AGENT/TOOL, AGENT/prompt:NAME or AGENT/resource:URI")
    if agent != STAR and STAR in agent:
        raise ConfigError(f"the rule {text!r}: an agent is a whole name, or *", hint=f"write each agent by itself, or */{named or '…'}")
    target = None if agent == STAR else agent
    if not slash:
        return Rule(target)
    kind = _kind_before(named)
    name = named if kind is None else named.partition(":")[2]
    if not name:
        raise ConfigError(f"the rule {text!r} names no tool after the slash", hint=f"write {agent}/TOOL, or {agent} for all of it")
    if kind not in (None, Kind.TOOL) and STAR in name and name != STAR:
        raise ConfigError(
            f"the rule {text!r}: only the names of tools may be given by a pattern", hint=f"write the whole name, or {agent}/{kind}:*"
        )
    return Rule(target, kind or Kind.TOOL, None if name == STAR else name)


def _kind_before(name: str) -> Kind | None:
    """The kind that a name begins with, as in `prompt:weekly`."""
    word, colon, _ = name.partition(":")
    return Kind(word) if colon and word in (Kind.TOOL, Kind.PROMPT, Kind.RESOURCE, Kind.STREAM) else None


@dataclass(frozen=True, slots=True)
class Role:
    """What the holders of one role may do. `powers` come from the ready-made roles that it extends."""

    name: str
    call: tuple[Rule, ...] = ()
    powers: frozenset[Power] = frozenset()
    about: str = ""
    send: tuple[str | None, ...] = ()
    """Names (agents, roles) that messages and broadcasts may be sent to; None: to all."""
    publish: tuple[str | None, ...] = ()
    """Topics (`mesh.subjects.topic_pattern`) on which events may be published; None: all."""
    subscribe: tuple[str | None, ...] = ()
    """Topics of which events may be heard and replayed; None: all. None ends with `*`: the broker takes a subscription to `build.>` for one
    that `build.*` allows, and delivers all that it takes in."""

    def __post_init__(self) -> None:
        if self.name in ("", CONTROL_PLANE, NO_ROLES):
            raise ConfigError(f"no role can be named {self.name!r}", hint="give it another name")
        for topics in self.subscribe:
            if topics is not None and topics.split(".")[-1] == STAR:
                raise ConfigError(
                    f"role {self.name!r}: nobody can be held to {topics!r} when hearing: the broker would let pass what lies deeper, too",
                    hint=f"write {topics.removesuffix(STAR)}>, or each topic by itself",
                )


READY_MADE: Final = (
    Role(AGENT, powers=frozenset({Power.ANSWER}), about="answers to its own name and to its roles; calls nobody"),
    Role(
        "host",
        call=(Rule(None),),
        powers=frozenset({Power.BROWSE}),
        about="calls every agent, sends to it, publishes and hears all events",
        send=(None,),
        publish=(None,),
        subscribe=(None,),
    ),
    Role(
        "operator",
        powers=frozenset({Power.BROWSE, Power.JOURNAL, Power.ADMIN}),
        about="sees everything, changes what the broker keeps; calls nobody",
    ),
    Role("auditor", powers=frozenset({Power.BROWSE, Power.JOURNAL}), about="reads the journal; changes nothing and calls nobody"),
    Role("gateway", powers=frozenset({Power.BROWSE}), about="an HTTP front: sees who there is, and acts with its users' own credentials"),
    Role("plane", powers=frozenset({Power.ANSWER, Power.BROWSE, Power.PLANE}), about="the control plane; for nobody else"),
)

INTERNAL: Final = frozenset({"plane"})
"""Ready-made roles that no other may extend."""

_ready_made: Final = frozenset(role.name for role in READY_MADE)


def _all_roles(own: Iterable[Role]) -> Mapping[str, Role]:
    found = {role.name: role for role in READY_MADE}
    for role in own:
        if role.name in _ready_made:
            raise ConfigError(f"the role {role.name!r} is ready made and cannot be changed", hint="give yours another name")
        found[role.name] = role
    return found


@dataclass(frozen=True, slots=True)
class Policy:
    """All roles by name, the ready-made ones among them: `Policy.of(roles)`."""

    roles: Mapping[str, Role] = field(default_factory=lambda: _all_roles(()))

    @classmethod
    def of(cls, own: Iterable[Role]) -> "Policy":
        """The ready-made roles and these. Raises ConfigError for one that would change a ready-made one."""
        return cls(_all_roles(own))

    @property
    def own(self) -> tuple[Role, ...]:
        """The roles that are not ready made, by name."""
        return tuple(self.roles[name] for name in sorted(self.roles.keys() - _ready_made))

    @property
    def patterns(self) -> tuple[tuple[Role, Rule], ...]:
        """The rules that `resolve` must turn into names before the policy can be compiled."""
        return tuple((role, rule) for role in self.own for rule in role.call if rule.pattern)

    def resolve(self, tools: Mapping[str, Collection[str]], *, lenient: bool = False) -> "Policy":
        """The policy with each pattern replaced by the tools (by agent) that fit it. Where a pattern fits none, ConfigError; or, `lenient`,
        it allows nothing."""
        return Policy.of(replace(role, call=tuple(_resolve(role, tools, lenient))) for role in self.own)


def _resolve(role: Role, tools: Mapping[str, Collection[str]], lenient: bool) -> Iterable[Rule]:
    for rule in role.call:
        if not rule.pattern:
            yield rule
            continue
        fits = re.compile(".*".join(map(re.escape, (rule.name or "").split(STAR))), re.DOTALL).fullmatch
        named = {(agent, tool) for agent, its in tools.items() if rule.agent in (None, agent) for tool in its if fits(tool)}
        # Agents name themselves and their tools. What could not be written as a rule, or would be read as another one, stands for nothing.
        found = [each for each in (Rule(agent, rule.kind, tool) for agent, tool in sorted(named)) if _can_be_written(each)]
        if not found and not lenient:
            raise ConfigError(
                f"role {role.name!r}: no tool that is known fits {str(rule)!r}",
                hint="a pattern stands for the tools that are there when the policy is applied: start the agent, or write the names",
            )
        yield from found


def _can_be_written(rule: Rule) -> bool:
    try:
        return not rule.pattern and parse_rule(str(rule)) == rule
    except ConfigError:
        return False


def scope_of(policy: Policy, roles: Collection[str]) -> tuple[str, ...]:
    """The roles of a user that the policy defines, sorted: users of one scope have one template."""
    return tuple(sorted(policy.roles.keys() & set(roles)))


def scope_name(scope: Iterable[str]) -> str:
    """A scope as one word that is safe in a file's name: `agent+host`. The empty scope is `none`."""
    return "+".join(sorted(map(escape, scope))) or NO_ROLES


def memberships_of(roles: Collection[str]) -> tuple[str, ...]:
    """The names that a user of these roles may answer to besides its own."""
    return tuple(sorted(set(roles) - _ready_made))


@dataclass(frozen=True, slots=True)
class Permissions:
    """What a user may publish and subscribe to: filters, sorted, without duplicates. It may hold templates until `expand` filled them in.

    An empty list allows nothing. The broker takes an empty list of allowed subjects for "all": who writes one denies `>` instead.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()

    def may_publish(self, subject: str) -> bool:
        return covers(self.publish, subject)

    def may_subscribe(self, subject: str) -> bool:
        return covers(self.subscribe, subject)

    def may_hear_all(self, filter: str) -> bool:
        """Whether every subject that a filter takes may be heard. `may_subscribe` is the broker's rule, which lets more through."""
        return includes(self.subscribe, filter)

    def narrow(self, wanted: str) -> tuple[str, ...]:
        """What of the filter `wanted` may be subscribed to: all of it, or the entries that lie within it."""
        return (wanted,) if self.may_subscribe(wanted) else tuple(entry for entry in self.subscribe if matches(wanted, entry))

    @property
    def size(self) -> int:
        """Bytes that it takes in the account's JWT, before base64."""
        return sum(len(subject) + 3 for subject in (*self.publish, *self.subscribe))
