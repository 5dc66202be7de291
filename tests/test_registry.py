"""Who is there: the directory, the loss of an instance, and a control plane that may be missing, doubled or late."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh, clock
from mesh.errors import ConfigError, NoSuchAgent, RateLimited
from mesh.link.buckets import Bucket
from mesh.link.jetstream import JetStream
from mesh.registry import presence
from mesh.registry.directory import Agent, Directory
from mesh.registry.plane import MOST_ASKED
from mesh.registry.vitals import LOST_SECONDS
from mesh.subjects import CONTROL_PLANE, key_of
from mesh.topology import HEALTH, REGISTRY, declare
from tests.conftest import Broker
from tests.helpers import (
    CUT_WARNINGS,
    Background,
    Proxy,
    Recorder,
    back,
    control_plane,
    figure,
    live,
    lost,
    serving,
    settled,
    watching,
)

pytestmark = CUT_WARNINGS


def agent_of(directory: Directory, name: str) -> Agent | None:
    return next((agent for agent in directory.agents() if agent.name == name), None)


# ---- coming and going


async def test_an_agent_is_seen_with_what_it_said(plane: str) -> None:
    said: dict[str, Any] = {"title": "Der Zähler", "version": "1.2", "tools": ({"name": "count", "inputSchema": {}},)}
    async with asyncio.timeout(10), Mesh(name="looker", broker=plane) as mesh, watching(mesh) as (directory, signals):
        for name in ("counter", "zähler.*>", "a b", "x" * 100):
            async with serving(plane, name, Recorder(), Recorder(), roles=("clerk", "röle"), entry=said) as presences:
                await signals.until(lambda name=name: len(live(directory, name)) == 2)  # type: ignore[misc]
                agent = agent_of(directory, name)
                assert agent is not None
                assert agent.roles == ("clerk", "röle")
                assert agent.newest.title == "Der Zähler"
                assert agent.newest.tools[0]["name"] == "count"
                assert {each.entry.instance for each in agent.instances} == {each.entry.instance for each in presences}
                assert set(directory.instances_of("clerk")) == set(directory.instances_of(name))
                await presences[0].update(presences[0].entry.model_copy(update={"started_ns": clock.wall_ns(), "title": "new"}))
                await signals.until(lambda name=name: agent_of(directory, name).newest.title == "new")  # type: ignore[misc, union-attr]
            await signals.until(lambda name=name: agent_of(directory, name) is None)  # type: ignore[misc]
        assert "counter" not in [agent.name for agent in directory.agents()]


async def test_names_that_come_close_are_offered(plane: str) -> None:
    async with (
        asyncio.timeout(10),
        Mesh(name="looker", broker=plane) as mesh,
        watching(mesh) as (directory, signals),
        AsyncExitStack() as stack,
    ):
        for name in ("qa-manager", "qa-runner", "Weather", "notes"):
            await stack.enter_async_context(serving(plane, name, Recorder(), roles=("tester",) if name == "notes" else ()))
        await signals.until(lambda: all(live(directory, name) for name in ("qa-manager", "qa-runner", "Weather", "notes")))
        assert directory.close_to("qa-managr")[0] == "qa-manager"
        assert directory.close_to("WEATHER") == ("Weather",)
        assert directory.close_to("testr")[0] == "tester"
        assert directory.close_to("mesj") == ()
        assert directory.close_to("") == ()


async def test_the_control_planes_name_is_taken(plane: str) -> None:
    async with asyncio.timeout(10), Mesh(name="mesh", broker=plane) as mesh:
        with pytest.raises(ConfigError, match="control plane"):
            async with mesh.present(Recorder()):
                pass


@pytest.mark.parametrize(
    "value", [b"", b"garbage", b"{}", b"[]", b"null", b'{"agent":"other","instance":"i1","client":{"server":"x","id":1}}']
)
async def test_nonsense_in_a_bucket_is_nobody(plane: str, value: bytes) -> None:
    async with (
        asyncio.timeout(10),
        Mesh(name="operator", broker=plane) as operator,
        Mesh(name="looker", broker=plane) as mesh,
        watching(mesh) as (directory, signals),
    ):
        js = JetStream(operator.connection)
        for bucket in (HEALTH, REGISTRY):
            await Bucket(js, bucket).put(key_of("nonsense", "i1"), value)
        async with serving(plane, "after", Recorder()):
            await signals.until(lambda: live(directory, "after"))
            assert agent_of(directory, "nonsense") is None
            assert agent_of(directory, "other") is None
            with pytest.raises(NoSuchAgent):
                await mesh.call("nonsense", "x", {})
            async with mesh.directory() as second:
                assert agent_of(second, "nonsense") is None
        for bucket in (HEALTH, REGISTRY):
            await Bucket(js, bucket).delete(key_of("nonsense", "i1"))


# ---- loss


async def test_a_connection_that_breaks_for_a_moment_is_no_loss(plane: str) -> None:
    async with (
        asyncio.timeout(20),
        Mesh(name="looker", broker=plane) as mesh,
        watching(mesh) as (directory, signals),
        Proxy(plane) as proxy,
        serving(proxy.url, "flapper", Recorder()) as [presence],
    ):
        key = key_of("flapper", presence.entry.instance)

        def said(directory: Directory) -> int | None:
            health = directory.health(key)
            return health.client.id if health is not None else None

        await signals.until(lambda: live(directory, "flapper"))
        for _ in range(3):
            number = presence._connection.client_id
            await back(presence._connection, proxy.cut)
            assert presence._connection.client_id != number
            await signals.until(lambda: said(directory) == presence._connection.client_id)
            assert live(directory, "flapper")
        assert not lost(directory, "flapper")


async def test_a_connection_that_breaks_for_good_is_a_loss_and_its_return_a_return(plane: str) -> None:
    async with (
        asyncio.timeout(30),
        Mesh(name="looker", broker=plane) as mesh,
        watching(mesh) as (directory, signals),
        Proxy(plane) as proxy,
        serving(proxy.url, "comet", Recorder()) as [presence],
    ):
        await signals.until(lambda: live(directory, "comet"))
        begun = clock.monotonic()
        proxy.refuse = True
        proxy.cut()
        await signals.until(lambda: not live(directory, "comet"))
        taken = clock.monotonic() - begun
        figure(f"connection cut for good: gone after {taken:.2f} s")
        assert taken < 2.0
        await signals.until(lambda: lost(directory, "comet"))
        agent = agent_of(directory, "comet")
        assert agent is not None
        assert agent.lost[0].lost is not None
        assert "connection ended" in agent.lost[0].lost.reason
        assert agent.newest.instance == presence.entry.instance
        with pytest.raises(NoSuchAgent):
            await mesh.call("comet", "x", {})
        proxy.refuse = False
        await signals.until(lambda: live(directory, "comet") and not lost(directory, "comet"))
        assert "echo" in await mesh.call("comet", "x", {})


async def test_a_loop_that_hangs_is_a_loss(plane: str) -> None:
    """The process lives, its thread could beat, but its event loop does not turn."""
    with Background(lambda: serving(plane, "frozen", Recorder())) as background:
        async with asyncio.timeout(30), Mesh(name="looker", broker=plane) as mesh, watching(mesh) as (directory, signals):
            await signals.until(lambda: live(directory, "frozen"))
            begun = clock.monotonic()
            thaw = background.freeze()
            try:
                await signals.until(lambda: not live(directory, "frozen"))
                taken = clock.monotonic() - begun
                figure(f"event loop blocked: gone after {taken:.2f} s")
                assert 1.5 < taken < 6.5
                await signals.until(lambda: lost(directory, "frozen"))
            finally:
                thaw.set()
            await signals.until(lambda: live(directory, "frozen") and not lost(directory, "frozen"))


async def test_a_busy_second_is_no_loss(plane: str) -> None:
    with Background(lambda: serving(plane, "busy", Recorder())) as background:
        async with asyncio.timeout(30), Mesh(name="looker", broker=plane) as mesh, watching(mesh) as (directory, signals):
            await signals.until(lambda: live(directory, "busy"))
            for _ in range(2):
                thaw = background.freeze()
                asyncio.get_running_loop().call_later(1.0, thaw.set)
                await asyncio.to_thread(thaw.wait)
                assert live(directory, "busy")
            assert not lost(directory, "busy")


# ---- the control plane


async def test_two_control_planes_do_no_harm(plane: str) -> None:
    with Background(lambda: control_plane(plane)):
        async with (
            asyncio.timeout(20),
            Mesh(name="looker", broker=plane) as mesh,
            watching(mesh) as (directory, signals),
            Proxy(plane) as proxy,
        ):
            await signals.until(lambda: len(live(directory, "mesh")) == 2)
            async with serving(proxy.url, "shared", Recorder()):
                await signals.until(lambda: live(directory, "shared"))
                proxy.refuse = True
                proxy.cut()
                await signals.until(lambda: lost(directory, "shared") and not live(directory, "shared"))
                proxy.refuse = False
                await signals.until(lambda: live(directory, "shared") and not lost(directory, "shared"))
            await signals.until(lambda: agent_of(directory, "shared") is None)
            for _ in range(20):
                assert await mesh.request("mesh", "ping") == {}


async def test_the_broker_comes_back_with_an_empty_health_bucket(broker: Broker, plane: str) -> None:
    def restart() -> None:
        broker.stop()
        broker.start()

    async with asyncio.timeout(50), Mesh(name="looker", broker=plane) as mesh, serving(plane, "survivor", Recorder()):  # noqa: SIM117
        async with watching(mesh) as (directory, signals):
            for disturb in (broker.kill, restart):
                await signals.until(lambda: live(directory, "survivor") and live(directory, "mesh"))
                begun = clock.monotonic()
                await asyncio.gather(back(mesh.connection, lambda: None), asyncio.to_thread(disturb))
                await settled(mesh)
                async with watching(mesh) as (fresh, changes):
                    await changes.until(lambda: live(fresh, "survivor") and live(fresh, "mesh"))
                await signals.until(lambda: live(directory, "survivor") and live(directory, "mesh"))
                figure(f"broker back: all seen again after {clock.monotonic() - begun:.2f} s")
                assert "echo" in await mesh.call("survivor", "x", {})


async def test_calls_go_on_while_no_control_plane_runs(tmp_path: Path) -> None:
    broker = Broker(tmp_path / ".mesh")
    await asyncio.to_thread(broker.start)
    try:
        async with (
            asyncio.timeout(20),
            Mesh(name="caller", broker=broker.url) as mesh,
            Mesh(name="operator", broker=broker.url) as operator,
        ):
            async with Mesh(name="mesh", broker=broker.url) as other, other.control_plane():
                assert await mesh.request("mesh", "ping") == {}
            async with serving(broker.url, "alone", Recorder()):
                with pytest.raises(NoSuchAgent):
                    await mesh.request("mesh", "ping")
                assert "echo" in await mesh.call("alone", "x", {})
                begun = clock.monotonic()
                with pytest.raises(NoSuchAgent):
                    await mesh.call("nobody", "x", {})
                assert clock.monotonic() - begun < 0.5
                with pytest.raises(NoSuchAgent) as caught:
                    async with watching(mesh):
                        pass
                assert "mesh up" in caught.value.hint, "only control planes and operators make readers"
                async with watching(operator) as (directory, signals):
                    await signals.until(lambda: live(directory, "alone"))
    finally:
        await asyncio.to_thread(broker.close)


async def test_nobody_has_readers_made_without_end(plane: str) -> None:
    """Each stays for minutes, and the broker takes a number of them: one participant could have all."""
    async with asyncio.timeout(30), Mesh(name="greedy", broker=plane) as greedy, Mesh(name="modest", broker=plane) as modest:
        asked = [greedy.request(CONTROL_PLANE, "mesh/reader", {"bucket": "registry"}) for _ in range(MOST_ASKED.count + 50)]
        made = await asyncio.gather(*asked, return_exceptions=True)
        refused = [each for each in made if isinstance(each, BaseException)]
        assert {type(each) for each in refused} == {RateLimited}
        assert len(refused) > 25
        async with modest.directory() as directory:
            assert directory.instances_of(CONTROL_PLANE)


async def test_who_stays_is_not_forgotten_with_who_left_long_ago(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry forgets what is old, so that a broker that is killed brings nobody back: entries are written again before that."""
    registry = next(each for each in declare().buckets if each.name == REGISTRY)
    assert registry.max_age == LOST_SECONDS >= 2 * (presence.RENEW_SECONDS + presence.LOOK_SECONDS)
    monkeypatch.setattr(presence, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(presence, "RENEW_SECONDS", 0.2)
    async with asyncio.timeout(20), Mesh(name="operator", broker=plane) as mesh, serving(plane, "stays", Recorder()) as (stays,):
        bucket = Bucket(JetStream(mesh.connection), REGISTRY)
        key = key_of("stays", stays.entry.instance)
        written = set[int]()
        while len(written) < 3:
            entry = await bucket.get(key)
            assert entry is not None
            written.add(entry.revision)
            await asyncio.sleep(0.02)
