"""mesh.policy.retry, mesh.policy.lanes and mesh.wire.message: pure, so for every input."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.errors import MalformedMessage
from mesh.policy.lanes import SHARES, Lanes
from mesh.policy.retry import Backoff
from mesh.subjects import PRIORITIES, Msg
from mesh.wire.letter import DEAD_HEADER, ROOM, Attempt, DeadLetter, read_letter
from mesh.wire.message import AgentMessage, read_message
from mesh.wire.reading import is_brokers

SUBJECT = Msg("time", "ann", "high")

# retry


@given(st.floats(0.01, 10), st.floats(1, 10), st.floats(0, 100), st.floats(0, 1), st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_backoff_grows_to_its_bound_and_leaves_a_part_to_chance(first, factor, more, jitter, attempt, chance) -> None:
    backoff = Backoff(first, factor, first + more, jitter)
    full, wait = backoff.wait(attempt, 0), backoff.wait(attempt, chance)
    assert full * (1 - jitter) <= wait <= full <= first + more
    assert full <= backoff.wait(attempt + 1, 0)


def test_a_backoff_doubles() -> None:
    backoff = Backoff(first=1, factor=2, longest=10, jitter=0.5)
    assert [backoff.wait(n, 0) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert backoff.wait(1, 0.5) == 0.75


@pytest.mark.parametrize("wrong", [{"first": 0}, {"factor": 0.5}, {"longest": 0.1}, {"jitter": 2}, {"jitter": -1}])
def test_a_backoff_that_is_none_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="backoff"):
        Backoff(**wrong)


# lanes


@given(st.lists(st.sampled_from([*PRIORITIES, None]), max_size=200))
def test_all_that_is_put_is_taken_once_and_in_order_of_its_lane(steps) -> None:
    lanes: Lanes[tuple[str, int]] = Lanes()
    put, taken = 0, []
    for step in steps:
        if step is None:
            taken.append(lanes.take())
        else:
            lanes.put(step, (step, put))
            put += 1
    while (item := lanes.take()) is not None:
        taken.append(item)
    found = [each for each in taken if each is not None]
    assert len(found) == put == len(set(found))
    assert len(lanes) == 0
    for lane in PRIORITIES:
        of_it = [number for name, number in found if name == lane]
        assert of_it == sorted(of_it)


@given(st.dictionaries(st.sampled_from(PRIORITIES), st.integers(1, 20), min_size=4), st.sets(st.sampled_from(PRIORITIES), min_size=1))
@example(dict(SHARES), set(PRIORITIES))
def test_lanes_that_are_never_empty_get_their_shares(shares, busy) -> None:
    lanes: Lanes[str] = Lanes(shares)
    sum_ = sum(shares[lane] for lane in busy)
    for lane in busy:
        for _ in range(3 * sum_ + 1):
            lanes.put(lane, lane)
    taken = [str(lanes.take()) for _ in range(3 * sum_)]
    for lane in busy:
        assert taken.count(lane) == 3 * shares[lane]


@given(st.integers(0, 500))
def test_what_is_critical_waits_for_nobody(before) -> None:
    lanes: Lanes[str] = Lanes()
    for _ in range(before + 1):
        lanes.put("normal", "normal")
    for _ in range(before):
        lanes.take()
    lanes.put("critical", "critical")
    assert lanes.take() == "critical"


def test_a_lane_that_was_empty_has_saved_nothing_up() -> None:
    lanes: Lanes[str] = Lanes({"a": 1, "b": 1})
    for _ in range(100):
        lanes.put("a", "a")
        lanes.take()
    for _ in range(4):
        lanes.put("a", "a")
        lanes.put("b", "b")
    assert {lanes.take(), lanes.take()} == {"a", "b"}


def test_drained_lanes_are_empty_and_go_on() -> None:
    lanes: Lanes[int] = Lanes()
    lanes.put("low", 1)
    lanes.put("high", 2)
    assert sorted(lanes.drain()) == [1, 2]
    assert lanes.take() is None
    lanes.put("low", 3)
    assert lanes.take() == 3


@pytest.mark.parametrize("shares", [{}, {"a": 0}])
def test_shares_are_at_least_one(shares) -> None:
    with pytest.raises(ValueError, match="share"):
        Lanes(shares)


# wire

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(min_size=1)
times = st.integers(0, 4 * 10**18).map(lambda ns: ns // 1000 * 1000)
messages = st.builds(
    AgentMessage,
    type=texts,
    content=json_values,
    id=texts,
    sent_ns=times,
    deadline_ns=st.none() | times,
    correlation_id=st.none() | texts,
    answer_to=st.none() | texts,
    metadata=st.dictionaries(st.text(), json_values, max_size=2),
    sender=st.just("ann"),
    target=st.just("time"),
    priority=st.just("high"),
    extra=st.dictionaries(texts.map(lambda text: "x" + text), json_values, max_size=2),
)


@given(messages)
def test_a_message_is_read_again(message: AgentMessage) -> None:
    body = message.encode()
    read = read_message(SUBJECT, body)
    assert read == message
    assert not is_brokers(body)


def test_sender_target_and_priority_are_the_subjects() -> None:
    body = b'{"id":"1","type":"t","content":null,"sent":"2026-01-31T12:00:00Z","sender":"eve","target":"eve","priority":"low"}'
    read = read_message(SUBJECT, body, 3)
    assert (read.sender, read.target, read.priority, read.delivery) == ("ann", "time", "high", 3)
    assert read.sent_ns == 1_769_860_800 * 10**9


GOOD = {"id": "1", "type": "t", "content": None, "sent": "2026-01-31T12:00:00Z"}


@pytest.mark.parametrize(
    "change",
    [
        {"id": 1},
        {"id": ""},
        {"type": None},
        {"sent": "yesterday"},
        {"sent": "2026-01-31T12:00:00"},
        {"sent": 5},
        {"deadline": "x"},
        {"metadata": []},
        {"correlation_id": 1},
        {"answer_to": {}},
    ],
)
def test_what_is_of_another_type_is_refused(change) -> None:
    with pytest.raises(MalformedMessage):
        read_message(SUBJECT, json.dumps(GOOD | change).encode())


@pytest.mark.parametrize("missing", GOOD)
def test_what_is_missing_is_refused(missing: str) -> None:
    with pytest.raises(MalformedMessage):
        read_message(SUBJECT, json.dumps({key: value for key, value in GOOD.items() if key != missing}).encode())


@given(st.binary(max_size=60))
@example(b"[" * 100_000)
@example(b"[]")
@example(b"1" * 5000)
def test_bytes_are_a_message_or_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_message(SUBJECT, body)


@pytest.mark.parametrize(
    ("body", "brokers"),
    [
        (b'{"stream":"MESSAGES_LOW", "seq":1}', True),
        (b'{"error":{"code":503},"stream":"","seq":0}', True),
        (b'{"type":"io.nats.jetstream.api.v1.consumer_info_response","name":"x"}', True),
        (b"", True),
        (b'{"id":"1"}', False),
        (b"nonsense", False),
        (b"[]", False),
    ],
)
def test_the_brokers_own_answers_are_known(body: bytes, brokers: bool) -> None:
    assert is_brokers(body) is brokers


@given(
    st.builds(
        DeadLetter,
        subject=st.text(min_size=1, max_size=400),
        body=st.binary(max_size=50),
        code=st.sampled_from(["failed", "expired"]),
        reason=st.text(min_size=1, max_size=1000),
        deliveries=st.integers(0, 100),
        stored_ns=times,
        attempts=st.lists(st.builds(Attempt, times, st.text(max_size=1000)), max_size=20).map(tuple),
        cut=st.booleans(),
    )
)
@example(
    DeadLetter(
        subject="s" * 600, body=b"", code="failed", reason="é" * 9999, deliveries=1, stored_ns=0, attempts=(Attempt(0, "😀" * 999),) * 9
    )
)
def test_a_dead_letter_is_read_again_and_fits(letter: DeadLetter) -> None:
    header = letter.header()
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < ROOM - 500 + len(letter.subject) * 6
    read = read_letter({DEAD_HEADER: header}, letter.body)
    assert (read.subject, read.body, read.code, read.cut) == (letter.subject, letter.body, letter.code, letter.cut)
    assert (read.deliveries, read.stored_ns) == (letter.deliveries, letter.stored_ns)


@pytest.mark.parametrize(
    "header", ["", "x", "[]", "{}", '{"attempts":[1]}', '{"attempts":[],"subject":"s","code":"c","reason":"r","stored":"?"}']
)
def test_what_is_no_dead_letter_is_refused(header: str) -> None:
    with pytest.raises(MalformedMessage):
        read_letter({DEAD_HEADER: header}, b"")
    with pytest.raises(MalformedMessage):
        read_letter(None, b"")
