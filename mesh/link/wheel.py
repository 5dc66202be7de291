"""One timer for many deadlines.

A timer a call would cost more than the call's own bookkeeping: almost every call ends long before its deadline. So items lie in slots of
50 ms, one timer turns the wheel while anything lies in it, and an item that ends in time is taken out of its slot.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import structlog

from mesh import clock

SLOT: Final = 0.05
"""Seconds a slot spans: how late a deadline may be noticed."""

_log = structlog.get_logger("mesh.link")


class Item(Protocol):
    slot: int
    """Which slot it lies in; the wheel's own note. -1: in none."""


T = TypeVar("T", bound=Item)


class Wheel(Generic[T]):
    """Calls `on_due(item, now)` once for each item whose time has come. An item lies in one slot at most."""

    def __init__(self, on_due: Callable[[T, float], None]) -> None:
        self._on_due = on_due
        self._slots: dict[int, dict[T, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._turned = 0

    def add(self, item: T, at: float) -> None:
        """Have `item` called at `at` (monotonic seconds)."""
        if item.slot != -1:
            self.remove(item)
        if self._timer is None:
            self._turned = int(clock.monotonic() / SLOT) - 1
            self._schedule()
        slot = max(int(at / SLOT), self._turned) + 1  # a time that has passed is due at the next turn
        item.slot = slot
        found = self._slots.get(slot)
        if found is None:
            self._slots[slot] = {item: None}
        else:
            found[item] = None

    def remove(self, item: T) -> None:
        found = self._slots.get(item.slot)
        if found is not None:
            found.pop(item, None)
        item.slot = -1

    def move(self, item: T, at: float) -> None:
        self.remove(item)
        self.add(item, at)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(SLOT, self._turn)

    def _turn(self) -> None:
        now = clock.monotonic()
        until = int(now / SLOT)
        due = [slot for slot in self._slots if slot <= until] if until - self._turned > 64 else range(self._turned + 1, until + 1)
        self._turned = until
        for slot in due:
            for item in self._slots.pop(slot, ()):
                if item.slot != slot:
                    continue  # what was due before it took it out, or moved it
                item.slot = -1
                try:
                    self._on_due(item, now)
                except Exception:  # the wheel must turn on for all others
                    _log.exception("what was to happen at a deadline failed")
        if self._slots:
            self._schedule()
        else:
            self._timer = None
