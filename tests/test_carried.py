"""A modern server's own request state: boxed at the bridge, led back to its instance, given back as the same bytes."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import InputRequiredResult

from bridge.connect import Connected
from bridge.eras.carried import LASTS, Carrier
from bridge.eras.state import Claim, Sealer, StateRefused, instance_in
from bridge.ports.local import LocalServer
from mesh import Mesh
from mesh.errors import TooLarge
from mesh.wire.jsonrpc import Frame, dumps, scan
from tests.translation_peers import NAMES, exposed

META = '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'
OWN = rb'"v1.\u00e9 \ud800 \/ \" "'
"""A state in a spelling that no writer would choose again."""


def request(state: bytes = b"", name: str = "t", method: str = "tools/call", key: bytes = b"requestState") -> Frame:
    more = b',"%s":%s' % (key, state) if state else b""
    return scan(b'{"jsonrpc":"2.0","id":"a.c.1","method":"%s","params":{"name":"%s","x":1E400%s}}' % (method.encode(), name.encode(), more))


def response(own: bytes = OWN) -> Frame:
    return scan(b'{"jsonrpc":"2.0","id":"a.c.1","result":{"n":1E400, "requestState" : %s, "resultType":"input_required"}}' % own)


def boxed(carrier: Carrier, own: bytes = OWN, caller: str = "a") -> bytes:
    """The state's JSON text as the client gets it."""
    raw = carrier.outward(caller, request(), response(own), now=0.0)
    head, tail = response(own).raw.split(own)
    assert raw.startswith(head)
    assert raw.endswith(tail)
    return raw[len(head) : len(raw) - len(tail)]


def test_the_server_gets_the_bytes_that_it_wrote_and_the_client_others() -> None:
    carrier = Carrier(Sealer("agent", "i1"), alone=True)
    state = boxed(carrier)
    assert instance_in(json.loads(state)) == "i1"
    retry = carrier.inward("a", request(state), now=LASTS - 1)
    assert retry.raw == request(OWN).raw
    assert carrier.inward("a", request(state), now=0.0).raw == retry.raw, "a client whose answer was lost may retry"


@pytest.mark.parametrize(
    ("caller", "how", "now"),
    [
        ("b", {}, 0.0),
        ("a", {"name": "other"}, 0.0),
        ("a", {"method": "prompts/get"}, 0.0),
        ("a", {}, LASTS),
    ],
)
def test_a_state_is_for_one_caller_and_one_request_and_a_time(caller: str, how: dict[str, Any], now: float) -> None:
    carrier = Carrier(Sealer("agent", "i1"), alone=True)
    with pytest.raises(StateRefused):
        carrier.inward(caller, request(boxed(carrier), **how), now)


def test_what_this_instance_did_not_give_out_does_not_reach_its_server() -> None:
    carrier, other = Carrier(Sealer("agent", "i1"), alone=True), Carrier(Sealer("agent", "i2"), alone=True)
    state = boxed(carrier)
    for forged in (OWN, b'""', boxed(other), state[:-9] + b'AAAAAAAA"', state.replace(b".i1.", b".i2.")):
        with pytest.raises(StateRefused):
            carrier.inward("a", request(forged), 0.0)
    with pytest.raises(StateRefused):
        carrier.inward("a", request(OWN, key=rb"request\u0053tate"), 0.0)
    with pytest.raises(StateRefused, match="twice"):
        carrier.inward("a", request(state + b',"requestState":' + OWN), 0.0)
    waiting = Sealer("agent", "i1", bytes(32))
    with pytest.raises(StateRefused, match="handshake"):
        Carrier(waiting, alone=True).inward("a", request(dumps(waiting.seal(Claim("a", "tools/call", "t", "a.c.1", 1), 9.0))), 0.0)


@pytest.mark.parametrize("state", [b"", b"null", b"5", b'{"a":1}'])
def test_what_is_no_state_is_the_servers_to_judge(state: bytes) -> None:
    frame = request(state)
    assert Carrier(Sealer("agent", "i1"), alone=True).inward("a", frame, 0.0) is frame


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":"a.c.1","result":{"resultType":"input_required","inputRequests":{}}}',
        b'{"jsonrpc":"2.0","id":"a.c.1","result":{"resultType":"input_required","requestState":null}}',
        b'{"jsonrpc":"2.0","id":"a.c.1","result":{"resultType":"complete","requestState":"s","x":"input_required"}}',
        b'{"jsonrpc":"2.0","id":"a.c.1","error":{"code":1,"message":"","data":"input_required"}}',
    ],
)
def test_other_responses_pass(raw: bytes) -> None:
    assert Carrier(Sealer("agent", "i1"), alone=True).outward("a", request(), scan(raw), 0.0) == raw


def test_behind_a_url_states_pass_but_for_those_of_another_mesh() -> None:
    carrier = Carrier(Sealer("agent", "i1"), alone=False)
    assert carrier.outward("a", request(), response(), 0.0) == response().raw
    assert carrier.inward("a", request(OWN), 0.0).raw == request(OWN).raw
    theirs = b'"mesh1.far.i9.box"'
    state = boxed(carrier, theirs)
    assert instance_in(json.loads(state)) == "i1"
    assert carrier.inward("a", request(state), 0.0).raw == request(theirs).raw
    with pytest.raises(StateRefused):
        carrier.inward("a", request(theirs), 0.0)


def test_a_state_that_would_not_be_taken_back_is_an_error_at_once() -> None:
    carrier = Carrier(Sealer("agent", "i1"), alone=True)
    most = b'"' + b"x" * 48_000 + b'"'
    assert carrier.inward("a", request(boxed(carrier, most)), 0.0).raw == request(most).raw
    with pytest.raises(TooLarge, match="requestState"):
        carrier.outward("a", request(), response(b'"' + b"x" * 65_000 + b'"'), 0.0)


# ---- over the mesh, with the SDK's own seal, whose key is the server object's


def server() -> MCPServer:
    made = MCPServer("asks")

    @made.tool()
    async def twice(ctx: Context) -> InputRequiredResult | str:
        """Wants to be asked again, twice."""
        state = ctx.request_state or ""
        return f"seen {state}" if len(state) == 2 else InputRequiredResult(request_state=state + "x")

    return made


class Host:
    def __init__(self, mesh: Mesh, agent: str) -> None:
        self._heard: asyncio.Queue[bytes] = asyncio.Queue()
        self._numbers = iter(range(1_000))
        self.link = Connected(mesh, agent, self._heard.put_nowait)

    async def call(self, state: str | None = None) -> dict[str, Any]:
        more = "" if state is None else f',"requestState":"{state}"'
        params = f'"name":"twice","arguments":{{}},{META}{more}'
        said = f'{{"jsonrpc":"2.0","id":{next(self._numbers)},"method":"tools/call","params":{{{params}}}}}'
        self.link.receive(said.encode())
        found: dict[str, Any] = json.loads(await self._heard.get())
        return found


def refused(said: dict[str, Any]) -> bool:
    return (said.get("error", {}).get("code"), said.get("error", {}).get("data")) == (-32602, {"reason": "invalid_request_state"})


@pytest.mark.proves("a modern server's own state finds its instance")
async def test_a_retry_finds_the_server_that_made_its_state_in_a_pool(plane: str) -> None:
    agent = next(NAMES)
    async with (
        asyncio.timeout(30),
        Mesh(name="host", broker=plane) as mesh,
        Mesh(name="thief", broker=plane) as thief,
        AsyncExitStack() as pool,
    ):
        for _ in range(3):
            await pool.enter_async_context(exposed(plane, agent, LocalServer(server())))
        host, other = Host(mesh, agent), Host(thief, agent)
        seen = set()
        for _ in range(8):
            first = (await host.call())["result"]["requestState"]
            seen.add(instance_in(first))
            second = (await host.call(first))["result"]["requestState"]
            assert instance_in(second) == instance_in(first)
            assert refused(await other.call(second))
            assert refused(await host.call(second[:-8] + "AAAAAAAA"))
            assert (await host.call(second))["result"]["content"][0]["text"] == "seen xx"
        assert len(seen) > 1, "calls were spread"
        await host.link.close()
        await other.link.close()


async def test_a_state_whose_instance_is_gone_is_refused(plane: str) -> None:
    agent = next(NAMES)
    async with asyncio.timeout(30), Mesh(name="host", broker=plane) as mesh, AsyncExitStack() as pool:
        host = Host(mesh, agent)
        async with exposed(plane, agent, LocalServer(server())):
            state = (await host.call())["result"]["requestState"]
            await pool.enter_async_context(exposed(plane, agent, LocalServer(server())))
        assert refused(await host.call(state))
        assert (await host.call())["result"]["resultType"] == "input_required"
        await host.link.close()
