"""A scope of roles as the broker's permissions. Pure.

What each holder gets, and why. In the table `me` is the user's name and R each name that it may answer to; the broker fills both in.

| who         | may                                                              | because                                          |
|-------------|------------------------------------------------------------------|--------------------------------------------------|
| everyone    | hear its inboxes, and write there                                | answers of JetStream; `Connection.flush`         |
|             | hear `reply.me.…`, `hush.me.…`                                   | frames of its calls, answers to its probes       |
|             | hear `part.me.…`, publish `part.*.*.me.…`                        | large bodies, either way                         |
|             | hear `health.me.*`, `health.mesh.*`, `gone.*.*`                  | its own instances, the plane's; who is gone      |
|             | hear `stream.me.…`, `jobs.*.me.*`                                | its streams, the states of its jobs              |
|             | call, probe and notice `mesh`                                    | who is there, and readers made for it            |
|             | ask the broker what it may do                                    | the bridge checks by the same table              |
| `ANSWER`    | take what is addressed to me (any instance), and to R (`any`)    | being called                                     |
|             | publish `reply.*.me.…`, `hush.*.me.…`, `record.me.*`, those of R | frames, probes' answers, records                 |
|             | write its keys in `registry` and `health`; hear `registry.me.*`  | being seen; repairing what is written over them  |
|             | pull from the lanes of me and R, and acknowledge; hear `msg.me.…` | messages; the first one of a lane is its notice  |
|             | publish `dead.me.…`, those of R                                  | what it will not try again                       |
|             | the same of JOBS; hear `job.me.…`; those of R                    | jobs                                             |
|             | write and hear `jobs.me.*.*`, those of R                         | how they stand; a cancellation                   |
|             | publish `stream.*.*.me.*`, `flow.*.me.*`; read STREAMS           | its end of a stream; durable ones                |
|             | hear `cast.*.*.any`, `cast.*.*.R`; read EVENTS                   | broadcasts                                       |
|             | publish `event.me.*.agent.health`                                | how it is                                        |
|             | write and hear `handled.me.*`, those of R                        | what it has done need not be done again          |
| a rule on T | publish `call/quiet.T.*.me.…`, `probe.T.*.me`, `note.T.me.…`     | calls, their targets, cancelling, resuming       |
|             | hear `health.T.*`, `registry.T.*`                                | a loss is known at once; its tools               |
|             | pull from readers of the two buckets                             | who there is, as far as the reader's filter goes |
|             | publish `job.T.me.…` for its tools; of all of T also streams     | jobs are calls; `stream.T.*.me.*`, `flow.T.me.*` |
| `send` to T | publish `msg.T.me.*`, `cast.me.*.T`; to all also `cast.me.*.any` | messages and broadcasts                          |
| `publish`   | publish `event.me.*.{topic}`; hear `schemas.{topic}.*`           | events                                           |
| `subscribe` | hear `event.*.*.{topic}`, `schemas.{topic}.*`; read EVENTS       | events, also old ones                            |
|             | publish `dead.me.…`; write and hear `handled.me.*`               | as those who answer do                           |
| `BROWSE`    | hear `health.*.*`, `registry.*.*`; pull from readers             | `mesh agents`, all agents as one, `/ready`       |
| `JOURNAL`   | pull from readers of JOURNAL; ask for its state                  | `mesh journal`                                   |
| `ADMIN`     | `$JS.API.>`, ask `$SRV`, others' keys, `broker.disconnect`       | `mesh topology`, `mesh doctor`, `nats`           |
|             | publish `msg.…`, `dead.…`                                        | `mesh dlq`: send again what somebody else sent   |
| `PLANE`     | see `_plane`                                                     | registry, losses, readers and lanes, discovery   |

To read EVENTS or STREAMS is to pull from consumers of it and to acknowledge what they deliver. The control plane makes them and looks at
the rights first; their names are secrets of 128 bits, as those of readers are.

Readers: whoever may create consumers may have the broker publish anywhere (`deliver_subject`), and subjects cannot forbid that. So only
the control plane and operators create them. A reader's name is its secret: 128 random bits, and nobody else may list consumers.
Auditors get readers of JOURNAL in the same way (`mesh/reader` with the stream's name); operators may create their own.

A call to a role goes on with the member that took it: its cancellation and all of a session are addressed to the member by name. So a rule
on a role allows the same of each of its members (`members`), which is no more than it was: they answer for the role.

This module is long because one table says what everybody may do, and what follows it must stay beside it.

A template holds `{{name()}}` and `{{tag(role)}}` only as `Token`s of mesh.subjects; what a person wrote is escaped, and can be none.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from mesh.errors import ConfigError
from mesh.policy.rights.model import STAR, Kind, Permissions, Policy, Power, Role, Rule, scope_of
from mesh.subjects import (
    ALL_INBOXES,
    ANY,
    CONTROL_PLANE,
    EACH,
    ME,
    MEMBER,
    MICRO,
    OPEN_STREAM,
    USER_INFO,
    Subjects,
    Token,
    escape,
    rights_ack,
    rights_api,
    rights_inbox,
    rights_key,
)
from mesh.topology import (
    ADVISORIES,
    DEAD_LETTERS,
    DUE,
    EVENTS,
    GIVEN_UP,
    HANDLED,
    HEALTH,
    JOB_STATES,
    JOBS,
    JOURNAL,
    LANES,
    MARKS,
    REGISTRY,
    SCHEDULED,
    SCHEDULES,
    SCHEMAS,
    STREAMS,
    SUBSCRIPTIONS,
    bucket_stream,
    bucket_subject,
    declare,
)

NEEDED: Final = (
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
)
"""Methods without a name that a client of either era asks before it calls anything: who may call one tool may ask them all."""

NEEDED_BELOW: Final = ("notifications", "mesh", "tasks")
"""Methods that begin with one of these too: notifications; the mesh's own (`mesh/answer`); tasks, which the server names by an id that only
their caller was told (MCP 2025-11-25, tasks)."""

NAMED: Final = {
    Kind.TOOL: ("tools/call",),
    Kind.PROMPT: ("prompts/get",),
    Kind.RESOURCE: ("resources/read", "resources/subscribe", "resources/unsubscribe"),
    Kind.STREAM: (OPEN_STREAM,),
}

BUCKETS: Final = (REGISTRY, HEALTH)
KEPT: Final = (JOB_STATES, SCHEDULED, SCHEMAS, SUBSCRIPTIONS)
"""Buckets that the control plane reads and writes for others."""
HEALTH_TOPIC: Final = "agent.health"
"""On which every agent says how it is."""
PULLING: Final = ("MSG.NEXT", "INFO", "RESET")
"""What the holder of a reader's name asks of it: the next messages, whether it is there, and to begin anew (mesh.link.view)."""

EVERYONE: Final = "everyone"


@dataclass(frozen=True, slots=True)
class Grant:
    """One entry of a user's permissions, and where it comes from."""

    publish: bool
    """To publish; else to subscribe."""
    subject: str
    role: str
    """The role that gives it; `everyone` for what each participant has."""
    rule: str
    """The rule as it is written, or what the role does."""


Members = Mapping[str, Collection[str]]
"""Who answers to a role: agents by role."""


def compile_scope(policy: Policy, roles: Collection[str], subjects: Subjects, members: Members | None = None) -> Permissions:
    """The template of all users with these roles. Roles that the policy does not define give nothing.

    Raises ConfigError for a rule with a pattern that was not resolved (`Policy.resolve`).
    """
    return _permissions((grant.publish, grant.subject) for grant in grants_of(policy, roles, subjects, members))


def expand(permissions: Permissions, name: str, memberships: Collection[str]) -> Permissions:
    """What the broker makes of a template for one user: name and memberships as people write them.

    An entry with `{{tag(role)}}` becomes one for each membership, and none for a user without.
    """
    every = chain(((True, each) for each in permissions.publish), ((False, each) for each in permissions.subscribe))
    return _permissions((publish, subject) for publish, template in every for subject in fill(template, name, memberships))


def fill(template: str, name: str, memberships: Collection[str]) -> list[str]:
    """One entry of a template, filled in."""
    text = template.replace(ME.text, escape(name))
    return [text.replace(MEMBER.text, escape(each)) for each in memberships] if MEMBER.text in text else [text]


def grants_of(policy: Policy, roles: Collection[str], subjects: Subjects, members: Members | None = None) -> tuple[Grant, ...]:
    """Each entry of the scope's template, with the role and the rule that give it; one that several give stands for each of them."""
    found = [Grant(publish, subject, EVERYONE, "take part") for publish, subject in _everyone(subjects)]
    for role in (policy.roles[name] for name in scope_of(policy, roles)):
        for power in sorted(role.powers):
            found += [Grant(publish, subject, role.name, power.value) for publish, subject in _POWERS[power](subjects)]
        for rule in role.call:
            found += [Grant(publish, subject, role.name, str(rule)) for publish, subject in _rule(role, rule, subjects, members or {})]
        for name in role.send:
            to = EACH if name is None else name
            found += [
                Grant(True, subject, role.name, f"send {name or STAR}")
                for subject in (subjects.rights_send(to, ME), subjects.rights_cast(ME, to))
            ]
        for topics in role.publish:
            found += [Grant(publish, subject, role.name, f"publish {topics or STAR}") for publish, subject in _publishing(subjects, topics)]
        for topics in role.subscribe:
            found += [Grant(publish, subject, role.name, f"subscribe {topics or STAR}") for publish, subject in _hearing(subjects, topics)]
    return tuple(found)


Entries = Iterator[tuple[bool, str]]
"""`(to publish?, subject)`."""


def _permissions(entries: Entries) -> Permissions:
    sets: tuple[set[str], set[str]] = (set(), set())
    for publish, subject in entries:
        sets[publish].add(subject)
    return Permissions(publish=tuple(sorted(sets[True])), subscribe=tuple(sorted(sets[False])))


def _publish(*subjects: str) -> Entries:
    return ((True, subject) for subject in subjects)


def _subscribe(*subjects: str) -> Entries:
    return ((False, subject) for subject in subjects)


def _everyone(subjects: Subjects) -> Entries:
    yield from _subscribe(rights_inbox(ME), *subjects.rights_replies(ME, EACH), subjects.rights_parts_to(ME))
    yield from _subscribe(*(subjects.rights_copy(HEALTH, name) for name in (ME, CONTROL_PLANE)), subjects.gone)
    yield from _subscribe(subjects.rights_streams_to(ME), subjects.rights_job_states(ME))
    yield from _publish(rights_inbox(ME), USER_INFO, subjects.rights_parts(EACH, ME))
    yield from _publish(*_calling(subjects, CONTROL_PLANE), *subjects.rights_call(CONTROL_PLANE, ME))


def _calling(subjects: Subjects, target: str | Token) -> tuple[str, str]:
    """What every caller needs of a target: "is anyone there?", and notices to all of its instances."""
    return subjects.rights_probe(target, ME), subjects.rights_note(target, ME)


def _rule(role: Role, rule: Rule, subjects: Subjects, members: Members) -> Entries:
    if rule.pattern:
        raise ConfigError(
            f"role {role.name!r}: the rule {str(rule)!r} is a pattern, and no tools are known that could fit it",
            hint="apply the policy while the mesh runs (`mesh auth apply`), or write the names of the tools",
        )
    targets: list[str | Token] = [EACH] if rule.agent is None else [rule.agent, *sorted(members.get(rule.agent, ()))]
    for target in targets:
        yield from _publish(*_calling(subjects, target))
        yield from _subscribe(*(subjects.rights_copy(bucket, target) for bucket in BUCKETS))
        if rule.kind is Kind.ALL:
            yield from _publish(*subjects.rights_call(target, ME), subjects.rights_job(target, ME))
            yield from _streaming(subjects, target)
            continue
        name = EACH if rule.name is None else rule.name
        for method in NAMED[rule.kind]:
            yield from _publish(*subjects.rights_call(target, ME, method, name))
            if rule.kind is Kind.TOOL:
                yield from _publish(subjects.rights_job(target, ME, method, name))
            if rule.kind is Kind.STREAM:
                yield from _streaming(subjects, target)
        for method in NEEDED:
            yield from _publish(*subjects.rights_call(target, ME, method))
        for method in NEEDED_BELOW:
            yield from _publish(*subjects.rights_call(target, ME, method, below=True))
    yield from _readers(*map(bucket_stream, BUCKETS))


def _streaming(subjects: Subjects, other: str | Token) -> Entries:
    yield from _publish(subjects.rights_stream(other, ME), subjects.rights_flow(other, ME))
    yield from _consumers(STREAMS)


def _consumers(stream: str) -> Entries:
    """Those whose names are secrets."""
    yield from _readers(stream)
    yield from _publish(rights_ack(stream, EACH))


def _sending(subjects: Subjects, to: str | Token) -> tuple[str, str]:
    return subjects.rights_send(to, ME), subjects.rights_cast(ME, to)


def _publishing(subjects: Subjects, topics: str | None) -> Entries:
    yield from _publish(subjects.rights_publish(ME, topics))
    yield from _subscribe(subjects.rights_schemas(topics))
    yield from _readers(bucket_stream(SCHEMAS))


def _hearing(subjects: Subjects, topics: str | None) -> Entries:
    yield from _subscribe(subjects.rights_hear(topics), subjects.rights_schemas(topics), subjects.rights_handled(ME))
    yield from _readers(bucket_stream(SCHEMAS), bucket_stream(HANDLED))
    yield from _consumers(EVENTS)
    yield from _publish(subjects.rights_dead(ME), bucket_subject(HANDLED, rights_key(ME)))


def _readers(*streams: str) -> Entries:
    return _publish(*(rights_api(f"CONSUMER.{verb}.{stream}.*") for stream in streams for verb in PULLING))


def _answer(subjects: Subjects) -> Entries:
    yield from _subscribe(*subjects.rights_taking(ME, EACH), *subjects.rights_taking(MEMBER, ANY))
    for name in (ME, MEMBER):
        yield from _publish(*subjects.rights_replies(EACH, name), subjects.rights_record(name))
    yield from _publish(*(bucket_subject(bucket, rights_key(ME)) for bucket in BUCKETS))
    yield from _subscribe(subjects.rights_copy(REGISTRY, ME))
    for name in (ME, MEMBER):
        yield from _lanes(name)
        yield from _subscribe(subjects.rights_send(name, EACH), subjects.rights_jobs_to(name), subjects.rights_handled(name))
        yield from _publish(subjects.rights_dead(name), bucket_subject(HANDLED, rights_key(name)))
        yield from _publish(bucket_subject(JOB_STATES, f"{name}.*.*"))
        yield from _subscribe(subjects.rights_job_states_of(name))
    yield from _readers(bucket_stream(HANDLED))
    yield from _streaming(subjects, EACH)
    yield from _subscribe(*(subjects.rights_hear_cast(name) for name in (ANY, MEMBER)))
    yield from _consumers(EVENTS)
    yield from _publish(subjects.rights_publish(ME, HEALTH_TOPIC))


def _lanes(name: Token) -> Entries:
    """Each durable consumer is named after who may pull from it."""
    for stream in (*LANES.values(), JOBS):
        yield from _publish(*(rights_api(f"CONSUMER.{verb}.{stream}.{name}") for verb in ("MSG.NEXT", "INFO")), rights_ack(stream, name))


def _browse(subjects: Subjects) -> Entries:
    yield from _subscribe(*(subjects.rights_copy(bucket, EACH) for bucket in BUCKETS))
    yield from _readers(*map(bucket_stream, BUCKETS))


def _journal(_: Subjects) -> Entries:
    yield from _readers(JOURNAL)
    yield from _publish(rights_api(f"STREAM.INFO.{JOURNAL}"))


def _admin(subjects: Subjects) -> Entries:
    yield from _publish(rights_api(">"), MICRO, *(bucket_subject(bucket, ">") for bucket in BUCKETS))
    yield from _publish(subjects.rights_send(EACH, EACH), subjects.rights_job(EACH, EACH), subjects.rights_dead(EACH))
    yield from _publish(subjects.rights_publish(EACH, None), subjects.rights_cast(EACH, EACH))
    yield from _subscribe(subjects.disconnects)


def _plane(subjects: Subjects) -> Entries:
    """Declare the topology; make readers, lanes and subscriptions; keep the keys of others (who is lost, who takes too much, jobs' states);
    say who is gone; answer discovery to inboxes; move what the broker gave up to the dead letters; send what was scheduled; remove what was
    read, done or cancelled. It deletes no stream and publishes in no name but its own. What is stored it could read: consumers deliver
    anywhere."""
    streams = [spec.name for spec in declare(subjects.prefix).all_streams()]
    yield from _publish(rights_api("STREAM.LIST"), *(rights_api(f"STREAM.{verb}.{name}") for name in streams for verb in _DECLARING))
    yield from _publish(*(rights_api(f"CONSUMER.CREATE.{name}.*") for name in streams))
    yield from _publish(*(bucket_subject(bucket, ">") for bucket in (*BUCKETS, *KEPT)), subjects.gone, ALL_INBOXES)
    yield from _publish(*(rights_api(f"DIRECT.GET.{bucket_stream(bucket)}.>") for bucket in KEPT))
    cleaned = (*LANES.values(), JOBS, DEAD_LETTERS, bucket_stream(REGISTRY))
    trimmed = (EVENTS, STREAMS, SCHEDULES, *map(bucket_stream, KEPT))
    for stream in (*LANES.values(), JOBS, *trimmed):
        yield from _publish(*(rights_api(f"CONSUMER.{verb}.{stream}.*") for verb in ("INFO", "DELETE", *PULLING)))
        yield from _publish(*(rights_api(f"CONSUMER.{verb}.{stream}") for verb in ("LIST", "NAMES")))
        yield from _publish(*(rights_api(f"STREAM.MSG.{verb}.{stream}") for verb in ("GET", "DELETE")))
    yield from _publish(*(rights_api(f"STREAM.PURGE.{stream}") for stream in (*cleaned, *trimmed)), rights_api(f"STREAM.MSG.GET.{MARKS}"))
    for stream, consumer in ((ADVISORIES, GIVEN_UP), (SCHEDULES, DUE)):
        yield from _publish(*(rights_api(f"CONSUMER.{verb}.{stream}.{consumer}") for verb in ("MSG.NEXT", "INFO")))
        yield from _publish(rights_ack(stream, Token(consumer)))
    yield from _publish(subjects.rights_dead(EACH), subjects.rights_schedules, *_sending(subjects, EACH), subjects.rights_publish(ME, None))
    yield from _subscribe(subjects.disconnects, MICRO)


_DECLARING: Final = ("INFO", "CREATE", "UPDATE")

_POWERS: Final = {
    Power.ANSWER: _answer,
    Power.BROWSE: _browse,
    Power.JOURNAL: _journal,
    Power.ADMIN: _admin,
    Power.PLANE: _plane,
}
