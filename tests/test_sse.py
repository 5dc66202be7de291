"""The event-stream parser: the rules one by one, and any cut of any stream against a plain reading of the rules."""

import collections

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.sse import Event, EventStream
from mesh.errors import TooLarge


def plainly(stream: bytes) -> tuple[list[Event], bytes, int | None]:
    """The rules of the specification, read over a whole stream at once: events, last id, retry."""
    stream = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[Event] = []
    data, kind, id, last, retry = None, b"", b"", b"", None
    for line in stream.split(b"\n")[:-1]:
        if not line:
            last = id
            if data is not None:
                events.append(Event(data, kind or b"message", id))
            data, kind = None, b""
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"data":
            data = value if data is None else data + b"\n" + value
        elif field == b"event":
            kind = value
        elif field == b"id" and b"\0" not in value:
            id = value
        elif field == b"retry" and value.isdigit() and len(value) < 10:
            retry = int(value)
    return events, last, retry


def events_of(stream: bytes) -> list[Event]:
    return EventStream().feed(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_line_end(end: bytes) -> None:
    assert events_of(end.join((b"event: x", b"data: a", b"data: b", b"", b""))) == [Event(b"a\nb", b"x")]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event(b"a")]),
        (b"data:a\n\n", [Event(b"a")]),
        (b"data:  a\n\n", [Event(b" a")]),  # one space belongs to the syntax
        (b"data\n\n", [Event(b"")]),
        (b"data: \n\n", [Event(b"")]),
        (b"data\ndata\n\n", [Event(b"\n")]),
        (b"data: a: b\n\n", [Event(b"a: b")]),
        (b": comment\n\n", []),
        (b"event: x\n\n", []),
        (b"event: x\n\ndata: a\n\n", [Event(b"a")]),  # a type does not outlive its blank line
        (b"unknown: x\n\n", []),
        (b"Data: a\n\n", []),  # names are told apart by case
        (b" data: a\n\n", []),
        (b"data: a", []),
        (b"data: a\n", []),  # no blank line, no event
        (b"\n\n\ndata: a\n\n\n\n", [Event(b"a")]),
        (b"id: 1\ndata: a\n\ndata: b\n\n", [Event(b"a", id=b"1"), Event(b"b", id=b"1")]),
        (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Event(b"a", id=b"1"), Event(b"b")]),
        (b"id: 1\0\ndata: a\n\n", [Event(b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: \xff\xfe\xe2\x80\xa8\n\n", [Event(b"\xff\xfe\xe2\x80\xa8")]),  # bytes stay; U+2028 ends no line
    ],
)
def test_the_rules(stream: bytes, expected: list[Event]) -> None:
    assert events_of(stream) == expected
    assert plainly(stream)[0] == expected


def test_the_place_to_go_on_is_known_once_the_event_is_whole() -> None:
    stream = EventStream()
    assert stream.feed(b"id: 7\ndata: a\n") == []
    assert stream.last_id == b""
    assert stream.feed(b"\n") == [Event(b"a", id=b"7")]
    assert stream.last_id == b"7"
    stream.feed(b"id: 8\n\n")  # no data, but a place
    assert stream.last_id == b"8"


@pytest.mark.parametrize(("value", "retry"), [(b"1500", 1500), (b"0", 0), (b"-1", None), (b"1.5", None), (b"", None), (b"9" * 10, None)])
def test_retry(value: bytes, retry: int | None) -> None:
    stream = EventStream()
    stream.feed(b"retry: " + value + b"\n\n")
    assert stream.retry == retry


def test_a_cr_ends_a_line_before_the_next_byte_comes() -> None:
    stream = EventStream()
    assert stream.feed(b"data: a\r\r") == [Event(b"a")]
    assert stream.feed(b"\n") == []  # it belongs to the CR
    assert stream.feed(b"data: b\r\n\r") == [Event(b"b")]
    assert stream.feed(b"\ndata: c\n\n") == [Event(b"c")]


def test_the_next_connection_keeps_id_and_retry_and_nothing_else() -> None:
    stream = EventStream()
    stream.feed(b"id: 7\nretry: 20\ndata: a\n\nevent: x\nid: 8\ndata: lo")
    following = stream.next()
    assert (following.last_id, following.retry) == (b"7", 20)
    assert following.feed(b"\xef\xbb\xbfdata: b\n\n") == [Event(b"b", id=b"7")]


@pytest.mark.parametrize(
    "stream",
    [b"data: " + b"x" * 100, b"data: " + b"x" * 100 + b"\n\n", b"data: x\n" * 20, b"data\n" * 30, b": " + b"x" * 100, b"id: 1\n" * 30],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_over_the_limit_ends_the_stream(stream: bytes, size: int) -> None:
    parser = EventStream(largest=100)
    with pytest.raises(TooLarge):
        collections.deque(map(parser.feed, [stream[at : at + size] for at in range(0, len(stream), size)]), maxlen=0)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_comments_and_finished_events_do_not_add_up(size: int) -> None:
    stream = (b": " + b"x" * 50 + b"\n") * 20 + (b"data: " + b"x" * 50 + b"\n\n") * 20
    parser = EventStream(largest=100)
    events = [event for at in range(0, len(stream), size) for event in parser.feed(stream[at : at + size])]
    assert len(events) == 20


PIECES = [
    b"data",
    b"id",
    b"event",
    b"retry",
    b":",
    b" ",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"a",
    b"12",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xef",
    b"data: x\n",
]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=40).map(b"".join), st.data())
@example(b"\xef\xbb", None)
def test_any_stream_cut_anywhere(stream: bytes, data: st.DataObject | None) -> None:
    sizes = [1] * len(stream) if data is None else data.draw(st.lists(st.integers(0, 9), max_size=len(stream) + 1))
    parser, events, at = EventStream(), [], 0
    for size in sizes:
        events += parser.feed(stream[at : at + size])
        at += size
    events += parser.feed(stream[at:])
    assert (events, parser.last_id, parser.retry) == plainly(stream)
