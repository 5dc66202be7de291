"""When a scheduled message is due: at a time, every so many seconds, or as a cron line says. Pure.

The broker keeps the time (`Nats-Schedule`, NATS ADR-51). It takes cron lines of six fields, seconds first; the usual five are given a
second of 0. Its shortest step is a second, and so is ours. What it does not understand it refuses, and we say so.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from mesh import clock
from mesh.errors import BadSchedule

LONGEST_EVERY: Final = 366 * 86_400
"""Seconds between two. The broker counts in 64 bits of nanoseconds, which end in the year 2262."""

LATEST_NS: Final = 9_000_000_000 * 10**9
"""The same bound for a time, in the year 2255."""

SPAN: Final = r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)"

_CRON: Final = re.compile(r"[0-9A-Za-z*/,?-]+( [0-9A-Za-z*/,?-]+){4,5}").fullmatch
"""Five or six fields. Nothing else may get into a header, least of all `@every 1ns`."""

_SPAN: Final = re.compile(SPAN).fullmatch
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}

_ZONE: Final = re.compile(r"[A-Za-z0-9_+/-]{1,64}").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """One of `at_ns` (nanoseconds since 1970), `every` (seconds) and `cron` is given; `zone` is of a cron line (default: UTC).
    Raises BadSchedule."""

    at_ns: int | None = None
    every: int | None = None
    cron: str | None = None
    zone: str | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.at_ns, self.every, self.cron)) != 1:
            raise BadSchedule("a schedule has one of: a time, a number of seconds, a cron line", hint=_HINT)
        if self.at_ns is not None and not 0 <= self.at_ns < LATEST_NS:
            raise BadSchedule("no message is sent that late, or before 1970", hint=_HINT)
        if self.every is not None and not (type(self.every) is int and 1 <= self.every <= LONGEST_EVERY):
            raise BadSchedule(f"every {self.every!r}: whole seconds, from 1 to {LONGEST_EVERY:,}", hint=_HINT)
        if self.cron is not None and not _CRON(self.cron):
            raise BadSchedule(f"{self.cron!r} is no cron line: minute, hour, day, month, weekday", hint=_HINT)
        if self.zone is not None and (self.cron is None or not _ZONE(self.zone)):
            raise BadSchedule(f"{self.zone!r} is the time zone of no cron line", hint=_HINT)

    @property
    def repeats(self) -> bool:
        return self.at_ns is None

    def headers(self) -> dict[str, str]:
        """What the broker is told."""
        if self.at_ns is not None:
            return {"Nats-Schedule": f"@at {clock.iso(self.at_ns)}"}
        if self.every is not None:
            return {"Nats-Schedule": f"@every {self.every}s"}
        assert self.cron is not None
        fields = self.cron if self.cron.count(" ") == 5 else f"0 {self.cron}"
        return {"Nats-Schedule": fields, **({} if self.zone is None else {"Nats-Schedule-Time-Zone": self.zone})}

    def as_dict(self) -> dict[str, Any]:
        """As it is asked for and shown: `{"at": ISO 8601} | {"every": seconds} | {"cron", "zone"?}`."""
        if self.at_ns is not None:
            return {"at": clock.iso(self.at_ns)}
        if self.every is not None:
            return {"every": self.every}
        return {"cron": self.cron} if self.zone is None else {"cron": self.cron, "zone": self.zone}


def read_when(said: dict[str, Any]) -> When:
    """The reverse of `as_dict`; other members say nothing. Raises BadSchedule."""
    at, every, cron, zone = (said.get(key) for key in ("at", "every", "cron", "zone"))
    if not (isinstance(cron, str | None) and isinstance(zone, str | None)):
        raise BadSchedule("a cron line and its time zone are texts", hint=_HINT)
    return When(at_ns=None if at is None else at_ns(at), every=every, cron=None if cron is None else " ".join(cron.split()), zone=zone)


def read_span(text: str) -> float | None:
    """Seconds of a span as people write it: 90s, 10m, 2h, 1.5d. None for what is none."""
    said = _SPAN(text)
    return None if said is None else float(said[1]) * _SECONDS[said[2]]


def in_a_while(seconds: float, now_ns: int) -> When:
    """Raises BadSchedule."""
    if not abs(seconds) < LATEST_NS / 1e9:
        raise BadSchedule(f"no message is sent in {seconds} seconds", hint=_HINT)
    return When(at_ns=now_ns + round(seconds * 1e9))


def at_ns(text: object) -> int:
    """A time with its zone, ISO 8601. Raises BadSchedule."""
    try:
        at = text if isinstance(text, datetime) else datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadSchedule(f"{text!r} is no time: ISO 8601, with its zone", hint=_HINT)
    return round(at.timestamp() * 1e6) * 1000


_HINT: Final = 'for example at="2026-01-31T12:00:00Z", every=300, or cron="0 9 * * 1-5"'
