"""When a message is due: what is taken, what is refused, and what the broker is told."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mesh.errors import BadSchedule
from mesh.policy.when import When, at_ns, in_a_while, read_when


@pytest.mark.parametrize(
    ("said", "headers"),
    [
        ({"at": "2026-01-31T12:00:00Z"}, {"Nats-Schedule": "@at 2026-01-31T12:00:00.000000Z"}),
        ({"at": "2026-01-31T14:00:00.5+02:00"}, {"Nats-Schedule": "@at 2026-01-31T12:00:00.500000Z"}),
        ({"every": 300}, {"Nats-Schedule": "@every 300s"}),
        ({"cron": "0 9 * * 1-5"}, {"Nats-Schedule": "0 0 9 * * 1-5"}),
        ({"cron": " */5  0 9 * * MON-FRI"}, {"Nats-Schedule": "*/5 0 9 * * MON-FRI"}),
        ({"cron": "0 9 * * *", "zone": "Europe/Berlin"}, {"Nats-Schedule": "0 0 9 * * *", "Nats-Schedule-Time-Zone": "Europe/Berlin"}),
    ],
)
def test_what_the_broker_is_told(said: dict[str, Any], headers: dict[str, str]) -> None:
    when = read_when(said)
    assert when.headers() == headers
    assert read_when(when.as_dict()) == when
    assert when.repeats is ("at" not in said)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"every": 5, "cron": "0 9 * * *"},
        {"every": 0},
        {"every": 0.5},
        {"every": 1.5},
        {"every": True},
        {"every": 10**9},
        {"every": "5"},
        {"cron": "@every 1ns"},
        {"cron": "@at 2020-01-01T00:00:00Z"},
        {"cron": "0 9 * *"},
        {"cron": "0 9 * * *\r\nNats-Schedule-Target: mesh.v1.msg.victim.honest.normal"},
        {"cron": 9},
        {"cron": "0 9 * * *", "zone": "Europe/Berlin\r\nX: y"},
        {"every": 5, "zone": "UTC"},
        {"at": "2026-01-31T12:00:00"},
        {"at": "tomorrow"},
        {"at": "9999-01-01T00:00:00Z"},
        {"at": 1},
    ],
)
def test_what_no_message_can_be_sent_at(said: dict[str, Any]) -> None:
    with pytest.raises(BadSchedule):
        read_when(said)


def test_in_a_while() -> None:
    assert in_a_while(1.5, 10**9) == When(at_ns=2_500_000_000)
    for wrong in (float("nan"), float("inf"), 1e300, -1e300):
        with pytest.raises(BadSchedule):
            in_a_while(wrong, 10**9)


def test_a_time_of_pythons_own() -> None:
    assert When(at_ns=at_ns(datetime(2026, 1, 31, 12, tzinfo=UTC))).as_dict() == {"at": "2026-01-31T12:00:00.000000Z"}
    with pytest.raises(BadSchedule):
        at_ns(datetime(2026, 1, 31, 12, tzinfo=UTC).replace(tzinfo=None))
