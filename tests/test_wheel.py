"""mesh.link.wheel: each item is called once, in time, whatever the others do. The clock and the loop's timer are handed in."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import clock
from mesh.link.wheel import SLOT, Wheel


class Item:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.slot = -1


class Time:
    """A clock that stands, and the one timer of a wheel."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.waiting: tuple[float, Callable[[], None]] | None = None
        patch.setattr(clock, "monotonic", lambda: self.now)
        patch.setattr(asyncio, "get_running_loop", lambda: self)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        assert self.waiting is None, "one timer"
        self.waiting = (self.now + delay, callback)
        return self

    def cancel(self) -> None:
        self.waiting = None

    def advance(self, seconds: float) -> None:
        """Let time pass, with the timer in time."""
        end = self.now + seconds
        while self.waiting is not None and self.waiting[0] <= end:
            self.now, callback = self.waiting[0], self.waiting[1]
            self.waiting = None
            callback()
        self.now = end

    def jump(self, seconds: float) -> None:
        """As if the process had been stopped: the timer comes late."""
        self.now += seconds
        if self.waiting is not None:
            callback = self.waiting[1]
            self.waiting = None
            callback()


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


class Due:
    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, item: Item, now: float) -> None:
        self.names.append(item.name)


def test_an_item_is_called_once_in_its_time(time: Time) -> None:
    due = Due()
    wheel: Wheel[Item] = Wheel(due)
    wheel.add(Item("a"), time.now + 1.0)
    time.advance(0.95)
    assert due.names == []
    time.advance(0.05 + 2 * SLOT)
    assert due.names == ["a"]
    time.advance(100)
    assert due.names == ["a"]
    assert time.waiting is None, "a wheel with nothing in it does not turn"


def test_an_item_that_was_removed_is_not_called(time: Time) -> None:
    due = Due()
    wheel: Wheel[Item] = Wheel(due)
    item = Item("a")
    wheel.add(item, time.now + 1.0)
    wheel.remove(item)
    wheel.remove(item)
    time.advance(5)
    assert due.names == []
    wheel.add(item, time.now + 1.0)
    time.advance(5)
    assert due.names == ["a"]


def test_an_item_that_moves_is_called_in_its_new_time_only(time: Time) -> None:
    due = Due()
    wheel: Wheel[Item] = Wheel(due)
    item = Item("a")
    wheel.add(item, time.now + 1.0)
    wheel.move(item, time.now + 3.0)
    time.advance(2.5)
    assert due.names == []
    time.advance(1)
    assert due.names == ["a"]


def test_a_time_that_has_passed_is_due_at_the_next_turn(time: Time) -> None:
    due = Due()
    wheel: Wheel[Item] = Wheel(due)
    wheel.add(Item("later"), time.now + 10.0)
    time.advance(5)
    wheel.add(Item("past"), time.now - 4.0)
    time.advance(2 * SLOT)
    assert due.names == ["past"]


def test_an_item_added_twice_lies_in_one_slot(time: Time) -> None:
    due = Due()
    wheel: Wheel[Item] = Wheel(due)
    item = Item("a")
    wheel.add(item, time.now + 1.0)
    wheel.add(item, time.now + 2.0)
    time.advance(5)
    assert due.names == ["a"]


def test_what_is_due_may_remove_and_move_its_neighbours(time: Time) -> None:
    """All of one exchange's target end together: the first that is due ends the others, which lie in the same slot."""
    called: list[str] = []
    items = [Item(name) for name in "abc"]

    def on_due(item: Item, now: float) -> None:
        called.append(item.name)
        if item.name == "a":
            wheel.remove(items[1])
            wheel.move(items[2], now + 1.0)

    wheel: Wheel[Item] = Wheel(on_due)
    for item in items:
        wheel.add(item, time.now + 1.0)
    time.advance(1.5)
    assert called == ["a"]
    time.advance(1.0)
    assert called == ["a", "c"]
    time.advance(100)
    assert called == ["a", "c"]


def test_a_callback_that_fails_stops_nothing(time: Time) -> None:
    called: list[str] = []

    def on_due(item: Item, now: float) -> None:
        called.append(item.name)
        if item.name == "bad":
            raise RuntimeError("a handler's mistake")

    wheel: Wheel[Item] = Wheel(on_due)
    for name in ("a", "bad", "b"):
        wheel.add(Item(name), time.now + 1.0)
    wheel.add(Item("later"), time.now + 2.0)
    time.advance(5)
    assert called == ["a", "bad", "b", "later"]
    wheel.add(Item("new"), time.now + 1.0)
    time.advance(5)
    assert called[-1] == "new"


def test_a_process_that_was_stopped_finds_everything_that_is_due(time: Time) -> None:
    for pause in (1.0, 3.0, 60.0):
        due = Due()
        wheel: Wheel[Item] = Wheel(due)
        for tenth in range(20):
            wheel.add(Item(str(tenth)), time.now + tenth / 10)
        time.jump(pause)
        time.advance(2.5)
        assert sorted(map(int, due.names)) == list(range(20))


def test_stop_calls_nobody(time: Time) -> None:
    due = Due()
    wheel: Wheel[Item] = Wheel(due)
    wheel.add(Item("a"), time.now + 1.0)
    wheel.stop()
    time.advance(5)
    assert due.names == []
    assert time.waiting is None


@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from(["stay", "remove", "move"]), st.floats(0, 20)), max_size=30), st.floats(0, 5))
def test_any_plan_is_kept(plan: list[tuple[float, str, float]], pause: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        time = Time(patch)
        start = time.now
        called: dict[str, float] = {}
        wanted: dict[str, float] = {}

        def on_due(item: Item, now: float) -> None:
            assert item.name not in called
            called[item.name] = now

        wheel: Wheel[Item] = Wheel(on_due)
        items = []
        for number, (at, what, other) in enumerate(plan):
            item = Item(str(number))
            items.append(item)
            wheel.add(item, start + at)
            wanted[item.name] = start + at
            if what == "move":
                wheel.move(item, start + other)
                wanted[item.name] = start + other
            elif what == "remove":
                wheel.remove(item)
                del wanted[item.name]
        time.jump(pause)
        time.advance(25)
        assert called.keys() == wanted.keys()
        for name, at in wanted.items():
            assert at <= called[name] <= max(at, start + pause) + 3 * SLOT
