"""What agents say of tasks and of their tools, as it is remembered: asked seldom, of a mesh that may not answer."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.tasks import whose
from bridge.tasks.desk import Desk
from bridge.tasks.whose import Called, Known, One, Tool, said_by
from bridge.tasks.words import EXTENSION
from mesh.errors import CallTimeout, MeshError, NoSuchAgent, RemoteError
from mesh.wire.jsonrpc import scan
from tests.helpers import Signals

TOOLS = [
    {"name": "plain"},
    {"name": "never", "execution": {"taskSupport": "forbidden"}},
    {"name": "read", "annotations": {"readOnlyHint": True}},
    {"name": "set", "annotations": {"idempotentHint": True, "readOnlyHint": False}},
    {"name": "drop", "annotations": {"destructiveHint": False, "idempotentHint": "yes"}},
]


class Mesh:
    """Stands for the participant: agents that answer, or do not."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.problem: MeshError | None = None
        self.away: MeshError | None = None
        self.capabilities: dict[str, Any] = {"tools": {}}

    async def request(self, agent: str, method: str, params: Any = None, *, timeout: float) -> dict[str, Any]:
        self.asked.append((agent, method))
        if self.problem is not None:
            raise self.problem
        return {"capabilities": self.capabilities} if method == "server/discover" else {"tools": TOOLS}

    async def target(self, agent: str) -> Any:
        if self.away is not None:
            raise self.away
        return SimpleNamespace(journal=SimpleNamespace(mode=lambda method, tool: "metadata" if tool == "secret" else "full"))


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(whose, "clock", made)
    return made


def one(mesh: Mesh) -> One:
    return One(mesh, "a", Known(mesh))  # type: ignore[arg-type]


async def tool(one: One, name: str) -> Tool | None:
    return await one.tool(Called("a", name, {}))


def test_what_a_definition_says() -> None:
    assert [said_by(each) for each in TOOLS] == [Tool(), Tool("forbidden"), Tool("", True), Tool("", True), Tool()]
    assert [said_by(each) for each in (None, {"execution": 1, "annotations": []}, {"execution": {"taskSupport": 1}})] == [Tool()] * 3


async def test_an_agent_is_asked_once_in_a_while(time: Clock) -> None:
    mesh = Mesh()
    agent = one(mesh)
    assert await asyncio.gather(*[tool(agent, name) for name in ("read", "never", "plain", "secret")]) == [
        Tool("", True), Tool("forbidden"), Tool(), Tool("forbidden"),
    ]  # fmt: skip
    assert mesh.asked == [("a", "server/discover"), ("a", "tools/list")]
    time.now += whose.FRESH
    await tool(agent, "read")
    assert len(mesh.asked) == 4


async def test_what_an_agent_has_said_holds_while_it_does_not_answer(time: Clock) -> None:
    mesh = Mesh()
    agent = one(mesh)
    assert await tool(agent, "never") == Tool("forbidden")
    mesh.problem = CallTimeout("it is busy")
    for _ in range(3):
        time.now += whose.FRESH
        assert await tool(agent, "never") == Tool("forbidden")
    asked = len(mesh.asked)
    assert await tool(agent, "never") == Tool("forbidden")
    assert len(mesh.asked) == asked  # not again at once
    mesh.problem, mesh.capabilities = None, {"extensions": {EXTENSION: {}}}
    assert not await agent.has_own()
    time.now += whose.ASK_AGAIN
    assert await agent.has_own()
    mesh.problem = CallTimeout("it is busy")
    time.now += whose.FRESH
    assert await agent.has_own()


async def test_an_agent_that_never_said_anything_is_not_known(time: Clock) -> None:
    mesh = Mesh()
    mesh.problem = CallTimeout("it is busy")
    assert await tool(one(mesh), "read") is None
    mesh.problem = RemoteError(-32601, "Method not found")
    assert await tool(one(mesh), "read") == Tool()


async def test_nothing_is_stored_for_an_agent_that_is_away() -> None:
    mesh = Mesh()
    mesh.away = NoSuchAgent("nobody is a")
    with pytest.raises(NoSuchAgent):
        await tool(one(mesh), "plain")


async def test_so_many_agents_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whose, "MOST_KNOWN", 2)
    mesh = Mesh()
    known = Known(mesh)  # type: ignore[arg-type]
    for name in ("a", "b", "a", "c", "b"):
        await known.of(name)
    assert [name for name, method in mesh.asked if method == "tools/list"] == ["a", "b", "c"]
    await known.of("a")
    assert mesh.asked[-1] == ("a", "tools/list")


def test_a_number_that_cannot_be_written_again_is_no_job() -> None:
    agent = one(Mesh())
    raw = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"n":%b}}}'
    assert agent.called(scan(raw % b"1E400")) is None
    found = agent.called(scan(raw % b"1.5"))
    assert json.dumps(found) == '["a", "x", {"n": 1.5}]'


async def test_who_gives_up_while_its_job_is_stored_leaves_none() -> None:
    signals, stored, cancelled = Signals(), asyncio.Event(), []

    async def submit(*_: Any, **__: Any) -> Any:
        signals.tell()
        await stored.wait()
        return SimpleNamespace(id="1-a")

    async def cancel(id: str) -> None:
        cancelled.append(id)

    desk = Desk(SimpleNamespace(jobs=SimpleNamespace(submit=submit, cancel=cancel)))  # type: ignore[arg-type]
    asking = asyncio.create_task(desk.submit(Called("a", "x", {}), 60, 1))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    stored.set()
    await desk.close()
    assert cancelled == ["1-a"]
