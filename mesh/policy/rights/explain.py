"""Why somebody may do something or not, and what another policy would change: both from the compiled permissions.

| action                                  | asks for                                                        |
|-----------------------------------------|-----------------------------------------------------------------|
| `call AGENT`                            | calling everything of it                                        |
| `call AGENT/TOOL`, `AGENT/prompt:NAME`, `AGENT/resource:URI`, `AGENT/stream:TYPE` | that one              |
| `submit AGENT/TOOL`                     | having a tool called as a job                                   |
| `send NAME`                             | sending messages and broadcasts to a name; `*`: to all          |
| `publish TOPIC`, `subscribe TOPIC`      | publishing events on a topic, hearing them; `*`, `>` as in rules |
| `answer NAME`                           | taking calls that are addressed to a name                       |
| `see AGENT`                             | following who there is: the agent's entry and its health        |
| `read journal`, `registry`, `health`    | pulling from a reader of it                                     |
| `change topology`                       | changing streams, buckets and consumers                         |
| `nats pub SUBJECT`, `nats sub SUBJECT`  | the subject itself, as it stands                                |

The words are those of a role's rules (`call`, `send`, `publish`, `subscribe`); for subjects they are those of the `nats` command.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from mesh.errors import ConfigError
from mesh.policy.rights.compile import EVERYONE, NAMED, Grant, Members, compile_scope, fill, grants_of
from mesh.policy.rights.matching import covers, includes
from mesh.policy.rights.model import AGENT, INTERNAL, STAR, Kind, Permissions, Policy, memberships_of, parse_rule, scope_name, scope_of
from mesh.subjects import ANY, EACH, Subjects, rights_api
from mesh.topology import HEALTH, JOURNAL, REGISTRY, bucket_stream

READABLE: Final = {"journal": JOURNAL, **{bucket: bucket_stream(bucket) for bucket in (REGISTRY, HEALTH)}}

ACTIONS: Final = (
    "call AGENT, call AGENT/TOOL, call AGENT/prompt:NAME, call AGENT/resource:URI, call AGENT/stream:TYPE, "
    "submit AGENT/TOOL, send NAME, publish TOPIC, subscribe TOPIC, answer NAME, see AGENT, "
    f"read {'|'.join(READABLE)}, change topology, nats pub SUBJECT, nats sub SUBJECT"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a user may do it. `subject` is what the broker looks at, `allowed_by` the entry that covers it; `role` and `rule` gave that
    entry, and are empty where there is none. `roles` are those that would allow it, each by itself; `agent+reviewer` are needed both."""

    allowed: bool
    role: str
    rule: str
    subject: str
    allowed_by: str
    why: str
    roles: tuple[str, ...] = ()


class Asked(NamedTuple):
    """What an action asks of the broker."""

    publish: bool
    """To publish; else to subscribe."""
    subject: str
    every: bool = False
    """The subject is a filter, and all that it takes is asked for."""

    def covered_by(self, entries: tuple[str, ...]) -> bool:
        return (includes if self.every else covers)(entries, self.subject)

    def allowed_by(self, permissions: Permissions) -> bool:
        return self.covered_by(permissions.publish if self.publish else permissions.subscribe)


@dataclass(frozen=True, slots=True)
class ScopeChange:
    """What another policy would add to a scope and take from it: entries of its template, for all `users` of it."""

    scope: str
    users: tuple[str, ...]
    publish_added: tuple[str, ...]
    publish_removed: tuple[str, ...]
    subscribe_added: tuple[str, ...]
    subscribe_removed: tuple[str, ...]
    size_before: int
    """Bytes of the template, about."""
    size_after: int

    @property
    def changes(self) -> bool:
        return bool(self.publish_added or self.publish_removed or self.subscribe_added or self.subscribe_removed)


def explain(
    policy: Policy, name: str, roles: Collection[str], action: str, *, subjects: Subjects | None = None, members: Members | None = None
) -> Verdict:
    """Whether the user `name` with these roles may do `action` (the table above). Raises ConfigError for what is no action."""
    subjects = subjects or Subjects()
    asked = asked_for(action, name, subjects)
    grant, allowed_by = _find(policy, name, roles, asked, subjects, members)
    if grant is not None:
        return Verdict(True, grant.role, grant.rule, asked.subject, allowed_by, f"{_by(grant)} allows it")
    held = ", ".join(scope_of(policy, roles)) or "no role that the policy defines"
    why = f"nothing allows it: {name!r} has {held}"
    if part := _parts(policy, roles, action):
        why += f"; allowed is {', '.join(part)}"
    would = tuple(
        "+".join(more)
        for more in _candidates(policy, name, roles, action)
        if _find(policy, name, {*roles, *more}, asked, subjects, members)[0] is not None
    )
    if others := _elsewhere(policy, roles, action):
        why += f"; a part of it would be allowed by {', '.join(others)}"
    if would:
        why += f"; {'the role' if len(would) == 1 else 'any of the roles'} {', '.join(would)} would allow it"
    return Verdict(False, "", "", asked.subject, "", why, would)


def _candidates(policy: Policy, name: str, roles: Collection[str], action: str) -> list[tuple[str, ...]]:
    """What might be added to the roles so that they allow it. To answer to a name wants the role of that name, which no policy need define,
    and to answer at all."""
    verb, what = _words(action)
    found: list[tuple[str, ...]] = [(role,) for role in sorted(policy.roles.keys() - INTERNAL - set(roles))]
    if verb == "answer" and what != name and AGENT not in roles:
        found.append((AGENT, what))
    elif verb == "answer" and what not in policy.roles:
        found.append((what,))
    return found


def _words(action: str) -> tuple[str, str]:
    """What is to be done, and to what."""
    verb, _, what = action.strip().partition(" ")
    if verb == "nats":
        way, _, what = what.strip().partition(" ")
        verb = f"{verb} {way}"
    return verb, what.strip()


def asked_for(action: str, name: str, subjects: Subjects) -> Asked:
    """What an action asks for. Raises ConfigError for what is none, or names no topic where it should."""
    verb, what = _words(action)
    match verb:
        case "call" if what:
            rule = parse_rule(what)
            target = EACH if rule.agent is None else rule.agent
            if rule.kind is Kind.ALL:
                return Asked(True, subjects.rights_call(target, name)[0])
            return Asked(True, subjects.rights_call(target, name, NAMED[rule.kind][0], EACH if rule.name is None else rule.name)[0])
        case "submit" if what:
            rule = parse_rule(what)
            if rule.kind is Kind.TOOL and rule.agent is not None:
                return Asked(True, subjects.rights_job(rule.agent, name, "tools/call", EACH if rule.name is None else rule.name))
        case "send" if what:
            return Asked(True, subjects.rights_send(EACH if what == STAR else what, name))
        case "publish" if what:
            return Asked(True, subjects.rights_publish(name, what), every=True)
        case "subscribe" if what:
            return Asked(False, subjects.rights_hear(what), every=True)
        case "answer" if what:
            return Asked(False, subjects.calls_to(what, ANY))
        case "see" if what:
            return Asked(False, subjects.bucket_copy(REGISTRY, what))
        case "read" if what in READABLE:
            return Asked(True, rights_api(f"CONSUMER.MSG.NEXT.{READABLE[what]}.READER"))
        case "change" if what == "topology":
            return Asked(True, rights_api(f"STREAM.UPDATE.{JOURNAL}"))
        case "nats pub" if what:
            return Asked(True, what)
        case "nats sub" if what:
            return Asked(False, what)
    raise ConfigError(f"{action!r} is no action that a role can allow", hint=f"one of: {ACTIONS}")


def _find(
    policy: Policy, name: str, roles: Collection[str], asked: Asked, subjects: Subjects, members: Members | None
) -> tuple[Grant | None, str]:
    memberships = memberships_of(roles)
    for grant in grants_of(policy, roles, subjects, members):
        if grant.publish is asked.publish:
            for entry in fill(grant.subject, name, memberships):
                if asked.covered_by((entry,)):
                    return grant, entry
    return None, ""


def _by(grant: Grant) -> str:
    return "taking part in the mesh" if grant.role == EVERYONE else f"the rule {grant.rule!r} of the role {grant.role!r}"


def _parts(policy: Policy, roles: Collection[str], action: str) -> list[str]:
    """Where all of an agent was asked for: the rules of these roles that allow a part of it."""
    verb, what = _words(action)
    if verb != "call" or "/" in what:
        return []
    rules = {str(rule) for role in scope_of(policy, roles) for rule in policy.roles[role].call if rule.agent in (None, what)}
    return sorted(rules)


def _elsewhere(policy: Policy, roles: Collection[str], action: str) -> list[str]:
    """The same of the other roles of the policy."""
    others = [role.name for role in policy.own if role.name not in roles]
    return [f"the role {name} ({', '.join(parts)})" for name in others if (parts := _parts(policy, [name], action))]


def diff(
    old: Policy,
    new: Policy,
    users: Mapping[str, Collection[str]],
    *,
    subjects: Subjects | None = None,
    members: Members | None = None,
) -> tuple[ScopeChange, ...]:
    """What `new` would change for these users (roles by name): one entry a scope of theirs, by its name under `new`.

    Roles that are defined in only one of the two policies count by what they give there.
    """
    subjects = subjects or Subjects()
    scopes: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for name, roles in users.items():
        scopes.setdefault((scope_of(old, roles), scope_of(new, roles)), []).append(name)
    found = []
    for (before, after), names in sorted(scopes.items()):
        was, will = compile_scope(old, before, subjects, members), compile_scope(new, after, subjects, members)
        found.append(
            ScopeChange(
                scope=scope_name(after),
                users=tuple(sorted(names)),
                publish_added=_without(will.publish, was.publish),
                publish_removed=_without(was.publish, will.publish),
                subscribe_added=_without(will.subscribe, was.subscribe),
                subscribe_removed=_without(was.subscribe, will.subscribe),
                size_before=was.size,
                size_after=will.size,
            )
        )
    return tuple(found)


def _without(these: tuple[str, ...], those: tuple[str, ...]) -> tuple[str, ...]:
    known = set(those)
    return tuple(each for each in these if each not in known)
