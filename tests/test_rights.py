"""mesh.policy.rights: what is compiled allows what the rules mean and nothing else, whatever the names are.

This module is long because what the rules mean is said here a second time, for every family.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.policy.rights import (
    READY_MADE,
    Kind,
    Permissions,
    Policy,
    Role,
    Rule,
    compile_scope,
    expand,
    explain,
    memberships_of,
    parse_rule,
)
from mesh.subjects import (
    ANY,
    CONTROL_PLANE,
    NAME_KEYS,
    PRIORITIES,
    Call,
    Cast,
    Dead,
    Event,
    Flow,
    FoldedReply,
    Gone,
    HandledMark,
    Health,
    Job,
    JobState,
    Msg,
    Note,
    Part,
    Probe,
    Record,
    Registry,
    Reply,
    Schedule,
    SchemaVersion,
    StreamFrame,
    Subject,
    Subjects,
)
from tests.requirements import CLIENT_NOTIFICATION, CLIENT_REQUEST, MESSAGES

SUBJECTS = Subjects()

NASTY = (
    "a",
    "b",
    "time",
    "*",
    ">",
    "a.b",
    "a.b *",
    "{{name()}}",
    "{{tag(role)}}",
    "_x2A_",
    "",
    ANY,
    CONTROL_PLANE,
    "é",
    " ",
    "a\r\nPUB x 0",
)
METHODS = [*NAME_KEYS, "ping", "tools/list", "notifications/x", "mesh/answer", "vendor/x", "tools/call/x", "notifications", "*", ">", "/"]
RESERVED = {"", CONTROL_PLANE, "caller of things", *(role.name for role in READY_MADE)}
KINDS = {"tools": Kind.TOOL, "prompts": Kind.PROMPT, "resources": Kind.RESOURCE, "streams": Kind.STREAM}


@dataclass(frozen=True)
class World:
    """A user, what it may call, and a subject to try. They share few names, so that they meet."""

    me: str
    others: frozenset[str]
    """Names that it may answer to besides its own."""
    answers: bool
    rules: tuple[Rule, ...]
    subject: Subject
    send: tuple[str | None, ...] = ()
    publish: tuple[str | None, ...] = ()
    subscribe: tuple[str | None, ...] = ()


@st.composite
def worlds(draw: st.DrawFn) -> World:
    cast = draw(st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=6)), min_size=1, max_size=4))
    names = st.sampled_from([*cast, "a", "*", CONTROL_PLANE])
    people = st.sampled_from([each for each in (*cast, "a", "*") if each not in RESERVED])
    things = st.none() | names.filter(lambda name: "*" not in name)
    rules = st.builds(Rule, st.none() | names) | st.builds(Rule, st.none() | names, st.sampled_from([*KINDS.values()]), things)
    methods = st.sampled_from(METHODS) | st.lists(names, max_size=3).map("/".join)
    method = draw(methods.filter(lambda method: method not in NAME_KEYS))
    named = draw(st.sampled_from([*NAME_KEYS]))
    calls = st.one_of(
        st.builds(Call, names, names, names, st.just(method), st.none(), st.booleans()),
        st.builds(Call, names, names, names, st.just(named), names, st.booleans()),
    )
    topics = st.lists(names, min_size=1, max_size=3).map(".".join) | st.just("agent.health")
    words = st.sampled_from(["a", "*", "agent", "health", "é"])
    patterns = st.lists(st.none() | st.lists(words, min_size=1, max_size=3).map(".".join) | st.just("a.>"), max_size=2)
    others = st.one_of(
        st.builds(Probe, names, names, names),
        st.builds(Note, names, names, st.just(method)),
        st.builds(Reply, names, names, names, names, st.booleans()),
        st.builds(FoldedReply, names, names),
        st.builds(Part, names, names, names, names, names, names),
        st.builds(Record, names, names),
        st.builds(Msg, names, names, st.sampled_from(PRIORITIES)),
        st.builds(Event, names, st.sampled_from(PRIORITIES), topics),
        st.builds(Cast, names, st.sampled_from(PRIORITIES), names | st.just(ANY)),
        st.builds(Job, names, names, st.just("tools/call"), names),
        st.builds(Job, names, names, st.just(method)),
        st.builds(JobState, names, names, names),
        st.builds(StreamFrame, names, names, names, names),
        st.builds(Flow, names, names, names),
        st.builds(Schedule, names, names),
        st.builds(HandledMark, names, names),
        st.builds(SchemaVersion, topics, names),
        st.builds(Dead, names, names, names),
        st.builds(Health, names, names),
        st.builds(Registry, names, names),
        st.builds(Gone, names, names),
    )
    return World(
        me=draw(people),
        others=draw(st.frozensets(people, max_size=2)),
        answers=draw(st.booleans()),
        rules=tuple(draw(st.lists(rules, max_size=3))),
        subject=draw(calls | others),
        send=tuple(draw(st.lists(st.none() | names, max_size=2))),
        publish=tuple(draw(patterns)),
        subscribe=tuple(each for each in draw(patterns) if each is None or each.split(".")[-1] != "*"),
    )


# what the rules mean, said a second time and without a subject


def covers(rule: Rule, call: Call) -> bool:
    if rule.agent not in (None, call.target):
        return False
    if rule.kind is Kind.ALL or call.method.startswith(("notifications/", "mesh/", "tasks/")):
        return True
    if call.method in NAME_KEYS:
        return rule.kind is KINDS[call.method.partition("/")[0]] and rule.name in (None, call.name)
    return any(call.method == each.method for each in MESSAGES if each.kind == CLIENT_REQUEST)


def publishes(world: World) -> bool:
    def calls(target: str) -> bool:
        return target == CONTROL_PLANE or any(rule.agent in (None, target) for rule in world.rules)

    match world.subject:
        case Call(target, _, caller):
            return caller == world.me and (target == CONTROL_PLANE or any(covers(rule, world.subject) for rule in world.rules))
        case Probe(target, _, caller) | Note(target, caller, _):
            return caller == world.me and calls(target)
        case Reply(_, target) | Record(target, _):
            return world.answers and target in {world.me, *world.others}
        case Part():
            return world.subject.sender == world.me
        case Msg(target, sender):
            return sender == world.me and (None in world.send or target in world.send)
        case Dead(target):
            return keeps(world, target)
        case Event(publisher, _, topic):
            own = world.answers and topic == "agent.health"
            return publisher == world.me and (own or any(fits(pattern, topic) for pattern in world.publish))
        case Cast(sender, _, role):
            return sender == world.me and (None in world.send or role in world.send)
        case Job(target, caller, method, name):
            return caller == world.me and any(
                rule.agent in (None, target)
                and (rule.kind is Kind.ALL or (rule.kind is Kind.TOOL and method == "tools/call" and rule.name in (None, name)))
                for rule in world.rules
            )
        case StreamFrame(to, _, sender) | Flow(to, sender):
            opens = any(rule.agent in (None, to) and rule.kind in (Kind.ALL, Kind.STREAM) for rule in world.rules)
            return sender == world.me and (world.answers or opens)
    return False


def keeps(world: World, name: str) -> bool:
    """Whether it keeps the dead letters of a name, and the record of what was handled: who only hears topics does so in its own."""
    return (world.answers and name in {world.me, *world.others}) or (bool(world.subscribe) and name == world.me)


def fits(pattern: str | None, topic: str) -> bool:
    """Whether a topic is one of those that a pattern names."""
    if pattern is None:
        return True
    words, said = topic.split("."), pattern.split(".")
    if said[-1] == ">":
        words, said = words[: len(said)], [*said[:-1], "*"]
    return len(words) == len(said) and all(want in ("*", word) for want, word in zip(said, words, strict=True))


def hears(world: World) -> bool:
    mine = {world.me, *world.others} if world.answers else {}
    match world.subject:
        case Call(target, instance) | Probe(target, instance):
            return target in mine and (target == world.me or instance == ANY)
        case Note(target) | Msg(target):
            return target in mine
        case Reply(caller):
            return caller == world.me
        case Part(to):
            return to == world.me
        case Health(agent) | Registry(agent):
            own = agent in (world.me, CONTROL_PLANE) if isinstance(world.subject, Health) else world.answers and agent == world.me
            return own or any(rule.agent in (None, agent) for rule in world.rules)
        case Gone():
            return True
        case Event(_, _, topic):
            return any(fits(pattern, topic) for pattern in world.subscribe)
        case SchemaVersion(topic):
            return any(fits(pattern, topic) for pattern in (*world.publish, *world.subscribe))
        case Cast(_, _, role):
            return world.answers and (role == ANY or role in world.others)
        case Job(target):
            return target in mine
        case HandledMark(owner):
            return keeps(world, owner)
        case JobState(target, caller):
            return caller == world.me or target in mine
        case StreamFrame(to):
            return to == world.me
    return False


def policy_of(world: World) -> tuple[Policy, list[str]]:
    """A policy with the world's rules, and the roles of its user."""
    policy = Policy.of([Role("caller of things", world.rules, send=world.send, publish=world.publish, subscribe=world.subscribe)])
    return policy, ["caller of things", *world.others, *(["agent"] if world.answers else [])]


def permissions_in(world: World) -> Permissions:
    policy, roles = policy_of(world)
    return expand(compile_scope(policy, roles, SUBJECTS), world.me, tuple(world.others))


def world_of(me: str, rule: Rule, subject: Subject, others: Iterable[str] = ()) -> World:
    return World(me, frozenset(others), True, (rule,), subject)


@settings(max_examples=200)
@given(worlds())
@example(world_of("a", Rule("b", Kind.TOOL, ">"), Call("b", "1", "a", "tools/call", "x")))
@example(world_of("a", Rule("b", Kind.TOOL, "{{name()}}"), Call("b", "1", "a", "tools/call", "a")))
@example(world_of("a", Rule("b", Kind.PROMPT, "a.b >"), Call("b", "1", "a", "prompts/get", "a.b >")))
@example(world_of("a", Rule("b"), Call("a", ANY, "b", "ping"), others=["{{name()}}", "*", ">"]))
@example(world_of("a", Rule("*"), Call("b", ANY, "a", "ping")))
@example(world_of("a", Rule(">"), Call("b", ANY, "a", "ping")))
@example(world_of("a", Rule("{{name()}}"), Call("a", ANY, "a", "ping")))
@example(world_of("*", Rule("b"), Call("b", ANY, "a", "ping")))
@example(world_of(">", Rule(">"), Call("a", ANY, ">", "ping"), others=["*"]))
@example(world_of("a", Rule("b", Kind.TOOL, "x" * 5000), Call("b", ANY, "a", "tools/call", "x" * 5000)))
@example(world_of("a", Rule("b", Kind.TOOL, "x" * 5000), Call("b", ANY, "a", "tools/call", "x" * 5001)))
@example(World("a", frozenset("b"), True, (), JobState("b", "c", "d")))
@example(World("a", frozenset("b"), False, (), Dead("a", "b", "c"), subscribe=(None,)))
@example(World("a", frozenset("b"), False, (), HandledMark("a", "c"), subscribe=(None,)))
@example(World("a", frozenset("b"), False, (), HandledMark("b", "c"), subscribe=(None,)))
def test_permissions_allow_what_the_rules_mean(world: World) -> None:
    permissions, text = permissions_in(world), SUBJECTS.build(world.subject)
    assert permissions.may_publish(text) is publishes(world)
    assert permissions.may_subscribe(text) is hears(world)


@given(worlds())
def test_explain_agrees_with_the_permissions(world: World) -> None:
    (policy, roles), text = policy_of(world), SUBJECTS.build(world.subject)
    permissions = expand(compile_scope(policy, roles, SUBJECTS), world.me, memberships_of(roles))
    assert explain(policy, world.me, roles, f"nats pub {text}").allowed is permissions.may_publish(text)
    assert explain(policy, world.me, roles, f"nats sub {text}").allowed is permissions.may_subscribe(text)


@given(worlds())
def test_a_user_gets_entries_that_the_broker_takes(world: World) -> None:
    """Tokens of the alphabet and whole wildcards: no blank, line end or template is left."""
    permissions = permissions_in(world)
    entry = re.compile(r"(?:[A-Za-z0-9_$-]+|\*)(?:\.(?:[A-Za-z0-9_-]+|\*))*(?:\.>)?").fullmatch
    assert [each for each in (*permissions.publish, *permissions.subscribe) if not entry(each)] == []


def test_who_may_call_one_tool_may_send_all_that_a_client_sends_besides() -> None:
    policy = Policy.of([Role("r", (parse_rule("time/now"),))])
    permissions = expand(compile_scope(policy, ["r"], SUBJECTS), "me", ())
    for each in MESSAGES:
        if each.kind in (CLIENT_REQUEST, CLIENT_NOTIFICATION):
            subject = SUBJECTS.call("time", "i1", "me", each.method, "other")
            assert permissions.may_publish(subject) is (each.method not in NAME_KEYS), each.method


@pytest.mark.parametrize(
    ("allowed", "filter", "may"),
    [
        ("a.>", "a.>", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.*.c", "a.*.c", True),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.*.>", False),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("a.*", "a.b.c", False),
        ("a.b.c", "a.b", False),
    ],
)
def test_all_that_a_filter_takes_in_must_be_allowed(allowed: str, filter: str, may: bool) -> None:
    """Stricter than the broker is with a subscription: nobody holds a consumer to anything but its filter."""
    assert Permissions(subscribe=("x", allowed)).may_hear_all(filter) is may


@pytest.mark.parametrize("topics", ["build.*", "*", "*.*"])
def test_a_role_hears_no_last_word_whatever_it_is(topics: str) -> None:
    with pytest.raises(ConfigError, match="deeper"):
        Role("r", subscribe=(topics,))
    Role("r", subscribe=("*.done", "build.>", None), publish=(topics,))
