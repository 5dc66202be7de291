"""Limits on how often: the buckets themselves, on the mesh, and in mesh.toml."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.policy.rate import Limiter, Rate


@pytest.mark.parametrize(("text", "count", "seconds"), [("100/s", 100, 1), ("5/min", 5, 60), ("20/h", 20, 3600)])
def test_a_rate_as_it_is_written(text: str, count: int, seconds: float) -> None:
    assert Rate.parse(text) == Rate(count, seconds)
    assert str(Rate.parse(text)) == text


@pytest.mark.parametrize("text", ["", "5", "0/s", "-1/s", "5/m", "5/ min", "1.5/s", "5/s\n", "\uff19/s", "9999999999/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Rate.parse(text)
    assert "5/min" in caught.value.hint


def test_a_full_bucket_at_once_and_then_as_it_fills() -> None:
    limiter: Limiter[str] = Limiter(Rate(3, 60))
    assert limiter.left("a", 1000.0) == (3, 0.0)
    assert [limiter.take("a", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(20)]
    assert limiter.left("a", 1000.0)[0] == 0
    assert limiter.take("b", 1000.0) == 0.0
    assert limiter.take("a", 1019.0) == pytest.approx(1)
    assert limiter.take("a", 1020.0) == 0.0
    assert limiter.left("a", 1081.0) == (3, 0.0)


def test_what_is_remembered_is_bounded() -> None:
    limiter: Limiter[int] = Limiter(Rate(1, 60), most_keys=2)
    assert [limiter.take(key, 0.0) for key in (1, 2, 3)] == [0.0] * 3
    assert limiter.take(3, 0.0) > 0
    assert limiter.take(2, 0.0) > 0
    assert limiter.take(1, 0.0) == 0.0  # forgotten


@given(st.integers(1, 20), st.floats(0.1, 100), st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_no_window_has_more_than_twice_the_count_and_waiting_is_enough(count: int, seconds: float, pauses: list[float]) -> None:
    limiter: Limiter[None] = Limiter(Rate(count, seconds))
    now, taken = 0.0, []
    for pause in pauses:
        now += pause
        wait = limiter.take(None, now)
        if wait:
            now += wait + 1e-6
            assert limiter.take(None, now) == 0.0
        taken.append(now)
    for begin in taken:
        assert sum(begin <= each < begin + seconds * 0.999 for each in taken) <= 2 * count
