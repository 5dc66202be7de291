"""Pairing without a broker: what belongs together is put together, what does not is not believed, what is missing is found."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.audit.calls import JournalCall, Missing
from mesh.audit.counting import Counting
from mesh.audit.pairing import MOST_SUSPECTS, Pairing
from mesh.link.reader import Stored
from mesh.subjects import ANSWER, Call, FoldedReply, Note
from mesh.wire import control
from mesh.wire.jsonrpc import dumps
from tests.journal_helpers import SUBJECTS, Tape, id_of


def pair(messages: list[Stored], **options) -> tuple[Pairing, list[JournalCall]]:
    pairing = Pairing(SUBJECTS, **options)
    return pairing, [call for message in messages for call in pairing.feed(message)]


def one(tape: Tape) -> JournalCall:
    pairing, calls = pair(tape.messages)
    assert not pairing.suspects
    assert len(calls) == 1
    return calls[0]


def suspects(tape: Tape) -> list[str]:
    pairing, calls = pair(tape.messages)
    assert calls == []
    assert pairing.open == 0
    return [suspect.reason for suspect in pairing.suspects]


# each outcome


def test_a_call_and_its_result() -> None:
    tape = Tape(first_seq=5)
    id = id_of("qa", 1)
    asked = tape.call("qa", "time", id, name="now", _meta={"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
    answered = tape.result("qa", "time", id, isError=False)
    call = one(tape)
    assert call == JournalCall(
        correlation_id=id,
        time_ns=asked.time_ns,
        caller="qa",
        target="time",
        method="tools/call",
        name="now",
        outcome="ok",
        duration_ms=1.0,
        trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        frames=1,
        bytes_in=len(asked.body),
        bytes_out=len(answered.body),
        seqs=(5, 6),
    )
    shown = call.as_dict()
    assert list(shown)[:8] == ["time", "caller", "target", "method", "name", "outcome", "duration_ms", "correlation_id"]
    assert shown["time"] == "2026-01-31T12:00:00.005000Z"
    assert json.loads(json.dumps(shown)) == shown


def test_a_tool_that_reports_an_error() -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    tape.result("qa", "time", id_of("qa", 1), isError=True)
    assert one(tape).outcome == "tool_error"


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (b'{"content":[],"structuredContent":{"isError":true}}', "ok"),
        (b'{"isError":"true"}', "ok"),
        (b'{"is\\u0045rror":true}', "tool_error"),
        (b'{"n":' + b"9" * 5000 + b',"f":1E400,"s":"\\ud800","isError":true}', "tool_error"),
        (b'{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b',"isError":true}', "tool_error"),
        (b'{"deep":' + b'{"isError":true,"a":' * 50_000 + b"1" + b"}" * 50_000 + b',"text":"\\"isError\\":true"}', "ok"),
        (b"null", "ok"),
        (b"[1]", "ok"),
    ],
)
def test_results_of_any_shape(result: bytes, outcome: str) -> None:
    tape = Tape()
    id = id_of("qa", 1)
    tape.call("qa", "time", id)
    tape.reply("qa", "time", b'{"jsonrpc":"2.0","id":"' + id.encode() + b'","result":' + result + b"}")
    assert one(tape).outcome == outcome


def test_a_json_rpc_error() -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    tape.error("qa", "time", id_of("qa", 1), -32602, "Unknown tool: t", {"x": [1]})
    call = one(tape)
    assert (call.outcome, call.code, call.message, call.mesh_code) == ("error", -32602, "Unknown tool: t", "")


def test_an_error_of_the_mesh() -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    tape.error("qa", "time", id_of("qa", 1), control.MESH_ERROR, "full", {"mesh": "busy"})
    call = one(tape)
    assert (call.outcome, call.code, call.mesh_code) == ("error", control.MESH_ERROR, "busy")


@pytest.mark.parametrize("error", [b"null", b'"no"', b'{"code":1E400,"message":7,"data":"mesh"}', b'{"data":{"mesh":[]}}'])
def test_errors_of_any_shape(error: bytes) -> None:
    tape = Tape()
    id = id_of("qa", 1)
    tape.call("qa", "time", id)
    tape.reply("qa", "time", b'{"jsonrpc":"2.0","id":"' + id.encode() + b'","error":' + error + b"}")
    call = one(tape)
    assert (call.outcome, call.code, call.message, call.mesh_code) == ("error", None, "", "")


def test_a_cancelled_call_stays_cancelled() -> None:
    tape = Tape()
    id = id_of("qa", 1)
    tape.call("qa", "time", id)
    tape.skip(9)
    tape.cancel("qa", "time", id, "the deadline passed")
    tape.result("qa", "time", id)
    pairing, (call,) = pair(tape.messages)
    assert (call.outcome, call.message, call.duration_ms) == ("cancelled", "the deadline passed", 10.0)
    assert (pairing.late, pairing.duplicates, pairing.suspect_count) == (1, 0, 0)


def test_a_call_that_was_cancelled_before_it_arrived() -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    tape.error("qa", "time", id_of("qa", 1), control.REQUEST_TIMEOUT, "cancelled before it arrived", {"mesh": "cancelled"})
    assert one(tape).outcome == "cancelled"


def test_an_open_call() -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    tape.working("qa", "time", id_of("qa", 1), "time", "i1")
    pairing, calls = pair(tape.messages)
    (still,) = pairing.rest()
    assert calls == []
    assert (still.outcome, still.duration_ms, still.instance, still.frames) == ("open", None, "i1", 1)


# all frames of an exchange


def test_every_frame_is_counted() -> None:
    tape = Tape()
    id = id_of("qa", 1)
    header = {control.EXCHANGE_HEADER: id}
    tape.call("qa", "experts", id)
    tape.working("qa", "experts", id, "time", "i7")
    tape.reply("qa", "experts", {"method": "notifications/progress", "params": {"progressToken": id, "progress": 1}})
    tape.reply("qa", "experts", {"method": "notifications/message", "params": {"level": "info", "data": "x"}}, header)
    tape.reply("qa", "experts", {"id": 0, "method": "elicitation/create", "params": {}}, header)
    tape.put(Call("time", "i7", "qa", ANSWER), {"jsonrpc": "2.0", "id": 0, "result": {}}, header)
    tape.put(Call("time", "i7", "qa", "notifications/roots/list_changed"), {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
    tape.put(Note("experts", "qa", control.RESUME), control.resume([id]))
    tape.result("qa", "experts", id)
    pairing, (call,) = pair(tape.messages)
    assert not pairing.suspects
    assert (call.agent, call.instance, call.frames, call.target) == ("time", "i7", 5, "experts")
    assert call.seqs == (1, 2, 3, 4, 5, 6, 8, 9)  # message 7 names no exchange
    assert pairing.unplaced == 1
    assert call.bytes_in == sum(len(tape.messages[at].body) for at in (0, 5))
    assert call.bytes_out == sum(len(tape.messages[at].body) for at in (1, 2, 3, 4, 8))


def test_a_call_to_an_instance_keeps_its_name() -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1), instance="i3")
    tape.working("qa", "time", id_of("qa", 1), "time", "i4")
    tape.result("qa", "time", id_of("qa", 1))
    assert one(tape).instance == "i3"


def test_a_final_frame_that_comes_again_ends_nothing_again() -> None:
    tape = Tape()
    id = id_of("qa", 1)
    tape.call("qa", "time", id)
    tape.result("qa", "time", id)
    tape.result("qa", "time", id)
    tape.result("qa", "time", id)
    pairing, calls = pair(tape.messages)
    assert len(calls) == 1
    assert (pairing.duplicates, pairing.unpaired, pairing.suspect_count) == (2, 0, 0)


def test_a_request_that_is_sent_again_is_one_call() -> None:
    tape = Tape()
    id = id_of("qa", 1)
    first = tape.call("qa", "time", id)
    tape.reply("qa", "time", control.unknown(id, "time", "i1", forgotten=False))
    tape.call("qa", "time", id)
    tape.result("qa", "time", id)
    tape.call("qa", "time", id)
    pairing, (call,) = pair(tape.messages)
    assert (call.time_ns, call.seqs, pairing.resent) == (first.time_ns, (1, 2, 3, 4), 2)


def test_an_answer_that_was_stored_before_its_request() -> None:
    tape = Tape()
    id = id_of("qa", 1)
    tape.working("qa", "time", id, "time", "i1")
    tape.result("qa", "time", id)
    tape.call("qa", "time", id)
    pairing, (call,) = pair(tape.messages)
    assert (call.outcome, call.duration_ms, call.instance, call.frames, pairing.unpaired) == ("ok", 0.0, "i1", 2, 0)


def test_a_record_is_a_whole_call() -> None:
    tape = Tape()
    stored = tape.record("qa", "time", id_of("qa", "q1"), {"outcome": "error", "code": -32602, "duration_ms": 0.5})
    tape.record("qa", "time", id_of("qa", "q1"))
    pairing, (call,) = pair(tape.messages)
    assert call.metadata
    assert (call.outcome, call.code, call.duration_ms, call.instance) == ("error", -32602, 0.5, "i1")
    assert (call.bytes_in, call.bytes_out, call.time_ns) == (10, 20, stored.time_ns - 500_000)
    assert pairing.duplicates == 1


# many callers at once


def test_callers_whose_ids_collide_never_meet() -> None:
    """300 callers, all of which number their calls 1, 2, 3 on a connection of the same name, all in flight together."""
    callers = [f"caller-{n}" for n in range(150)] + [f"ca.ller {n}" for n in range(150)]
    rng = random.Random(1)
    tape = Tape()
    asked = [(caller, number) for number in range(1, 11) for caller in callers]
    for caller, number in asked:
        tape.call(caller, f"agent{number % 3}", id_of(caller, number), name=f"tool of {caller}")
    rng.shuffle(asked)
    for caller, number in asked:
        tape.result(caller, f"agent{number % 3}", id_of(caller, number), isError=number % 2 == 0)
    counting = Counting()
    pairing, calls = pair(tape.messages, counting=counting)
    assert len(calls) == 3000
    assert not pairing.suspects
    assert all(call.name == f"tool of {call.caller}" for call in calls)
    assert all(call.outcome == ("tool_error" if call.correlation_id[-1] in "02468" else "ok") for call in calls)
    assert counting.missing(from_start=True) == ()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_interleaving_pairs_alike(data: st.DataObject) -> None:
    """However exchanges are interleaved, and whatever comes twice, each call ends as its own messages say."""
    count = data.draw(st.integers(1, 8))
    kinds = [data.draw(st.sampled_from(["ok", "tool_error", "error", "cancelled", "open"])) for _ in range(count)]
    lines: list[list[Stored]] = []
    expected = {}
    for at, kind in enumerate(kinds):
        caller, id, tape = f"c{at % 3}", id_of(f"c{at % 3}", at // 3 + 1), Tape()
        tape.call(caller, "time", id)
        for _ in range(data.draw(st.integers(0, 2))):
            tape.working(caller, "time", id, "time", "i1")
        match kind:
            case "ok" | "tool_error":
                tape.result(caller, "time", id, isError=kind == "tool_error")
            case "error":
                tape.error(caller, "time", id)
            case "cancelled":
                tape.cancel(caller, "time", id)
        if kind != "open" and data.draw(st.booleans()):
            tape.messages.append(tape.messages[-1])
        lines.append(tape.messages)
        expected[id] = kind
    left = [at for at, line in enumerate(lines) for _ in line]
    stream = [lines[at].pop(0) for at in data.draw(st.permutations(left))]
    stream = [message._replace(seq=seq, time_ns=seq) for seq, message in enumerate(stream, 1)]
    pairing, calls = pair(stream)
    assert {call.correlation_id: call.outcome for call in [*calls, *pairing.rest()]} == expected
    assert len(calls) + pairing.open == count
    assert pairing.suspect_count == pairing.unpaired == 0


# what is not believed


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


# bounds


def test_the_oldest_open_call_gives_way() -> None:
    tape = Tape()
    for number in range(1, 6):
        tape.call("qa", "time", id_of("qa", number))
    tape.result("qa", "time", id_of("qa", 1))
    pairing, calls = pair(tape.messages, most_open=3)
    assert [(call.correlation_id, call.outcome) for call in calls] == [(id_of("qa", 1), "open"), (id_of("qa", 2), "open")]
    assert pairing.open == 3
    assert pairing.late == 1


def test_only_what_is_chosen_is_kept() -> None:
    tape = Tape()
    for number, name in enumerate(["a", "b", "a"], 1):
        tape.call("qa", "time", id_of("qa", number), name=name)
        tape.result("qa", "time", id_of("qa", number))
    _, calls = pair(tape.messages, choose=lambda part: part.name == "b")
    assert [call.correlation_id for call in calls] == [id_of("qa", 2)]


# what is missing


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
