"""The pure flow of a stream, over links that lose, double and reorder: nothing lost or doubled, in order, bounded, and always to an end."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.policy import stream_flow
from mesh.policy.stream_flow import ASK, TRANSITIONS, Event, Flow, Kind, State

STEP = 0.05
LAST = 600.0
"""Seconds of the simulated clock in which everything must have ended."""


class Link:
    """One direction. What `fate` says happens to each frame; after `heals` seconds it is a good link."""

    def __init__(self, fate: random.Random, lose: float, double: float, reorder: float, heals: float) -> None:
        self.fate, self.lose, self.double, self.reorder, self.heals = fate, lose, double, reorder, heals
        self.frames: list[bytes] = []

    def put(self, frame: bytes, now: float) -> None:
        bad = now < self.heals
        if bad and self.fate.random() < self.lose:
            return
        for _ in range(2 if bad and self.fate.random() < self.double else 1):
            at = self.fate.randrange(len(self.frames) + 1) if bad and self.fate.random() < self.reorder else len(self.frames)
            self.frames.insert(at, frame)

    def get(self) -> list[bytes]:
        frames, self.frames = self.frames, []
        return frames


class End:
    def __init__(self, flow: Flow, says: list[bytes]) -> None:
        self.flow, self.says, self.heard = flow, list(says), list[bytes]()
        self.ended = False

    def work(self, now: float, reads: int) -> None:
        flow = self.flow
        while self.says and flow.room and flow.abort is None:
            flow.push(Kind.BYTES, self.says.pop(0), now)
        if not self.says and flow.state in (State.OPEN, State.THEIRS_ENDED):
            flow.push(Kind.END, b"", now)
        for _ in range(reads):
            item = flow.take(now)
            if item is None:
                break
            if item.kind is Kind.END:
                self.ended = True
            else:
                self.heard.append(item.body)
        assert flow.waiting <= flow.window + 1
        assert flow.unread_bytes <= flow.window_bytes + 100


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.tuples(st.lists(st.integers(0, 90), max_size=60), st.lists(st.integers(0, 90), max_size=60)),
    window=st.integers(1, 20),
    window_bytes=st.integers(1, 200),
    odds=st.tuples(*[st.sampled_from([0.0, 0.1, 0.4])] * 3),
    reads=st.integers(1, 10),
    limit=st.integers(1, 200),
)
def test_over_a_bad_link_all_comes_once_and_in_order(seed, sizes, window, window_bytes, odds, reads, limit):
    fate = random.Random(seed)
    said = [[bytes([index % 256]) * size for index, size in enumerate(each)] for each in sizes]
    flows = [Flow(0.0, window=window, window_bytes=window_bytes, idle=LAST, opens=opens) for opens in (True, False)]
    ends = [End(flow, each) for flow, each in zip(flows, said, strict=True)]
    lose, double, reorder = odds
    links = [Link(fate, lose, double, reorder, 8.0) for _ in ends]
    now = 0.0
    while now < LAST and not all(each.flow.settled and each.ended for each in ends):
        now += STEP
        for index, each in enumerate(ends):
            for frame in links[1 - index].get():
                each.flow.receive(frame, now)
            each.work(now, reads)
            if each.flow.due() <= now:
                each.flow.tick(now)
            for frame in each.flow.outgoing(now, limit):
                links[index].put(frame, now)
    assert [each.flow.abort for each in ends] == [None, None]
    assert [each.heard for each in reversed(ends)] == said
    assert all(each.ended and each.flow.state is State.OVER for each in ends)


def pair(**options) -> tuple[Flow, Flow]:
    one, other = Flow(0.0, **options), Flow(0.0, opens=False, **options)
    carry(one, other, 0.0)
    return one, other


def carry(one: Flow, other: Flow, now: float) -> list[bytes]:
    """Everything goes over until nobody has anything to say."""
    carried: list[bytes] = []
    while one.has_outgoing or other.has_outgoing:
        for source, target in ((one, other), (other, one)):
            for frame in source.outgoing(now):
                carried.append(frame)
                target.receive(frame, now)
    return carried


def test_every_state_answers_every_event():
    assert TRANSITIONS.keys() == set(State)
    assert all(row.keys() == set(Event) for row in TRANSITIONS.values())


def test_a_sender_without_credit_waits_until_its_reader_takes():
    one, other = pair(window=4)
    for number in range(4):
        assert one.room
        one.push(Kind.TEXT, str(number).encode(), 0.0)
    assert not one.room
    carry(one, other, 0.0)
    assert not one.room  # received, and not taken
    assert other.take(0.0) is not None
    carry(one, other, 0.0)
    assert one.room


def test_what_a_lost_connection_swallowed_is_sent_again_when_it_is_back():
    one, other = pair()
    one.push(Kind.BYTES, b"lost", 1.0)
    one.outgoing(1.0)  # and nobody receives it
    one.resume(2.0)
    carry(one, other, 2.0)
    assert other.take(2.0) == (Kind.BYTES, b"lost")
    other.tick(other.due())
    carry(one, other, 3.0)
    assert one.all_received


def test_messages_that_wait_together_go_in_one_frame():
    one, _ = pair()
    for number in range(20):
        one.push(Kind.BYTES, bytes([number]) * 1024, 0.0)
    assert len([frame for frame in one.outgoing(0.0) if frame[:1] == b"D"]) == 1


def test_who_sends_more_than_was_granted_is_cut_off():
    _, other = pair(window=2)
    greedy = Flow(0.0, window=50)
    greedy.receive(other.grant(), 0.0)
    for _ in range(10):
        greedy.push(Kind.BYTES, b"x", 0.0)
    for frame in greedy.outgoing(0.0):
        other.receive(frame, 0.0)
    assert other.abort is not None
    assert other.abort.code == "stream_refused"
    assert other.waiting == 2


def test_a_grant_for_what_was_never_sent_ends_the_stream():
    one, _ = pair()
    forged = Flow(0.0)
    forged.received = forged.taken = 7
    one.receive(forged.grant(ASK), 0.0)
    assert one.abort is not None
    assert one.abort.code == "stream_refused"


@pytest.mark.parametrize(
    "frame", [b"", b"?", b"D", b"D" + bytes(8) + b"b\x00", b"D" + bytes(8) + b"q" + bytes(4), b"G", b"X", b"X[]", b"X{}"]
)
def test_what_is_no_frame_ends_the_stream_and_nothing_else(frame):
    one, _ = pair()
    one.receive(frame, 0.0)
    assert one.abort is not None
    assert one.abort.code == "stream_refused"


def test_silence_ends_it_and_questions_do_not_count_as_messages():
    one, other = pair(idle=60.0)
    now = 0.0
    while one.abort is None and now < 100:
        now += STEP
        one.tick(now)
        other.tick(now)
        carry(one, other, now)
    assert 59 < now < 61
    assert one.abort is not None
    assert other.abort is not None
    assert {one.abort.code, other.abort.code} == {"stream_idle"}
    dumb = Flow(0.0)
    while dumb.abort is None and now < 100:
        now += STEP
        dumb.tick(now - 60)
        dumb.outgoing(now - 60)
    assert dumb.abort is not None
    assert dumb.abort.code == "stream_lost"


def test_what_is_said_twice_is_no_message():
    one, other = pair(idle=60.0)
    one.push(Kind.TEXT, b"x", 0.0)
    [frame] = [each for each in one.outgoing(0.0) if each[:1] == b"D"]
    for now in range(0, 120, 5):
        other.receive(frame, float(now))
        other.tick(float(now))
    assert other.abort is not None
    assert other.abort.code == "stream_idle"


def test_the_reason_of_an_abort_reaches_the_other_end():
    one, other = pair()
    one.give_up("stream_cancelled", "no longer wanted")
    carry(one, other, 0.0)
    assert other.abort == one.abort
    assert other.settled
    assert other.due() == float("inf")


def test_half_close_leaves_the_other_direction_open():
    one, other = pair()
    one.push(Kind.END, b"", 0.0)
    carry(one, other, 0.0)
    assert (one.state, other.state) == (State.OURS_ENDED, State.THEIRS_ENDED)
    other.push(Kind.TEXT, b"still", 0.0)
    other.push(Kind.END, b"", 0.0)
    carry(one, other, 0.0)
    assert one.take(0.0) == (Kind.TEXT, b"still")
    assert one.state is other.state is State.OVER
    assert one.settled
    assert other.settled


def test_a_steady_stream_needs_few_grants():
    one, other = pair(window=256)
    frames = 0
    for _ in range(50):
        while one.room:
            one.push(Kind.BYTES, bytes(16), 0.0)
        frames += sum(frame[:1] == b"G" for frame in carry(one, other, 0.0))
        while other.take(0.0):
            pass
    assert frames <= 2 * 50
    assert stream_flow.WINDOW == 256
