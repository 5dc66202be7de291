"""mesh.subjects: every subject can be read again, means one thing, and is taken by the filters that should take it and by no other."""

import re
from itertools import product

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mesh.errors import Refused, TooLarge
from mesh.subjects import (
    ANSWER,
    LONGEST_METHOD,
    LONGEST_NAME,
    NAME_KEYS,
    PRIORITIES,
    Call,
    Cast,
    Dead,
    Due,
    Event,
    Flow,
    FoldedReply,
    HandledMark,
    Health,
    Job,
    JobState,
    Msg,
    Note,
    Probe,
    Record,
    Registry,
    Reply,
    Schedule,
    SchemaVersion,
    StreamFrame,
    Subject,
    Subjects,
    escape,
    tail,
    unescape,
)

SUBJECTS = Subjects()

texts = st.text(max_size=20)
tricky = st.text(alphabet="x_Xx0A5F.*> /é\ud800", max_size=12)
names = st.one_of(texts, tricky)
topics = st.lists(names, min_size=1, max_size=4).map(".".join)
methods = st.one_of(
    st.sampled_from([*NAME_KEYS, "ping", "server/discover", "notifications/cancelled", ANSWER, "tools/call/x", "tools", "a//b", "/", ""]),
    st.lists(names, max_size=3).map("/".join).filter(lambda text: len(text) < 20),
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    method = draw(methods)
    name = draw(names) if method in NAME_KEYS else None
    return Call(draw(names), draw(names), draw(names), method, name, draw(st.booleans()))


subjects = st.one_of(
    calls(),
    st.builds(Probe, names, names, names),
    st.builds(Note, names, names, methods.filter(lambda method: method not in NAME_KEYS)),
    st.builds(Reply, names, names, names, names),
    st.builds(FoldedReply, names, names),
    st.builds(Record, names, names),
    st.builds(Msg, names, names, st.sampled_from(PRIORITIES)),
    st.builds(Event, names, st.sampled_from(PRIORITIES), topics),
    st.builds(Cast, names, st.sampled_from(PRIORITIES), names),
    st.builds(Job, names, names, st.just("tools/call"), names),
    st.builds(JobState, names, names, names),
    st.builds(StreamFrame, names, names, names, names),
    st.builds(Flow, names, names, names),
    st.builds(Schedule, names, names),
    st.builds(Due, names, names),
    st.builds(HandledMark, names, names),
    st.builds(SchemaVersion, topics, names),
    st.builds(Dead, names, names, names),
    st.builds(Health, names, names),
    st.builds(Registry, names, names),
)


def takes(pattern: str, subject: str) -> bool:
    """NATS's own rule: `*` is one token, `>` one or more at the end."""
    parts = [r"[^.]+" if token == "*" else r".+" if token == ">" else re.escape(token) for token in pattern.split(".")]
    return re.fullmatch(r"\.".join(parts), subject) is not None


# ---- tokens


@given(names)
@example("_x_")
@example("_x41_")
@example("__x41_")
@example("_")
@example("any")
def test_a_token_is_read_again(text: str) -> None:
    token = escape(text)
    assert unescape(token) == text
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)


@given(names, names)
def test_two_names_are_two_tokens(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) is (one == other)


@given(st.text(alphabet="_xX0123456789ABCDEFabcdef-", max_size=14))
@example("_x")
@example("_x110000_")
@example("_x0041_")
@example("_x41")
@example("_x5F_")
@example("")
def test_a_token_that_no_name_makes_is_refused(token: str) -> None:
    try:
        text = unescape(token)
    except Refused:
        return
    assert escape(text) == token


# ---- subjects


@given(subjects)
def test_a_subject_is_read_again(subject: Subject) -> None:
    text = SUBJECTS.build(subject)
    assert SUBJECTS.parse(text) == subject
    assert not re.search(r"[\s*>]|\.\.|^\.|\.$", text)


@given(subjects, subjects)
def test_two_things_are_two_subjects(one: Subject, other: Subject) -> None:
    assume(one != other)
    assert SUBJECTS.build(one) != SUBJECTS.build(other)


@given(st.sampled_from(["tools/call", "resources/read", "tools/call/x", "tools"]), st.sampled_from(["", "x", "tools", "call", "a/b"]))
def test_a_vendor_method_is_never_a_tool(method: str, name: str) -> None:
    other = tail(method, name if method in NAME_KEYS else None)
    assert method in NAME_KEYS or not other.startswith(("tools.call.", "resources.read."))


@given(st.text(max_size=60))
def test_a_text_is_a_subject_or_refused(text: str) -> None:
    for candidate in (text, SUBJECTS.root + text, SUBJECTS.root + "call." + text, SUBJECTS.root + "reply." + text):
        try:
            subject = SUBJECTS.parse(candidate)
        except (Refused, TooLarge):
            continue
        assert SUBJECTS.build(subject) == candidate


@pytest.mark.parametrize("char", ["a", ".", "é", "\ud800"])
def test_a_long_name_becomes_its_digest(char: str) -> None:
    name = char * (LONGEST_NAME + 1)
    text = SUBJECTS.call("t", "any", "c", "tools/call", name)
    assert len(text) < 200
    found = SUBJECTS.parse(text)
    assert isinstance(found, Call)
    assert found.name is not None
    assert re.fullmatch(r"#[0-9a-f]{64}", found.name)
    assert text != SUBJECTS.call("t", "any", "c", "tools/call", name + "b")


def test_a_method_longer_than_any_is_refused() -> None:
    with pytest.raises(TooLarge):
        tail("m" * (LONGEST_METHOD + 1), None)


@pytest.mark.parametrize("prefix", ["", "a.b", "a b", "*", ">", "ä", "a\n"])
def test_a_prefix_is_one_token(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Subjects(prefix)


# ---- filters


@given(subjects, names, names)
def test_a_responders_filters_take_its_own_and_nothing_else(subject: Subject, target: str, instance: str) -> None:
    text = SUBJECTS.build(subject)
    for quiet in (False, True):
        mine = isinstance(subject, Call) and (subject.target, subject.instance, subject.quiet) == (target, instance, quiet)
        assert takes(SUBJECTS.calls_to(target, instance, quiet=quiet), text) is mine
    assert takes(SUBJECTS.probes_to(target, instance), text) is (
        isinstance(subject, Probe) and (subject.target, subject.instance) == (target, instance)
    )
    assert takes(SUBJECTS.notes_to(target), text) is (isinstance(subject, Note) and subject.target == target)


@given(subjects, names, names)
def test_a_callers_filter_takes_its_own_replies_and_nothing_else(subject: Subject, caller: str, connection: str) -> None:
    mine = isinstance(subject, Reply) and (subject.caller, subject.connection) == (caller, connection)
    assert takes(SUBJECTS.replies_to(caller, connection), SUBJECTS.build(subject)) is mine


@given(st.lists(names, min_size=2, max_size=3, unique=True))
def test_filters_of_the_same_name_take_it(pool: list[str]) -> None:
    """The two tests above mostly draw names that differ. Here all pairs of a small pool."""
    for target, caller in product(pool, repeat=2):
        call = SUBJECTS.call(target, "any", caller, "tools/call", "t")
        assert takes(SUBJECTS.calls_to(target, "any"), call)
        reply = SUBJECTS.build(Reply(caller, target, "k", "1"))
        assert takes(SUBJECTS.replies_to(caller, "k"), reply)
        assert reply == SUBJECTS.reply_prefix(caller, target, "k") + "1"
        for other in pool:
            assert takes(SUBJECTS.replies_to(other, "k"), reply) is (other == caller)
            assert takes(SUBJECTS.calls_to(other, "any"), call) is (other == target)
            for bucket in ("health", "registry"):
                copy = f"{SUBJECTS.root}{bucket}.{escape(target)}.i1"
                assert takes(SUBJECTS.bucket_copy(bucket, other), copy) is (other == target)
                assert takes(SUBJECTS.bucket_copy(bucket), copy)


@given(subjects, names)
def test_each_message_is_in_one_lane(subject: Subject, target: str) -> None:
    text = SUBJECTS.build(subject)
    for priority in PRIORITIES:
        of_it = subject.target if isinstance(subject, Msg) and subject.priority == priority else None
        assert takes(SUBJECTS.lanes(priority), text) is (of_it is not None)
        assert takes(SUBJECTS.lane(target, priority), text) is (of_it == target)
    assert takes(SUBJECTS.dead_of(), text) is isinstance(subject, Dead)
    assert takes(SUBJECTS.dead_of(target), text) is (isinstance(subject, Dead) and subject.target == target)


@pytest.mark.parametrize("priority", ["", "urgent", "Normal", "_x_"])
def test_a_message_of_no_priority_is_refused(priority: str) -> None:
    with pytest.raises(Refused):
        SUBJECTS.parse(f"mesh.v1.msg.a.b.{priority}")


@given(subjects)
def test_the_journal_takes_calls_notes_records_and_replies(subject: Subject) -> None:
    text = SUBJECTS.build(subject)
    wanted = isinstance(subject, Note | Record | Reply) or (isinstance(subject, Call) and not subject.quiet)
    assert any(takes(pattern, text) for pattern in SUBJECTS.journaled) is wanted


@given(subjects, names, names)
def test_a_reader_of_the_journal_gets_what_is_between_two(subject: Subject, target: str, caller: str) -> None:
    if isinstance(subject, Reply):
        subject = FoldedReply(subject.caller, subject.target)
    if not isinstance(subject, Call | Note | Record | FoldedReply) or (isinstance(subject, Call) and subject.quiet):
        return
    text = SUBJECTS.build(subject)
    for to, by in product((None, target, subject.target), (None, caller, subject.caller)):
        wanted = to in (None, subject.target) and by in (None, subject.caller)
        assert any(takes(pattern, text) for pattern in SUBJECTS.journal_filters(target=to, caller=by)) is wanted
