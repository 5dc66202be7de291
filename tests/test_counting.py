"""What is missing: numbers that a connection must have used, and answers to requests that are not there."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.audit.calls import Missing
from mesh.audit.counting import Counting
from mesh.subjects import Call
from mesh.wire import control
from mesh.wire.jsonrpc import dumps
from tests.journal_helpers import Tape, id_of, pair


def missing(tape: Tape, *, from_start: bool = True) -> list[tuple]:
    counting = Counting()
    pairing, _ = pair(tape.messages, counting=counting)
    pairing.settle()
    return [(gap.caller, gap.connection, gap.series, gap.first, gap.last, gap.count) for gap in counting.missing(from_start=from_start)]


def test_numbers_that_are_not_there() -> None:
    tape = Tape()
    for number in (1, 2, 5, 4, 9):
        tape.call("q.a", "time", id_of("q.a", number))
    for number in (1, 2):
        tape.call("q.a", "time", id_of("q.a", number, "c1"))
    assert missing(tape) == [("q.a", "c0", "", 3, 3, 1), ("q.a", "c0", "", 6, 8, 3)]


def test_sessions_are_counted_apart() -> None:
    tape = Tape()
    for exchange in ("1", "1-1", "1-2", "2", "2-1", "2-4", "3"):
        tape.call("qa", "time", id_of("qa", exchange))
    assert missing(tape) == [("qa", "c0", "2", 2, 3, 2)]


def test_quiet_exchanges_are_not_counted() -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    tape.record("qa", "time", id_of("qa", "q7"))
    tape.record("qa", "time", id_of("qa", "1-q9"))
    assert missing(tape) == []


def test_what_the_bounds_discarded_is_not_missing() -> None:
    tape = Tape(first_seq=1000)
    tape.result("qa", "time", id_of("qa", 3))
    tape.result("old", "time", id_of("old", 8))
    tape.call("qa", "time", id_of("qa", 40))
    tape.result("qa", "time", id_of("qa", 39))
    tape.call("qa", "time", id_of("qa", 42))
    assert missing(tape, from_start=False) == [("qa", "c0", "", 41, 41, 1)]


def test_an_answer_to_a_call_that_is_not_there() -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    tape.result("qa", "time", id_of("qa", 1))
    tape.result("qa", "time", id_of("qa", 2))
    tape.result("qa", "time", id_of("qa", 3))
    tape.result("qa", "time", id_of("qa", 900_000_000))  # whoever answers may say any number: it does not make the others missing
    assert missing(tape) == [("qa", "c0", "", 2, 3, 2), ("qa", "c0", "", 900_000_000, 900_000_000, 1)]


def test_a_suspect_request_was_made_all_the_same() -> None:
    """Its caller numbered it, and the target refused it: it is suspect, not missing, and its answer is no riddle."""
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    body = {"jsonrpc": "2.0", "id": id_of("qa", 2), "method": "tools/call", "params": {"name": "rm"}}
    tape.put(Call("time", "any", "qa", "tools/call", "ls"), body)
    tape.error("qa", "time", id_of("qa", 2), control.INVALID_REQUEST, "refused", {"mesh": "refused"})
    tape.put(Call("time", "any", "qa", "tools/call", "ls"), b'{"id":' + dumps(id_of("qa", 3)) + b',"id":2,')
    counting = Counting()
    pairing, _ = pair(tape.messages, counting=counting)
    pairing.settle()
    assert (pairing.suspect_count, pairing.unpaired, pairing.late, pairing.duplicates) == (2, 0, 0, 0)
    assert counting.missing(from_start=True) == ()


@settings(max_examples=200)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_ranges_are_the_numbers_that_were_not_seen(numbers: list[int]) -> None:
    counting = Counting()
    for number in numbers:
        counting.called(id_of("qa", number))
    gaps = {number for gap in counting.missing(from_start=True) for number in range(gap.first, gap.last + 1)}
    assert gaps == set(range(1, max(numbers))) - set(numbers)
    late = {number for gap in counting.missing(from_start=False) for number in range(gap.first, gap.last + 1)}
    assert late == set(range(numbers[0], max(numbers))) - set(numbers)
    assert all(counting.has(id_of("qa", number)) == (number in numbers) for number in range(1, 62))


def test_missing_can_be_shown() -> None:
    assert Missing("qa", "c0", 3, 5, 3).as_dict() == {"caller": "qa", "connection": "c0", "first": 3, "last": 5, "count": 3, "series": ""}
