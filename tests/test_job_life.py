"""The table of a job's life: every event in every state."""

from itertools import product

import pytest

from mesh.policy.job_life import TABLE, Event, State, after, over
from mesh.wire.job import OVER

ENDS = {Event.FAIL: State.FAILED, Event.CANCEL: State.CANCELLED, Event.EXPIRE: State.EXPIRED}

FOLLOWS = {
    (State.QUEUED, Event.BEGIN): State.RUNNING,
    (State.RUNNING, Event.BEGIN): State.RUNNING,
    (State.RUNNING, Event.PROGRESS): State.RUNNING,
    (State.RUNNING, Event.FINISH): State.DONE,
    (State.RUNNING, Event.RETRY): State.QUEUED,
    (State.FAILED, Event.REDRIVE): State.QUEUED,
    (State.EXPIRED, Event.REDRIVE): State.QUEUED,
    **{(state, event): end for state in (State.QUEUED, State.RUNNING) for event, end in ENDS.items()},
}


def test_the_table_has_every_pair() -> None:
    assert {(state, event) for state, row in TABLE.items() for event in row} == set(product(State, Event))


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_what_follows(state: State, event: Event) -> None:
    assert after(state, event) == FOLLOWS.get((state, event))


def test_what_is_over_stays_so_unless_it_is_sent_again() -> None:
    assert {state.value for state in State if over(state)} == OVER
    for state, event in product(State, Event):
        if over(state) and event is not Event.REDRIVE:
            assert after(state, event) is None


def test_every_state_is_reached_from_the_first() -> None:
    reached, found = {State.QUEUED}, {State.QUEUED}
    while found:
        found = {next for state in found for event in Event if (next := after(state, event)) is not None} - reached
        reached |= found
    assert reached == set(State)


def test_every_state_that_is_not_over_can_end_each_way() -> None:
    for state in State:
        if not over(state):
            assert {after(state, event) for event in ENDS} == set(ENDS.values())
