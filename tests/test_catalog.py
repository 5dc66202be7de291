"""All agents as one, the pure part: names, URIs, pages."""

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.gathered import names, uris
from bridge.gathered.catalog import PROMPTS, RESOURCES, TEMPLATES, TOOLS, BadCursor, Catalog, Offer, build
from mesh.wire.jsonrpc import dumps

VALID = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch

awkward = st.text(st.sampled_from("ab_-./ é☃\ud800"), max_size=6)
"""Parts that meet: underscores at every edge, and characters that become one."""

pairs = st.lists(st.tuples(awkward | st.text(max_size=80), awkward | st.text(max_size=80)), max_size=30, unique=True)


def tools(agent: str, *owns: str, **more: Any) -> Offer:
    return Offer(agent, lists={TOOLS: tuple({"name": own, "inputSchema": {"type": "object"}, **more} for own in owns)})


def all_pages(catalog: Catalog, kind: str, most: int) -> list[list[dict[str, Any]]]:
    pages, cursor = [], None
    while True:
        body, cursor = catalog[kind].page(cursor, most)
        pages.append(json.loads(body))
        if cursor is None:
            return pages


# ---- names


@given(pairs, st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_names_are_valid_different_and_the_same_in_any_order(pairs: list[names.Pair], shuffle: random.Random) -> None:
    found, collisions = names.give(pairs)
    assert all(VALID(name) for name in found.values())
    assert len(set(found.values())) == len(pairs)
    shuffle.shuffle(pairs)
    assert names.give(pairs) == (found, collisions)


@given(pairs, pairs)
def test_who_comes_takes_nobodys_name(there: list[names.Pair], more: list[names.Pair]) -> None:
    before, _ = names.give(there)
    after, _ = names.give({*there, *more})
    for pair, name in after.items():
        if pair not in before:
            assert name not in before.values() or names.plain(pair) is None
    for pair, name in before.items():
        if names.plain(pair) == name and not any(given == name for other, given in after.items() if other != pair):
            assert after[pair] == name


@given(awkward, awkward)
def test_a_plain_name_can_be_read_in_one_way_only(agent: str, own: str) -> None:
    name = names.plain((agent, own))
    assert name is None or names.read(name) == (agent, own)


def test_names_that_can_be_written_are() -> None:
    found, collisions = names.give([("time", "get_current_time"), ("qa", "_run"), ("qa", "a__b")])
    assert set(found.values()) == {"time__get_current_time", "qa___run", "qa__a__b"}
    assert collisions == ()


def test_characters_that_hosts_do_not_take_are_replaced() -> None:
    assert names.give([("time", "now.utc")])[0] == {("time", "now.utc"): "time__now_utc"}


def test_two_that_become_one_get_a_hash_and_are_reported() -> None:
    found, collisions = names.give([("a", "x.y"), ("a", "x_y"), ("a", "x/y")])
    assert found["a", "x_y"] == "a__x_y"
    assert re.fullmatch(r"a__x_y_[0-9a-f]{8}", found["a", "x.y"])
    assert re.fullmatch(r"a__x_y_[0-9a-f]{8}", found["a", "x/y"])
    assert [each.wanted for each in collisions] == ["a__x_y"]
    assert dict(collisions[0].given) == found


def test_an_agent_whose_name_cannot_be_written_always_has_a_hash() -> None:
    """Or an agent of the written name could come and be called in its place."""
    assert re.fullmatch(r"qa_manager__run_[0-9a-f]{8}", names.give([("qa.manager", "run")])[0]["qa.manager", "run"])
    found, _ = names.give([("a__b", "c"), ("a", "b__c")])
    assert found["a", "b__c"] == "a__b__c"
    assert found["a__b", "c"] != "a__b__c"


def test_a_hash_that_somebody_has_sought_is_nobodys() -> None:
    hashed = names.give([("qa.x", "run")])[0]["qa.x", "run"]
    agent, _, own = hashed.partition("__")
    found, collisions = names.give([("qa.x", "run"), (agent, own)])
    assert hashed not in found.values()
    assert collisions


def test_a_long_name_keeps_the_agent_and_gets_a_hash() -> None:
    found, _ = names.give([("time", "x" * 100), ("a" * 100, "now"), ("time", "x" * 101)])
    assert len(set(found.values())) == 3
    assert found["time", "x" * 100].startswith("time__xxx")
    assert "__now_" in found["a" * 100, "now"]


# ---- the catalogue


@given(pairs, st.integers(1, 2000))
def test_pages_hold_everything_once(pairs: list[names.Pair], most: int) -> None:
    agents: dict[str, list[str]] = {}
    for agent, own in pairs:
        agents.setdefault(agent, []).append(own)
    catalog = build(tools(agent, *owns) for agent, owns in agents.items())
    pages = all_pages(catalog, TOOLS, most)
    listed = [tool["name"] for page in pages for tool in page]
    assert sorted(listed) == sorted(each.name for each in catalog[TOOLS].items)
    assert len(set(listed)) == len(pairs)
    assert all(pages) or not pairs
    assert all(catalog.find(TOOLS, item.name) == (item.agent, item.own) for item in catalog[TOOLS].items)


def test_a_cursor_holds_over_changes() -> None:
    before = build([tools("b", *"abcdef")])
    body, cursor = before[TOOLS].page(None, 1)
    assert [tool["name"] for tool in json.loads(body)] == ["b__a"]
    after = build([tools("a", "new"), tools("b", *"acdef"), tools("c", "new")], before)
    rest = []
    while cursor is not None:
        body, cursor = after[TOOLS].page(cursor, 1)
        rest += [tool["name"] for tool in json.loads(body)]
    assert rest == ["b__c", "b__d", "b__e", "b__f", "c__new"]


@pytest.mark.parametrize("cursor", ["", "x", "é", "AAAA", "cHJvbXB0czp4"])
def test_a_cursor_of_others_is_refused(cursor: str) -> None:
    with pytest.raises(BadCursor):
        build([tools("a", "x")])[TOOLS].page(cursor)


def test_only_the_name_of_a_definition_changes() -> None:
    said = {"x-vendor": None, "name": "now", "n": 123456789012345678901234567890, "description": "☃ \ud800"}
    (item,) = build([Offer("time", lists={TOOLS: (said,)})])[TOOLS].items
    assert item.raw == dumps({"x-vendor": None, "name": "time__now", "n": 123456789012345678901234567890, "description": "☃ \ud800"})


def test_what_is_no_definition_is_left_out() -> None:
    catalog = build([Offer("time", lists={TOOLS: ({"name": 1}, {}, {"name": "now"}, {"name": "now", "title": "again"})})])
    assert [item.definition for item in catalog[TOOLS].items] == [{"name": "now"}]


def test_changes_are_told_by_kind() -> None:
    time, git = tools("time", "now"), tools("git", "log")
    before = build([time, git])
    assert build([git, time], before).changed(before) == frozenset()
    assert build([time], before).changed(before) == {TOOLS}
    assert build([time, git, Offer("p", lists={PROMPTS: ({"name": "x"},)})], before).changed(before) == {PROMPTS}
    assert build([time, tools("git", "log", n=True)], build([time, tools("git", "log", n=1)])).changed(build([time, git])) == {TOOLS}
    assert build([time, git], before)[TOOLS].items[0] is before[TOOLS].items[0]


def test_instructions_name_the_agents() -> None:
    text = build([Offer("time", "Clock", "Knows what time it is"), Offer("git")]).instructions
    assert "- git" in text
    assert "- time: Clock Knows what time it is" in text
    assert len(build([Offer(f"a{n}") for n in range(500)]).instructions) < 2000
    assert "None is there" in build([]).instructions


# ---- URIs


def files(agent: str, *owns: str, templates: tuple[str, ...] = ()) -> Offer:
    lists = {
        RESOURCES: tuple({"uri": own, "name": own} for own in owns),
        TEMPLATES: tuple({"uriTemplate": own, "name": own} for own in templates),
    }
    return Offer(agent, lists=lists)


def test_a_uri_of_one_agent_stays() -> None:
    catalog = build([files("notes", "note:///1"), files("disk", "file:///a")])
    assert set(catalog[RESOURCES].by_name) == {"note:///1", "file:///a"}
    assert catalog.find_uri("note:///1") == (("notes", "note:///1"),)


def test_a_uri_of_several_agents_names_each() -> None:
    catalog = build([files("a b", "note:///1"), files("c", "note:///1")])
    assert set(catalog[RESOURCES].by_name) == {"mesh://a%20b/note:///1", "mesh://c/note:///1"}
    assert catalog.find_uri("mesh://a%20b/note:///1") == (("a b", "note:///1"),)
    assert catalog.find_uri("note:///1") == (("a b", "note:///1"), ("c", "note:///1"))
    assert [each.wanted for each in catalog.collisions] == ["note:///1"]


def test_a_uri_that_looks_like_ours_is_not_believed() -> None:
    catalog = build([files("rogue", "mesh://notes/note:///1"), files("notes", "note:///1")])
    assert catalog.find_uri("mesh://notes/note:///1") == (("notes", "note:///1"),)
    assert catalog.find_uri("mesh://rogue/mesh://notes/note:///1") == (("rogue", "mesh://notes/note:///1"),)


def test_a_uri_that_nobody_lists_goes_by_template_then_by_scheme() -> None:
    catalog = build([files("notes", templates=("note:///{id}",)), files("disk", "file:///a"), files("web", "http://x/")])
    assert catalog.find_uri("note:///7") == (("notes", "note:///7"),)
    assert catalog.find_uri("FILE:///b") == (("disk", "FILE:///b"),)
    assert catalog.find_uri("ftp:///b") == ()
    assert catalog.find_uri("mesh://gone/x:y") == ()
    assert catalog.find_template("note:///{id}") == (("notes", "note:///{id}"),)


def test_updates_get_the_uri_that_is_listed() -> None:
    catalog = build([files("a", "n:1", "n:2"), files("b", "n:1")])
    assert catalog.uri_of("a", "n:1") == "mesh://a/n:1"
    assert catalog.uri_of("a", "n:2") == "n:2"
    assert catalog.uri_of("b", "n:2") == "mesh://b/n:2"


@given(st.text(min_size=1), st.text())
def test_the_long_form_can_be_read(agent: str, uri: str) -> None:
    assert uris.split(uris.qualify(agent, uri)) == (agent, uri)


@pytest.mark.parametrize(
    ("template", "uri", "fits"),
    [
        ("file:///{path}", "file:///a", True),
        ("file:///{path}", "file:///a/b", False),
        ("file:///{+path}", "file:///a/b", True),
        ("file:///{path}/{name}.txt", "file:///a/b.txt", True),
        ("file:///{path}/{name}.txt", "file:///a/b.md", False),
        ("x:{a}-{b}-{c}", "x:1-2-3", True),
        ("x:{a}-{b}-{c}", "x:1-2", False),
        ("x:{?q,n}", "x:?q=1/2", True),
        ("x:aa{y}aa", "x:aaa", False),
        ("x:1", "x:1", True),
        ("x:1", "x:12", False),
    ],
)
def test_templates(template: str, uri: str, fits: bool) -> None:
    assert uris.matches(template, uri) is fits


def test_a_hostile_template_costs_little() -> None:
    assert not uris.matches("{+a}x" * 2000 + "y", "x" * 20_000)
