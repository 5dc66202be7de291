"""Bridges that are killed, hang or leave: how soon it is seen, what their calls are told, and that nothing is left behind."""

import asyncio
import signal
import sys
from typing import Any

import pytest

from bridge.app import expose, make_spec, port_factory
from bridge.errors import ServerUnreachable
from mesh import Mesh, clock
from mesh.audit.journal import Journal
from mesh.cli.stopping import children_of
from mesh.errors import CallError, InstanceLost
from tests.helpers import bridges, ended, figure, live, lost, text_of, watching
from tests.processes import Bridge


async def pid_of(mesh: Mesh, agent: str) -> int:
    return int(text_of(await mesh.call(agent, "pid", {})))


async def until_answers(mesh: Mesh, agent: str) -> dict[str, Any]:
    """The first result after trouble; errors until then must be errors of the mesh."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await mesh.call(agent, "echo", {})
            except CallError:
                await asyncio.sleep(0.05)


def time_of_failures(tasks: list[asyncio.Task[Any]]) -> list[float]:
    """Fills as they fail."""
    told: list[float] = []
    for task in tasks:
        task.add_done_callback(lambda done: told.append(clock.monotonic()) if done.exception() else None)
    return told


async def test_a_pool_shares_the_calls_and_goes_on_when_one_dies(plane: str) -> None:
    with bridges(plane, *[("pool", "echo", "--role", "swimmer")] * 3) as made:
        async with asyncio.timeout(30), Mesh(name="caller", broker=plane) as mesh, watching(mesh) as (directory, signals):
            await signals.until(lambda: len(live(directory, "pool")) == 3)
            results = await asyncio.gather(*(mesh.call("pool", "echo", {}) for _ in range(150)))
            by_pid = {result["structuredContent"]["pid"] for result in results}
            assert len(by_pid) == 3
            for target in ("pool", "swimmer"):
                running = [asyncio.create_task(mesh.call(target, "slow", {"seconds": 2.5})) for _ in range(12)]
                await asyncio.gather(*(mesh.call(target, "echo", {}) for _ in range(3)))
                victim = made.pop()
                begun = clock.monotonic()
                victim.send(signal.SIGKILL)
                told = time_of_failures(running)
                await signals.until(lambda: len(live(directory, "pool")) == len(made))
                gone = clock.monotonic() - begun
                ends = await asyncio.gather(*running, return_exceptions=True)
                failed = [end for end in ends if isinstance(end, Exception)]
                assert failed, "the killed instance held some of them"
                assert [end for end in failed if not isinstance(end, InstanceLost) or "gone" not in end.message] == []
                assert len(failed) < len(ends)
                figure(f"instance of {target} killed: gone after {gone:.2f} s, its calls told after {max(told) - begun:.2f} s")
                assert gone < 2.0
                assert max(told) - begun < 2.0
                assert len(lost(directory, "pool")) == 3 - len(made)
                assert len(await asyncio.gather(*(mesh.call(target, "echo", {}) for _ in range(20)))) == 20
                await asyncio.to_thread(victim.close)
    async with Mesh(name="operator", broker=plane) as operator:
        journal = Journal(operator.connection, operator.subjects)
        noted = {(call.outcome, call.mesh_code) async for call in journal.calls(caller="caller", tool="slow")}
    assert noted == {("ok", ""), ("error", "instance_lost")}


async def test_a_bridge_that_hangs_is_lost_and_returns(plane: str) -> None:
    with bridges(plane, ("hanger", "echo")) as [bridge]:
        async with asyncio.timeout(40), Mesh(name="caller", broker=plane) as mesh, watching(mesh) as (directory, signals):
            await signals.until(lambda: live(directory, "hanger"))
            call = asyncio.create_task(mesh.call("hanger", "never", {}))
            await mesh.call("hanger", "echo", {})
            begun = clock.monotonic()
            bridge.send(signal.SIGSTOP)
            with pytest.raises(InstanceLost, match=r"gone|answer"):
                await call
            told = clock.monotonic() - begun
            await signals.until(lambda: not live(directory, "hanger"))
            gone = clock.monotonic() - begun
            figure(f"bridge stopped: its call told after {told:.2f} s, gone after {gone:.2f} s")
            assert told < 6.0
            assert gone < 6.0
            await signals.until(lambda: lost(directory, "hanger"))
            bridge.send(signal.SIGCONT)
            await signals.until(lambda: live(directory, "hanger") and not lost(directory, "hanger"))
            await until_answers(mesh, "hanger")


async def test_a_bridge_that_is_told_to_end_leaves_nothing(plane: str) -> None:
    with bridges(plane, ("leaver", "echo")) as [bridge]:
        async with asyncio.timeout(20), Mesh(name="caller", broker=plane) as mesh, watching(mesh) as (directory, signals):
            await signals.until(lambda: live(directory, "leaver"))
            pid = await pid_of(mesh, "leaver")
            bridge.send(signal.SIGTERM)
            await ended(pid)
            await asyncio.to_thread(bridge.process.wait, 10)
            assert bridge.process.returncode == 0
            await signals.until(lambda: "leaver" not in [agent.name for agent in directory.agents()])
            assert "".join(bridge.errors) == "leaver: stopped \n" or "Traceback" not in "".join(bridge.errors)


async def test_a_killed_bridge_leaves_no_server_behind(plane: str) -> None:
    with bridges(plane, ("orphan", "echo")) as [bridge]:
        async with asyncio.timeout(20), Mesh(name="caller", broker=plane) as mesh:
            pid = await pid_of(mesh, "orphan")
            bridge.send(signal.SIGKILL)
            await ended(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_bridge_whose_server_is_silent_ends_when_it_is_told_to(plane: str, number: signal.Signals) -> None:
    if number is signal.SIGKILL and sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux; elsewhere a server ends because its stdin does")
    bridge = Bridge(plane, "silent", ["sleep", "40"])
    try:
        async with asyncio.timeout(20):
            while not (children := children_of(bridge.process.pid)):  # noqa: ASYNC110 - nobody tells us of a grandchild
                await asyncio.sleep(0.02)
            bridge.send(number)
            await ended(bridge.process.pid)
            await ended(children[0])
        assert bridge.process.wait(5) == (-number if number is signal.SIGKILL else 0)
    finally:
        bridge.close()
    assert not bridge.errors


async def test_a_server_that_never_answers_is_an_error_that_says_so(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.expose.START_SECONDS", 0.3)
    spec = make_spec(name="silent", command=("sleep", "40"))
    async with asyncio.timeout(20), Mesh(name="silent", broker=plane) as mesh, port_factory(spec) as make_port:
        with pytest.raises(ServerUnreachable, match=r"silent: the server does not answer within 0\.3 s"):
            await expose(mesh, spec, make_port).__aenter__()
