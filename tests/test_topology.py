"""The declared topology, the plan (pure), and what a real server makes of both."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from mesh.errors import ApiError, BrokerUnsuitable
from mesh.link.connection import Connection
from mesh.link.jetstream import JetStream
from mesh.link.reconcile import apply, ensure, read_actual, reconcile
from mesh.topology import (
    Action,
    Actual,
    BucketSpec,
    ConsumerSpec,
    Kind,
    StreamSpec,
    Topology,
    declare,
    differences,
    double_captures,
    overlaps,
    plan,
)
from tests.conftest import Broker

BARE = True  # what is tested here is below all identities

EMPTY = Actual({}, {})


_names = (f"S{number}" for number in itertools.count(1))
_name = "S"


def stream(**settings) -> StreamSpec:
    """A stream with the name of this test. Nothing of another test clings to it."""
    return StreamSpec(**{"name": _name, "subjects": ("s.>",), **settings})


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("*.b", "a.*", True),
        ("a.*.c", "a.b.>", True),
        ("a.*.c", "a.b.d", False),
        (">", "x", True),
    ],
)
def test_overlaps_is_what_the_wildcards_mean(one, other, expected) -> None:
    assert overlaps(one, other) is expected
    assert overlaps(other, one) is expected


@pytest.mark.parametrize("prefix", ["mesh", "other-1"])
def test_each_durable_subject_of_the_mesh_belongs_to_one_stream(prefix) -> None:
    assert double_captures(declare(prefix)) == ()


def test_a_subject_in_two_streams_is_found() -> None:
    topology = Topology((stream(name="A", subjects=("x.*",)), stream(name="B", subjects=("y", "x.1"))))
    assert double_captures(topology) == (("A", "x.*", "B", "x.1"),)


def test_a_stream_that_takes_the_copies_of_a_bucket_is_found() -> None:
    topology = Topology((stream(subjects=("copy.>",)),), (BucketSpec(name="b", republish=("$KV.b.>", "copy.b.>")),))
    assert double_captures(topology) == (("KV_b", "copy.b.>", "S", "copy.>"),)


def test_a_stream_may_take_the_headers_of_another() -> None:
    said = {"subjects": ("a.>",), "republish": ("a.>", "copy.>")}
    for headers in (False, True):
        topology = Topology((stream(**said, republish_headers=headers), stream(name="T", subjects=("copy.>",))))
        assert bool(double_captures(topology)) is not headers


async def test_the_plan_sees_whether_the_headers_alone_are_copied(js) -> None:
    whole, headers = (stream(republish=("s.>", "copy.>"), republish_headers=only) for only in (False, True))
    await ensure(js, whole)
    (action,) = plan(Topology((headers,)), await read_actual(js, Topology()))
    assert action.kind is Kind.UPDATE
    await ensure(js, headers, update=True)


def test_everything_declared_is_bounded() -> None:
    for spec in declare().all_streams():
        assert spec.max_bytes > 0, spec.name
        assert spec.max_consumers > 0, spec.name


def test_plan_creates_what_is_missing_and_keeps_the_order() -> None:
    consumer = ConsumerSpec(stream="S", name="c")
    actions = plan(Topology((stream(),), consumers=(consumer,)), EMPTY)
    assert actions == (Action(Kind.CREATE, "S", stream()), Action(Kind.CREATE, "S/c", consumer))


def test_plan_names_what_differs_old_and_new() -> None:
    actual = Actual({"S": stream(max_msgs=5).config()}, {})
    (action,) = plan(Topology((stream(max_msgs=7),)), actual)
    assert action.kind is Kind.UPDATE
    assert [(d.setting, d.actual, d.declared) for d in action.differences] == [("max_msgs", 5, 7)]


def test_plan_reports_what_nobody_declared_and_deletes_it_only_when_asked() -> None:
    actual = Actual({"OTHER": stream(name="OTHER").config()}, {})
    assert [action.kind for action in plan(Topology(), actual)] == [Kind.UNDECLARED]
    assert [action.kind for action in plan(Topology(), actual, prune=True)] == [Kind.DELETE]


@pytest.mark.parametrize(
    ("was", "wanted"),
    [({"storage": "memory"}, {}), ({"retention": "workqueue"}, {}), ({"deny_delete": True}, {})],
)
def test_plan_knows_what_the_server_cannot_change(was, wanted) -> None:
    (action,) = plan(Topology((stream(**wanted),)), Actual({"S": stream(**was).config()}, {}))
    assert action.kind is Kind.CONFLICT
    assert "nats stream backup S" in action.advice
    assert next(iter(was)) in action.advice


def test_defaults_that_the_server_leaves_out_or_adds_are_no_difference() -> None:
    echoed = {name: value for name, value in stream().config().items() if value} | {"metadata": {"_nats.ver": "2"}, "sealed": False}
    assert differences(stream(), echoed) == ()


# A real server


@pytest.fixture
async def js(broker: Broker, monkeypatch):
    """JetStream of a broker that has no streams, and a new name for `stream`."""
    monkeypatch.setitem(globals(), "_name", next(_names))
    async with await Connection.open(broker.url, name="test") as connection:
        js = JetStream(connection)
        for name in (await js.api("STREAM.NAMES")).get("streams") or ():
            await js.api(f"STREAM.DELETE.{name}")
        yield js


async def test_the_mesh_is_created_once_and_then_unchanged(js) -> None:
    declared = declare()
    first = await reconcile(js, declared)
    assert {action.kind for action in first} == {Kind.CREATE}
    second = await reconcile(js, declared)
    assert {(action.kind, action.differences) for action in second} == {(Kind.UNCHANGED, ())}


async def test_a_declared_consumer_is_created_once_and_then_unchanged(js) -> None:
    consumer = ConsumerSpec(stream=_name, name="c", filters=("s.a", "s.b"), backoff=(1.0, 2.0), max_deliver=5)
    declared = Topology((stream(),), consumers=(consumer,))
    await reconcile(js, declared)
    assert {action.kind for action in await reconcile(js, declared)} == {Kind.UNCHANGED}
    changed = replace(declared, consumers=(replace(consumer, filters=("s.a",), ack_wait=7.0, backoff=()),))
    assert [d.setting for d in (await reconcile(js, changed))[1].differences] == ["filter_subject", "ack_wait", "backoff"]
    assert {action.kind for action in await reconcile(js, changed)} == {Kind.UNCHANGED}


async def test_a_declared_start_is_no_difference_to_its_echo(js) -> None:
    await ensure(js, stream())
    spec = ConsumerSpec(stream=_name, name="c", durable=False, ack="none", start_time_ns=1_700_000_000_120_000_000, memory=True)
    await ensure(js, replace(spec, inactive_threshold=5.0))
    await ensure(js, replace(spec, name="d", start_time_ns=None, start_seq=9, inactive_threshold=5.0))


async def test_drift_is_mended(js) -> None:
    declared = declare()
    await reconcile(js, declared)
    config = declared.streams[0].config() | {"max_msgs": 10}
    await js.api("STREAM.UPDATE.JOURNAL", config)
    actions = await reconcile(js, declared)
    assert [action.name for action in actions if action.kind is Kind.UPDATE] == ["JOURNAL"]
    assert {action.kind for action in await reconcile(js, declared)} == {Kind.UNCHANGED}


async def test_a_conflict_is_raised_before_anything_is_done(js) -> None:
    await ensure(js, stream(storage="memory"))
    with pytest.raises(BrokerUnsuitable, match="storage is 'memory', declared 'file'") as caught:
        await reconcile(js, Topology((stream(name="NEW", subjects=("new",)), stream())))
    assert f"nats stream rm {_name}" in caught.value.hint
    assert list((await read_actual(js, Topology())).streams) == [_name]


async def test_a_setting_that_the_server_ignores_is_found(js, monkeypatch) -> None:
    api = js.api

    async def older(tail, payload=None):
        answer = await api(tail, payload)
        answer.get("config", {}).pop("subject_delete_marker_ttl", None)
        return answer

    monkeypatch.setattr(js, "api", older)
    with pytest.raises(BrokerUnsuitable, match=r"ignores settings of KV_health: subject_delete_marker_ttl"):
        await reconcile(js, declare())


async def test_only_prune_deletes(js) -> None:
    await ensure(js, stream())
    await reconcile(js, Topology())
    assert list((await read_actual(js, Topology())).streams) == [_name]
    await reconcile(js, Topology(), prune=True)
    assert list((await read_actual(js, Topology())).streams) == []


async def test_all_pages_of_the_list_are_read(js) -> None:
    for number in range(300):
        await ensure(js, stream(name=f"S{number}", subjects=(f"s.{number}",), storage="memory"))
    actual = await read_actual(js, Topology())
    assert len(actual.streams) == 300
    await apply(js, plan(Topology(), actual, prune=True))


STREAM_CHANGES = {
    "subjects": ("t.>",),
    "description": "new",
    "storage": "memory",
    "retention": "workqueue",
    "discard": "new",
    "max_msgs": 9,
    "max_bytes": 99_999,
    "max_age": 60.0,
    "max_msgs_per_subject": 3,
    "max_consumers": 5,
    "no_ack": True,
    "duplicate_window": 1.0,
    "subject_transform": ("s.*", "u.{{wildcard(1)}}"),
    "republish": ("s.>", "copy.>"),
    "allow_direct": True,
    "allow_rollup_hdrs": True,
    "allow_msg_ttl": True,
    "deny_delete": True,
    "deny_purge": True,
}


@pytest.mark.parametrize("setting", STREAM_CHANGES)
@pytest.mark.parametrize("back", [False, True], ids=["on", "off"])
async def test_the_plan_agrees_with_the_server_on_what_can_be_changed(js, setting, back) -> None:
    before, after = stream(), stream(**{setting: STREAM_CHANGES[setting]})
    if back:
        before, after = after, before
    await ensure(js, before)
    (action,) = plan(Topology((after,)), await read_actual(js, Topology()))
    if action.kind is Kind.CONFLICT:
        with pytest.raises(ApiError):
            await ensure(js, after, update=True)
    elif action.kind is Kind.UPDATE:
        await ensure(js, after, update=True)
    else:
        assert (setting, back) == ("duplicate_window", True), "nothing declared, nothing compared"


CONSUMER_CHANGES = {
    "filters": ("s.a",),
    "ack": "none",
    "ack_wait": 9.0,
    "max_deliver": 3,
    "max_ack_pending": 9,
    "backoff": (1.0,),
    "start_seq": 3,
    "start_time_ns": 10**18,
    "inactive_threshold": 60.0,
    "memory": True,
}


@pytest.mark.parametrize("setting", CONSUMER_CHANGES)
async def test_the_plan_agrees_with_the_server_on_what_can_be_changed_of_a_consumer(js, setting) -> None:
    changes: dict[str, Any] = {setting: CONSUMER_CHANGES[setting]} | ({"max_deliver": 5} if setting == "backoff" else {})
    before = ConsumerSpec(stream=_name, name="c")
    after = replace(before, **changes)
    topology = Topology((stream(),), consumers=(before,))
    await reconcile(js, topology)
    changed = replace(topology, consumers=(after,))
    action = plan(changed, await read_actual(js, changed))[1]
    if action.kind is Kind.CONFLICT:
        with pytest.raises(ApiError):
            await ensure(js, after, update=True)
    else:
        await ensure(js, after, update=True)
