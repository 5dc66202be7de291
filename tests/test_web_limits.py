"""How many users a front has at once, how often each may ask, and what wrong tokens cost: a real front before a real broker."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from bridge.config import make_http
from bridge.web import door
from bridge.web.guests import Guests
from bridge.web.server import serving as serving_http
from mesh.errors import Busy, ConfigError, NotAdmitted
from mesh.identity.authority import Authority
from mesh.settings import make_settings
from tests.auth_world import ME, OTHER, World, join, made, state_of
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Background
from tests.web_world import call, front

pytestmark = CUT_WARNINGS


@pytest.fixture(scope="module")
def world(broker: Broker, plane: str) -> Iterator[World]:
    with Background(lambda: made(broker)) as background:
        yield background.value


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong tokens of one test do not slow down the next."""
    monkeypatch.setattr(door, "_address", repr)


async def test_connections_of_users_are_bounded(world: World) -> None:
    settings = make_settings(broker=world.broker.url)
    guests = Guests(settings, most=1)
    try:
        async with asyncio.timeout(20):
            first = await guests.enter(ME, None)
            assert await guests.enter(ME, None) is first
            first.held += 1
            with pytest.raises(Busy):
                await guests.enter(OTHER, None)
            first.held -= 1
            other = await guests.enter(OTHER, None)  # nothing was open for the first one
            assert (len(guests), first.left, other.there) == (1, True, True)
            again, once = await asyncio.gather(guests.enter(ME, None), guests.enter(ME, None))
            assert again is once
            with pytest.raises(NotAdmitted):
                await guests.enter("nobody", await _forged(world))
    finally:
        await guests.close()


async def _forged(world: World) -> Path:
    foreign = Authority.open(state_of(world.broker).parent / "foreign", create=True)
    return foreign.issue("nobody").path


async def test_wrong_tokens_are_answered_slowly_and_right_ones_are_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "SLOW", 0.05)
    monkeypatch.setattr(door, "_address", lambda client: "one")
    async with asyncio.timeout(20), front(world.broker.url, auth="token") as url, world.client(token="wrong", url=url) as client:
        seen = [(await client.modern(call(1, "x"))).status_code for _ in range(door.FAILURES.count)]
        assert set(seen) == {401}
        response = await client.modern(call(1, "x"))
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        async with world.client(url=url) as good:
            assert (await good.modern(call(1, "x"))).status_code == 200


async def test_while_many_wrong_tokens_wait_new_ones_are_not_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_SLOW", 0)
    async with asyncio.timeout(20), world.client() as known, world.client(OTHER) as new:
        assert (await new.modern(call(1, "x"))).status_code == 429
        monkeypatch.setattr(door, "MOST_SLOW", 1)
        assert (await known.modern(call(1, "x"))).status_code == 200
        monkeypatch.setattr(door, "MOST_SLOW", 0)
        assert (await known.modern(call(1, "x"))).status_code == 200


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (("10.0.0.7", 5), "10.0.0.7"), (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"), (("::ffff:10.0.0.7", 5), "10.0.0.7"),
        (("fe80::1%eth0", 5), "fe80::/64"), (None, ""), (("unix", None), "unix"),
    ],
)  # fmt: skip
def test_who_counts_as_one_address(client: Any, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert door._address(client) == address


async def test_a_caller_has_so_many_requests(world: World) -> None:
    async with asyncio.timeout(20), front(world.broker.url, auth="token", rate="3/h") as url:  # noqa: SIM117
        async with world.client(url=url) as client, world.client(OTHER, url=url) as other:
            for left in (2, 1, 0):
                response = await client.modern(call(1, "x"))
                assert response.status_code == 200
                assert response.headers["ratelimit-policy"] == '"caller";q=3;w=3600'
                assert response.headers["ratelimit"].startswith(f'"caller";r={left};t=')
            refused = await client.modern(call(1, "x"))
            assert (refused.status_code, refused.json()["error"]["data"]["mesh"]) == (429, "rate_limited")
            assert 0 < int(refused.headers["retry-after"]) <= 1200
            assert refused.headers["ratelimit"].startswith('"caller";r=0;t=')
            with pytest.raises(InvalidStatus) as socket:
                async with join(world, world.token(audience=url), url):
                    pass
            assert socket.value.response.status_code == 429
            assert (await other.modern(call(1, "x"))).status_code == 200


# ---- without tokens


async def test_without_tokens_everybody_is_local_and_on_this_machine(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    async with asyncio.timeout(20), front(world.broker.url, auth="none") as url, world.client(token="any", url=url) as client:
        assert (await client.modern(call(1, "x", {"n": "open"}))).status_code == 200
        assert (await client.http.get(url + "/.well-known/oauth-protected-resource")).status_code == 404
    assert [each.caller for each in world.recorder.calls if b'"open"' in each.frame.raw] == ["local"]
    spec = make_http(host="0.0.0.0", auth="none", behind_proxy=True)
    with pytest.raises(ConfigError, match="this machine only"):
        await serving_http(spec, make_settings(broker=world.broker.url)).__aenter__()
