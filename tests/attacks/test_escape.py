"""To break out of the escape: names that would be wildcards, templates, other subjects or other lines, if they were taken as they are."""

from typing import Final

import pytest

from mesh.errors import ConfigError
from mesh.identity.push import push
from mesh.policy.rights import Policy, Role, parse_rule
from mesh.subjects import Subjects, escape, unescape
from tests.attacks.world import AGENT, SUBJECTS, World, call
from tests.helpers import CUT_WARNINGS, Recorder

pytestmark = CUT_WARNINGS

NAMES: Final = [
    ">", "*", "a.b *", "a.>", "{{name()}}", "{{tag(role)}}", "{{wildcard(1)}}", "$SYS", "a b", "a\tb", "a\r\nPUB x 0\r\n", "", ".", "..",
    "_x2A_", "_x_", "victim ", "VICTIM", "victim\x00", "v\u0456ctim", "\ud800", "\u00e9", "e\u0301", "🐙" * 50, "x" * 1_000, "*" * 400,
]  # fmt: skip
PEOPLE: Final = [name for name in NAMES if name and 0 < len(escape(name)) <= 200 and name.isprintable()]


def unescaped(name: str) -> str:
    return name


async def test_a_tool_whose_name_is_a_wildcard(world: World) -> None:
    """In a rule, in a subject, at the broker: it stands for itself, and its caller may call nothing else."""
    rules = tuple(parse_rule(f"victim/{name}") for name in NAMES if name and "*" not in name)
    world.authority.apply_policy(Policy.of([Role("narrow", rules)]))
    world.authority.issue("picky", ("narrow",))
    await push(world.authority, world.url)
    recorder, _ = await world.victim()
    attacker = await world.join("picky")
    wrong = ["rm", "a.b", "a.b.c", "name", "picky", "x"]
    for tool in wrong:
        await attacker.publish(*call("picky", "victim", "k", tool=tool))
    subjects = [SUBJECTS.call("victim", "any", "picky", "tools/call", tool) for tool in wrong]
    assert await attacker.refused(*subjects) == subjects
    await attacker.publish("mesh.v1.call.victim.any.picky.tools.call.>", b"")
    assert await attacker.refused("mesh.v1.call.victim.any.picky.tools.call.>")
    assert recorder.calls == []
    await attacker.publish(*call("picky", "victim", "k", tool=">"))
    await recorder.signals.until(lambda: recorder.calls)
    assert recorder.calls[0].frame.name == ">"
    with pytest.MonkeyPatch.context() as naive:
        naive.setattr("mesh.subjects.rights.escape", unescaped)
        naive.setattr("mesh.subjects.rights.tail", lambda method, name: f"{method.replace('/', '.')}.{name}")
        entry = Subjects().rights_call("victim", "picky", "tools/call", ">")[0]
    assert entry.endswith("tools.call.>"), "what the rule would have been without the escape"


async def test_an_agent_whose_name_is_a_wildcard(world: World) -> None:
    """Its token names it escaped, so the template that it fills gives it itself."""
    for name in PEOPLE:
        world.authority.issue(name, ("agent", "host"))
    await push(world.authority, world.url)
    filters = [
        "mesh.v1.call.victim.any.>",
        "mesh.v1.reply.honest.*.*.*",
        "mesh.v1.call.*.any.>",
        "_INBOX.*.>",
        "_INBOX.>",
        "mesh.v1.note.*.>",
    ]
    for name in PEOPLE:
        attacker = await world.join(name)
        for each in filters:
            await attacker.subscribe(each)
        published = [
            "mesh.v1.reply.honest.victim.k.1",
            "$KV.registry.victim.i",
            SUBJECTS.call("victim", "any", "honest", "tools/call", "t"),
        ]
        for each in published:
            await attacker.publish(each, b"")
        assert await attacker.refused(*filters, *published) == [*filters, *published], name
        await attacker.client.close()
    naive = world.authority.rights(AGENT).subscribe
    assert any(each.replace(AGENT, "*") == "mesh.v1.call.*.*.>" for each in naive), "what the name * would have been given"


async def test_names_that_no_participant_may_have(world: World) -> None:
    for name in ("", "x" * 1_000, "*" * 400):
        with pytest.raises(ConfigError):
            world.authority.issue(name)
    rights = world.authority.rights(AGENT)
    assert not rights.may_publish("mesh.v1.call.victim.any.honest.tools.call.t")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
async def test_a_subject_has_one_name_and_a_name_one_subject(world: World, name: str) -> None:
    recorder = Recorder()
    subject = SUBJECTS.call("victim", "any", "honest", "tools/call", name)
    assert len(subject.split(".")) == len(["mesh", "v1", "call", "victim", "any", "honest", "tools", "call", "NAME"])
    assert not set(subject) & set(" \t\r\n*>{}")
    assert unescape(escape(name)) == name
    others = {SUBJECTS.call("victim", "any", "honest", "tools/call", each) for each in NAMES if each != name}
    assert subject not in others
    await world.victim(recorder)
    mesh = await world.honest()
    assert await mesh.call("victim", name, {"n": 1}) == {"echo": {"n": 1}}
    assert recorder.calls[0].frame.name == name


def test_a_rule_that_is_no_rule() -> None:
    for text in ("", "/", "a*/x", "a/", "*a", "a/prompt:x*"):
        with pytest.raises(ConfigError):
            parse_rule(text)
