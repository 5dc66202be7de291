"""What the journal holds and nobody may believe: each kind is counted, kept with its reason, and paired with nothing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.audit.counting import Counting
from mesh.audit.pairing import MOST_SUSPECTS, Pairing
from mesh.link.reader import Stored
from mesh.subjects import Call, FoldedReply, Note
from mesh.wire import control
from tests.journal_helpers import SUBJECTS, Tape, id_of, one, pair


def suspects(tape: Tape) -> list[str]:
    pairing, calls = pair(tape.messages)
    assert calls == []
    assert pairing.open == 0
    return [suspect.reason for suspect in pairing.suspects]


def test_a_puback_that_a_foreign_reply_subject_put_there() -> None:
    tape = Tape()
    for subject in (
        Call("qa", "any", "admin", "tools/call", "rm"),
        FoldedReply("admin", "qa"),
        Note("qa", "admin", "notifications/cancelled"),
    ):
        tape.put(subject, b'{"stream":"MESSAGES", "seq":12}')
    reasons = suspects(tape)
    assert len(reasons) == 3
    assert all("jsonrpc" in reason for reason in reasons)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{", b"nothing", b'{"jsonrpc":"2.0"}', b"[" * 200_000, b'{"a":' * 200_000])
def test_bodies_that_are_no_message(body: bytes) -> None:
    tape = Tape()
    for subject in ("call.t.any.qa.tools.call.x", "note.t.qa.notifications.cancelled", "reply.qa.t", "record.t.qa"):
        tape.put(f"mesh.v1.{subject}", body)
    assert len(suspects(tape)) == 4


@pytest.mark.parametrize(
    "subject",
    [
        "mesh.v1.reply.a.b.c.d",
        "mesh.v1.quiet.t.any.qa.ping",
        "mesh.v1.probe.t.any.qa",
        "other.v1.call.t.any.qa.ping",
        "mesh.v1.call.t",
        "mesh",
        "mesh.v1.call._xZZ_.any.qa.ping",
        "mesh.v1.call.t.any.qa._x41_",
    ],
)
def test_subjects_that_are_none_of_the_journal(subject: str) -> None:
    tape = Tape()
    tape.put(subject, {"jsonrpc": "2.0", "id": id_of("qa", 1), "method": "ping"})
    assert len(suspects(tape)) == 1


def test_a_header_of_the_brokers() -> None:
    tape = Tape()
    header = {"Nats-Expected-Stream": "JOURNAL"}
    tape.put(Call("t", "any", "qa", "ping"), {"jsonrpc": "2.0", "id": id_of("qa", 1), "method": "ping"}, header)
    tape.reply("qa", "t", {"id": id_of("qa", 1), "result": {}}, header)
    assert suspects(tape) == ["a header of the broker's"] * 2


def test_a_body_that_disagrees_with_its_subject() -> None:
    tape = Tape()
    body = {"jsonrpc": "2.0", "id": id_of("qa", 1), "method": "tools/call", "params": {"name": "rm"}}
    tape.put(Call("t", "any", "qa", "tools/call", "ls"), body)
    tape.put(Call("t", "any", "qa", "tools/list"), body)
    tape.put(Call("t", "any", "qa", "tools/call", "rm"), {"jsonrpc": "2.0", "id": 0, "result": {}})
    tape.put(Note("t", "qa", "notifications/cancelled"), control.resume([id_of("qa", 1)]))
    assert suspects(tape) == [
        "the body's method is not the one in the subject",
        "the body's method is not the one in the subject",
        "an answer on the subject of a request",
        "the body's method is not the one in the subject",
    ]


@pytest.mark.parametrize(
    "id", ["admin.c0.1", "qa.c0", "qa.c0.1.2", "qa.c0.", "qa..1", "qa.c 0.1", "qa.c0.1\n", "", 7, None, "qab.c0.1"]
)  # fmt: skip
def test_an_id_that_is_not_the_callers(id: object) -> None:
    tape = Tape()
    tape.put(Call("t", "any", "qa", "ping"), {"jsonrpc": "2.0", "id": id, "method": "ping"})
    tape.reply("qa", "t", {"id": id, "result": {}})
    tape.reply("qa", "t", {"method": "notifications/progress", "params": {"progressToken": id, "progress": 1}})
    tape.reply("qa", "t", {"method": "notifications/mesh/working", "params": {"exchange": id, "agent": "t", "instance": "i"}})
    tape.reply("qa", "t", {"method": "notifications/message", "params": {}}, {control.EXCHANGE_HEADER: str(id)})
    tape.put(
        Note("t", "qa", "notifications/cancelled"), {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}
    )
    tape.put(Note("t", "qa", control.RESUME), {"jsonrpc": "2.0", "method": control.RESUME, "params": {"exchanges": [id]}})
    assert len(suspects(tape)) == 7


def test_a_frame_without_an_exchange() -> None:
    tape = Tape()
    tape.reply("qa", "t", {"method": "notifications/message", "params": {"level": "info", "data": 1}})
    assert suspects(tape) == ["a frame that names no exchange (Mesh-Exchange)"]


def test_only_the_target_answers() -> None:
    """Another agent may publish replies to this caller, but in its own name only; and its word ends nothing."""
    tape = Tape()
    id = id_of("qa", 1)
    tape.call("qa", "time", id)
    tape.result("qa", "evil", id)
    tape.working("qa", "evil", id, "time", "i9")
    tape.cancel("qa", "evil", id)
    tape.result("qa", "time", id)
    tape.result("qa", "evil", id)
    pairing, (call,) = pair(tape.messages)
    assert (call.seqs, call.instance, call.outcome) == ((1, 5), "", "ok")
    assert [(each.seq, each.reason) for each in pairing.suspects] == [
        (2, "a frame from another than the target"),
        (3, "a frame from another than the target"),
        (4, "a message about a call to another target"),
        (6, "a frame from another than the target"),
    ]
    assert pairing.duplicates == 0


def test_a_cancellation_to_the_agent_that_took_a_call_to_a_role() -> None:
    tape = Tape()
    id = id_of("qa", 1)
    tape.call("qa", "experts", id)
    tape.working("qa", "experts", id, "time", "i1")
    tape.put(Call("time", "i1", "qa", "notifications/cancelled"), control.cancelled(id, "enough"))
    assert one(tape).outcome == "cancelled"


@pytest.mark.parametrize("after_the_end", [False, True])
def test_two_requests_under_one_id(after_the_end: bool) -> None:
    """An instance runs an id once, but another instance would run the other request: so this must be seen."""
    tape = Tape()
    id = id_of("qa", 1)
    tape.call("qa", "time", id, arguments={"a": 1})
    if after_the_end:
        tape.result("qa", "time", id)
    tape.call("qa", "time", id, arguments={"a": 2})
    tape.call("qa", "time", id, instance="i2", arguments={"a": 1})
    pairing, _ = pair(tape.messages)
    assert [each.reason for each in pairing.suspects] == ["a request under the id of another one"] * 2
    assert pairing.resent == 0


@pytest.mark.parametrize(
    "changes",
    [{"caller": "admin"}, {"target": "other"}, {"id": id_of("admin", "q1")}, {"outcome": "fine"}, {"duration_ms": -1}, {"duration_ms": "x"},
     {"duration_ms": 1e300}, {"method": 7}, {"name": 7}, {"bytes_in": -1}, {"bytes_out": None}, {"instance": None}],
)  # fmt: skip
def test_records_that_are_none(changes: dict) -> None:
    tape = Tape()
    tape.record("qa", "time", id_of("qa", "q1"), changes)
    assert len(suspects(tape)) == 1


def test_suspects_are_kept_up_to_a_bound() -> None:
    tape = Tape()
    for _ in range(MOST_SUSPECTS + 50):
        tape.put("mesh.v1.reply.qa.t", b"?")
    pairing, _ = pair(tape.messages)
    assert (pairing.suspect_count, len(pairing.suspects)) == (MOST_SUSPECTS + 50, MOST_SUSPECTS)


KEYS = ["jsonrpc", "id", "method", "params", "result", "error", "name", "data", "mesh", "requestId", "exchanges"]
FAMILIES = ["call.t.any.qa.tools.call.x", "call.t.any.qa.mesh.answer", "note.t.qa.notifications.cancelled", "reply.qa.t", "record.t.qa"]
ATOMS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["qa.c.1", "notifications/cancelled"])
)
TREES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5), max_leaves=12
)
BODIES = TREES.map(lambda value: json.dumps({"jsonrpc": "2.0", **value} if isinstance(value, dict) else value).encode())
HEADERS = st.dictionaries(st.sampled_from([control.EXCHANGE_HEADER, "Nats-TTL", "X"]), st.text(max_size=8), max_size=2)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FAMILIES), BODIES | st.binary(max_size=60), st.none() | HEADERS)
def test_nothing_that_is_stored_can_stop_the_reading(subject: str, body: bytes, headers: dict[str, str] | None) -> None:
    pairing = Pairing(SUBJECTS, counting=Counting())
    pairing.feed(Stored(f"mesh.v1.{subject}", body, headers, 1, 1))
    pairing.settle()
