"""Which schema may follow which. Each "yes" is held against data: whatever one version allows, the other one does too."""

from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mesh.errors import IncompatibleSchema
from mesh.policy.schemas import Rule, Schema, check_rule, filled, take
from mesh.policy.schemas.compatibility import FILLABLE, covers

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS: list[Any] = [None, True, False, 0, 1, 2, 5, -1, 1.5, 3.0, 10, "", "a", "ab", "abc", "b"]
DATA: list[Any] = [
    *SCALARS,
    *([one] for one in SCALARS),
    *([one, other] for one, other in product([1, "a", None, 5], repeat=2)),
    *({name: one} for name in "abc" for one in [*SCALARS, [], [1], {}, {"a": 1}, {"b": "ab"}]),
    *({"a": one, "b": other} for one, other in product([0, 1, 5, "a", "abc", None], repeat=2)),
    *({"a": one, "b": 1, "c": "ab"} for one in SCALARS),
    [],
    {},
    {"a": {"a": {"a": 1}}},
    [[1], [2]],
    {"a": [{"b": 1}, {"b": "x"}]},
]
"""Small data of every kind, so that a difference of two small schemas mostly shows in some of it."""


def schemas() -> st.SearchStrategy[Any]:
    small = st.integers(0, 3)
    leaf: dict[str, st.SearchStrategy[Any]] = {
        "type": st.sampled_from(
            ["null", "boolean", "integer", "number", "string", "array", "object", ["integer", "string"], ["null", "object"]]
        ),
        "enum": st.lists(st.sampled_from(SCALARS), min_size=1, max_size=4, unique_by=repr),
        "const": st.sampled_from(SCALARS),
        "minimum": small,
        "maximum": small,
        "exclusiveMinimum": small,
        "exclusiveMaximum": small,
        "multipleOf": st.sampled_from([1, 2, 0.5, 3]),
        "minLength": small,
        "maxLength": small,
        "pattern": st.sampled_from(["^a", "b$", "a", "^[ab]*$"]),
        "minItems": small,
        "maxItems": small,
        "uniqueItems": st.booleans(),
        "required": st.lists(NAMES, unique=True, max_size=3),
        "minProperties": small,
        "maxProperties": small,
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, unique=True, max_size=2), max_size=2),
        "$ref": st.just("#/$defs/d"),
    }

    def within(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        held = st.dictionaries(NAMES, inner, min_size=1, max_size=3)
        several = st.lists(inner, min_size=1, max_size=2)
        deeper: dict[str, st.SearchStrategy[Any]] = {
            "properties": held,
            "additionalProperties": inner,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, min_size=1, max_size=2),
            "propertyNames": inner,
            "items": inner,
            "prefixItems": several,
            "contains": inner,
            "minContains": small,
            "maxContains": small,
            "allOf": several,
            "anyOf": several,
            "oneOf": several,
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
            "dependentSchemas": held,
        }
        return some({**leaf, **deeper})

    def some(keywords: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
        chosen = st.lists(st.sampled_from(sorted(keywords)), unique=True, min_size=1, max_size=4)
        return chosen.flatmap(lambda names: st.fixed_dictionaries({name: keywords[name] for name in names}))

    return st.recursive(st.booleans() | some(leaf), within, max_leaves=6)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two schemas, the second mostly the first with something changed."""
    one: Any = draw(schemas())
    assume(isinstance(one, dict))
    definitions: list[Any] = [True, {"type": "integer"}, {"maximum": 2}, {"required": ["a"]}]
    definition: Any = draw(st.sampled_from(definitions))
    other = {**one}
    for _ in range(draw(st.integers(1, 2))):
        drop: bool = draw(st.booleans())
        if other and drop:
            other.pop(draw(st.sampled_from(sorted(other))))
        else:
            changed = draw(schemas())
            other |= changed if isinstance(changed, dict) else {}
    return {**one, "$defs": {"d": definition}}, {**other, "$defs": {"d": definition}}


@settings(max_examples=250, deadline=None)
@given(pairs())
def test_whoever_is_said_to_cover_another_allows_all_that_it_does(pair):
    try:
        one, other = (take(each) for each in pair)
    except IncompatibleSchema:
        assume(False)
    for wide, narrow in ((one, other), (other, one)):
        if covers(wide.document, narrow.document) == "yes":
            assert [data for data in DATA if narrow.fits(data) and not wide.fits(data)] == []


@settings(max_examples=100, deadline=None)
@given(pairs(), st.dictionaries(NAMES, st.sampled_from(SCALARS), min_size=1, max_size=2))
def test_defaults_are_judged_as_they_are_filled_in(pair, defaults):
    try:
        old = take({key: value for key, value in pair[0].items() if key in FILLABLE})
    except IncompatibleSchema:
        assume(False)
    after = Schema(filled(old.document, defaults))
    for data in DATA:
        if old.fits(data):
            assert after.fits({**defaults, **data} if isinstance(data, dict) else data), data


OLD: dict[str, Any] = {
    "type": "object",
    "properties": {"pr": {"type": "integer", "minimum": 1}, "by": {"enum": ["ann", "bob"]}},
    "required": ["pr"],
}


def changed(**more: Any) -> dict[str, Any]:
    return {**OLD, **more}


WIDER = changed(properties={"pr": {"type": "integer", "minimum": 0}, "by": {"type": "string"}})
NARROWER = changed(required=["pr", "by"])
MORE = changed(properties={**OLD["properties"], "note": {"type": "string"}})
OTHER = changed(properties={"pr": {"type": "string"}})
CLOSED = changed(additionalProperties=False)


@pytest.mark.parametrize(
    ("rule", "new", "allowed"),
    [
        ("backward", WIDER, True),
        ("backward", NARROWER, False),
        ("backward", OTHER, False),
        ("backward", CLOSED, False),
        ("forward", WIDER, False),
        ("forward", NARROWER, True),
        ("forward", MORE, True),
        ("forward", CLOSED, True),
        ("full", OLD, True),
        ("full", changed(title="the same"), True),
        ("full", WIDER, False),
        ("full", NARROWER, False),
        ("none", OTHER, True),
    ],
)
def test_the_rules(rule, new, allowed):
    if allowed:
        check_rule(Rule(rule), take(new).document, {1: OLD})
        return
    with pytest.raises(IncompatibleSchema) as caught:
        check_rule(Rule(rule), take(new).document, {1: OLD})
    assert caught.value.details["version"] == 1
    assert caught.value.hint


def test_only_a_transitive_rule_looks_further_back_than_one_version():
    texts: dict[str, Any] = {"type": "string"}
    anything: dict[str, Any] = {"type": ["string", "integer"]}
    check_rule(Rule.BACKWARD, anything, {1: {"type": "null"}, 2: texts})
    with pytest.raises(IncompatibleSchema) as caught:
        check_rule(Rule.BACKWARD_TRANSITIVE, anything, {1: {"type": "null"}, 2: texts})
    assert caught.value.details["version"] == 1


def test_a_refusal_says_where_and_what():
    new = changed(properties={**OLD["properties"], "by": {"enum": ["ann"]}})
    with pytest.raises(IncompatibleSchema, match=r"at /by \(enum \[ann, bob\] against \[ann\]\)") as caught:
        check_rule(Rule.BACKWARD, new, {1: OLD})
    assert caught.value.details["path"] == "/by"


def test_what_cannot_be_judged_is_refused_and_said_so():
    old = {"type": "string", "pattern": "^(ab)*$"}
    new = {"type": "string", "pattern": "^[ab]*$"}
    with pytest.raises(IncompatibleSchema, match="cannot be shown") as caught:
        check_rule(Rule.BACKWARD, new, {1: old})
    assert caught.value.details["judged"] is False
    check_rule(Rule.FULL, old, {1: {**old, "title": "the same pattern"}})


def test_a_new_required_member_is_backward_with_a_default():
    new = changed(required=["pr", "by"])
    check_rule(Rule.BACKWARD, new, {1: OLD}, {"by": "ann"})
    with pytest.raises(IncompatibleSchema):
        check_rule(Rule.BACKWARD, new, {1: OLD}, {"by": "nobody"})
    with pytest.raises(IncompatibleSchema, match="cannot be judged what defaults do"):
        check_rule(Rule.BACKWARD, new, {1: {"anyOf": [OLD, True]}}, {"by": "ann"})


def test_one_is_not_true():
    with pytest.raises(IncompatibleSchema):
        check_rule(Rule.BACKWARD, {"const": True}, {1: {"const": 1}})


def test_loosening():
    loosens = {(before, after) for before, after in product(Rule, Rule) if after.loosens(before)}
    assert (Rule.FULL, Rule.BACKWARD) in loosens
    assert (Rule.BACKWARD, Rule.FORWARD) in loosens
    assert (Rule.FULL_TRANSITIVE, Rule.FULL) in loosens
    assert (Rule.BACKWARD, Rule.FULL) not in loosens
    assert all((rule, rule) not in loosens and (Rule.NONE, rule) not in loosens for rule in Rule)


REFUSED: list[tuple[Any, str, str]] = [
    ([], "", "JSON object"),
    ({"type": "strin"}, "/type", "strin"),
    ({"requierd": ["a"]}, "/requierd", "not taken"),
    ({"$ref": "https://example.com/schema"}, "/$ref", "within the same text"),
    ({"$ref": "file:///etc/passwd"}, "/$ref", "within the same text"),
    ({"$ref": "#/$defs/nobody"}, "/$ref", "within the same text"),
    ({"$id": "https://example.com/x"}, "/$id", "not taken"),
    ({"properties": {"a": {"$dynamicRef": "#x"}}}, "/properties/a/$dynamicRef", "not taken"),
    ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema", "2020-12"),
    ({"properties": {"a/b": {"pattern": "(?=a)b"}}}, "/properties/a~1b/pattern", "regex"),
    ({"pattern": "((a{99}){99}){99}"}, "/pattern", "regex"),
    ({"pattern": "a" * 600}, "/pattern", "at most"),
    ({"patternProperties": {"(": {}}}, "/patternProperties/(", "regex"),
    ({"$ref": "#"}, "", "itself"),
    ({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}, "/$defs/a", "itself"),
    ({"description": "x" * 70_000}, "", "at most"),
    ({"properties": {str(n): {} for n in range(600)}}, "", "holds at most"),
    ({"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}, "", "too often"),
    ({"properties": {"a": {"$ref": "#"}}, "additionalProperties": {"$ref": "#"}}, "", "too often"),
]


@pytest.mark.parametrize(("document", "path", "said"), REFUSED)
def test_what_is_not_taken_is_refused_with_its_place(document, path, said):
    with pytest.raises(IncompatibleSchema, match=said) as caught:
        take(document)
    if path:
        assert caught.value.details["path"] == path


def test_schemas_that_double_at_each_step_are_refused():
    doubled: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(40)}
    with pytest.raises(IncompatibleSchema, match="too often"):
        take({"$ref": "#/$defs/d0", "$defs": {**doubled, "d40": {"type": "string"}}})


def test_recursion_that_goes_deeper_into_the_data_is_taken_and_ends():
    tree = take(
        {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}}, "required": ["n"]}
    )
    assert tree.fits({"n": 1, "left": {"n": 2}, "right": {"n": 3, "left": {"n": 4}}})
    assert not tree.fits({"n": 1, "left": {"n": 2, "right": {}}})
    data: dict[str, Any] = {"n": 1}
    for _ in range(50_000):
        data = {"n": 1, "left": data}
    assert not tree.fits(data)


def test_data_that_does_not_fit_is_told_where():
    schema = take({"properties": {"files": {"items": {"properties": {"a/b": {"type": "integer"}}}}}})
    with pytest.raises(Exception, match="is not of type") as caught:
        schema.check({"files": [{}, {"a/b": "x"}]})
    assert caught.value.path == "/files/1/a~1b"  # type: ignore[attr-defined]
    for odd in (b"bytes", {"files": "\ud800"}, {"files": [{"a/b": 2**70}]}, {1: 2}, float("nan")):
        assert schema.fits(odd) in (True, False)
