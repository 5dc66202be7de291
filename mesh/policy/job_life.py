"""The life of a job as a table: in each state, what each event makes of it. Pure.

```
            begin           retry
   queued ─────────▶ running ─────▶ queued
      │                 │ ▲ progress, begin (its worker died, another begins)
      │                 └─┘
      │ cancel, expire, │ finish ▶ done
      │ fail            │ fail ▶ failed      cancel ▶ cancelled      expire ▶ expired
      ▼                 ▼
   cancelled, expired, failed               failed, expired ── redrive ▶ queued
```

Every pair of state and event has an entry. `None` says: it comes too late, and nothing changes. So whichever of two writers is first
decides, as each writes only over the record that it knows (`mesh.jobs.records`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    QUEUED = "queued"
    """It waits for a worker, or for its next attempt."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    """Not tried again: a dead letter."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Its deadline passed: a dead letter, too."""


class Event(StrEnum):
    BEGIN = "begin"
    """A worker begins an attempt."""
    PROGRESS = "progress"
    FINISH = "finish"
    """There is a result."""
    RETRY = "retry"
    """The attempt failed, and there is another one."""
    FAIL = "fail"
    """It failed for good."""
    CANCEL = "cancel"
    """Its caller wants it no more."""
    EXPIRE = "expire"
    REDRIVE = "redrive"
    """An operator sends its dead letter again."""


Q, R, D, F, C, X = State.QUEUED, State.RUNNING, State.DONE, State.FAILED, State.CANCELLED, State.EXPIRED

_OVER: Final[Mapping[Event, State | None]] = dict.fromkeys(Event)

TABLE: Final[Mapping[State, Mapping[Event, State | None]]] = {
    Q: {
        Event.BEGIN: R,
        Event.PROGRESS: None,
        Event.FINISH: None,
        Event.RETRY: None,
        Event.FAIL: F,
        Event.CANCEL: C,
        Event.EXPIRE: X,
        Event.REDRIVE: None,
    },
    R: {
        Event.BEGIN: R,
        Event.PROGRESS: R,
        Event.FINISH: D,
        Event.RETRY: Q,
        Event.FAIL: F,
        Event.CANCEL: C,
        Event.EXPIRE: X,
        Event.REDRIVE: None,
    },
    D: _OVER,
    F: {**_OVER, Event.REDRIVE: Q},
    C: _OVER,
    X: {**_OVER, Event.REDRIVE: Q},
}


def after(state: State, event: Event) -> State | None:
    """The state that follows, or None where the event comes too late and nothing changes."""
    return TABLE[state][event]


def over(state: State) -> bool:
    """Whether nothing follows by itself."""
    return all(TABLE[state][event] is None for event in Event if event is not Event.REDRIVE)
