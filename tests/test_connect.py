"""A host on the mesh: `mesh-bridge connect` on its stdin and stdout, and the mesh as a transport of the SDK; both eras, real servers."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from mcp.server.mcpserver import MCPServer
from mcp_types import TextContent

from bridge import mesh_transport, serve
from mesh import Mesh
from tests.helpers import ROOT, Bridge, bridges, ended

pytestmark = pytest.mark.usefixtures("served")

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def served(plane: str) -> Iterator[list[Bridge]]:
    time, git = ([str(BIN / f"mcp-server-{name}")] for name in ("time", "git"))
    with bridges(plane, ("echo", "echo"), ("old", "handshake"), ("time", time), ("git", [*git, "--repository", str(ROOT)])) as made:
        yield made


def host(plane: str, agent: str) -> StdioServerParameters:
    """What a host's configuration says."""
    options = ["--broker", plane, "--state-dir", os.environ["MESH_STATE_DIR"]]  # the SDK keeps the environment to itself
    return StdioServerParameters(command=sys.executable, args=["-m", "bridge", "connect", agent, *options], cwd=ROOT)


def text(result: Any) -> str:
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text


class RawHost:
    """A host that writes what it likes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def say(self, *lines: bytes | dict[str, Any]) -> None:
        assert self.process.stdin is not None
        for line in lines:
            self.process.stdin.write((line if isinstance(line, bytes) else json.dumps({"jsonrpc": "2.0", **line}).encode()) + b"\n")

    async def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, "it ended"
        return dict(json.loads(line))

    async def answer(self, id: Any) -> dict[str, Any]:
        """The answer to one request; what else comes is left out."""
        while True:
            message = await self.hear()
            if message.get("id") == id and ("result" in message or "error" in message):
                return message

    async def begin(self) -> None:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}
        self.say({"id": "init", "method": "initialize", "params": params})
        assert "result" in await self.answer("init")
        self.say({"method": "notifications/initialized"})

    async def tool(self, name: str, id: Any = "tool", **arguments: Any) -> Any:
        self.say({"id": id, "method": "tools/call", "params": {"name": name, "arguments": arguments}})
        return (await self.answer(id))["result"]["content"][0]["text"]


@asynccontextmanager
async def raw_host(plane: str, agent: str, *options: str) -> AsyncIterator[RawHost]:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "bridge", "connect", agent, "--broker", plane, *options],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
        limit=1 << 24,
    )
    try:
        async with asyncio.timeout(30):
            yield RawHost(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


# ---- ordinary hosts


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("agent", ["time", "git", "echo", "old"])
async def test_a_host_uses_a_server_as_if_it_were_its_own(plane: str, agent: str, mode: Any) -> None:
    async with asyncio.timeout(30), Client(host(plane, agent), mode=mode) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        match agent:
            case "time":
                assert "Europe/Berlin" in text(await client.call_tool("get_current_time", {"timezone": "Europe/Berlin"}))
                assert (await client.call_tool("get_current_time", {"timezone": "Nowhere/At/All"})).is_error
            case "git":
                assert "Author" in text(await client.call_tool("git_log", {"repo_path": str(ROOT), "max_count": 1}))
            case _:
                assert "slow" in names
                heard: list[Any] = []

                async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                    heard.append(progress)

                assert text(await client.call_tool("slow", {"seconds": 0.1, "steps": 5}, progress_callback=on_progress)) == "done"
                assert heard == [1, 2, 3, 4, 5]
                with pytest.raises(MCPError) as caught:
                    await client.call_tool("error", {})
                assert (caught.value.error.code, caught.value.error.message) == (-32123, "no ☃")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_mesh_is_a_transport_of_the_sdk(plane: str, mode: Any) -> None:
    async with asyncio.timeout(30), Mesh(name="sdk", broker=plane) as mesh:
        for agent in ("time", "echo", "old"):
            async with Client(mesh_transport(agent, mesh=mesh), mode=mode) as client:
                assert (await client.list_tools()).tools
        async with Client(mesh_transport("echo", broker=plane, name="alone"), mode=mode) as client:
            results = await asyncio.gather(*(client.call_tool("echo", {"n": n}) for n in range(50)))
            assert [json.loads(text(result))["params"]["arguments"]["n"] for result in results] == list(range(50))


async def test_a_server_object_of_this_process_is_an_agent(plane: str) -> None:
    server = MCPServer("adder")

    @server.tool()
    async def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    @server.tool()
    async def fail() -> str:
        """Fail."""
        raise ValueError("no")

    async with asyncio.timeout(20), Mesh(name="adder", broker=plane) as mesh, serve(server, name="adder", mesh=mesh):
        assert (await mesh.call("adder", "add", {"a": 2, "b": 3}))["structuredContent"] == {"result": 5}
        assert (await mesh.call("adder", "fail", {}))["isError"] is True
        async with Client(mesh_transport("adder", mesh=mesh)) as client:
            assert text(await client.call_tool("add", {"a": 1, "b": 1})) == "2"


# ---- hosts that say strange things


async def test_garbage_from_a_host_is_answered_and_ends_nothing(plane: str) -> None:
    async with raw_host(plane, "echo") as raw:
        await raw.begin()
        garbage: list[bytes] = [
            b"garbage",
            b"\xff\xfe\x00",
            b"{",
            b"[]",
            b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
            b"5",
            b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
            b'{"jsonrpc":"2.0","id":1,"method":5}',
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":5}}',
            b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
            b"[" * 100_000,
            b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}',
        ]
        for line in garbage:
            raw.say(line)
            answer = await raw.hear()
            assert answer["error"]["code"] in (-32700, -32600), line[:60]
            assert answer["id"] in (None, 1), line[:60]
        raw.say(b"", b"\r", b'{"jsonrpc":"2.0","id":"unasked","result":{}}', b'{"jsonrpc":"2.0","method":"vendor/unknown"}')
        raw.say(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"nothing"}}')
        raw.say(b'{"jsonrpc":"2.0","method":"notifications/cancelled"}', b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":5}')
        assert await raw.tool("pid")


async def test_what_a_host_says_arrives_byte_by_byte(plane: str) -> None:
    async with raw_host(plane, "echo") as raw:
        await raw.begin()
        for id in (b"7", b'"seven"', b'"\\u0073ieben"', b'"\\ud800"', b"-0", b"123456789012345678901234567890"):
            arguments = b'{"n": 123456789012345678901234567890, "e":1E400,"d":1,"d":2, "s":"\\ud800 \\u00e4 \xc3\xa4"}'
            line = (
                b'{"params":{"arguments":'
                + arguments
                + b', "name" :"echo"},"x":[1],"method":"tools\\/call", "id" :'
                + id
                + b',"jsonrpc":"2.0"}'
            )
            raw.say(line)
            assert raw.process.stdout is not None
            answer = await raw.process.stdout.readline()
            assert b'"id": ' + id in answer or b'"id":' + id in answer
            heard = json.loads(answer)["result"]["content"][0]["text"].encode()
            before, _, after = line.partition(b'"id" :' + id)
            assert heard.startswith(before)
            assert heard.rstrip(b"\n").endswith(after)


async def test_two_requests_with_one_id_are_not_confused(plane: str) -> None:
    async with raw_host(plane, "echo") as raw:
        await raw.begin()
        request = {"id": 1, "method": "tools/call", "params": {"name": "slow", "arguments": {"seconds": 0.5}}}
        raw.say(request, request, {**request, "id": "1", "params": {"name": "pid"}})
        answers = [await raw.hear() for _ in range(3)]
        assert answers[0]["error"]["code"] == -32600
        assert answers[1]["id"] == "1"
        assert answers[2]["result"]["content"][0]["text"] == "done"
        assert await raw.tool("pid", id=1)


async def test_a_cancellation_of_the_host_reaches_the_server(plane: str) -> None:
    async with raw_host(plane, "echo") as raw:
        await raw.begin()
        raw.say({"id": 5, "method": "tools/call", "params": {"name": "slow", "arguments": {"seconds": 60}}})
        raw.say({"method": "notifications/cancelled", "params": {"requestId": 5, "reason": "no"}})
        assert await raw.tool("wait", method="notifications/cancelled", count=1) == "True"


async def test_a_call_to_nobody_is_an_error_that_says_so(plane: str) -> None:
    async with raw_host(plane, "ecko") as raw:
        raw.say({"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}}})
        error = (await raw.answer(1))["error"]
        assert error["data"]["mesh"] == "no_such_agent"
        assert error["data"]["close"] == ["echo"]


# ---- sessions and their ends


@pytest.mark.parametrize("end", ["stdin", signal.SIGTERM])
async def test_a_session_ends_when_the_host_leaves(plane: str, end: Any) -> None:
    async with raw_host(plane, "old") as raw, raw_host(plane, "old") as other:
        await raw.begin()
        await other.begin()
        pid, stays = int(await raw.tool("pid")), int(await other.tool("pid"))
        assert pid != stays, "a session has a server of its own"
        assert raw.process.stdin is not None
        if end == "stdin":
            raw.process.stdin.close()
        else:
            raw.process.send_signal(end)
        await ended(pid)
        assert await raw.process.wait() == 0
        assert int(await other.tool("pid")) == stays


async def test_a_session_whose_server_dies_says_so_and_can_begin_again(plane: str) -> None:
    async with raw_host(plane, "old") as raw:
        await raw.begin()
        raw.say({"id": 1, "method": "tools/call", "params": {"name": "crash"}})
        error = (await raw.answer(1))["error"]
        assert "exit code 7" in error["message"]
        raw.say({"id": 2, "method": "tools/call", "params": {"name": "pid"}})
        error = (await raw.answer(2))["error"]
        assert error["data"]["mesh"] in ("session_lost", "server_died", "instance_lost")
        await raw.begin()
        assert await raw.tool("pid")


async def test_a_session_whose_bridge_is_killed_says_so_and_can_begin_again(plane: str) -> None:
    with bridges(plane, ("mortal", "handshake"), ("mortal", "handshake")) as made:
        async with raw_host(plane, "mortal") as raw:
            await raw.begin()
            raw.say({"id": 1, "method": "tools/call", "params": {"name": "never"}})
            pid = int(await raw.tool("pid"))
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            [bridge] = [each for each in made if each.process.pid == parent]
            bridge.send(signal.SIGKILL)
            error = (await raw.answer(1))["error"]
            assert error["data"]["mesh"] == "instance_lost"
            raw.say({"id": 2, "method": "tools/call", "params": {"name": "pid"}})
            assert (await raw.answer(2))["error"]["data"]["mesh"] in ("instance_lost", "session_lost")
            await raw.begin()
            assert int(await raw.tool("pid")) != pid
