"""mesh.policy.rights: what is compiled allows what the rules mean and nothing else, whatever the names are; and the broker agrees."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.link.server_program import find_binary
from mesh.policy.rights import (
    READY_MADE,
    Kind,
    Permissions,
    Policy,
    Role,
    Rule,
    compile_scope,
    diff,
    expand,
    explain,
    memberships_of,
    parse_rule,
    scope_name,
    scope_of,
)
from mesh.subjects import (
    ANY,
    CONTROL_PLANE,
    NAME_KEYS,
    Call,
    FoldedReply,
    Gone,
    Health,
    Note,
    Part,
    Probe,
    Record,
    Registry,
    Reply,
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
KINDS = {"tools": Kind.TOOL, "prompts": Kind.PROMPT, "resources": Kind.RESOURCE}


@dataclass(frozen=True)
class World:
    """A user, what it may call, and a subject to try. They share few names, so that they meet."""

    me: str
    others: frozenset[str]
    """Names that it may answer to besides its own."""
    answers: bool
    rules: tuple[Rule, ...]
    subject: Subject


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
    others = st.one_of(
        st.builds(Probe, names, names, names),
        st.builds(Note, names, names, st.just(method)),
        st.builds(Reply, names, names, names, names, st.booleans()),
        st.builds(FoldedReply, names, names),
        st.builds(Part, names, names, names, names, names, names),
        st.builds(Record, names, names),
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
    return False


def hears(world: World) -> bool:
    mine = {world.me, *world.others} if world.answers else {}
    match world.subject:
        case Call(target, instance) | Probe(target, instance):
            return target in mine and (target == world.me or instance == ANY)
        case Note(target):
            return target in mine
        case Reply(caller):
            return caller == world.me
        case Part(to):
            return to == world.me
        case Health(agent) | Registry(agent):
            return (agent == world.me and isinstance(world.subject, Health)) or any(rule.agent in (None, agent) for rule in world.rules)
        case Gone():
            return True
    return False


def policy_of(world: World) -> tuple[Policy, list[str]]:
    """A policy with the world's rules, and the roles of its user."""
    policy = Policy.of([Role("caller of things", world.rules)])
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
def test_permissions_allow_what_the_rules_mean(world: World) -> None:
    permissions, text = permissions_in(world), SUBJECTS.build(world.subject)
    assert permissions.may_publish(text) is publishes(world)
    assert permissions.may_subscribe(text) is hears(world)


@given(worlds())
def test_explain_agrees_with_the_permissions(world: World) -> None:
    (policy, roles), text = policy_of(world), SUBJECTS.build(world.subject)
    permissions = expand(compile_scope(policy, roles, SUBJECTS), world.me, memberships_of(roles))
    assert explain(policy, world.me, roles, f"publish {text}").allowed is permissions.may_publish(text)
    assert explain(policy, world.me, roles, f"subscribe {text}").allowed is permissions.may_subscribe(text)


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


# roles


def permissions_of(role: str, name: str = "me", memberships: Iterable[str] = ()) -> Permissions:
    return expand(compile_scope(Policy(), [role], SUBJECTS), name, tuple(memberships))


FORGING = (
    "$JS.API.CONSUMER.CREATE.KV_registry.x",
    "$JS.API.CONSUMER.CREATE.JOURNAL.x.mesh.v1.call.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.KV_health.x",
    "$JS.API.CONSUMER.LIST.KV_registry",
    "$JS.API.CONSUMER.NAMES.JOURNAL",
    "$JS.API.CONSUMER.DELETE.KV_registry.x",
    "$JS.API.STREAM.UPDATE.JOURNAL",
    "$JS.API.STREAM.PURGE.JOURNAL",
    "$JS.API.STREAM.MSG.GET.JOURNAL",
    "$JS.API.DIRECT.GET.KV_registry",
    "$JS.API.DIRECT.GET.KV_registry.$KV.registry.time.i1",
    "$JS.ACK.JOURNAL.x.1.1.1.1.1",
    "$KV.registry.other.i1",
    "$KV.health.other.i1",
    "$SRV.PING",
    "mesh.v1.gone.other.c1",
    "mesh.v1.broker.disconnect",
    "mesh.v1.health.other.i1",
    "mesh.v1.reply.a.b.c.1",
    "mesh.v1.call.mesh.any.other.ping",
    "_INBOX.other.1",
    "$SYS.REQ.CLAIMS.UPDATE",
)


@pytest.mark.parametrize("role", ["agent", "host", "auditor", "gateway"])
def test_no_role_but_plane_and_operator_can_forge(role: str) -> None:
    permissions = permissions_of(role)
    assert [subject for subject in FORGING if permissions.may_publish(subject)] == []
    secret = (
        "$SRV.>",
        "$SRV.PING",
        "mesh.v1.broker.disconnect",
        "_INBOX.other.>",
        "_INBOX.>",
        ">",
        "*.>",
        "mesh.>",
        "mesh.v1.reply.other.*.*.*",
    )
    assert [subject for subject in secret if permissions.may_subscribe(subject)] == []


def test_the_control_plane_speaks_in_nobodys_name_and_deletes_nothing() -> None:
    permissions = permissions_of("plane", CONTROL_PLANE)
    for subject in (
        "mesh.v1.call.time.any.other.ping",
        "mesh.v1.reply.a.b.c.1",
        "$JS.API.STREAM.DELETE.JOURNAL",
        "$JS.API.STREAM.PURGE.JOURNAL",
        "$JS.API.STREAM.MSG.GET.JOURNAL",
        "$JS.API.CONSUMER.MSG.NEXT.JOURNAL.x",
        "mesh.v1.call.time.any.mesh.tools.call.now",
    ):
        assert not permissions.may_publish(subject), subject


def test_an_operator_calls_nobody() -> None:
    permissions = permissions_of("operator")
    assert not permissions.may_publish("mesh.v1.call.time.any.me.tools.call.now")
    assert permissions.may_publish("$JS.API.STREAM.PURGE.JOURNAL")


def test_an_auditor_reads_the_journal_by_readers_alone() -> None:
    permissions = permissions_of("auditor")
    assert permissions.may_publish("$JS.API.CONSUMER.MSG.NEXT.JOURNAL.0123456789abcdef")
    assert permissions.may_publish("$JS.API.STREAM.INFO.JOURNAL")
    assert not permissions_of("host").may_publish("$JS.API.CONSUMER.MSG.NEXT.JOURNAL.0123456789abcdef")


def test_roles_of_one_user_add_up_and_unknown_ones_give_nothing() -> None:
    one, other, both = (compile_scope(Policy(), roles, SUBJECTS) for roles in (["agent"], ["host"], ["host", "agent", "librarian"]))
    assert set(both.publish) == {*one.publish, *other.publish}
    assert set(both.subscribe) == {*one.subscribe, *other.subscribe}
    assert scope_of(Policy(), ["librarian", "host", "agent"]) == ("agent", "host")
    assert memberships_of(["librarian", "host", "agent"]) == ("librarian",)


def test_a_scopes_name_is_safe_in_a_files_name() -> None:
    assert scope_name(("agent", "host")) == "agent+host"
    assert scope_name(("../x", "a+b")) == "_x2E__x2E__x2F_x+a_x2B_b"
    assert scope_name(()) == "none"


def test_a_rule_on_a_role_reaches_who_took_the_call() -> None:
    """What follows a call to a role is addressed to the member: a cancellation, all of a session."""
    policy = Policy.of([Role("reader", (parse_rule("librarian/find"),))])
    permissions = expand(compile_scope(policy, ["reader"], SUBJECTS, {"librarian": ["ada"]}), "me", ())
    assert permissions.may_publish("mesh.v1.call.librarian.any.me.tools.call.find")
    assert permissions.may_publish("mesh.v1.call.ada.i1.me.notifications.cancelled")
    assert permissions.may_publish("mesh.v1.call.ada.i1.me.tools.call.find")
    assert permissions.may_subscribe("mesh.v1.health.ada.*")
    assert not permissions.may_publish("mesh.v1.call.ada.i1.me.tools.call.burn")
    assert not permissions.may_publish("mesh.v1.call.bob.i1.me.notifications.cancelled")


@pytest.mark.parametrize("name", [*(role.name for role in READY_MADE), CONTROL_PLANE, ""])
def test_ready_made_roles_and_the_control_planes_name_cannot_be_taken(name: str) -> None:
    with pytest.raises(ConfigError):
        Policy.of([Role(name, (Rule(None),))])


# rules as they are written


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("time", Rule("time")),
        ("*", Rule(None)),
        ("time/now", Rule("time", Kind.TOOL, "now")),
        ("*/ping", Rule(None, Kind.TOOL, "ping")),
        ("notes/*", Rule("notes", Kind.TOOL)),
        ("git/git_*", Rule("git", Kind.TOOL, "git_*")),
        ("notes/prompt:weekly", Rule("notes", Kind.PROMPT, "weekly")),
        ("docs/resource:*", Rule("docs", Kind.RESOURCE)),
        ("docs/resource:file:///a/b", Rule("docs", Kind.RESOURCE, "file:///a/b")),
        ("time/tool:prompt:x", Rule("time", Kind.TOOL, "prompt:x")),
        ("time/ns:tool", Rule("time", Kind.TOOL, "ns:tool")),
    ],
)
def test_a_rule_is_read_and_written_again(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule
    assert str(rule) == text


@pytest.mark.parametrize("text", ["", "/now", "time/", "time/prompt:", "ti*/now", "docs/resource:file:///*", "notes/prompt:w*"])
def test_a_rule_that_cannot_be_kept_says_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rule(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint.startswith("write")


def test_a_pattern_stands_for_the_tools_that_are_known() -> None:
    policy = Policy.of([Role("r", (parse_rule("git/git_*"),))])
    tools = {"git": ["git_log", "git_diff", "status", "git_*", "*"], "other": ["git_push"]}
    assert policy.resolve(tools).roles["r"].call == (Rule("git", Kind.TOOL, "git_diff"), Rule("git", Kind.TOOL, "git_log"))
    with pytest.raises(ConfigError, match="'git/git_\\*' is a pattern"):
        compile_scope(policy, ["r"], SUBJECTS)
    with pytest.raises(ConfigError, match="no tool that is known fits"):
        policy.resolve({"git": ["status"]})


def test_an_agent_cannot_widen_a_pattern_by_the_names_of_its_tools() -> None:
    policy = Policy.of([Role("r", (parse_rule("git/**"), parse_rule("*/x[ab]?*")))])
    tools = {
        "git": ["*", "**", "", "x[ab]?1", "xa1"],
        "evil": ["x[ab]?*", "{{name()}}"],
        "git/a": ["x[ab]?1"],
        "*": ["x[ab]?1"],
        "": ["x[ab]?1"],
    }
    resolved = policy.resolve(tools)
    assert {str(rule) for rule in resolved.roles["r"].call} == {"git/x[ab]?1", "git/xa1"}
    assert all(parse_rule(str(rule)) == rule for rule in resolved.roles["r"].call)


# explain and diff

POLICY = Policy.of([Role("reviewer", (parse_rule("time/now"), parse_rule("git"), parse_rule("notes/prompt:weekly")))])


@pytest.mark.parametrize(
    ("action", "role", "rule"),
    [
        ("call time/now", "reviewer", "time/now"),
        ("call git", "reviewer", "git"),
        ("call git/anything", "reviewer", "git"),
        ("call notes/prompt:weekly", "reviewer", "notes/prompt:weekly"),
        ("answer bob", "agent", "answer"),
        ("answer reviewer", "agent", "answer"),
        ("see git", "reviewer", "git"),
        ("call mesh", "everyone", "take part"),
        ("publish $KV.health.bob.i1", "agent", "answer"),
        ("subscribe mesh.v1.reply.bob.*.c1.*", "everyone", "take part"),
    ],
)
def test_explain_names_role_and_rule(action: str, role: str, rule: str) -> None:
    verdict = explain(POLICY, "bob", ["agent", "reviewer"], action)
    assert (verdict.allowed, verdict.role, verdict.rule) == (True, role, rule)


@pytest.mark.parametrize(
    ("action", "roles"),
    [
        ("call time/later", ("host",)),
        ("call time", ("host",)),
        ("call notes/resource:x", ("host",)),
        ("call */now", ("host",)),
        ("read journal", ("auditor", "operator")),
        ("change topology", ("operator",)),
        ("answer alice", ("alice",)),
    ],
)
def test_explain_names_the_roles_that_would_allow_it(action: str, roles: tuple[str, ...]) -> None:
    policy = Policy.of([*POLICY.own, Role("alice")])
    verdict = explain(policy, "bob", ["agent", "reviewer"], action)
    assert (verdict.allowed, verdict.roles) == (False, roles)


def test_explain_says_which_part_is_allowed() -> None:
    assert "allowed is time/now" in explain(POLICY, "bob", ["reviewer"], "call time").why


@pytest.mark.parametrize("action", ["", "call", "dance", "read minds", "change everything"])
def test_what_is_no_action_is_said(action: str) -> None:
    with pytest.raises(ConfigError) as caught:
        explain(POLICY, "bob", [], action)
    assert "call AGENT/TOOL" in caught.value.hint


def test_diff_says_what_is_added_and_removed_and_for_whom() -> None:
    new = Policy.of([Role("reviewer", (parse_rule("time/now"), parse_rule("time/later"), parse_rule("git")))])
    users = {"bob": ["agent", "reviewer"], "ann": ["reviewer", "agent"], "eve": ["agent"]}
    unchanged, changed = sorted(diff(POLICY, new, users), key=lambda change: change.changes)
    assert (unchanged.users, unchanged.changes) == (("eve",), False)
    assert (changed.scope, changed.users) == ("agent+reviewer", ("ann", "bob"))
    assert changed.publish_added == tuple(f"mesh.v1.{family}.time.*.{{{{name()}}}}.tools.call.later" for family in ("call", "quiet"))
    assert "mesh.v1.call.notes.*.{{name()}}.prompts.get.weekly" in changed.publish_removed
    assert "mesh.v1.health.notes.*" in changed.subscribe_removed
    assert changed.size_before != changed.size_after


# the broker's own word


@asynccontextmanager
async def server(directory: Path, users: dict[str, Permissions]) -> AsyncIterator[int]:
    """A nats-server that holds these users to these permissions. Yields its port."""
    said = {
        "listen": "127.0.0.1:-1",
        "authorization": {
            "users": [
                {"user": name, "password": "p", "permissions": {"publish": list(rights.publish), "subscribe": list(rights.subscribe)}}
                for name, rights in users.items()
            ]
        },
    }
    conf = directory / "server.conf"
    conf.write_text(json.dumps(said))
    process = await asyncio.create_subprocess_exec(str(find_binary()), "-c", str(conf), stderr=asyncio.subprocess.PIPE)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(10):
            while (found := re.search(rb"client connections on 127.0.0.1:(\d+)", line := await process.stderr.readline())) is None:
                assert line, "the server ended"
        reading = asyncio.create_task(process.stderr.read())  # it says each refusal, and stops when nobody reads that
        yield int(found.group(1))
    finally:
        process.terminate()
        await process.wait()
    await reading


async def refused(port: int, user: str, lines: list[str]) -> set[str]:
    """Which of these subjects of PUB or SUB lines the server refuses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            hello = json.dumps({"user": user, "pass": "p", "verbose": False, "pedantic": False})
            writer.write(f"CONNECT {hello}\r\n{''.join(lines)}PING\r\n".encode())
            found: set[str] = set()
            while (line := (await reader.readline()).decode()) != "PONG\r\n":
                assert line, "the server closed the connection"
                if line.startswith("-ERR"):
                    match = re.search(r'Permissions Violation for (?:Publish|Subscription) to "([^"]*)"', line)
                    assert match, line
                    found.add(match.group(1))
            return found
    finally:
        writer.close()
        await writer.wait_closed()


def some_subjects(chance: random.Random, known: Iterable[str], count: int) -> list[str]:
    """Entries themselves, with wildcards filled in or not, and with a token more, less or other."""
    pool = ["me", "time", "git", "mesh", "any", "i1", "*", "r", "now", "tools", "call", "_x2A_"]
    entries, found = sorted(known), set[str]()
    while len(found) < count:
        tokens = chance.choice(entries).split(".")
        tokens = [chance.choice(pool) if token in "*>" and chance.random() < 0.8 else token for token in tokens]
        where = chance.randrange(len(tokens))
        match chance.randrange(6):
            case 0:
                tokens[where] = chance.choice(pool)
            case 1:
                tokens.insert(where, chance.choice(pool))
            case 2 if len(tokens) > 1:
                del tokens[where]
            case 3:
                tokens = [*tokens[: where + 1], ">"]
        if ">" not in tokens[:-1]:
            found.add(".".join(tokens))
    return sorted(found)


async def test_the_broker_agrees(tmp_path: Path) -> None:
    policy = Policy.of([Role("r", tuple(map(parse_rule, ("time/now", "git", "*/ping", "notes/resource:*", ">/a.b >"))))])
    scopes = {"me": ["agent", "r"], "*": ["agent", "host"], "op": ["operator"], "mesh": ["plane"], "see": ["auditor"]}
    users = {name: expand(compile_scope(policy, roles, SUBJECTS), name, memberships_of(roles)) for name, roles in scopes.items()}
    every = {entry for rights in users.values() for entry in (*rights.publish, *rights.subscribe)}
    chance = random.Random(4)
    async with server(tmp_path, users) as port:
        for name, rights in users.items():
            asked = some_subjects(chance, every, 300)
            publish = await refused(port, name, [f"PUB {subject} 0\r\n\r\n" for subject in asked])
            assert publish == {subject for subject in asked if not rights.may_publish(subject)}
            subscribe = await refused(port, name, [f"SUB {subject} {sid}\r\n" for sid, subject in enumerate(asked, 1)])
            assert subscribe == {subject for subject in asked if not rights.may_subscribe(subject)}
            assert 0 < len(publish) < len(asked)
            assert 0 < len(subscribe) < len(asked)
