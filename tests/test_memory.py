"""mesh.policy.memory: what ran once does not run again, and what was cut off early says so. Pure: times are handed in."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.policy.memory import KEEP_FRAME, KEEP_ID, Fate, Memory, Peer

ROOM = 100


def remembered(memory: Memory, peer: Peer) -> int:
    return sum(len(each) for each in peer.ids.values() if isinstance(each, bytes))


def make(**bounds: int) -> tuple[Memory, Peer]:
    memory = Memory(**bounds)
    peer = memory.peers["r"] = Peer("caller", "connection")
    return memory, peer


def test_new_then_running_then_the_frame() -> None:
    memory, peer = make()
    assert memory.fate(peer, "1") is Fate.NEW
    memory.begin(peer, "1", 0.0)
    assert memory.fate(peer, "1") is Fate.RUNNING
    memory.finish(peer, "1", b"frame", 1.0)
    assert memory.fate(peer, "1") == b"frame"
    assert memory.fate(None, "1") is Fate.NEW


def test_a_frame_is_kept_for_its_time_and_the_id_for_longer() -> None:
    memory, peer = make()
    memory.begin(peer, "1", 0.0)
    memory.finish(peer, "1", b"frame", 0.0)
    memory.expire(KEEP_FRAME - 0.1)
    assert memory.fate(peer, "1") == b"frame"
    memory.expire(KEEP_FRAME + 0.1)
    assert memory.fate(peer, "1") is Fate.FORGOTTEN


def test_an_exchange_that_ran_is_never_new_again() -> None:
    """A caller that was stopped for minutes asks when it goes on. "New" would be proof that the call never ran, and it would run twice."""
    memory, peer = make()
    memory.begin(peer, "1", 0.0)
    memory.finish(peer, "1", b"frame", 0.0)
    memory.begin(peer, "2", KEEP_ID)
    memory.finish(peer, "2", b"frame", KEEP_ID)
    memory.expire(KEEP_ID + 1)
    assert memory.fate(peer, "1") is Fate.FORGOTTEN
    assert memory.fate(peer, "3") is Fate.NEW


def test_what_runs_long_is_not_forgotten() -> None:
    memory, peer = make()
    memory.begin(peer, "1", 0.0)
    memory.expire(10 * KEEP_ID)
    assert memory.fate(peer, "1") is Fate.RUNNING
    assert memory.peers


def test_too_many_bytes_cut_off_the_oldest() -> None:
    memory, peer = make(most_bytes=ROOM)
    for number in range(5):
        memory.begin(peer, str(number), 0.0)
        memory.finish(peer, str(number), b"x" * 40, 0.0)
    assert [memory.fate(peer, str(number)) for number in range(3)] == [Fate.FORGOTTEN] * 3
    assert [memory.fate(peer, str(number)) for number in (3, 4)] == [b"x" * 40] * 2


def test_too_many_ids_cut_off_the_oldest_but_not_what_it_was() -> None:
    memory, peer = make(most_ids=3)
    for number in range(1, 8):
        for token in (f"{number}", f"q{number}", f"3-{number}"):
            memory.begin(peer, token, 0.0)
            memory.finish(peer, token, b"x", 0.0)
    for series in ("", "q", "3-"):
        assert memory.fate(peer, f"{series}1") is Fate.FORGOTTEN
        assert memory.fate(peer, f"{series}8") is Fate.NEW
    assert memory.fate(peer, "4-1") is Fate.NEW


def test_peers_that_have_nothing_are_dropped() -> None:
    memory = Memory()
    for number in range(100):
        peer = memory.peers[str(number)] = Peer("caller", str(number))
        memory.begin(peer, "1", 0.0)
        memory.finish(peer, "1", b"x", 0.0)
    memory.expire(KEEP_ID + 1)
    assert not memory.peers


tokens = st.sampled_from([f"{series}{number}" for series in ("", "q", "1-") for number in range(1, 9)])


class Machine(RuleBasedStateMachine):
    """Any order of events: what is remembered of an exchange only ever goes new → running → frame → forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.peer = make(most_bytes=ROOM, most_ids=6)
        self.now = 0.0
        self.running: set[str] = set()
        self.frames: dict[str, bytes] = {}

    @rule(token=tokens)
    def begin(self, token: str) -> None:
        if self.memory.fate(self.peer, token) is Fate.NEW:
            assert token not in self.frames
            assert token not in self.running
            self.memory.begin(self.peer, token, self.now)
            self.running.add(token)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), size=st.integers(1, 60))
    def finish(self, data: st.DataObject, size: int) -> None:
        token = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(token)
        self.frames[token] = b"z" * size
        self.memory.finish(self.peer, token, self.frames[token], self.now)

    @rule(seconds=st.sampled_from([0.0, 1.0, KEEP_FRAME, KEEP_ID / 2]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.memory.expire(self.now)

    @invariant()
    def what_it_says_is_true(self) -> None:
        for token in self.running:
            assert self.memory.fate(self.peer, token) is Fate.RUNNING
        for token, frame in self.frames.items():
            assert self.memory.fate(self.peer, token) in (frame, Fate.FORGOTTEN)
        assert remembered(self.memory, self.peer) <= ROOM
        assert len(self.peer.ids) - len(self.running) <= 6


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_bytes_are_bounded(sizes: list[int]) -> None:
    memory, peer = make(most_bytes=ROOM)
    for number, size in enumerate(sizes):
        memory.begin(peer, str(number), 0.0)
        memory.finish(peer, str(number), b"x" * size, 0.0)
        assert remembered(memory, peer) <= ROOM
    assert memory.fate(peer, str(len(sizes) - 1)) == b"x" * sizes[-1]
