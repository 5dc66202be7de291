"""Pairing without a broker: what belongs together is put together, what does not is not believed, what is missing is found."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.audit.calls import JournalCall
from mesh.audit.counting import Counting
from mesh.errors import Disconnected, InstanceLost, OutcomeUnknown
from mesh.link.reader import Stored
from mesh.subjects import ANSWER, Call, Note
from mesh.wire import control
from tests.journal_helpers import Tape, id_of, one, pair

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


@pytest.mark.parametrize("code", [InstanceLost.code, OutcomeUnknown.code, Disconnected.code])
def test_who_gives_a_call_up_since_nobody_is_left_to_answer_has_not_cancelled_it(code: str) -> None:
    tape = Tape()
    tape.call("qa", "time", id_of("qa", 1))
    tape.cancel("qa", "time", id_of("qa", 1), code)
    call = one(tape)
    assert (call.outcome, call.code, call.mesh_code) == ("error", None, code)


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
