"""Era translation with real children: bytes, deaths, cancellations at every moment, pools of instances."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridge.app import expose, make_spec
from bridge.connect import Connected
from bridge.ports.child import ChildPort
from bridge.translation import modern, talks
from mesh import Mesh
from mesh.errors import CallError, CallTimeout, RemoteError
from mesh.rpc import CLIENT_CAPABILITIES
from mesh.wire.jsonrpc import dumps
from tests.helpers import ROOT, alive, ended
from tests.servers.nosy import PRECIOUS

ELICITS: dict[str, Any] = {"_meta": {CLIENT_CAPABILITIES: {"elicitation": {}}}}
ROOTS: dict[str, Any] = {"_meta": {CLIENT_CAPABILITIES: {"roots": {}}}}


@asynccontextmanager
async def serving(broker: str, agent: str, server: str = "nosy") -> AsyncIterator[list[ChildPort]]:
    """A bridge in this process; the ports to its children, the shared one first."""
    ports: list[ChildPort] = []

    def make_port() -> ChildPort:
        ports.append(ChildPort(agent, [sys.executable, "-m", f"tests.servers.{server}"], cwd=ROOT))
        return ports[-1]

    spec = make_spec(name=agent, python="in:process")
    async with asyncio.timeout(40), Mesh(name=agent, broker=broker) as mesh, expose(mesh, spec, make_port):
        yield ports
    assert [port for port in ports if port.pid is not None and alive(port.pid)] == [], "a child outlived its bridge"


async def call(mesh: Mesh, agent: str, tool: str, more: dict[str, Any] | None = None, timeout: float = 20.0) -> dict[str, Any]:
    return await mesh.request(agent, "tools/call", {"name": tool, "arguments": {}, **ELICITS, **(more or {})}, timeout=timeout)


def pid_in(required: dict[str, Any]) -> int:
    (question,) = required["inputRequests"].values()
    return int(question["params"]["message"])


def answer(required: dict[str, Any], result: Any) -> dict[str, Any]:
    return {"requestState": required["requestState"], "inputResponses": dict.fromkeys(required["inputRequests"], result)}


class Host:
    """A client that writes bytes and keeps what it hears."""

    def __init__(self, mesh: Mesh, agent: str) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.link = Connected(mesh, agent, self.heard.put_nowait)

    async def ask(self, raw: str) -> bytes:
        self.link.receive(raw.encode())
        return await self.heard.get()


META = '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}'


async def test_questions_and_answers_pass_byte_for_byte(plane: str) -> None:
    async with serving(plane, "nosy1"), Mesh(name="host", broker=plane) as mesh:
        host = Host(mesh, "nosy1")
        ask = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ask","arguments":{},%s%s}}'
        first = await host.ask(ask % (7, META, ""))
        assert first.startswith(b'{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","inputRequests":{"question-1":')
        assert f'"x":{PRECIOUS}'.encode() in first
        state = json.loads(first.replace(PRECIOUS.encode(), b"0"))["result"]["requestState"]
        answers = f',"inputResponses":{{"question-1":{{"action":"accept","content":{PRECIOUS}}}}},"requestState":"{state}"'
        last = json.loads(await host.ask(ask % (8, META, answers)))
        assert last["id"] == 8
        assert f'"result":{{"action":"accept","content":{PRECIOUS}}}' in last["result"]["content"][0]["text"]
        await host.link.close()


async def test_a_child_that_dies_ends_the_call_that_waits_on_it(plane: str) -> None:
    async with serving(plane, "nosy2") as ports, Mesh(name="host", broker=plane) as mesh:
        required = await call(mesh, "nosy2", "ask_and_die")
        await ports[1]._ended.wait()  # the bridge has seen it
        with pytest.raises(RemoteError) as caught:
            await call(mesh, "nosy2", "ask_and_die", answer(required, {"action": "decline"}))
        assert caught.value.rpc_code == -32602
        running = asyncio.create_task(call(mesh, "nosy2", "never_there"))
        with pytest.raises(RemoteError, match="Unknown tool"):
            await running
        assert len(ports) == 3
        assert (await call(mesh, "nosy2", "echo"))["resultType"] == "complete"


async def test_a_child_that_is_killed_under_a_running_call_ends_it_with_an_error(plane: str) -> None:
    async with serving(plane, "nosy3") as ports, Mesh(name="host", broker=plane) as mesh:
        began = asyncio.Event()
        running = asyncio.create_task(
            mesh.request(
                "nosy3",
                "tools/call",
                {"name": "slow", "arguments": {"seconds": 20, "steps": 100}, **ELICITS},
                progress=lambda *_: began.set(),
            )
        )
        await began.wait()
        assert ports[1].pid is not None
        os.kill(ports[1].pid, signal.SIGKILL)
        with pytest.raises(CallError, match="is gone"):
            await running
        assert (await call(mesh, "nosy3", "echo"))["resultType"] == "complete"


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.3])
async def test_a_call_may_be_cancelled_at_every_moment(plane: str, moment: float) -> None:
    agent = f"nosy4-{moment * 100:.0f}"
    async with serving(plane, agent) as ports, Mesh(name="host", broker=plane) as mesh:
        with pytest.raises(CallTimeout):
            await call(mesh, agent, "slow", {"arguments": {"seconds": 20}}, timeout=moment + 0.01)
        assert (await call(mesh, agent, "echo"))["resultType"] == "complete"
        assert len(ports) <= 3


async def test_what_a_server_lists_may_depend_on_what_its_client_can_do(plane: str) -> None:
    async with serving(plane, "nosy5") as ports, Mesh(name="host", broker=plane) as mesh:
        lists = await asyncio.gather(*(mesh.request("nosy5", "tools/list", more) for more in ({}, ROOTS, ROOTS, ROOTS)))
        has = ["only_with_roots" in [tool["name"] for tool in found["tools"]] for found in lists]
        assert has == [False, True, True, True]
        assert all(found["resultType"] == "complete" and found["ttlMs"] == 0 for found in lists)
        assert len(ports) == 2, "one child for all three"
        required = await call(mesh, "nosy5", "only_with_roots", ROOTS)
        assert [question["method"] for question in required["inputRequests"].values()] == ["roots/list"], "asked before any call was there"
        done = await call(mesh, "nosy5", "only_with_roots", {**answer(required, {"roots": []}), **ROOTS})
        assert '"roots":[]' in done["content"][0]["text"]
        assert len(ports) == 2


async def test_an_idle_child_goes(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modern, "IDLE_SECONDS", 0.1)
    async with serving(plane, "nosy6") as ports, Mesh(name="host", broker=plane) as mesh:
        await call(mesh, "nosy6", "echo")
        assert ports[1].pid is not None
        await ended(ports[1].pid)


async def test_a_bridge_that_ends_leaves_no_waiting_call_behind(plane: str) -> None:
    async with Mesh(name="host", broker=plane) as mesh:
        async with serving(plane, "nosy7"):
            required = await call(mesh, "nosy7", "ask")
        await ended(pid_in(required), timeout=1)


async def test_nobody_is_waited_for_who_is_gone(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talks, "GONE_SECONDS", 0.1)
    async with serving(plane, "nosy10"):
        async with Mesh(name="host", broker=plane) as mesh:
            required = await call(mesh, "nosy10", "ask")
        await ended(pid_in(required), timeout=5)


async def test_who_comes_back_over_another_connection_finds_its_call(plane: str) -> None:
    async with serving(plane, "nosy11") as ports:
        async with Mesh(name="host", broker=plane) as mesh:
            required = await call(mesh, "nosy11", "ask")
            await call(mesh, "nosy11", "echo")
            idle = ports[-1].pid
            assert idle is not None
            assert idle != pid_in(required)
        await ended(idle, timeout=5)  # the bridge has heard that the host is gone
        async with Mesh(name="host", broker=plane) as mesh:
            done = await call(mesh, "nosy11", "ask", answer(required, {"action": "decline"}))
        assert done["resultType"] == "complete"


async def test_a_retry_finds_its_instance_in_a_pool(plane: str) -> None:
    async with serving(plane, "nosy8"), serving(plane, "nosy8"), Mesh(name="host", broker=plane) as mesh:
        host = Host(mesh, "nosy8")
        ask = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ask","arguments":{},%s%s}}'
        for number in range(0, 12, 2):
            first = json.loads(await host.ask(ask % (number, META, "")))["result"]
            answers = ',"inputResponses":' + dumps({"question-1": 1}).decode() + f',"requestState":"{first["requestState"]}"'
            assert "result" in json.loads(await host.ask(ask % (number + 1, META, answers)))
        await host.link.close()


async def test_a_state_opens_no_way_to_another_agent_or_instance(plane: str) -> None:
    async with serving(plane, "nosy9"), serving(plane, "echo9", "echo"), serving(plane, "nosy9"), Mesh(name="host", broker=plane) as mesh:
        state = (await call(mesh, "nosy9", "ask"))["requestState"]
        head, agent, instance, sealed = state.split(".")
        assert (head, agent) == ("mesh1", "nosy9")
        host = Host(mesh, "nosy9")
        retry = '{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"ask",%s,"inputResponses":{},"requestState":"%s"}}'
        for number, wrong in enumerate((f"mesh1.echo9.{instance}.{sealed}", f"mesh1.nosy9.gone.{sealed}", "mesh1.echo9.any.x", "made up")):
            said = json.loads(await host.ask(retry % (number, META, wrong)))
            assert (said["id"], said["error"]["code"]) == (number, -32602)
            assert said["error"]["data"] == {"reason": "invalid_request_state"}
        await host.link.close()


@pytest.mark.proves("a capability that was not declared")
async def test_a_server_that_needs_what_its_client_has_not_declared(plane: str) -> None:
    async with serving(plane, "nosy9"), Mesh(name="host", broker=plane) as mesh:
        undeclared: list[dict[str, Any]] = [{"_meta": {}}, {"_meta": {CLIENT_CAPABILITIES: {"sampling": {}}}}]
        for more in undeclared:  # on the shared child, and on one of its own
            with pytest.raises(RemoteError) as caught:
                await call(mesh, "nosy9", "ask", more)
            assert (caught.value.rpc_code, caught.value.data) == (-32021, {"requiredCapabilities": {"elicitation": {}}})
            assert (await call(mesh, "nosy9", "pid", more))["content"], "the child is not held by what was given up"
