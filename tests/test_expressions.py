"""Filters and transformations: what they may say, where they say that something is wrong, and what they can cost at most."""

import asyncio
import contextlib
import json
import logging
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.delivery import Reject
from mesh.errors import BadExpression
from mesh.events.expressions import VARIABLES, Filter, Transform
from mesh.policy.expressions import DEEPEST, LONGEST, Program
from mesh.policy.expressions.cost import BUDGET, instructions
from mesh.wire.event import Event, new_event


def event(data, **more) -> Event:
    return new_event("qa", "qa.review.done", data, id="e1", type="review", **more)


def test_a_filter_sees_the_event_its_topic_its_publisher_and_its_priority():
    seen = event({"n": 5}, subject="pr/7", extensions={"tenant": "blue"})
    for text in (
        "event.id == 'e1' && event.source == '/agents/qa' && event.type == 'review' && event.subject == 'pr/7'",
        "timestamp(event.time) > timestamp('2020-01-01T00:00:00Z')",
        "event.data.n > 3 && event.extensions.tenant == 'blue'",
        "topic.startsWith('qa.') && publisher == 'qa' && priority in ['normal', 'high']",
        "event == event && has(event.data) && size(event) == 7",
    ):
        assert Filter(text)(seen), text
    assert not Filter("has(event.subject)")(event({}))


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ("1 +", 1, 4, "Syntax error"),
        ("true &&\n  evnt == 1", 2, 3, "undeclared reference to 'evnt'"),
        ("event.dta.n > 3", 1, 6, "event has no 'dta'"),
        ("event.type.matches(topic)", 1, 19, "literal"),
        ("topic.matches('(a{90}){90}')", 1, 14, "too large"),
        ("topic + 1 == ''", 1, 7, "no matching overload"),
        ("open('/etc/passwd') == ''", 1, 5, "undeclared reference to 'open'"),
    ],
)
def test_what_is_wrong_with_an_expression_is_said_when_it_is_set_up_and_where(text, line, column, said):
    with pytest.raises(BadExpression) as caught:
        Filter(text)
    assert (caught.value.details["line"], caught.value.details["column"]) == (line, column)
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "topic",
        "event.data.a + 1 == 2 ? 1 : 2",
        "true && " * (LONGEST // 8) + "true",
        "(" * 40 + "true" + ")" * 40,
        "google.protobuf.Struct{} == {}",
        "'\ud800' == ''",
        "",
    ],
)
def test_other_expressions_that_are_no_filters_are_refused(text):
    with pytest.raises(BadExpression):
        Filter(text)


@pytest.mark.parametrize(
    "text",
    [
        "event.data.all(a, event.data.all(b, event.data.all(c, event.data.all(d, a == d))))",
        "event.data.map(a, event.data.map(b, event.data.map(c, event.data))).size() > 0",
    ],
)
def test_an_expression_that_could_cost_too_much_on_a_small_event_is_refused(text):
    with pytest.raises(BadExpression, match="cost too much"):
        Filter(text)


def test_a_filter_that_fails_on_an_event_does_not_match_is_counted_and_logged_once(caplog):
    caplog.set_level(logging.WARNING)
    chosen = Filter("event.data.n > 3")
    wrong: list[object] = [{}, {"n": "x"}, None, [], {"n": 2**70}, {"n": "\ud800"}, {"n": None}]
    assert [chosen(event(data)) for data in wrong] == [False] * len(wrong)
    assert chosen.failed == len(wrong)
    assert chosen(event({"n": 4}))


def deep(levels):
    data: object = 1
    for _ in range(levels):
        data = [data]
    return data


def test_data_that_is_too_deep_is_not_seen():
    assert Filter("size(event.data) == 1")(event(deep(DEEPEST)))
    chosen = Filter("size(event.data) == 1")
    assert not chosen(event(deep(DEEPEST + 2)))
    assert not chosen(event(deep(50_000)))


@pytest.mark.parametrize("name", ["__class__", "__globals__", "attributes", "mro"])
def test_nothing_of_python_can_be_reached(name):
    for text in (f"event.data.{name} == 1", f"event.data.x.{name} == 1", f"event['{name}'] == 1", f"'a'.{name}() == 1"):
        with contextlib.suppress(BadExpression):
            assert not Filter(text)(event({"x": [1]}))


BOMBS = [
    ("event.data.l.all(x, event.data.l == event.data.l)", lambda n: {"l": list(range(n))}),
    ("event.data.l.filter(x, x >= 0).size() >= 0", lambda n: {"l": list(range(n))}),
    ("event.data.l.map(x, event.data.s + event.data.s).size() >= 0", lambda n: {"l": list(range(n)), "s": "a" * n}),
    ("event.data.l.all(x, event.data.l.all(y, y >= 0))", lambda n: {"l": list(range(n))}),
    ("event.data.l.all(x, event.data.l.all(y, event.data.l.all(z, z >= 0)))", lambda n: {"l": list(range(n))}),
    ("event.data.s.matches('((a|b)*a(a|b){99}c)')", lambda n: {"s": "ab" * n}),
    ("event.data.l.all(x, !event.data.s.matches('(a*)*b'))", lambda n: {"l": list(range(n)), "s": "a" * n}),
    ("!event.data.s.contains(event.data.t)", lambda n: {"s": "a" * n, "t": "a" * (n // 2) + "b"}),
    ("event.data.l.all(x, x in event.data.l)", lambda n: {"l": list(range(n))}),
    ("event.data.l.map(x, event.data.l.map(y, event.data.l)).size() >= 0", lambda n: {"l": list(range(n))}),
    ("[event.data, event.data, event.data] == [event.data, event.data, event.data]", lambda n: {"l": list(range(n))}),
    ("event.data.m.all(k, event.data.m[k] == event.data.m)", lambda n: {"m": {str(i): i for i in range(n)}}),
]


@pytest.mark.parametrize(("text", "make"), BOMBS)
def test_no_event_makes_an_expression_run_for_long(text, make):
    """Each is run on growing data until it is refused, and all that was run stayed far below the seconds of no bound."""
    try:
        chosen = Filter(text)
    except BadExpression:
        return
    for power in range(4, 18):
        seen = event(make(2**power))
        started = process_time()
        chosen(seen)
        assert process_time() - started < 40 * BUDGET / 1e9, (text, power)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=3), each, max_size=4),
    )
)
def test_whatever_the_data_a_filter_only_says_yes_or_no(data):
    for text in ("event.data.a == 1", "event.data == event.data", "event.data.exists(x, x == 'a')", "string(event.data) != ''"):
        assert Filter(text)(event(data)) in (True, False)


def test_a_transformation_makes_new_data_or_replaces_members():
    seen = event({"n": 5, "who": "ann"})
    assert Transform("{'double': event.data.n * 2, 'topic': topic, 'list': [1, 2.5, null, true]}")(seen).data == {
        "double": 10,
        "topic": "qa.review.done",
        "list": [1, 2.5, None, True],
    }
    changed = Transform({"who": "event.data.who + '!'", "more": "{'a': [event.type]}"})(seen)
    assert changed.data == {"n": 5, "who": "ann!", "more": {"a": ["review"]}}
    assert (changed.id, changed.topic) == (seen.id, seen.topic)
    assert seen.data == {"n": 5, "who": "ann"}


@pytest.mark.parametrize("text", ["event.data.n", "[1]", {}, {"a": "1, 'b': "}, {"a": "nope"}, "1 +"])
def test_a_transformation_that_cannot_yield_a_map_is_refused(text):
    try:
        with pytest.raises(Reject):
            Transform(text)(event({"n": 1}))
    except BadExpression:
        pass


@pytest.mark.parametrize(
    "text", ["{1: 2}", "{'a': b'x'}", "{'a': timestamp('2026-01-01T00:00:00Z')}", "{'a': event.data.nope}", {"a": "event.data.nope"}]
)
def test_a_transformation_that_yields_no_json_fails_on_the_event(text):
    with pytest.raises(Reject):
        Transform(text)(event({"n": 1}))
    with pytest.raises(Reject):
        Transform({"a": "1"})(event([1]))


def test_counts_in_patterns_multiply():
    assert instructions("(a{10}){20,}") == 200 * 13
    assert instructions("a{3,7}") == 7 * 7


def test_only_what_is_read_is_given_to_the_library():
    assert Program("event.type == ''", VARIABLES, "bool").members == {"event": frozenset({"type"})}
    assert Program("event == {}", VARIABLES, "bool").members == {"event": None}
    assert json.loads(json.dumps(Transform("event.data")(event({"a": [{}]})).data)) == {"a": [{}]}


def test_filters_run_side_by_side():
    async def main() -> None:
        chosen = Filter("event.data.n >= 0")
        found = await asyncio.gather(*(asyncio.to_thread(chosen, event({"n": n})) for n in range(50)))
        assert all(found)

    asyncio.run(main())
