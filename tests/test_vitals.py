"""Events on `agent.health`: on by default, with figures, at each change of state, and not for long."""

import asyncio
import sys
from typing import Any

from bridge.app import expose, make_spec, port_factory
from mesh import Mesh
from mesh.link.jetstream import JetStream
from mesh.settings import make_settings
from mesh.topology import EVENTS
from tests.helpers import CUT_WARNINGS, ROOT, Proxy, Recorder, Signals, serving

pytestmark = CUT_WARNINGS


class Heard:
    """A handler of events that keeps those of one agent."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.said: list[dict[str, Any]] = []
        self.signals = Signals()

    async def __call__(self, event: Any) -> None:
        if event.data["agentId"] == self.agent:
            self.said.append(event.data)
            self.signals.tell()

    @property
    def statuses(self) -> list[str]:
        return [each["status"] for each in self.said]


def fast(url: str, name: str, period: float = 0.2) -> Mesh:
    return Mesh(settings=make_settings(name=name, broker=url, health_period=period))


async def test_figures_and_changes_of_state(plane: str) -> None:
    heard = Heard("patient")
    async with Mesh(name="doctor", broker=plane) as doctor, doctor.events.subscribe("agent.health", heard):
        async with fast(plane, "patient") as mesh, mesh.present(Recorder()) as presence:
            for _ in range(5):
                await doctor.call("patient", "t", {})
            await heard.signals.until(lambda: sum(each["metrics"]["calls"] for each in heard.said) >= 5)
            busy = next(each for each in heard.said if each["metrics"]["calls"])["metrics"]
            assert 0 < busy["latency"]["p50"] <= busy["latency"]["p99"] < 60_000
            assert busy["errors"] == 0
            assert busy["cpu"] >= 0
            assert 0 < busy["memory"] < 1
            presence.state = "degraded"
            await heard.signals.until(lambda: "unhealthy" in heard.statuses)
            presence.state = "up"
            await heard.signals.until(lambda: heard.statuses[-1] == "healthy")
        await heard.signals.until(lambda: heard.statuses[-1] == "stopped")


async def test_a_change_is_told_at_once(plane: str) -> None:
    heard = Heard("quick")
    async with (
        Mesh(name="doctor", broker=plane) as doctor,
        doctor.events.subscribe("agent.health", heard),
        fast(plane, "quick", 3600) as mesh,
        mesh.present(Recorder()) as presence,
    ):
        await heard.signals.until(lambda: heard.said)
        presence.state = "degraded"
        await heard.signals.until(lambda: "unhealthy" in heard.statuses)


async def test_they_do_not_stay(plane: str) -> None:
    async with fast(plane, "brief", 0.2) as mesh, mesh.present(Recorder()), Mesh(name="operator", broker=plane) as operator:
        js, subject = JetStream(operator.connection), operator.subjects.events("agent.health", publisher="brief")

        async def kept() -> int:
            state = (await js.api(f"STREAM.INFO.{EVENTS}", {"subjects_filter": subject}))["state"]
            return sum((state.get("subjects") or {}).values())

        async with asyncio.timeout(10):
            while not await kept():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.02)
            most = 0
            for _ in range(30):
                most = max(most, await kept())
                await asyncio.sleep(0.1)
        assert most < 12


async def test_a_setting_turns_them_off(plane: str) -> None:
    heard = Heard("silent")
    async with Mesh(name="doctor", broker=plane) as doctor, doctor.events.subscribe("agent.health", heard):
        async with fast(plane, "silent", 0) as mesh, mesh.present(Recorder()) as presence:
            presence.state = "degraded"
        other = Heard("loud")
        async with doctor.events.subscribe("agent.health", other), fast(plane, "loud") as mesh, mesh.present(Recorder()):
            await other.signals.until(lambda: other.said)
    assert heard.said == []


async def test_the_control_plane_says_what_a_lost_one_cannot(plane: str) -> None:
    """`unhealthy` in the name of the mesh, with why; and `healthy` when it is back."""
    told: list[Any] = []
    signals = Signals()

    async def heard(event: Any) -> None:
        told.append(event)
        signals.tell()

    async with (
        Mesh(name="doctor", broker=plane) as doctor,
        doctor.events.subscribe_with_filter("agent.health", 'publisher == "mesh" && event.data.agentId == "comet"', heard),
        Proxy(plane) as proxy,
        serving(proxy.url, "comet", Recorder()) as [presence],
    ):
        proxy.refuse = True
        proxy.cut()
        await signals.until(lambda: told, 20)
        instance = presence.entry.instance
        lost = told[0]
        assert (lost.priority, lost.subject) == ("high", "comet")
        assert {**lost.data, "lost": ""} == {"agentId": "comet", "instance": instance, "status": "unhealthy", "metrics": {}, "lost": ""}
        assert "connection ended" in lost.data["lost"]
        proxy.refuse = False
        await signals.until(lambda: len(told) > 1, 20)
        assert (told[1].data["status"], told[1].data["instance"], told[1].data["lost"]) == ("healthy", instance, None)


async def test_who_leaves_in_order_is_no_loss(plane: str) -> None:
    heard = Heard("polite")
    async with Mesh(name="doctor", broker=plane) as doctor, doctor.events.subscribe("agent.health", heard):
        async with fast(plane, "polite") as mesh, mesh.present(Recorder()):
            await heard.signals.until(lambda: heard.said)
        await heard.signals.until(lambda: heard.statuses[-1] == "stopped")
    assert not any("lost" in each for each in heard.said)


async def test_a_server_in_processes_of_its_own_is_counted_with_what_it_has_started(plane: str) -> None:
    """A child that a shell has started for us: both are the server's."""
    heard = Heard("child")
    script = f"{sys.executable} {ROOT / 'examples/notes.py'}; exit 0"
    spec = make_spec(name="child", command=("/bin/sh", "-c", script))
    async with (
        Mesh(name="doctor", broker=plane) as doctor,
        doctor.events.subscribe("agent.health", heard),
        port_factory(spec) as make_port,
        fast(plane, "child") as mesh,
        expose(mesh, spec, make_port),
    ):
        await heard.signals.until(lambda: any("server" in each["metrics"] for each in heard.said), 20)
    found = next(each for each in heard.said if "server" in each["metrics"])["metrics"]["server"]
    assert found["processes"] == 2
    assert found["memoryBytes"] > 10_000_000, "of the interpreter, not of the shell alone"
    assert 0 < found["memory"] < 1
    assert found["cpu"] >= 0
