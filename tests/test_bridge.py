"""Bridges in processes of their own, with servers that misbehave: what one server does stays with that server."""

import asyncio
import json
import os
import signal
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from mesh import Mesh, clock
from mesh.errors import CallError, RemoteError
from tests.helpers import Bridge, alive, bridges, figure, text_of, watching

pytestmark = pytest.mark.usefixtures("served")


@pytest.fixture(scope="module")
def served(plane: str) -> Iterator[list[Bridge]]:
    """One echo, one that speaks the handshake era only, and one that prints."""
    plans = [("echo", "echo", "--role", "speaker"), ("old", "handshake"), ("printer", "printer"), ("hush", "echo", "--journal", "metadata")]
    with bridges(plane, *plans) as made:
        yield made


async def pid_of(mesh: Mesh, agent: str) -> int:
    return int(text_of(await mesh.call(agent, "pid", {})))


# ---- calls


async def test_a_call_reaches_the_server_as_it_was_said(plane: str) -> None:
    async with asyncio.timeout(10), Mesh(name="caller", broker=plane) as mesh:
        for agent in ("echo", "printer", "old", "speaker"):
            result = await mesh.call(agent, "echo", {"text": "grün ☃ \ud800", "n": 10**30, "none": None})
            heard = json.loads(text_of(result))
            assert heard["method"] == "tools/call"
            assert heard["params"]["arguments"] == {"text": "grün ☃ \ud800", "n": 10**30, "none": None}


async def test_an_error_keeps_code_message_and_data(plane: str) -> None:
    async with asyncio.timeout(10), Mesh(name="caller", broker=plane) as mesh:
        with pytest.raises(RemoteError) as caught:
            await mesh.call("echo", "error", {})
        assert (caught.value.rpc_code, caught.value.message, caught.value.data) == (-32123, "no ☃", {"n": 123456789012345678901234567890})
        assert (await mesh.call("echo", "tool_error", {}))["isError"] is True
        with pytest.raises(RemoteError, match="Unknown tool"):
            await mesh.call("echo", "nothing", {})
        with pytest.raises(RemoteError, match="not found") as caught:
            await mesh.request("echo", "vendor/unknown", {})
        assert caught.value.rpc_code == -32601


async def test_progress_arrives_in_order_and_cancellation_reaches_the_server(plane: str) -> None:
    async with asyncio.timeout(15), Mesh(name="caller", broker=plane) as mesh:
        heard: list[Any] = []
        result = await mesh.call("echo", "slow", {"seconds": 0.1, "steps": 20}, progress=lambda *said: heard.append(said))
        assert text_of(result) == "done"
        assert heard == [(step, 20, f"step {step}") for step in range(1, 21)]
        began = asyncio.Event()
        call = asyncio.create_task(mesh.call("echo", "slow", {"seconds": 60, "steps": 600}, progress=lambda *_: began.set()))
        await began.wait()
        begun = clock.monotonic()
        call.cancel()
        assert text_of(await mesh.call("echo", "wait", {"method": "notifications/cancelled", "count": 1})) == "True"
        figure(f"a cancellation took {(clock.monotonic() - begun) * 1000:.1f} ms to the server and back")
        assert clock.monotonic() - begun < 1.0


@pytest.mark.parametrize("text", ['"result":5', '"result":null', '"result":[1]', '"error":"no"', '"error":{"code":"x"}', '"error":null'])
async def test_a_strange_answer_is_an_answer(plane: str, text: str) -> None:
    async with asyncio.timeout(5), Mesh(name="caller", broker=plane) as mesh:
        for agent in ("echo", "hush"):
            with pytest.raises(CallError):
                await mesh.call(agent, "raw", {"text": text})
            await mesh.call(agent, "echo", {})


@pytest.mark.parametrize(
    "text",
    [
        '"result":{"n":' + "9" * 5000 + "}",
        '"result":{"n":1E400,"n":2}',
        '"result":{"deep":' + "[" * 20_000 + "]" * 20_000 + "}",
        '"result":{"s":"\\ud800"}',
    ],
    ids=["digits", "exponent", "deep", "surrogate"],
)
async def test_an_answer_that_python_cannot_read_disturbs_no_other(plane: str, text: str) -> None:
    async with asyncio.timeout(10), Mesh(name="caller", broker=plane) as mesh:
        others = [asyncio.create_task(mesh.call(agent, "slow", {"seconds": 0.3})) for agent in ("echo", "hush") * 3]
        odd = await asyncio.gather(*(mesh.call(agent, "raw", {"text": text}) for agent in ("echo", "hush")), return_exceptions=True)
        assert all(isinstance(each, dict | CallError) for each in odd)
        assert [text_of(result) for result in await asyncio.gather(*others)] == ["done"] * 6


async def test_an_answer_over_the_brokers_limit_comes_or_is_refused_clearly(plane: str) -> None:
    async with asyncio.timeout(20), Mesh(name="caller", broker=plane) as mesh:
        result = (await asyncio.gather(mesh.call("echo", "big", {"bytes": 3_000_000}), return_exceptions=True))[0]
        if isinstance(result, dict):
            assert len(text_of(result)) == 3_000_000
        else:
            assert isinstance(result, RemoteError)
            assert "too large" in result.message
        await mesh.call("echo", "echo", {})


async def test_what_a_server_says_to_nobody_is_nothing(plane: str) -> None:
    """Requests of the server on a shared channel, answers to nothing, the mesh's own words in a server's mouth."""
    async with asyncio.timeout(10), Mesh(name="caller", broker=plane) as mesh:
        slow = asyncio.create_task(mesh.call("echo", "slow", {"seconds": 0.5}))
        for text in (
            '{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}',
            '{"jsonrpc":"2.0","id":"x","method":"ping"}',
            '{"jsonrpc":"2.0","id":"bridge.999","result":5}',
            '{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}',
            '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"nobody","progress":1}}',
            '{"jsonrpc":"2.0","method":"notifications/mesh/unknown","params":{"exchange":"x","agent":"echo","instance":"x"}}',
            '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}',
            '{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"n":' + "9" * 5000 + "}}",
        ):
            assert text_of(await mesh.call("echo", "say", {"text": text})) == "said"
        assert text_of(await slow) == "done"


# ---- loss


async def test_a_killed_server_ends_its_calls_comes_back_and_works(plane: str, served: list[Bridge]) -> None:
    async with asyncio.timeout(20), Mesh(name="caller", broker=plane) as mesh:
        for kill in ("from outside", "by itself"):
            pid = await pid_of(mesh, "echo")
            calls = [asyncio.create_task(mesh.call("echo", "never", {})) for _ in range(20)]
            await mesh.call("echo", "echo", {})
            begun = clock.monotonic()
            if kill == "by itself":
                calls.append(asyncio.create_task(mesh.call("echo", "crash", {})))
            else:
                os.kill(pid, signal.SIGKILL)
            for problem in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(problem, RemoteError)
                assert "is gone" in problem.message
                assert ("SIGKILL" if kill == "from outside" else "exit code 7") in problem.message
                assert problem.data["mesh"] == "server_died"
            told = clock.monotonic() - begun
            assert json.loads(text_of(await mesh.call("echo", "echo", {"n": 1})))["params"]["arguments"] == {"n": 1}
            figure(f"server killed: told after {told * 1000:.0f} ms, working again after {(clock.monotonic() - begun) * 1000:.0f} ms")
            assert told < 1.0
            assert await pid_of(mesh, "echo") != pid
            await asyncio.to_thread(served[0].wait)


# ---- servers that misbehave


@pytest.mark.parametrize("server", ["flooder", "babbler", "silent"])
async def test_a_server_that_misbehaves_disturbs_no_other(plane: str, server: str) -> None:
    async with asyncio.timeout(30), Mesh(name="caller", broker=plane) as mesh:

        async def measure() -> list[float]:
            taken = []
            for _ in range(100):
                begun = clock.monotonic()
                await mesh.call("echo", "echo", {})
                taken.append((clock.monotonic() - begun) * 1000)
            return taken

        quiet = await measure()
        with bridges(plane, (f"bad-{server}", server)) as _:
            stuck = [asyncio.create_task(mesh.call(f"bad-{server}", "never", {}, timeout=20)) for _ in range(20)]
            taken = await measure()
            for call in stuck:
                call.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
        p99 = statistics.quantiles(taken, n=100)[98]
        figure(f"beside a {server}: p50 {statistics.median(taken):.1f} ms, p99 {p99:.1f} ms (quiet: {statistics.median(quiet):.1f} ms)")
        assert p99 < 250


async def test_a_server_whose_list_python_cannot_read_is_no_danger(plane: str) -> None:
    """Whether such a server is taken or refused: the bridge says which, and does not hang."""
    bridge = await asyncio.to_thread(Bridge, plane, "digits", "digits")
    try:
        async with asyncio.timeout(25), Mesh(name="caller", broker=plane) as mesh:
            try:
                await asyncio.to_thread(bridge.wait, "ready", 20)
            except AssertionError:
                assert "Traceback" not in "".join(bridge.errors)
            else:
                assert await pid_of(mesh, "digits")
    finally:
        await asyncio.to_thread(bridge.close)


@pytest.mark.parametrize(
    "command",
    [["no-such-program"], [sys.executable, "-m", "tests.servers.crasher"], [sys.executable, "-c", "print('hello')"], ["/dev/null"]],
    ids=["missing", "crasher", "no server", "no program"],
)
def test_a_server_that_cannot_be_reached_is_told_in_one_line(plane: str, command: list[str]) -> None:
    bridge = Bridge(plane, "nobody", command)
    try:
        bridge.wait("ended")
        assert bridge.process.wait(20) == 1
        bridge._threads[1].join(5)
        problem = json.loads(bridge.errors[-1])
        assert problem["code"]
        assert problem["message"]
        assert problem["hint"]
        assert "Traceback" not in "".join(bridge.errors)
    finally:
        bridge.close()


async def test_calls_of_a_caller_that_was_killed_do_not_stay(plane: str) -> None:
    """A caller that is gone cancels nothing. What it left behind must not fill the instance for ever."""
    script = (
        "import asyncio, sys\nfrom mesh import Mesh\nasync def main():\n"
        "  async with Mesh(name='doomed', broker=sys.argv[1]) as mesh:\n"
        "    calls = [asyncio.create_task(mesh.call('echo', 'never', {}, timeout=3)) for _ in range(50)]\n"
        "    await mesh.call('echo', 'echo', {})\n    print('sent', flush=True)\n    await asyncio.gather(*calls)\nasyncio.run(main())"
    )
    async with asyncio.timeout(30), Mesh(name="caller", broker=plane) as mesh, watching(mesh) as (directory, signals):
        doomed = await asyncio.create_subprocess_exec(sys.executable, "-c", script, plane, stdout=asyncio.subprocess.PIPE)
        assert doomed.stdout is not None
        assert await doomed.stdout.readline() == b"sent\n"

        def running() -> int:
            return sum(
                each.health.running for agent in directory.agents() if agent.name == "echo" for each in agent.instances if each.health
            )

        await signals.until(lambda: running() >= 50)
        doomed.kill()
        await doomed.wait()
        await signals.until(lambda: running() == 0, timeout=5)


def test_no_process_is_left(served: list[Bridge]) -> None:
    assert all(alive(each.process.pid) for each in served)
