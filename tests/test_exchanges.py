"""Calls over connections that break: each comes to its result, once, or to an error that says what happened."""

import asyncio
import random
import statistics
from collections.abc import Awaitable
from functools import partial
from typing import Any

import pytest

from mesh import Mesh, clock
from mesh.errors import BrokerUnavailable, CallTimeout, Disconnected, InstanceLost, NoSuchAgent
from mesh.link.call import Call
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Proxy, Recorder, arguments_of, back, figure, finish, hold, live, serving, settled, up, watching

pytestmark = CUT_WARNINGS


async def square(_: Recorder, call: Call) -> None:
    """Takes as long as it is told to, so that many calls are under way at each cut."""
    await asyncio.sleep(arguments_of(call)["wait"])
    finish(call, {"square": arguments_of(call)["n"] ** 2})


class Load:
    """Callers that call one after another until told to stop, and note each result."""

    def __init__(self, mesh: Mesh, agent: str, seed: int = 1, callers: int = 30) -> None:
        self.mesh = mesh
        self.agent = agent
        self.results: dict[int, Any] = {}
        self.failed: dict[int, Exception] = {}
        self.not_sent = 0
        self._callers = callers
        self._random = random.Random(seed)
        self._stop = False
        self._next = 0

    async def run(self, trouble: Awaitable[object]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._callers):
                group.create_task(self._call_on())
            await trouble
            self._stop = True

    async def _call_on(self) -> None:
        while not self._stop:
            self._next += 1
            n = self._next
            arguments = {"n": n, "wait": self._random.choice([0, 0.001, 0.01, 0.05, 0.1])}
            while n not in self.results and n not in self.failed:
                try:
                    self.results[n] = await self.mesh.call(self.agent, "square", arguments, timeout=30)
                except BrokerUnavailable:  # refused before anything was sent
                    self.not_sent += 1
                    await up(self.mesh.connection)
                except Exception as error:
                    self.failed[n] = error

    def check(self, *recorders: Recorder) -> None:
        ran: dict[int, int] = {}
        for recorder in recorders:
            for n, times in recorder.ran.items():
                ran[n] = ran.get(n, 0) + times
        assert self.failed == {}
        assert [n for n, times in ran.items() if times > 1] == [], "these ran twice"
        assert self.results == {n: {"square": n**2} for n in range(1, self._next + 1)}
        assert ran.keys() == self.results.keys()

    def __str__(self) -> str:
        return f"{len(self.results)} calls, {len(self.failed)} failed, {self.not_sent} refused unsent"


def more_than(calls: list[Call], wanted: int) -> bool:
    return len(calls) > wanted


async def cut(proxy: Proxy, times: int, *, seed: int, shortest: float = 0.0, longest: float) -> None:
    """Cut at random moments."""
    rng = random.Random(seed)
    while times:
        await asyncio.sleep(rng.uniform(shortest, longest))
        times -= 1 if proxy.cut() else 0


# ---- nobody there


async def test_a_call_to_nobody_fails_at_once_with_the_names_that_come_close(plane: str) -> None:
    async with (
        asyncio.timeout(20),
        serving(plane, "weather", Recorder(), roles=("oracle",)),
        Mesh(name="caller", broker=plane) as mesh,
        watching(mesh) as (directory, signals),
    ):
        await signals.until(lambda: live(directory, "weather"))
        taken = []
        for number in range(21):
            begun = clock.monotonic()
            with pytest.raises(NoSuchAgent, match="nobody answers") as caught:
                await mesh.call("waether" if number % 2 else "orakle", "x", {})
            taken.append(clock.monotonic() - begun)
            assert caught.value.details["close"] == ["weather" if number % 2 else "oracle"]
        with pytest.raises(NoSuchAgent) as caught:
            await mesh.call("qqqqqqqq", "x", {})
        assert not caught.value.details.get("close")
    figure(f"no such agent: median {statistics.median(taken) * 1000:.1f} ms, worst {max(taken) * 1000:.1f} ms")
    assert statistics.median(taken) < 0.05
    assert max(taken) < 1.0


async def test_an_agent_that_leaves_ends_its_calls_and_is_nobody_from_then_on(plane: str) -> None:
    async with asyncio.timeout(10), Mesh(name="caller", broker=plane) as mesh, Mesh(name="leaver", broker=plane) as serving:
        async with serving.present(recorder := Recorder(hold)):
            call = asyncio.create_task(mesh.call("leaver", "x", {}))
            await recorder.signals.until(lambda: recorder.calls)
        with pytest.raises(InstanceLost, match="being stopped"):
            await call
        assert recorder.cancelled
        with pytest.raises(NoSuchAgent):
            await mesh.call("leaver", "x", {})
        with pytest.raises(NoSuchAgent):
            await mesh.call("leaver", "x", {})


# ---- ends


async def test_a_cancelled_call_ends_at_the_agent(plane: str) -> None:
    async with asyncio.timeout(10), serving(plane, "slow", recorder := Recorder(hold)), Mesh(name="caller", broker=plane) as mesh:
        for _ in range(2):
            call = asyncio.create_task(mesh.call("slow", "x", {}))
            await recorder.signals.until(lambda: len(recorder.calls) > len(recorder.cancelled))
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await recorder.signals.until(lambda: len(recorder.calls) == len(recorder.cancelled))


async def test_a_deadline_ends_both_sides(plane: str) -> None:
    async with asyncio.timeout(10), serving(plane, "slow", recorder := Recorder(hold)), Mesh(name="caller", broker=plane) as mesh:
        begun = clock.monotonic()
        with pytest.raises(CallTimeout, match=r"within 0\.7 s"):
            await mesh.call("slow", "x", {}, timeout=0.7)
        assert 0.6 < clock.monotonic() - begun < 1.5
        await recorder.signals.until(lambda: recorder.cancelled)


@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_a_deadline_that_has_passed_ends_the_call(plane: str, timeout: float) -> None:
    async with asyncio.timeout(5), serving(plane, "slow", Recorder(hold)), Mesh(name="caller", broker=plane) as mesh:
        with pytest.raises(CallTimeout):
            await mesh.call("slow", "x", {}, timeout=timeout)


async def test_progress_renews_the_deadline(plane: str) -> None:
    async def work(_: Recorder, call: Call) -> None:
        for step in range(1, 6):
            await asyncio.sleep(0.3)
            said = b'{"progressToken":"%s","progress":%d,"total":5,"message":"\\u2603"}' % (call.id.encode(), step)
            call.emit(b'{"jsonrpc":"2.0","method":"notifications/progress","params":' + said + b"}", named=True)
        finish(call, {"done": True})

    async with asyncio.timeout(10), serving(plane, "stepper", Recorder(work)), Mesh(name="caller", broker=plane) as mesh:
        heard: list[Any] = []
        result = await mesh.call("stepper", "x", {}, timeout=0.9, progress=lambda *said: heard.append(said))
        assert result == {"done": True}
        assert heard == [(step, 5, "☃") for step in range(1, 6)]
        with pytest.raises(CallTimeout):
            await mesh.call("stepper", "x", {}, timeout=0.9)


async def test_hundreds_of_callers_whose_ids_collide_get_their_own_answers(plane: str) -> None:
    """Each caller counts its exchanges from one. What differs is who called, over which connection."""
    async with asyncio.timeout(30), Mesh(name="sorter", broker=plane) as serving, serving.present(recorder := Recorder()):
        meshes = [Mesh(name=f"caller{number % 10}", broker=plane) for number in range(40)]
        for mesh in meshes:
            await mesh.__aenter__()
        try:
            plan = [(mesh, f"{number}.{turn}") for turn in range(10) for number, mesh in enumerate(meshes)]
            results = await asyncio.gather(*(mesh.call("sorter", "x", {"n": n}) for mesh, n in plan))
            assert results == [{"echo": {"n": n}} for _, n in plan]
            assert set(recorder.ran.values()) == {1}
            assert len({call.exchange for call in recorder.calls}) == 10
        finally:
            for mesh in meshes:
                await mesh.__aexit__(None, None, None)


async def test_large_answers_push_no_other_out_of_the_memory(plane: str) -> None:
    async def work(_: Recorder, call: Call) -> None:
        finish(call, {"x": "x" * arguments_of(call)["n"]})

    async with asyncio.timeout(20), serving(plane, "wide", Recorder(work)) as [presence], Mesh(name="caller", broker=plane) as mesh:
        assert await mesh.call("wide", "x", {"n": 5}) == {"x": "xxxxx"}
        for _ in range(12):
            assert len((await mesh.call("wide", "x", {"n": 2_000_000}))["x"]) == 2_000_000
        memory = presence._responder._memory
        kept = sum(len(each) for peer in memory.peers.values() for each in peer.ids.values() if isinstance(each, bytes))
        assert memory._bytes == kept < 20_000


# ---- connections that break


async def test_a_caller_cut_off_a_hundred_times_loses_nothing(plane: str) -> None:
    recorder = Recorder(square)
    async with asyncio.timeout(50), Proxy(plane) as proxy, serving(plane, "cut1", recorder), Mesh(name="caller", broker=proxy.url) as mesh:
        load = Load(mesh, "cut1")
        await load.run(cut(proxy, 100, seed=1, longest=0.1))
    figure(f"caller cut 100 times: {load}")
    load.check(recorder)


async def test_a_caller_of_a_pool_cut_off_loses_nothing(plane: str) -> None:
    one, other = Recorder(square), Recorder(square)
    async with (
        asyncio.timeout(50),
        Proxy(plane) as proxy,
        serving(plane, "cut2", one, other),
        Mesh(name="caller", broker=proxy.url) as mesh,
    ):
        load = Load(mesh, "cut2")
        await load.run(cut(proxy, 12, seed=2, longest=0.2))
    figure(f"caller of a pool cut 12 times: {load}")
    load.check(one, other)
    assert one.ran
    assert other.ran


async def test_a_serving_side_that_is_cut_off_loses_nothing(plane: str) -> None:
    recorder = Recorder(square)
    async with asyncio.timeout(50), Proxy(plane) as proxy, serving(proxy.url, "cut3", recorder), Mesh(name="caller", broker=plane) as mesh:
        load = Load(mesh, "cut3")
        await load.run(cut(proxy, 4, seed=3, shortest=0.4, longest=0.8))
    figure(f"serving side cut 4 times: {load}")
    load.check(recorder)


async def test_both_sides_cut_off_lose_nothing(plane: str) -> None:
    recorder = Recorder(square)
    async with (
        asyncio.timeout(50),
        Proxy(plane) as proxy,
        serving(proxy.url, "cut4", recorder),
        Mesh(name="caller", broker=proxy.url) as mesh,
    ):
        load = Load(mesh, "cut4")
        await load.run(cut(proxy, 4, seed=4, shortest=0.4, longest=0.8))
    figure(f"both sides cut 4 times: {load}")
    load.check(recorder)


async def test_calls_outlive_the_death_of_the_broker(broker: Broker, plane: str) -> None:
    recorder = Recorder(square)
    async with asyncio.timeout(50), serving(plane, "cut5", recorder), Mesh(name="caller", broker=plane) as mesh:
        load = Load(mesh, "cut5")

        async def kill() -> None:
            for _ in range(2):
                # After a restart it takes a moment until all who may hold a call are known, and a loss can be proven again.
                await recorder.signals.until(lambda: (target := mesh.exchanges.targets.fresh("cut5")) is not None and target.complete)
                wanted = len(recorder.calls) + 500
                await recorder.signals.until(partial(more_than, recorder.calls, wanted))
                await back(mesh.connection, broker.kill)

        await load.run(kill())
        await settled(mesh)
    figure(f"broker killed twice: {load}")
    load.check(recorder)


async def test_a_broker_that_stays_away_ends_what_is_open(broker: Broker, plane: str) -> None:
    async with asyncio.timeout(30), serving(plane, "away", recorder := Recorder(hold)), Mesh(name="caller", broker=plane) as mesh:
        call = asyncio.create_task(mesh.call("away", "x", {}))
        await recorder.signals.until(lambda: recorder.calls)
        await asyncio.to_thread(broker.stop)
        try:
            begun = clock.monotonic()
            with pytest.raises(Disconnected, match="may have run"):
                await call
            assert clock.monotonic() - begun < 7
            begun = clock.monotonic()
            with pytest.raises(BrokerUnavailable):
                await mesh.call("away", "x", {})
            assert clock.monotonic() - begun < 0.1
        finally:
            await asyncio.to_thread(broker.start)
        await settled(mesh)
