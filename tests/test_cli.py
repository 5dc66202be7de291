"""The commands on a mesh: what they print for people and for programs, and how they fail."""

import asyncio
import json
import re
import signal
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.audit.calls import OUTCOMES
from mesh.cli import checks
from mesh.cli.journal import Outcomes
from mesh.link.call import Call
from mesh.link.jetstream import JetStream
from mesh.wire.jsonrpc import Frame, dumps
from tests.cli_helpers import ROOT, Ended, mesh, started
from tests.conftest import Broker

SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}, "text": {"type": "string"}}, "required": ["text"]}


class Echo:
    """An agent with a tool for each way in which a call can end."""

    def on_call(self, call: Call) -> None:
        params = json.loads(call.frame.raw)["params"]
        match call.frame.name:
            case "echo":
                self._finish(call, {"content": [{"type": "text", "text": json.dumps(params["arguments"])}]})
            case "broken":
                self._finish(call, {"content": [{"type": "text", "text": "no such note"}], "isError": True})
            case "silent":
                pass
            case name:
                call.fail(-32602, f"Unknown tool: {name}", {"tools": ["echo"]})

    def _finish(self, call: Call, result: dict[str, Any]) -> None:
        call.finish(b'{"jsonrpc":"2.0","id":' + dumps(call.id) + b',"result":' + dumps(result) + b"}")

    def on_cancel(self, call: Call, reason: str) -> None: ...

    def on_message(self, caller: str, reply: str, frame: Frame) -> None: ...


ENTRY = {
    "version": "1.2",
    "title": "An echo",
    "tools": tuple({"name": name, "description": "It\ndoes", "inputSchema": SCHEMA} for name in ("echo", "broken")),
}


@asynccontextmanager
async def a_mesh(broker: Broker) -> AsyncIterator[Mesh]:
    """A control plane, and the agent `echo` with the role `parrot`."""
    async with (
        Mesh(name="mesh", broker=broker.url) as plane,
        plane.control_plane(),
        Mesh(name="echo", broker=broker.url, roles=("agent", "parrot")) as agent,
        agent.present(Echo(), roles=("parrot",), entry=ENTRY),
    ):
        yield agent


def test_what_stands_in_two_places_is_the_same() -> None:
    assert tuple(each.value for each in Outcomes) == OUTCOMES
    config = (ROOT / "nats-server.conf").read_text()
    assert {
        int(port) for port in re.findall(r'^(?:port: |http: "127\.0\.0\.1:|  listen: "127\.0\.0\.1:)(\d+)', config, re.MULTILINE)
    } == set(checks.DEFAULT_PORTS.values())
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"nats-py>={'.'.join(map(str, checks.NATS_PY))},<2.{checks.NATS_PY[1] + 1}" in needs


async def test_a_result_is_text_for_people_and_an_object_for_programs(broker: Broker, tmp_path: Path) -> None:
    async with a_mesh(broker):
        people = await mesh("call", "echo", "echo", "text=5", "count=5", *broker.options, cwd=tmp_path)
        assert people == Ended(0, '{"text": "5", "count": 5}\n', "")
        programs = await mesh("call", "parrot", "echo", "--args", '{"text": "a"}', "b:=[1]", "--json", *broker.options, cwd=tmp_path)
        assert (programs.code, programs.err) == (0, "")
        assert json.loads(programs.json["content"][0]["text"]) == {"text": "a", "b": [1]}


async def test_the_far_sides_error_keeps_its_code_message_and_data(broker: Broker, tmp_path: Path) -> None:
    async with a_mesh(broker):
        programs = await mesh("call", "echo", "nosuch", *broker.options, "--json", cwd=tmp_path)
        assert programs.error == {"code": -32602, "message": "Unknown tool: nosuch", "data": {"tools": ["echo"]}}
        people = await mesh("call", "echo", "nosuch", *broker.options, cwd=tmp_path)
        assert people == Ended(1, "", 'error: Unknown tool: nosuch (code -32602)\ndata: {"tools": ["echo"]}\n')


async def test_errors_of_the_mesh(broker: Broker, tmp_path: Path) -> None:
    async with a_mesh(broker):
        nobody = await mesh("call", "ecko", "echo", *broker.options, "--json", cwd=tmp_path)
        assert (nobody.error["code"], nobody.error["details"]["close"]) == ("no_such_agent", ["echo"])
        late = await mesh("call", "echo", "silent", "--timeout", "0.2", *broker.options, "--json", cwd=tmp_path)
        assert late.error["code"] == "timeout"
        typed = await mesh("call", "echo", "echo", "count=many", *broker.options, cwd=tmp_path)
        assert (typed.code, typed.out) == (1, "")
        assert re.fullmatch(r"error: the argument count wants integer, not 'many'\nhint: .+\n", typed.err)
        unknown = await mesh("tools", "ecko", *broker.options, "--json", cwd=tmp_path)
        assert unknown.error["details"]["close"] == ["echo"]


@pytest.mark.parametrize(
    "command", [("agents",), ("tools",), ("call", "a", "b"), ("journal",), ("journal", "check"), ("topology", "plan")], ids=" ".join
)
async def test_where_no_mesh_runs(command: tuple[str, ...], tmp_path: Path) -> None:
    ended = await mesh(*command, "--json", cwd=tmp_path)
    assert ended.error["code"] == "broker_unavailable"
    assert "mesh up" in ended.error["hint"]
    assert list(tmp_path.iterdir()) == [], "a look leaves nothing behind"


@pytest.mark.parametrize(
    "words",
    [
        ("call", "a"),
        ("call", "a", "b", "c"),
        ("call", "a", "b", "--args", "[]"),
        ("journal", "--since", "x"),
        ("nosuch",),
        ("agents", "--no"),
    ],
)
async def test_wrong_usage_is_2(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = await mesh(*words, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert "Traceback" not in ended.err


async def test_agents_and_tools(broker: Broker, tmp_path: Path) -> None:
    async with a_mesh(broker):
        (agent,) = (await mesh("agents", *broker.options, "--json", cwd=tmp_path)).json
        assert (agent["name"], agent["roles"], agent["version"], agent["tools"]) == ("echo", ["parrot"], "1.2", 2)
        (instance,) = agent["instances"]
        assert (instance["healthy"], instance["state"], instance["running"]) == (True, "up", 0)
        assert instance["id"]
        everybody = (await mesh("agents", "--all", *broker.options, "--json", cwd=tmp_path)).json
        assert [each["name"] for each in everybody] == ["echo", "mesh"]
        table = (await mesh("agents", *broker.options, cwd=tmp_path)).out
        assert re.search(r"^echo +parrot +1\.2 +2 +\w+ +up ", table, re.MULTILINE)
        tools = (await mesh("tools", *broker.options, "--json", cwd=tmp_path)).json
        assert [(each["agent"], each["name"], each["inputSchema"]) for each in tools] == [
            ("echo", "echo", SCHEMA),
            ("echo", "broken", SCHEMA),
        ]
        assert re.search(r"^ +count\? +integer", (await mesh("tools", "parrot", *broker.options, cwd=tmp_path)).out, re.MULTILINE)


async def test_watching_shows_who_comes_and_who_goes(broker: Broker, tmp_path: Path) -> None:
    async with asyncio.timeout(20), a_mesh(broker):  # noqa: SIM117 - one line would be too long
        async with started("agents", "--watch", "--json", *broker.options, cwd=tmp_path) as watch:
            assert watch.stdout is not None
            assert [each["name"] for each in json.loads(await watch.stdout.readline())] == ["echo"]
            async with Mesh(name="late", broker=broker.url) as late, late.present(Echo()):
                while [each["name"] for each in json.loads(await watch.stdout.readline())] != ["echo", "late"]:
                    pass
            while [each["name"] for each in json.loads(await watch.stdout.readline())] != ["echo"]:
                pass
            watch.send_signal(signal.SIGINT)
            _, err = await watch.communicate()
            assert (watch.returncode, err) == (130, b"")


async def test_the_journal(broker: Broker, tmp_path: Path) -> None:
    async with a_mesh(broker) as agent:
        async with Mesh(name="tester", broker=broker.url) as tester:
            await tester.call("echo", "echo", {"text": "x"})
            await tester.call("parrot", "broken")
        listed = await mesh("journal", "--caller", "tester", "--since", "5m", *broker.options, "--json", cwd=tmp_path)
        first, second = (json.loads(line) for line in listed.out.splitlines())
        assert {"time", "caller", "target", "method", "name", "outcome", "duration_ms", "correlation_id"} <= first.keys()
        assert (first["caller"], first["target"], first["method"], first["name"], first["outcome"]) == (
            "tester",
            "echo",
            "tools/call",
            "echo",
            "ok",
        )
        assert (second["target"], second["outcome"]) == ("parrot", "tool_error")
        table = (await mesh("journal", "--caller", "tester", "--limit", 1, *broker.options, cwd=tmp_path)).out.splitlines()
        assert [line.split()[1:4] for line in table] == [["CALLER", "TARGET", "METHOD"], ["tester", "parrot", "broken"]]
        shown = (await mesh("journal", "show", first["correlation_id"], *broker.options, "--json", cwd=tmp_path)).json
        assert shown["call"] == first
        assert [message["what"] for message in shown["messages"]] == ["call", "final"]
        nothing = await mesh("journal", "show", "tester.x.1", *broker.options, "--json", cwd=tmp_path)
        assert "holds no call" in nothing.error["message"]
        checked = await mesh("journal", "check", *broker.options, "--json", cwd=tmp_path)
        assert (checked.code, checked.json["complete"], checked.json["missing_calls"]) == (0, True, 0)
        assert agent.connection.connected


async def test_following_the_journal(broker: Broker, tmp_path: Path) -> None:
    async with asyncio.timeout(20), a_mesh(broker), Mesh(name="followed", broker=broker.url) as tester:
        await tester.call("echo", "echo", {"text": "before"})
        async with started("journal", "-f", "--caller", "followed", "--json", *broker.options, cwd=tmp_path) as follow:
            assert follow.stdout is not None
            seen = [json.loads(await follow.stdout.readline())["correlation_id"]]
            await tester.call("echo", "echo", {"text": "after"})
            seen.append(json.loads(await follow.stdout.readline())["correlation_id"])
            assert [each.rpartition(".")[2] for each in seen] == ["1", "2"]
            follow.send_signal(signal.SIGINT)
            assert (await follow.communicate())[1] == b""
            assert follow.returncode == 130


async def test_topology(broker: Broker, tmp_path: Path) -> None:
    async with a_mesh(broker), Mesh(name="operator", broker=broker.url) as operator:
        await JetStream(operator.connection).api("STREAM.DELETE.JOURNAL")
        planned = await mesh("topology", "plan", "--check", *broker.options, "--json", cwd=tmp_path)
        assert planned.code == 1
        assert {each["name"]: each["action"] for each in planned.json if each["action"] != "unchanged"} == {"JOURNAL": "create"}
        assert (await mesh("topology", "apply", *broker.options, cwd=tmp_path)).code == 0
        assert (await mesh("topology", "plan", "--check", *broker.options, cwd=tmp_path)).code == 0


async def test_the_doctor(broker: Broker, tmp_path: Path) -> None:
    async with a_mesh(broker), Mesh(name="operator", broker=broker.url) as operator:
        well = await mesh("doctor", *broker.options, "--json", cwd=tmp_path)
        found = {each["check"]: each["result"] for each in well.json["checks"]}
        assert (well.code, well.json["ok"]) == (0, True), well
        assert {"Python", "nats-py", "nats-server", "broker", "topology", "control plane", "agent echo", "journal"} <= found.keys()
        await JetStream(operator.connection).api("STREAM.DELETE.JOURNAL")
        ill = await mesh("doctor", *broker.options, cwd=tmp_path)
        assert ill.code == 1
        assert re.search(r"^fail +topology .*JOURNAL\n +→ mesh topology plan", ill.out, re.MULTILINE)
        await mesh("topology", "apply", *broker.options, cwd=tmp_path)


async def test_the_doctor_where_nothing_runs(tmp_path: Path) -> None:
    before = await mesh("doctor", "--json", cwd=tmp_path)
    assert {each["check"]: each["result"] for each in before.json["checks"]}["mesh"] == "warn"
    assert before.code == 0
    (tmp_path / ".mesh").mkdir()
    (tmp_path / ".mesh" / "mesh.json").write_text('{"broker": "nats://127.0.0.1:9"}')
    after = await mesh("doctor", "--json", cwd=tmp_path)
    (failed,) = [each for each in after.json["checks"] if each["result"] == "fail"]
    assert (after.code, failed["check"]) == (1, "broker")
    assert "mesh up" in failed["next"]
