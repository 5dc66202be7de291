"""What one era says as the other says it: bytes that are not the eras' own stay as they were written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.eras import edit, shapes
from bridge.eras.state import Claim, Sealer, StateRefused, holder_in, holder_of, instance_in
from bridge.eras.words import CACHEABLE, HANDSHAKES, MAY_ASK
from mesh.errors import MalformedMessage
from mesh.wire.jsonrpc import scan

PRECIOUS = (
    b'{"n":123456789012345678901234567890,"x":1E400,"x":-0.0,"s":"\\ud800","nothing":null,  "deep":' + b"[" * 3000 + b"]" * 3000 + b"}"
)
"""What a parser and a printer between them would change."""

META = b'"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"own":1,\
"io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"progressToken":"t","io.modelcontextprotocol/logLevel":"info"}'


def request(params: bytes, method: str = "tools/call") -> bytes:
    return b'{"jsonrpc":"2.0","id":"a.b.1","method":"%s","params":%s}' % (method.encode(), params)


# ---- editing


def test_members_are_found_with_their_offsets() -> None:
    raw = b' { "a" : 1 , "b\\u0063":[{"a":2}],"d":' + PRECIOUS + b"}"
    found = edit.parts(raw)
    assert [(part.key, raw[part.at : part.at + 1]) for part in found] == [("a", b'"'), ("bc", b'"'), ("d", b'"')]
    assert raw[found[2].start : found[2].end] == PRECIOUS
    assert edit.find(raw, "d", "nothing") is not None
    assert edit.find(raw, "d", "nobody") is None
    assert edit.find(raw, "a", "b") is None
    assert edit.parts(b"[1]") == []


@pytest.mark.parametrize("raw", [b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a" 1}', b"{a:1}", b'{"a":1 "b":2'])
def test_what_is_no_object_is_said_to_be_none(raw: bytes) -> None:
    if raw.startswith(b'{"a":1 '):
        assert [part.key for part in edit.parts(raw + b"}")] == ["a", "b"]  # read once already, by the scanner that refuses it
        return
    with pytest.raises(MalformedMessage):
        edit.parts(raw)


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)
)


@given(st.dictionaries(st.text(), json_values), st.sets(st.text()), st.booleans())
def test_cut_and_add_leave_the_rest(value: dict[str, Any], keys: set[str], ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    keys |= set(list(value)[::2])
    assert json.loads(edit.cut(raw, 0, keys)) == {key: each for key, each in value.items() if key not in keys}
    assert json.loads(edit.add(raw, 0, b'"new key":1')) == {"new key": 1, **{k: v for k, v in value.items() if k != "new key"}} | value


# ---- a modern client


def test_a_modern_request_loses_its_envelope_and_nothing_else() -> None:
    raw = request(b'{"name":"t","arguments":' + PRECIOUS + b"," + META + b"}")
    frame = scan(raw)
    wish = shapes.read_wish(frame)
    assert wish == shapes.Wish(b'{"roots":{}}', b'{"name":"c","version":"1"}', "info")
    assert wish.asks == {"roots/list"}
    assert shapes.to_handshake(frame) == request(b'{"name":"t","arguments":' + PRECIOUS + b',"_meta":{"own":1,"progressToken":"t"}}')


def test_a_request_without_params_stays() -> None:
    frame = scan(b'{"jsonrpc":"2.0","id":"a.b.1","method":"tools/list"}')
    assert shapes.to_handshake(frame) == frame.raw
    assert shapes.read_wish(frame) == shapes.Wish()
    assert not shapes.read_wish(frame).asks


@pytest.mark.parametrize("beginning", [b'{"jsonrpc":"2.0","id":"a.b.1","result":', b' {"id": 5,\n"jsonrpc":"2.0", "result" : '])
@pytest.mark.parametrize("method", sorted(CACHEABLE | MAY_ASK | {"vendor/x"}))
def test_a_result_gets_what_the_modern_era_wants(method: str, beginning: bytes) -> None:
    raw = beginning + PRECIOUS + b"}"
    said = shapes.complete(method, scan(raw))
    assert said.startswith(beginning + b'{"resultType":"complete"')
    assert said.endswith(PRECIOUS[1:] + b"}")
    assert (b'"ttlMs":0,"cacheScope":"private"' in said) is (method in CACHEABLE)
    assert shapes.complete(method, scan(said)) == said, "what a server says itself stays"
    assert json.loads(shapes.complete(method, scan(b'{"jsonrpc":"2.0","id":"a","result":{}}')))["result"]["resultType"] == "complete"


def test_errors_and_strange_results_pass() -> None:
    for raw in (b'{"jsonrpc":"2.0","id":"a","error":{"code":1,"message":"result"}}', b'{"jsonrpc":"2.0","id":"a","result":[1]}'):
        assert shapes.complete("tools/list", scan(raw)) == raw


def test_discover_and_initialize_say_the_same_of_a_server() -> None:
    capabilities, info = b'{"tools":{},"x":' + PRECIOUS + b"}", b'{"name":"s","version":"1"}'
    said = b'{"protocolVersion":"2025-06-18","capabilities":' + capabilities + b',"serverInfo":' + info + b',"instructions":"do \\u2603"}'
    found = shapes.discovered(said)
    assert json.loads(found.replace(PRECIOUS, b"0"))["supportedVersions"] == ["2026-07-28", *HANDSHAKES[1:]]
    again = shapes.initialized(found, "2025-03-26", "agent")
    assert again == said.replace(b"2025-06-18", b"2025-03-26")
    assert b'"2025-11-25"' in shapes.initialized(found, "2099-01-01", "agent")
    assert json.loads(shapes.initialized(b"{}", None, "agent"))["serverInfo"] == {"name": "agent", "version": "0"}


def test_questions_and_answers_pass_as_they_are() -> None:
    asked = scan(b'{"jsonrpc":"2.0","id":3,"method":"elicitation/create","params":' + PRECIOUS + b"}")
    raw = shapes.input_required(b'"a.b.1"', {"q": asked}, "state")
    required = shapes.read_required(scan(raw))
    assert required is not None
    assert required.state == b'"state"'
    assert (
        shapes.question("mesh-1", required.questions["q"])
        == b'{"jsonrpc":"2.0","id":"mesh-1","method":"elicitation/create","params":%s}' % PRECIOUS
    )
    host = scan(request(b'{"name":"t","_meta":{"progressToken":"a.b.1"}}'))
    again = scan(shapes.retry(host, b'"a.b.1~1"', b'"e":1', {"q": PRECIOUS}, required.state))
    assert (again.id, again.token, again.name) == ("a.b.1~1", "a.b.1~1", "t")
    assert shapes.read_answers(again) == {"q": PRECIOUS}
    assert b'"_meta":{"e":1,"progressToken"' in again.raw
    assert shapes.to_handshake(again) == request(b'{"name":"t","_meta":{"e":1,"progressToken":"a.b.1~1"}}').replace(
        b'"id":"a.b.1"', b'"id":"a.b.1~1"'
    )


@pytest.mark.parametrize(
    "result", [b'{"resultType":"complete","text":"\\"input_required\\""}', b'{"a":"input_required"}', b'"input_required"']
)
def test_other_results_require_nothing(result: bytes) -> None:
    assert shapes.read_required(scan(b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}")) is None


def test_the_envelope_is_put_where_there_is_room() -> None:
    envelope = shapes.read_envelope(scan(request(b'{"capabilities":{"roots":{}},"clientInfo":{"name":"h"}}', "initialize"))).members("info")
    assert json.loads(b"{" + envelope + b"}") == {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"roots": {}},
        "io.modelcontextprotocol/clientInfo": {"name": "h"},
        "io.modelcontextprotocol/logLevel": "info",
    }
    for raw in (
        b'{"jsonrpc":"2.0","id":"a","method":"tools/list"}',
        request(b"{}", "x"),
        request(b'{"_meta":{}}', "x"),
        request(b'{"_meta":{"a":1},"b":2}', "x"),
    ):
        said = json.loads(shapes.to_modern(raw, envelope))
        assert said["params"]["_meta"].items() >= json.loads(b"{" + envelope + b"}").items()
        before = json.loads(raw)
        assert {**before.get("params", {}), "_meta": {}} == {**said["params"], "_meta": {}}


@pytest.mark.parametrize(
    ("notifications", "found"),
    [
        (b'{"toolsListChanged":true,"promptsListChanged":false,"x":true}', shapes.Filter(frozenset({"toolsListChanged"}), ())),
        (b'{"resourceSubscriptions":["a","b","a"]}', shapes.Filter(frozenset(), ("a", "b"))),
        (b'{"resourceSubscriptions":[1]}', None),
        (b"[]", None),
    ],
)
def test_filters(notifications: bytes, found: shapes.Filter | None) -> None:
    assert shapes.read_filter(scan(request(b'{"notifications":' + notifications + b"}", "subscriptions/listen"))) == found


def test_logs_are_for_those_who_asked_for_them() -> None:
    frame = scan(b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"warning","data":1}}')
    assert [level for level in ("", "debug", "warning", "error") if shapes.is_logged(frame, level)] == ["debug", "warning"]


def test_a_notification_becomes_the_frame_of_a_listen() -> None:
    for raw in (
        b'{"jsonrpc":"2.0","method":"notifications/x"}',
        b'{"jsonrpc":"2.0","method":"notifications/x","params":{"_meta":{"a":1},"uri":"u"}}',
    ):
        assert scan(shapes.stamped(raw, "a.b.1")).subscription == "a.b.1"
    frame = scan(shapes.acknowledged("a.b.1", ["toolsListChanged"], ["u"]))
    assert frame.subscription == "a.b.1"
    assert shapes.read_filter(frame) == shapes.Filter(frozenset({"toolsListChanged"}), ("u",))


# ---- request state

CLAIM = Claim("caller", "tools/call", "t", "caller.c.1", 1)


def test_a_state_says_where_it_belongs_and_nothing_else() -> None:
    sealer = Sealer("über agent", "i1")
    state = sealer.seal(CLAIM, until=10.0)
    assert sealer.open(state, now=9.9) == CLAIM
    assert holder_in(state) == ("über agent", "i1")
    assert instance_in(state) == "i1"
    assert "caller" not in state
    frame = scan(request(b'{"name":"t","requestState":"%s"}' % state.encode()))
    assert holder_of(frame) == ("über agent", "i1")
    assert holder_of(scan(frame.raw.replace(b"tools/call", b"tools/list"))) is None
    assert holder_of(scan(request(b'{"name":"t","requestState":null}'))) is None


def test_a_state_that_is_late_forged_or_anothers_is_refused() -> None:
    sealer = Sealer("agent", "i1", bytes(32))
    state = sealer.seal(CLAIM, until=10.0)
    with pytest.raises(StateRefused, match="late"):
        sealer.open(state, now=10.0)
    for other in (Sealer("agent", "i1"), Sealer("agent", "i2", bytes(32)), Sealer("other", "i1", bytes(32))):
        with pytest.raises(StateRefused):
            other.open(state, now=0.0)
    with pytest.raises(StateRefused):
        Sealer("agent", "i2", bytes(32)).open(state.replace(".i1.", ".i2."), now=0.0)
    for at in range(len(state) - 1):
        wrong = state[:at] + ("A" if state[at] != "A" else "B") + state[at + 1 :]
        with pytest.raises(StateRefused):
            sealer.open(wrong, now=0.0)


@pytest.mark.parametrize(
    "state", ["", "x", "mesh1.", "mesh1.a.b", "mesh1.a.b.c.d", "mesh1.a.b.c d", "mesh1.a_x.b.c" * 2, "mesh1.a.b." + "c" * 70_000]
)
def test_what_servers_make_themselves_names_no_instance(state: str) -> None:
    assert instance_in(state) is None
    with pytest.raises(StateRefused):
        Sealer("a", "b").open(state, now=0.0)
