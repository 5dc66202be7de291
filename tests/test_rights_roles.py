"""mesh.policy.rights: what the ready-made roles may do, how rules are written, and why somebody may do something.

This module is long because there are many roles and ways to write rules, a few lines each.
"""

from collections.abc import Iterable

import pytest

from mesh.errors import ConfigError
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
from mesh.subjects import CONTROL_PLANE, Subjects

SUBJECTS = Subjects()


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
    "mesh.v1.msg.me.other.normal",
    "mesh.v1.msg.other.other.critical",
    "mesh.v1.dead.other.MESSAGES_NORMAL.1-1",
    "$JS.API.CONSUMER.MSG.NEXT.MESSAGES_NORMAL.other",
    "$JS.API.CONSUMER.MSG.NEXT.DEAD_LETTERS.me",
    "$JS.API.CONSUMER.MSG.NEXT.ADVISORIES.given-up",
    "$JS.API.CONSUMER.CREATE.MESSAGES_NORMAL.me",
    "$JS.API.STREAM.MSG.GET.MESSAGES_NORMAL",
    "$JS.API.STREAM.MSG.DELETE.MESSAGES_NORMAL",
    "$JS.ACK.MESSAGES_NORMAL.other.1.1.1.1.1",
    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.MESSAGES_NORMAL.other",
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


def test_an_agent_receives_under_its_own_name_and_its_roles() -> None:
    permissions = permissions_of("agent", memberships=["librarian"])
    for name in ("me", "librarian"):
        for stream in ("MESSAGES_CRITICAL", "MESSAGES_HIGH", "MESSAGES_NORMAL", "MESSAGES_LOW"):
            assert permissions.may_publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}")
            assert permissions.may_publish(f"$JS.ACK.{stream}.{name}.1.1.1.1.1")
        assert permissions.may_subscribe(f"mesh.v1.msg.{name}.*.high")
        assert permissions.may_publish(f"mesh.v1.dead.{name}.MESSAGES_HIGH.1-1")
    assert not permissions.may_publish("mesh.v1.msg.other.me.normal")
    assert not permissions.may_subscribe("mesh.v1.msg.other.*.high")


def test_who_may_send() -> None:
    policy = Policy.of([Role("r", send=("time", "librarian"))])
    permissions = expand(compile_scope(policy, ["r"], SUBJECTS), "me", ())
    for target, allowed in (("time", True), ("librarian", True), ("other", False)):
        assert permissions.may_publish(f"mesh.v1.msg.{target}.me.low") is allowed
        assert explain(policy, "me", ["r"], f"send {target}").allowed is allowed
    assert explain(policy, "me", ["r"], "send time").rule == "send time"
    assert explain(policy, "me", ["r"], "send other").roles == ("host", "operator")
    assert permissions_of("host").may_publish("mesh.v1.msg.other.me.low")
    assert not permissions.may_publish("mesh.v1.call.time.any.me.tools.list")


def test_who_may_publish_and_hear() -> None:
    policy = Policy.of([Role("r", publish=("build.*",), subscribe=("agent.>",))])
    permissions = expand(compile_scope(policy, ["r"], SUBJECTS), "me", ())
    for topic, emits, hears in (("build.done", True, False), ("build", False, False), ("agent.health", False, True), ("a.b", False, False)):
        assert permissions.may_publish(f"mesh.v1.event.me.low.{topic}") is emits
        assert explain(policy, "me", ["r"], f"publish {topic}").allowed is emits
        assert permissions.may_subscribe(f"mesh.v1.event.*.*.{topic}") is hears
        assert explain(policy, "me", ["r"], f"subscribe {topic}").allowed is hears
    assert explain(policy, "me", ["r"], "publish build.done").rule == "publish build.*"
    assert not permissions.may_publish("mesh.v1.event.other.low.build.done")
    for action, allowed in (
        ("publish build.*", True),
        ("publish build.>", False),
        ("publish *.done", False),
        ("subscribe agent.*", True),
        ("subscribe agent.>", True),
        ("subscribe >", False),
    ):
        assert explain(policy, "me", ["r"], action).allowed is allowed, action
    with pytest.raises(ConfigError, match="names no topics"):
        explain(policy, "me", ["r"], "publish build..done")


def test_who_may_call_a_tool_may_submit_it() -> None:
    policy = Policy.of([Role("r", (parse_rule("qa/run"),)), Role("s", (parse_rule("qa/stream:test_run"),))])
    permissions = expand(compile_scope(policy, ["r"], SUBJECTS), "me", ())
    assert permissions.may_publish("mesh.v1.job.qa.me.tools.call.run")
    assert not permissions.may_publish("mesh.v1.job.qa.me.tools.call.other")
    assert not permissions.may_publish("mesh.v1.stream.qa.e.me.1")
    assert explain(policy, "me", ["r"], "submit qa/run").allowed
    assert explain(policy, "me", ["r"], "submit qa/other").roles == ("host", "operator")
    assert explain(policy, "me", ["s"], "call qa/stream:test_run").allowed
    assert not explain(policy, "me", ["s"], "call qa/stream:other").allowed


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


@pytest.mark.parametrize("name", [*(role.name for role in READY_MADE), CONTROL_PLANE, "", "none"])
def test_ready_made_roles_and_the_control_planes_name_cannot_be_taken(name: str) -> None:
    with pytest.raises(ConfigError):
        Policy.of([Role(name, (Rule(None),))])


def test_who_may_not_follow_all_agents_follows_those_that_it_calls() -> None:
    policy = Policy.of([Role("r", (parse_rule("time/now"), parse_rule("git")))])
    wanted = SUBJECTS.bucket_copy("registry")
    few, every = (expand(compile_scope(policy, roles, SUBJECTS), "me", ()) for roles in (["r"], ["r", "host"]))
    assert few.narrow(wanted) == ("mesh.v1.registry.git.*", "mesh.v1.registry.time.*")
    assert every.narrow(wanted) == (wanted,)
    assert permissions_of("agent").narrow(wanted) == ("mesh.v1.registry.me.*",)


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
        ("nats pub $KV.health.bob.i1", "agent", "answer"),
        ("nats sub mesh.v1.reply.bob.*.c1.*", "everyone", "take part"),
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
        ("answer nobody-defined-it", ("nobody-defined-it",)),
        ("answer host", ()),
        ("send *", ("host", "operator")),
        ("publish build.done", ("host", "operator")),
        ("subscribe build.>", ("host",)),
        ("nats pub $JS.API.STREAM.INFO.JOURNAL", ("auditor", "operator")),
    ],
)
def test_explain_names_the_roles_that_would_allow_it(action: str, roles: tuple[str, ...]) -> None:
    policy = Policy.of([*POLICY.own, Role("alice")])
    verdict = explain(policy, "bob", ["agent", "reviewer"], action)
    assert (verdict.allowed, verdict.roles) == (False, roles)


def test_explain_names_roles_that_are_needed_together() -> None:
    assert explain(POLICY, "bob", ["host"], "answer bob").roles == ("agent",)
    assert explain(POLICY, "bob", ["host"], "answer alice").roles == ("agent+alice",)


def test_explain_says_which_part_is_allowed() -> None:
    assert "allowed is time/now" in explain(POLICY, "bob", ["reviewer"], "call time").why
    assert "a part of it would be allowed by the role reviewer (time/now); the role host" in explain(POLICY, "bob", [], "call time").why


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
    assert changed.publish_added == (
        "mesh.v1.call.time.*.{{name()}}.tools.call.later",
        "mesh.v1.job.time.{{name()}}.tools.call.later",
        "mesh.v1.quiet.time.*.{{name()}}.tools.call.later",
    )
    assert "mesh.v1.call.notes.*.{{name()}}.prompts.get.weekly" in changed.publish_removed
    assert "mesh.v1.health.notes.*" in changed.subscribe_removed
    assert changed.size_before != changed.size_after
