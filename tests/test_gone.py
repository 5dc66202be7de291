"""A caller that is killed, or whose connection is gone for good: what runs for it ends. One that comes back keeps its calls."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mesh import Mesh, clock
from mesh.crypto import jwt
from mesh.crypto.keys import Kind, new_key
from mesh.errors import Disconnected
from mesh.link.connection import Message
from mesh.registry.gone import caller_of
from mesh.subjects import Gone, Subjects, client_name, escape
from tests.connections import client_of
from tests.helpers import CUT_WARNINGS, ROOT, Proxy, Recorder, Signals, all_retrieved, back, bridges, ended, figure, finish, hold, serving

pytestmark = CUT_WARNINGS

SUBJECTS = Subjects()

CALLS = """
import asyncio, sys
from mesh import Mesh

async def main():
    async with Mesh(name=sys.argv[2], broker=sys.argv[1]) as mesh:
        await asyncio.gather(*(mesh.call(sys.argv[3], "work", {"n": n}) for n in range(int(sys.argv[4]))))

asyncio.run(main())
"""


@asynccontextmanager
async def process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    made = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdin=pipe, stdout=pipe)
    try:
        yield made
    finally:
        if made.returncode is None:
            made.kill()
        await made.communicate()


class Notices:
    """Who is said to be gone."""

    def __init__(self) -> None:
        self.heard: list[Gone] = []
        self.signals = Signals()

    def __call__(self, message: Message) -> None:
        gone = SUBJECTS.parse(message.subject)
        assert isinstance(gone, Gone)
        self.heard.append(gone)
        self.signals.tell()

    async def of(self, agent: str) -> Gone:
        await self.signals.until(lambda: any(gone.agent == agent for gone in self.heard))
        return next(gone for gone in self.heard if gone.agent == agent)


@pytest.mark.parametrize("caller", ["killed", "zähler.*>"])
async def test_what_a_killed_caller_has_left_running_is_stopped(plane: str, caller: str) -> None:
    worker = Recorder(hold)
    async with asyncio.timeout(20), serving(plane, "worker", worker) as [presence], Mesh(name="other", broker=plane) as other:
        stays = asyncio.create_task(other.call("worker", "work", {"n": "other"}))
        async with process("-c", CALLS, plane, caller, "worker", "20") as killed:
            await worker.signals.until(lambda: len(worker.calls) == 21)
            begun = clock.monotonic()
            killed.kill()
            await worker.signals.until(lambda: len(worker.cancelled) == 20, timeout=5)
            figure(f"20 calls of a killed caller stopped after {(clock.monotonic() - begun) * 1000:.0f} ms")
        theirs = [call for call in worker.calls if call.caller == caller]
        assert {call.id for call in theirs} == set(worker.cancelled)
        assert presence._responder.running == 1
        [mine] = [call for call in worker.calls if call.caller == "other"]
        finish(mine, {"kept": True})
        assert await stays == {"kept": True}


async def test_what_waits_for_a_place_never_begins(plane: str) -> None:
    worker = Recorder(hold)
    async with (
        asyncio.timeout(20),
        serving(plane, "narrow", worker, at_once=1) as [presence],
        Mesh(name="other", broker=plane) as other,
        process("-c", CALLS, plane, "killed", "narrow", "3") as killed,
    ):
        await worker.signals.until(lambda: worker.calls)
        last = asyncio.create_task(other.call("narrow", "work", {}))
        while presence._responder.running < 4:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)
        killed.kill()
        await worker.signals.until(lambda: len(worker.calls) == 2)
        assert worker.calls[1].caller == "other", "the place went to who still waits"
        finish(worker.calls[1], {})
        await last


async def test_who_comes_back_keeps_its_calls(plane: str) -> None:
    worker, notices = Recorder(hold), Notices()
    async with (
        asyncio.timeout(20),
        Proxy(plane) as proxy,
        serving(plane, "patient", worker),
        Mesh(name="comes-back", broker=proxy.url) as mesh,
        Mesh(name="looker", broker=plane) as looker,
    ):
        await looker.connection.subscribe(SUBJECTS.gone, notices)
        running = asyncio.create_task(mesh.call("patient", "work", {}))
        await worker.signals.until(lambda: worker.calls)
        await back(mesh.connection, proxy.cut)
        async with Mesh(name="leaves", broker=plane):
            pass
        assert (await notices.of("leaves")).agent == "leaves"
        assert worker.cancelled == []
        finish(worker.calls[0], {"kept": True})
        assert await running == {"kept": True}
        assert "comes-back" not in [gone.agent for gone in notices.heard]


async def test_who_comes_back_too_late_is_told(plane: str) -> None:
    worker = Recorder(hold)
    async with (
        asyncio.timeout(20),
        Proxy(plane) as proxy,
        serving(plane, "stopped", worker),
        Mesh(name="too-late", broker=proxy.url) as mesh,
    ):
        running = asyncio.create_task(mesh.call("stopped", "work", {}))
        await worker.signals.until(lambda: worker.calls)
        proxy.refuse = True
        proxy.cut()
        await worker.signals.until(lambda: worker.cancelled, timeout=4)
        proxy.refuse = False
        with pytest.raises(Disconnected, match="gone"):
            await running


async def test_a_connection_that_says_it_is_another_ends_no_calls(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, notices = Recorder(hold), Notices()
    async with (
        asyncio.timeout(20),
        serving(plane, "target", worker),
        Mesh(name="victim", broker=plane) as mesh,
        Mesh(name="looker", broker=plane) as looker,
    ):
        await looker.connection.subscribe(SUBJECTS.gone, notices)
        running = asyncio.create_task(mesh.call("target", "work", {}))
        await worker.signals.until(lambda: worker.calls)
        monkeypatch.setattr("mesh.link.connection.client_name", lambda *_: client_name("victim", mesh.connection.token))
        async with Mesh(name="victim", broker=plane):
            pass
        monkeypatch.undo()
        async with Mesh(name="liar", broker=plane) as liar:
            pass
        assert await notices.of("liar") == Gone("liar", liar.connection.token)
        assert [gone for gone in notices.heard if gone.agent == "victim"] == []
        assert worker.cancelled == []
        finish(worker.calls[0], {})
        await running


async def test_the_session_of_a_killed_host_ends(plane: str) -> None:
    with bridges(plane, ("old", "handshake")):
        async with asyncio.timeout(30), process("-m", "bridge", "connect", "old", "--broker", plane) as host:

            async def ask(id: int, method: str, params: dict[str, Any]) -> Any:
                assert host.stdin is not None
                assert host.stdout is not None
                host.stdin.write(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode() + b"\n")
                return json.loads(await host.stdout.readline())["result"]

            client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            await ask(1, "initialize", client)
            pid = int((await ask(2, "tools/call", {"name": "pid", "arguments": {}}))["content"][0]["text"])
            host.kill()
            await ended(pid, timeout=10)


@pytest.mark.parametrize(
    ("client", "caller"),
    [
        ({"name": "host.0a1b"}, ("host", "0a1b")),
        ({"name": client_name("a.b c", "0a1b")}, ("a.b c", "0a1b")),
        ({"name": "NATS CLI Version 0.3.0"}, None),
        ({"name": "host heart"}, None),
        ({"name": "a b.c"}, None),
        ({"name": "."}, None),
        ({"name": 7}, None),
        ({}, None),
    ],
)
def test_whose_connection_it_was(client: dict[str, Any], caller: tuple[str, str] | None) -> None:
    assert caller_of(client) == caller


async def test_a_connection_says_whose_it_is(plane: str) -> None:
    async with Mesh(name="Über", broker=plane) as mesh:
        assert client_of(mesh.connection).options["name"] == client_name("Über", mesh.connection.token)


def test_the_users_claims_say_which_agent_it_was() -> None:
    claims = jwt.sign_user(new_key(Kind.ACCOUNT), new_key(Kind.USER).public, escape("hôte"), account="A", issued=1)
    assert caller_of({"name": "another.0a1b", "jwt": claims}) == ("hôte", "0a1b")
    assert caller_of({"name": "host.0a1b", "jwt": "nonsense"}) is None


async def test_who_asks_for_nobody_and_is_gone_before_the_answer_leaves_no_error_behind(plane: str) -> None:
    """The question is shared by all who ask, so it goes on; what it ends with is told to those who are left."""
    async with asyncio.timeout(10), Mesh(name="caller", broker=plane) as mesh:
        with all_retrieved():
            asking = asyncio.create_task(mesh.target("qqqqqqqq"))
            await asyncio.sleep(0)  # it has begun
            (question,) = (each for each in asyncio.all_tasks() if each.get_name() == "resolve qqqqqqqq")
            asking.cancel()
            await asyncio.wait([asking, question])
            assert asking.cancelled()
            del asking, question
