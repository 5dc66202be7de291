"""The machines of era translation: every edge of each table is walked, and every edge that a table has not is refused."""

from collections.abc import Mapping
from typing import Any

import pytest

from bridge.eras import conversation, interest, rounds, standing
from bridge.eras.conversation import Conversation
from bridge.eras.machine import Impossible, Machine
from bridge.eras.rounds import MOST_ROUNDS, Rounds
from mesh.wire.jsonrpc import Frame, scan

MODULES: list[Any] = [conversation, rounds, interest, standing]

EDGES = [(module, state, event) for module in MODULES for state in module.State for event in module.Event]


def _id(value: Any) -> str:
    return str(value).removeprefix("<module 'bridge.eras.").partition("'")[0]


@pytest.mark.parametrize(("module", "state", "event"), EDGES, ids=_id)
def test_every_edge_is_walked_and_every_missing_one_refused(module: Any, state: Any, event: Any) -> None:
    machine: Machine[Any, Any, Any] = Machine(module.TABLE, state)
    edge = module.TABLE[state].get(event)
    if edge is None:
        with pytest.raises(Impossible):
            machine.on(event)
        assert machine.state is state
    else:
        assert machine.on(event) is edge[1]
        assert machine.state is edge[0]


@pytest.mark.parametrize("module", MODULES, ids=_id)
def test_every_state_is_reached_and_every_action_used(module: Any) -> None:
    table: Mapping[Any, Mapping[Any, tuple[Any, Any]]] = module.TABLE
    assert set(table) == set(module.State)
    reached, new = set(), {next(iter(module.State))}
    while new:
        reached |= new
        new = {edge[0] for state in new for edge in table[state].values()} - reached
    assert reached == set(module.State)
    assert {edge[1] for edges in table.values() for edge in edges.values()} == set(module.Do)


# ---- a modern call that is asked back


def asking(number: int) -> Frame:
    return scan(b'{"jsonrpc":"2.0","id":%d,"method":"elicitation/create","params":{}}' % number)


def running() -> Conversation:
    talk = Conversation()
    assert talk.on(conversation.Event.READY) is conversation.Do.SEND
    return talk


def test_a_question_a_retry_and_the_answer() -> None:
    talk = running()
    question = asking(7)
    assert talk.asked(question) is conversation.Do.ASK
    assert talk.round == 1
    (key,) = talk.open
    assert talk.retried({key: b"{}", "of nobody": b"1"}) == (conversation.Do.ANSWER, [(question, b"{}")])
    assert talk.open == {}
    assert talk.on(conversation.Event.ANSWERED) is conversation.Do.FINISH
    assert talk.over


def test_what_a_retry_leaves_out_is_asked_again_and_what_came_meanwhile_too() -> None:
    talk = running()
    first, second, third = asking(1), asking(2), asking(3)
    talk.asked(first)
    assert talk.asked(second) is conversation.Do.QUEUE
    (one,) = talk.open
    assert talk.retried({one: b"1"}) == (conversation.Do.ANSWER_AND_ASK, [(first, b"1")])
    assert list(talk.open.values()) == [second]
    talk.asked(third)
    (two,) = talk.open
    assert talk.retried({}) == (conversation.Do.ANSWER_AND_ASK, [])
    assert list(talk.open.values()) == [second, third]
    assert talk.round == 3
    keys = list(talk.open)
    assert keys[0] == two, "a question keeps its key"
    assert talk.retried(dict.fromkeys(keys, b"2"))[0] is conversation.Do.ANSWER
    assert talk.state is conversation.State.RUNNING


def test_a_question_that_the_server_takes_back_is_not_asked_again() -> None:
    talk = running()
    talk.asked(asking(1))
    talk.asked(asking(2))
    talk.withdrawn(1)
    talk.withdrawn(2)
    assert talk.retried({}) == (conversation.Do.ANSWER, [])


def test_an_answer_that_came_while_nobody_waited_is_kept_for_the_retry() -> None:
    talk = running()
    talk.asked(asking(1))
    assert talk.on(conversation.Event.ANSWERED) is conversation.Do.KEEP
    assert talk.on(conversation.Event.DIED) is conversation.Do.NOTHING
    assert talk.retried({})[0] is conversation.Do.DELIVER
    assert talk.over


def test_a_call_without_a_question_cannot_be_retried() -> None:
    with pytest.raises(Impossible):
        running().retried({})


# ---- a handshake call whose server wants input


def test_all_questions_are_answered_before_the_retry() -> None:
    call = Rounds()
    assert call.asked({"mesh-1": "a", "mesh-2": "b"}) is rounds.Do.ASK
    assert call.answered("mesh-2", b"2") is rounds.Do.NOTHING
    with pytest.raises(KeyError):
        call.answered("mesh-2", b"2")
    assert call.answered("mesh-1", b"1") is rounds.Do.RETRY
    assert call.answers == {"a": b"1", "b": b"2"}
    assert call.on(rounds.Event.COMPLETE) is rounds.Do.FINISH


def test_a_refusal_ends_the_call_and_leaves_the_others_to_be_withdrawn() -> None:
    call = Rounds()
    call.asked({"mesh-1": "a", "mesh-2": "b"})
    assert call.answered("mesh-1", None) is rounds.Do.REFUSE
    assert list(call.open) == ["mesh-2"]
    with pytest.raises(Impossible):
        call.answered("mesh-2", b"2")


def test_a_server_that_only_wants_to_be_asked_again_is_given_more_and_more_time() -> None:
    call = Rounds()
    pauses = []
    for _ in range(4):
        assert call.asked({}) is rounds.Do.PAUSE
        pauses.append(call.pause)
        assert call.on(rounds.Event.AGAIN) is rounds.Do.RETRY
    assert pauses == [0.05, 0.1, 0.2, 0.25]
    call.asked({"mesh-1": "a"})
    call.answered("mesh-1", b"1")
    call.asked({})
    assert call.pause == 0.05


def test_a_server_that_asks_without_end_is_given_up() -> None:
    call = Rounds()
    for number in range(MOST_ROUNDS):
        assert call.asked({f"mesh-{number}": "a"}) is rounds.Do.ASK
        call.answered(f"mesh-{number}", b"1")
    assert call.asked({"mesh-x": "a"}) is rounds.Do.GIVE_UP
