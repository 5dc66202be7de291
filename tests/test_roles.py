"""Calls to a role, and to a pool whose instances come and go while the caller's connection breaks: none runs twice, each loss is told."""

import asyncio
from typing import Any

import pytest

from mesh import Mesh
from mesh.errors import InstanceLost, OutcomeUnknown
from mesh.wire.entries import ProbeQuestion
from tests.helpers import CUT_WARNINGS, Proxy, Recorder, back, finish, hold, live, lost, serving, watching


def ran(*recorders: Recorder) -> dict[Any, int]:
    together: dict[Any, int] = {}
    for recorder in recorders:
        for n, times in recorder.ran.items():
            together[n] = together.get(n, 0) + times
    return together


pytestmark = CUT_WARNINGS


def holders() -> tuple[Recorder, Recorder]:
    one, other = Recorder(hold), Recorder(hold)
    other.signals = one.signals
    return one, other


async def known(mesh: Mesh, name: str) -> None:
    """Wait until the control plane knows who answers to a name."""
    question = ProbeQuestion(about=name).encode()
    while not (await mesh.exchanges.probes.ask("mesh", question, 5)).instances:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_call_to_a_role_runs_once_though_its_members_change(plane: str) -> None:
    """The caller asked who the members are before the second one came. Its proof that a call never ran must not rest on that."""
    one, other = holders()
    alice = serving(plane, "alice", one, roles=("reviewer",))
    async with asyncio.timeout(30), Proxy(plane) as proxy, Mesh(name="caller", broker=proxy.url) as mesh:  # noqa: SIM117
        async with alice:
            await known(mesh, "reviewer")
            calls = [asyncio.create_task(mesh.call("reviewer", "x", {"n": 0}))]
            await one.signals.until(lambda: one.calls)
            async with serving(plane, "bob", other, roles=("reviewer",)):
                calls += [asyncio.create_task(mesh.call("reviewer", "x", {"n": n})) for n in range(1, 21)]
                await one.signals.until(lambda: len(one.calls) + len(other.calls) == 21 and len(one.calls) > 1 and other.calls)
                await mesh.connection.flush()
                for _ in range(3):
                    await back(mesh.connection, proxy.cut)
                    await mesh.connection.flush()
                    await mesh.exchanges.probes.ask("alice", b"", 5)
                    await mesh.exchanges.probes.ask("bob", b"", 5)
                for call in (*one.calls, *other.calls):
                    finish(call, {})
                ends = await asyncio.gather(*calls, return_exceptions=True)
                assert [end for end in ends if not isinstance(end, dict | OutcomeUnknown)] == []
                assert set(ran(one, other).values()) == {1}


async def test_a_call_to_a_pool_is_not_run_by_the_next_who_comes(plane: str) -> None:
    one, other = holders()
    async with asyncio.timeout(30), Proxy(plane) as proxy, Mesh(name="caller", broker=proxy.url) as mesh:  # noqa: SIM117
        async with serving(plane, "swarm", one):
            calls = [asyncio.create_task(mesh.call("swarm", "x", {"n": n})) for n in range(10)]
            await one.signals.until(lambda: len(one.calls) == 10)
            async with serving(plane, "swarm", other):
                for _ in range(3):
                    await back(mesh.connection, proxy.cut)
                    await mesh.connection.flush()
                    await mesh.exchanges.probes.ask("swarm", b"", 5)
                for call in one.calls:
                    finish(call, {})
                assert await asyncio.gather(*calls) == [{}] * 10
                assert set(ran(one, other).values()) == {1}


@pytest.mark.parametrize("named", [False, True], ids=["not yet named", "named"])
async def test_an_instance_that_loses_its_connection_for_good_is_told(plane: str, named: bool) -> None:
    """Both halves of a pool answer what they know; the call was with the half that is gone."""
    one, other = holders()
    name = f"pair-{named}"
    async with asyncio.timeout(30), Proxy(plane) as proxy, Mesh(name="caller", broker=plane) as mesh:  # noqa: SIM117
        async with serving(plane, name, one), watching(mesh) as (directory, signals):
            async with serving(proxy.url, name, other):
                await signals.until(lambda: len(live(directory, name)) == 2)
                calls = [asyncio.create_task(mesh.call(name, "x", {"n": n})) for n in range(20)]
                await one.signals.until(lambda: len(one.calls) + len(other.calls) == 20 and other.calls)
                if named:
                    await asyncio.sleep(0.8)  # the first working frames come after half a second
                proxy.refuse = True
                proxy.cut()
                await signals.until(lambda: len(live(directory, name)) == 1)
                assert len(lost(directory, name)) == 1
                for call in one.calls:
                    finish(call, {})
                ends = await asyncio.gather(*calls, return_exceptions=True)
                told = [end for end in ends if isinstance(end, Exception)]
                assert [type(end) for end in told] == [InstanceLost] * len(other.calls)
                assert set(ran(one, other).values()) == {1}
