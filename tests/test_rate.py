"""Limits on how often: the buckets themselves, on the mesh, and in mesh.toml."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.apart import serve_command
from bridge.app import make_spec
from bridge.arguments import make_parser
from bridge.config import read_file
from mesh import Mesh
from mesh.errors import ConfigError, RateLimited
from mesh.policy.rate import CallLimiter, Limiter, Limits, Rate
from tests.helpers import Recorder, serving
from tests.web_world import call, client, front


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


def test_a_call_that_one_bucket_refuses_takes_a_token_from_none() -> None:
    limiter = CallLimiter(Limits(Rate(3, 60), {"rare": Rate(1, 60)}))
    assert limiter.take("a", "rare", 0.0) is None
    assert limiter.take("a", "rare", 0.0) == (Rate(1, 60), 60.0)
    assert [limiter.take("a", None, 0.0), limiter.take("a", "other", 0.0)] == [None, None]
    assert limiter.take("a", "other", 0.0) == (Rate(3, 60), 20.0)
    assert limiter.take("b", "rare", 0.0) is None


async def test_on_the_mesh(plane: str) -> None:
    """Each caller has its own bucket, a tool may have one besides, and what is refused does not run."""
    recorder, limits = Recorder(), Limits(Rate(4, 3600), {"rare": Rate(1, 3600)})
    async with (
        asyncio.timeout(20),
        serving(plane, "limited", recorder, limits=limits),
        Mesh(name="eager", broker=plane) as eager,
        Mesh(name="other", broker=plane) as other,
    ):
        await eager.call("limited", "rare")
        with pytest.raises(RateLimited) as refused:
            await eager.call("limited", "rare", {"n": "too many"})
        assert refused.value.code == "rate_limited"
        assert refused.value.retryable
        assert 3500 < refused.value.details["retry_after"] <= 3600
        assert "call again in" in refused.value.hint
        for _ in range(3):
            await eager.call("limited", "often")
        with pytest.raises(RateLimited, match="4/h"):
            await eager.call("limited", "often")
        assert "too many" not in recorder.ran
        await other.call("limited", "rare")


async def test_over_http_it_has_a_status(plane: str) -> None:
    async with (
        asyncio.timeout(20),
        serving(plane, "strict", Recorder(), limits=Limits(Rate(1, 3600))),
        front(plane) as url,
        client(url, "strict") as strict,
    ):
        assert (await strict.modern(call(1, "x"))).status_code == 200
        refused = await strict.modern(call(1, "x"))
        assert refused.status_code == 429
        assert 3500 < int(refused.headers["retry-after"]) <= 3600
        assert refused.json()["error"]["data"]["mesh"] == "rate_limited"


def test_in_mesh_toml(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(
        'rate = "9/s"\n[agents.a]\ncommand = "a"\n'
        '[agents.b]\ncommand = "b"\nrate = "5/min"\ntools.t.rate = "1/h"\ntools.u.journal = "none"\n'
    )
    a, b = read_file(file).agents
    assert a.limits == Limits(Rate(9, 1.0))
    assert b.limits == Limits(Rate(5, 60.0), {"t": Rate(1, 3600.0)})
    file.write_text('[agents.a]\ncommand = "a"\n')
    assert read_file(file).agents[0].limits is None
    for wrong in ('rate = "5"\n[agents.a]\ncommand = "a"\n', '[agents.a]\ncommand = "a"\ntools.t.rate = 5\n'):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match=r"mesh\.toml"):
            read_file(file)


def test_a_python_server_of_mesh_toml_has_them_too() -> None:
    """It runs in a process of its own, which is told on its command line."""
    words = serve_command(make_spec(name="scribe", python="scribe:server", rate="2/h", tools={"t": {"rate": "1/h"}}), None)
    parsed = make_parser().parse_args(words[words.index("serve") :])
    assert (parsed.rate, parsed.tool_rate) == ("2/h", ["t=1/h"])
