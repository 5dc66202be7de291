"""Events as they travel: CloudEvents 1.0 in both modes, strict on what must be there, tolerant of what nobody knows."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError, MalformedMessage
from mesh.wire.event import CONTENT_TYPE, STRUCTURED, Event, encode, is_brokers, new_event, read_event, source_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=6), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.text(st.characters(), min_size=1, max_size=12)
LEAST = {"specversion": "1.0", "id": "1", "source": "/agents/me", "type": "t"}


def read(body: bytes | dict[str, Any], headers: dict[str, str] | None = None, publisher: str = "me") -> Event:
    return read_event(publisher, "build.done", "normal", body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


@pytest.mark.parametrize("binary", [False, True])
@given(NAMES, JSON, NAMES, NAMES, st.none() | NAMES)
def test_what_is_written_is_read_again(binary: bool, publisher: str, data: Any, id: str, type: str, subject: str | None) -> None:
    event = new_event(publisher, "build.done", data, id=id, type=type, subject=subject, extensions={"traceparent": "00-é", "number": 7})
    if binary and any(0xD800 <= ord(each) <= 0xDFFF for each in f"{id}{type}{subject or ''}"):
        with pytest.raises(ConfigError):
            encode(event, binary=True)
        return
    encoded = encode(event, binary=binary)
    again = read(encoded.body, dict(encoded.headers), publisher)
    assert again.data == data
    assert (again.id, again.type, again.subject, again.source) == (id, type, subject, source_of(publisher))
    assert again.extensions == {"traceparent": "00-é", "number": "7" if binary else 7}
    assert again.time_ns == event.time_ns
    assert all(key.isascii() and value.isascii() and value.isprintable() for key, value in encoded.headers.items())


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_in_json_is_refused(binary: bool, number: float) -> None:
    with pytest.raises(ConfigError, match="JSON"):
        encode(new_event("me", "build.done", [number], id="1", type="t"), binary=binary)


@pytest.mark.parametrize("binary", [False, True])
def test_bytes_are_data_too(binary: bool) -> None:
    encoded = encode(new_event("me", "build.done", b"\x00\xff", id="1", type="t"), binary=binary)
    assert read(encoded.body, dict(encoded.headers)).data == b"\x00\xff"
    if not binary:
        assert json.loads(encoded.body)["data_base64"] == base64.b64encode(b"\x00\xff").decode()


def test_the_structured_mode_is_one_object_that_any_reader_of_cloudevents_takes() -> None:
    encoded = encode(new_event("qa/manager", "build.done", {"n": 1}, id="1", type="t", time_ns=1_700_000_000_123_456_000))
    assert encoded.headers == {CONTENT_TYPE: STRUCTURED}
    assert json.loads(encoded.body) == {
        "specversion": "1.0",
        "id": "1",
        "source": "/agents/qa%2Fmanager",
        "type": "t",
        "time": "2023-11-14T22:13:20.123456Z",
        "data": {"n": 1},
    }


def test_modes_are_told_apart_by_their_headers() -> None:
    binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/agents/me", "ce-type": "t", "Ce-Subject": "a%20b"}
    assert read(b"{}", binary).subject == "a b"
    assert read(b"[1]", {**binary, "Content-Type": "application/json; charset=utf-8"}).data == [1]
    assert read(b"plain", {**binary, "content-type": "text/plain"}).data == "plain"
    assert read(b"\xff", {**binary, "ce-datacontenttype": "image/png"}).data == b"\xff"
    assert read(b"", binary).data is None
    assert read({**LEAST, "data": 1}, {**binary, "Content-Type": "application/cloudevents+json; charset=UTF-8"}).data == 1
    assert read({**LEAST, "data": 1}, {"Nats-Msg-Id": "x"}).data == 1
    assert read({**LEAST, "data": 1}).data == 1


def test_unknown_extensions_are_kept_and_data_may_be_missing() -> None:
    event = read({**LEAST, "sequence": 5, "partitionkey": "k", "Odd-Name": [1]})
    assert event.extensions == {"sequence": 5, "partitionkey": "k", "Odd-Name": [1]}
    assert event.data is None
    assert (event.time_ns, event.subject) == (None, None)


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
@pytest.mark.parametrize("instead", [None, "", 1, [], "missing"])
def test_each_required_attribute_must_be_a_text(missing: str, instead: object) -> None:
    said = {**LEAST, missing: instead}
    if instead == "missing":
        del said[missing]
    with pytest.raises(MalformedMessage):
        read(said)


@pytest.mark.parametrize(
    "said",
    [
        {"specversion": "0.3"},
        {"source": "/agents/you"},
        {"source": "/agents/me2"},
        {"source": "/agents/"},
        {"source": "https://example.com/agents/me"},
        {"time": "yesterday"},
        {"time": "2026-02-31T00:00:00Z"},
        {"time": "2026-01-31T00:00:00"},
        {"time": 5},
        {"subject": ""},
        {"dataschema": 5},
        {"datacontenttype": ""},
        {"data_base64": "?"},
        {"data_base64": 5},
        {"data_base64": "AA==", "data": 1},
    ],
    ids=str,
)
def test_what_is_there_must_be_right(said: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        read({**LEAST, **said})


def test_a_source_may_be_a_path_below_its_publisher() -> None:
    assert read({**LEAST, "source": "/agents/me/instances/1"}).source == "/agents/me/instances/1"
    with pytest.raises(MalformedMessage, match="/agents/a%2Fb"):
        read({**LEAST, "source": "/agents/a/b"}, publisher="a/b")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000], ids=lambda body: repr(body[:4]))
def test_what_is_no_event_at_all(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read(body)


@pytest.mark.parametrize("body", [b"", b" ", b'{"type":"io.nats.jetstream.api.v1.pub_ack_response","stream":"EVENTS"}', b'{"error":{}}'])
def test_the_brokers_own_answers_are_known(body: bytes) -> None:
    assert is_brokers(body)
    assert not is_brokers(b'{"specversion":"1.0"}')
    assert not is_brokers(b"no json")
    assert not is_brokers(b"", {"ce-specversion": "1.0"})


@pytest.mark.parametrize("extensions", [{"Upper": 1}, {"with-dash": 1}, {"": 1}, {"type": "x"}, {"data": "x"}, {"list": []}], ids=str)
def test_what_no_extension_may_be_is_refused_before_it_is_sent(extensions: Any) -> None:
    with pytest.raises(ConfigError):
        new_event("me", "t", None, id="1", type="t", extensions=extensions)


@pytest.mark.parametrize("data", [object(), {1j: 2}, {"a": {1, 2}}], ids=["object", "complex key", "set"])
def test_data_that_json_cannot_say_is_refused_before_it_is_sent(data: object) -> None:
    with pytest.raises(ConfigError):
        encode(new_event("me", "t", data, id="1", type="t"))
