"""mesh.wire.jsonrpc: what it finds is what `json.loads` finds, and what it does not touch stays as it was, byte for byte."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mesh.errors import MalformedMessage
from mesh.subjects import NAME_KEYS
from mesh.wire.jsonrpc import Frame, Kind, dumps, error, scan
from tests.json_texts import identifiers, requests, responses

DEEP = 100_000


def read_or_refuse(raw: bytes) -> Frame | None:
    """What any bytes may do: be a frame, or raise MalformedMessage."""
    try:
        return scan(raw)
    except MalformedMessage as problem:
        assert problem.message  # noqa: PT017 - refusing is one of two good ends
        return None


# ---- agreement with json


@given(requests())
def test_a_request_says_what_json_says(raw: bytes) -> None:
    frame, body = scan(raw), json.loads(raw)
    assert frame.kind is (Kind.REQUEST if "id" in body else Kind.NOTIFICATION)
    assert frame.method == body["method"]
    if "id" in body:
        assert frame.id == body["id"]
        assert type(frame.id) is type(body["id"])
    key = NAME_KEYS.get(body["method"])
    assert frame.name == (body["params"][key] if key else None)
    token = body.get("params", {}).get("_meta", {}).get("progressToken")
    if frame.method != "notifications/progress":
        assert frame.token == token
    assert not frame.final


@given(responses())
def test_a_response_says_what_json_says(raw: bytes) -> None:
    frame, body = scan(raw), json.loads(raw)
    assert frame.kind is (Kind.RESULT if "result" in body else Kind.ERROR)
    assert frame.id == body["id"]
    assert frame.final


@given(st.one_of(requests(), responses()), identifiers, identifiers)
def test_a_splice_keeps_every_other_byte(raw: bytes, id: str | int, token: str | int) -> None:
    frame = scan(raw)
    edits = [(frame.token_span, dumps(token)), (frame.id_span, dumps(id))]
    changed = frame.splice(edits)
    pieces, at = [], 0
    for span, new in sorted((span, new) for span, new in edits if span is not None):
        pieces += [raw[at : span[0]], new]
        at = span[1]
    assert changed == b"".join(pieces) + raw[at:]
    again = scan(changed)
    if frame.id_span is not None:
        assert again.id == id
        start, end = frame.id_span
        assert json.loads(raw[start:end]) == frame.id
    if frame.token_span is not None:
        assert again.token == token
    assert (again.method, again.name, again.kind, again.era) == (frame.method, frame.name, frame.kind, frame.era)
    back = again.splice(
        [(again.id_span, raw[slice(*frame.id_span or (0, 0))]), (again.token_span, raw[slice(*frame.token_span or (0, 0))])]
    )
    assert back == raw
    assert frame.splice([(None, b"x")]) == raw


# ---- any bytes at all


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example(b"{")
@example(b'{"')
@example(b'{"a"')
@example(b'{"a":')
@example(b'{"a":1')
@example(b'{"a":1,')
@example(b'{"a":1,}')
@example(b'{"a":"\\ud8')
@example(b'{"\\')
@example(b'{"\\u')
@example(b"{}x")
@example(b"\x00")
def test_any_bytes_are_a_frame_or_refused(raw: bytes) -> None:
    read_or_refuse(raw)


@given(st.one_of(requests(), responses()), st.data())
def test_a_damaged_message_is_a_frame_or_refused(raw: bytes, data: st.DataObject) -> None:
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        match data.draw(st.sampled_from(["cut", "drop", "flip", "double", "insert"])):
            case "cut":
                del damaged[at:]
            case "drop":
                del damaged[at : at + 1]
            case "flip" if damaged:
                damaged[at] = data.draw(st.integers(0, 255))
            case "double":
                damaged[at:at] = damaged[at : at + 20]
            case _:
                damaged[at:at] = data.draw(st.sampled_from([b"{", b"}", b"[", b'"', b"\\", b",", b":", b"\xff", b"\\ud800", b"1E400"]))
    frame = read_or_refuse(bytes(damaged))
    if frame is not None and damaged.isascii():
        body = json.loads(damaged)
        assert frame.method == body.get("method")


@given(st.recursive(st.sampled_from(["{", "[", "}", "]", '"a"', ":", ",", "1", "null", " "]), lambda inner: st.lists(inner).map("".join)))
@settings(max_examples=60)
def test_the_walk_without_recursion_takes_what_json_takes(tail: str) -> None:
    """A prefix that the C scanner refuses brings the second reader in; both must judge what follows alike."""
    deep = "[" * 5_000 + "]" * 5_000
    short = '{"jsonrpc":"2.0","method":"m","x":[0,' + tail + "]}"
    long = '{"jsonrpc":"2.0","method":"m","x":[' + deep + "," + tail + "]}"
    assert (read_or_refuse(short.encode()) is None) is (read_or_refuse(long.encode()) is None)


# ---- what other programs break on


def test_numbers_keep_their_digits() -> None:
    thirty = b"123456789012345678901234567890"
    raw = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t","arguments":{"a":' + thirty + b',"b":1E400,"c":-0}}}'
    assert scan(raw).splice([(scan(raw).id_span, b'"x"')]) == raw.replace(b'"id":7', b'"id":"x"')


def test_five_thousand_digits_pass() -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"n":' + b"9" * 5000 + b"}}"
    assert scan(raw).id == 1
    assert scan(b'{"jsonrpc":"2.0","id":1,"result":' + b"9" * 5000 + b"}").final


@pytest.mark.parametrize("digits", [33, 400, 5000])
def test_an_id_of_so_many_digits_is_refused(digits: int) -> None:
    with pytest.raises(MalformedMessage):
        scan(b'{"jsonrpc":"2.0","id":' + b"9" * digits + b',"method":"m"}')


def test_duplicate_keys_pass_where_nothing_is_decided() -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","extra":1,"extra":2,"params":{"name":"t","a":1,"a":2}}'
    assert scan(raw).name == "t"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}',
        b'{"jsonrpc":"2.0","id":1,"\\u0069d":2,"method":"m"}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","method":"n"}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","m\\u0065thod":"n"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","\\u006eame":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"name":1},"name":"b"}}',
        (
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b","_meta":{'
            b'"io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/clientInfo":{}}}}'
        ),
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"name":1},"arguments":2,"name":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":1},"_meta":{"progressToken":2}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":1,"progressToken":2}}}',
        b'{"jsonrpc":"2.0","id":1,"result":1,"result":2}',
    ],
)
def test_a_key_that_routes_stands_once(raw: bytes) -> None:
    with pytest.raises(MalformedMessage, match="twice"):
        scan(raw)


def test_a_name_is_read_with_its_escapes_and_its_umlauts() -> None:
    for written in (b'"\\u0074\\u00f6\\ud83d\\ude00"', '"tö😀"'.encode(), '"\\u0074ö\\ud83d\\ude00"'.encode()):
        frame = scan(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":' + written + b"}}")
        assert frame.name == "tö😀"


def test_lone_surrogates_pass() -> None:
    raw = b'{"jsonrpc":"2.0","id":"\\ud800","method":"tools/call","params":{"name":"\\udfff","a":"\\ud800"}}'
    frame = scan(raw)
    assert (frame.id, frame.name) == ("\ud800", "\udfff")
    assert frame.splice([(frame.id_span, b"1")]) == raw.replace(b'"\\ud800","m', b'1,"m', 1)


@pytest.mark.parametrize("place", [b'"x":%s', b'"params":{"name":"t","_meta":{"progressToken":5,"x":%s}}', b'"params":{"x":%s,"name":"t"}'])
@pytest.mark.parametrize("open_close", [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_has_no_depth(place: bytes, open_close: tuple[bytes, bytes]) -> None:
    nested = open_close[0] * DEEP + b"1" + open_close[1] * DEEP
    raw = b'{"jsonrpc":"2.0","id":9,"method":"m",' + place % nested + b"}"
    frame = scan(raw)
    assert (frame.id, frame.method) == (9, "m")
    if b"progressToken" in place:
        assert frame.token == 5
    assert frame.splice([(frame.id_span, b"10")]) == raw.replace(b'"id":9', b'"id":10')
    named = scan(raw.replace(b'"m"', b'"tools/call"').replace(b'"x":[', b'"y":[', 1)) if b"name" in place else None
    assert named is None or named.name == "t"
    assert read_or_refuse(raw[:-DEEP]) is None


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80"])
def test_what_is_not_utf8_is_refused(broken: bytes) -> None:
    for raw in (b'{"jsonrpc":"2.0","id":1,"method":"m","x":"' + broken + b'"}', b'{"jsonrpc":"2.0","id":1,"method":"m"}' + broken):
        with pytest.raises(MalformedMessage, match="UTF-8"):
            scan(raw)


@pytest.mark.parametrize("id", [b"null", b"1.5", b"true", b"false", b"1e3", b"[1]", b"{}", b"01", b"+1", b"NaN"])
def test_an_id_is_a_string_or_an_integer(id: bytes) -> None:
    for raw in (b'{"jsonrpc":"2.0","id":' + id + b',"method":"m"}', b'{"jsonrpc":"2.0","id":' + id + b',"result":{}}'):
        with pytest.raises(MalformedMessage):
            scan(raw)


def test_only_an_error_may_have_no_id() -> None:
    assert scan(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}').id is None
    assert scan(b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}').id is None
    with pytest.raises(MalformedMessage):
        scan(b'{"jsonrpc":"2.0","result":{}}')


@pytest.mark.parametrize("version", [b"2.0", b'"2"', b"2", b"null", b'"2.0 "', b'["2.0"]'])
def test_the_version_is_the_string_2_0(version: bytes) -> None:
    with pytest.raises(MalformedMessage):
        scan(b'{"jsonrpc":' + version + b',"id":1,"method":"m"}')


@pytest.mark.parametrize("name", [b"5", b"1.5", b"null", b"true", b"{}", b'["t"]', b"5.0e1"])
@pytest.mark.parametrize("beside", [b"", b',"_meta":{"progressToken":1}'])
def test_a_name_is_a_string(name: bytes, beside: bytes) -> None:
    with pytest.raises(MalformedMessage, match="not a string"):
        scan(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":' + name + beside + b"}}")


@pytest.mark.parametrize("era", [b"20260728", b"null", b"true", b"[]", b"{}"])
@pytest.mark.parametrize("beside", [b"", b',"progressToken":1'])
def test_an_era_that_is_no_string_is_none(era: bytes, beside: bytes) -> None:
    meta = b'{"io.modelcontextprotocol/protocolVersion":' + era + beside + b"}"
    assert scan(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":' + meta + b"}}").era is None


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b'[{"jsonrpc":"2.0","id":1,"method":"m"}]',
        b"1",
        b'"x"',
        b"null",
        b"{}",
        b'{"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":5}',
        b'{"jsonrpc":"2.0","id":1,"method":null}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":null}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m"}{"jsonrpc":"2.0","id":1,"method":"m"}',
        b'{"jsonrpc":"2.0","id":1,"method":"m"} x',
    ],
)
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        scan(raw)


def test_an_error_response_is_one() -> None:
    frame = scan(error(b"5", -32070, "a\nb", {"mesh": "busy"}))
    assert (frame.kind, frame.id) == (Kind.ERROR, 5)
