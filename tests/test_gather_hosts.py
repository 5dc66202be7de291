"""All agents as one, message by message: sessions, errors, cancellation, agents that hang, hosts whose ids collide."""

import asyncio
import signal
from collections.abc import Iterator

import pytest

from bridge import serve
from bridge.gathered import answers
from bridge.gathered.roster import Roster
from mesh import Mesh
from mesh.wire.jsonrpc import scan
from tests.gather_world import MODERN, Host, hosted, some_agents, studio
from tests.helpers import Bridge, Recorder, bridges, hold


@pytest.fixture(scope="module")
def agents(plane: str) -> Iterator[list[Bridge]]:
    with some_agents(plane) as made:
        yield made


async def test_level_and_subscriptions_outlive_a_session(plane: str) -> None:
    with bridges(plane, ("archive", "library")) as (first,):
        async with Mesh(name="host", broker=plane) as mesh, hosted(mesh) as host:
            await host.greet()
            assert (await host.ask(1, "logging/setLevel", level="error"))["result"] == {}
            assert "error" in await host.ask(2, "logging/setLevel", level="loud")
            said = await host.ask(3, "tools/call", name="archive__level")
            assert "result" in said, said
            assert said["result"]["content"][0]["text"] == "error"
            log = (await host.next(lambda each: each.get("method") == "notifications/message"))["params"]
            assert (log["data"], log["logger"]) == ("asked", "archive")
            await host.ask(4, "resources/subscribe", uri="mesh://archive/shared:///x")
            with bridges(plane, ("archive", "library")):
                await asyncio.to_thread(first.close)
                called = await host.ask(5, "tools/call", name="archive__touch")
                if "error" in called:  # it was on its way to the one that left
                    called = await host.ask(6, "tools/call", name="archive__touch")
                assert called["result"]["content"][0]["text"] == "1"
                updated = await host.next(lambda each: each.get("method") == "notifications/resources/updated")
                assert updated["params"]["uri"] == "mesh://archive/shared:///x"
                assert (await host.ask(7, "tools/call", name="archive__level"))["result"]["content"][0]["text"] == "error"


async def test_errors_say_whose_they_are(plane: str, agents: list[Bridge]) -> None:
    async with Mesh(name="host", broker=plane) as mesh, hosted(mesh) as host:
        await host.greet()
        said = (await host.ask(1, "tools/call", name="library__unheard_of"))["error"]
        assert said == {"code": -32602, "message": "Unknown tool: unheard_of", "data": {"agent": "library"}}
        assert (await host.ask(2, "tools/call", name="library__crash"))["error"]["data"]["agent"] == "library"
        assert "agent 'nobody'" in (await host.ask(3, "tools/call", name="nobody__x"))["error"]["message"]
        assert (await host.ask(4, "vendor/x"))["error"]["code"] == -32601
        assert (await host.ask(5, "tools/list", cursor="x"))["error"]["code"] == -32602
        host.link.receive(b"[]")
        assert (await host.next(lambda each: each.get("id") is None))["error"]["code"] == -32700
        assert (await host.ask(6, "ping"))["result"] == {}


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        (rb'{"level":"info","logger":"a\u00e4","data":1E400}', rb'{"level":"info","logger":"\u00fcber \"x\"/a\u00e4","data":1E400}'),
        (b'{ "data":1}', rb'{"logger":"\u00fcber \"x\"", "data":1}'),
        (b"{}", rb'{"logger":"\u00fcber \"x\""}'),
        (b'{"logger":5}', b'{"logger":5}'),
        (b'{"logger":"a","logger":"b"}', b'{"logger":"a","logger":"b"}'),
    ],
)
def test_log_messages_say_whose_they_are(params: bytes, wanted: bytes) -> None:
    raw = b'{"jsonrpc":"2.0","method":"notifications/message","params":%s}'
    assert answers.logged(scan(raw % params), 'über "x"') == raw % wanted


async def test_the_modern_era_as_the_specification_has_it(plane: str) -> None:
    async with Mesh(name="host", broker=plane) as mesh, hosted(mesh) as host:
        found = (await host.ask(1, "server/discover", _meta=MODERN))["result"]
        assert (found["resultType"], found["ttlMs"], found["cacheScope"]) == ("complete", 0, "private")
        assert found["supportedVersions"] == ["2026-07-28"]
        assert (await host.ask(2, "ping", _meta=MODERN))["error"]["code"] == -32601
        assert (await host.ask(3, "resources/read", uri="q:1", _meta=MODERN))["error"]["code"] == -32602
        later = {**MODERN, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}
        said = (await host.ask(4, "tools/list", _meta=later))["error"]
        assert (said["code"], said["data"]) == (-32022, {"supported": ["2026-07-28"], "requested": "2099-01-01"})
        host.say(id=5, method="subscriptions/listen", params={"notifications": {"toolsListChanged": True}, "_meta": MODERN})
        granted = await host.next(lambda each: each.get("method") == "notifications/subscriptions/acknowledged")
        subscription = {"io.modelcontextprotocol/subscriptionId": 5}
        assert granted["params"] == {"_meta": subscription, "notifications": {"toolsListChanged": True}}
        async with serve(studio(), name="late", broker=plane):
            changed = await host.next(lambda each: each.get("method") == "notifications/tools/list_changed")
            assert changed["params"] == {"_meta": subscription}
        assert not [each for each in host.heard if each.get("method") == "notifications/prompts/list_changed"]


async def test_cancellation(plane: str, agents: list[Bridge]) -> None:
    recorder = Recorder(hold)
    async with (
        Mesh(name="holder", broker=plane) as mesh,
        mesh.present(recorder, agent="holder", entry={"tools": ({"name": "x"},)}),
        hosted(mesh) as host,
    ):
        host.say(id=1, method="tools/call", params={"name": "holder__x", "_meta": MODERN})
        await recorder.signals.until(lambda: recorder.calls)
        assert recorder.calls[0].frame.name == "x"
        host.say(method="notifications/cancelled", params={"requestId": 1})
        await recorder.signals.until(lambda: recorder.cancelled)
        assert (await host.ask(1, "ping"))["result"] == {}


async def test_a_hung_agent_delays_nobody(plane: str, agents: list[Bridge]) -> None:
    async with Mesh(name="host", broker=plane) as mesh, hosted(mesh, timeout=4.0) as host:
        await host.greet()
        host.say(id="hung", method="tools/call", params={"name": "library__never", "arguments": {}})
        assert "result" in await host.ask(1, "tools/call", name="time__get_current_time", arguments={"timezone": "UTC"})
        assert "result" in await host.ask(2, "tools/list")
        assert not [each for each in host.heard if each.get("id") == "hung"], "they did not wait for it"
        said = await host.next(lambda each: each.get("id") == "hung")
        assert said["error"]["data"]["mesh"] == "timeout"
        assert said["error"]["data"]["agent"] == "library"


async def test_a_stopped_bridge_breaks_its_own_calls_only(plane: str, agents: list[Bridge]) -> None:
    with bridges(plane, ("frozen", "library")) as (bridge,):
        async with Mesh(name="host", broker=plane) as mesh, hosted(mesh) as host:
            await host.greet()
            assert "result" in await host.ask(1, "tools/call", name="frozen__level")
            bridge.send(signal.SIGSTOP)
            host.say(id="frozen", method="tools/call", params={"name": "frozen__level"})
            for number in range(10):
                said = await host.ask(number, "tools/call", 2.0, name="time__get_current_time", arguments={"timezone": "UTC"})
                assert "result" in said
                assert "result" in await host.ask(100 + number, "tools/list", 1.0)
            said = await host.next(lambda each: each.get("id") == "frozen")
            assert said["error"]["data"]["mesh"] == "instance_lost"
            assert said["error"]["data"]["agent"] == "frozen"
            bridge.send(signal.SIGCONT)


async def test_hosts_with_the_same_ids_never_meet(plane: str, agents: list[Bridge]) -> None:
    async with Mesh(name="host", broker=plane) as mesh, Roster(mesh) as roster:
        hosts = [Host(roster) for _ in range(5)]
        zones = ("UTC", "Europe/Berlin", "Asia/Tokyo", "America/Lima", "Africa/Cairo")
        for _ in range(5):
            calls = [
                host.ask(1, "tools/call", name="time__get_current_time", arguments={"timezone": zone}, _meta={**MODERN, "progressToken": 1})
                for host, zone in zip(hosts, zones, strict=True)
            ]
            for zone, said in zip(zones, await asyncio.gather(*calls), strict=True):
                assert zone in said["result"]["content"][0]["text"]
        for host in hosts:
            await host.link.close()
