"""What stands for an agent, its link and its jobs where only a host's link with tasks is tested, and a host that talks to it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from bridge.tasks import announce
from bridge.tasks.link import Tasked
from bridge.tasks.task import Task
from bridge.tasks.whose import Called, Tool
from bridge.tasks.words import EXTENSION
from bridge.visible import Sink
from mesh.errors import Denied, MailboxFull, MeshError, TooLarge
from mesh.rpc import CLIENT_CAPABILITIES, MODERN, PROTOCOL_VERSION
from mesh.wire.jsonrpc import Frame
from tests.helpers import Signals

META: dict[str, Any] = {PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: {"extensions": {EXTENSION: {}}}}
RELATED = {"io.modelcontextprotocol/related-task": {"taskId": "job-1"}}
SAID = {"content": [{"type": "text", "text": "12"}]}


REFUSED = {"denied": Denied("your roles do not allow it"), "full": MailboxFull("too many"), "large": TooLarge("too large")}


class Door:
    """Stands for `bridge.tasks.desk`: jobs that a test moves."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self.tasks: dict[str, Task] = {}
        self.calls: list[tuple[Called, int, int]] = []
        self.given_up: list[str] = []
        self.asked = 0
        """Questions that the control plane would have been asked."""
        self.away: MeshError | None = None
        """What who waits is told, where nobody can say how a job stands."""
        self._changed = asyncio.Condition()

    async def set(self, id: str, **fields: Any) -> None:
        async with self._changed:
            self.tasks[id] = replace(self.tasks[id], **fields)
            self._changed.notify_all()

    async def submit(self, called: Called, keep: int, attempts: int) -> Task:
        if called.tool in REFUSED:
            raise REFUSED[called.tool]
        self.calls.append((called, keep, attempts))
        task = Task(f"job-{len(self.calls)}", called.agent, "working", f"2026-01-01T00:00:{len(self.calls):02}Z", "later", keep * 1000)
        self.tasks[task.id] = task
        self._signals.tell()
        return task

    async def get(self, id: str) -> Task | None:
        self.asked += 1
        return self.tasks.get(id)

    async def all(self) -> list[Task]:
        self.asked += 1
        return list(self.tasks.values())

    async def wait(self, id: str, seconds: float = 5.0) -> Task | None:
        if self.away is not None:
            raise self.away
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.tasks[id].over)
        return self.tasks[id]

    async def watch(self, id: str) -> AsyncIterator[Task]:
        task = self.tasks[id]
        yield task
        while not task.over:
            before = task
            async with self._changed:
                await self._changed.wait_for(lambda: self.tasks[id] is not before)  # noqa: B023
            task = self.tasks[id]
            yield task

    async def cancel(self, id: str) -> None:
        await self.set(id, status="cancelled")

    def too_large(self, called: Called) -> bool:
        return called.tool == "huge"

    def give_up(self, id: str) -> None:
        self.given_up.append(id)
        self._signals.tell()


class Agent:
    """Stands for the link behind, and for what is known of the agent there."""

    over: MeshError | None = None
    announces = True

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self.own = False
        self.capabilities: dict[str, Any] = {"tools": {}}
        self.tools: dict[str, Tool | None] = {
            "never": Tool("forbidden"),
            "may": Tool("optional"),
            "read": Tool(repeatable=True),
            "unheard": None,
        }
        self.taken: list[Frame] = []
        self.to: dict[Any, Sink | None] = {}

    def receive(self, raw: bytes, to: Sink | None = None) -> None:
        raise AssertionError

    def take(self, frame: Frame, to: Sink | None = None) -> None:
        self.taken.append(frame)
        self.to[frame.id] = to
        self._signals.tell()

    async def close(self) -> None:
        return

    def opened(self, raw: bytes) -> tuple[bytes, bool]:
        return announce.in_initialize(raw)

    def discovered(self, raw: bytes) -> bytes:
        return announce.in_discover(raw)[0]

    def listed(self, raw: bytes) -> bytes:
        return announce.in_tools(raw, lambda _: True)

    async def has_own(self) -> bool:
        return self.own

    def called(self, frame: Frame) -> Called | None:
        return Called("echo", frame.name or "", {}) if frame.name != "unknown" else None

    async def tool(self, called: Called) -> Tool | None:
        return self.tools.get(called.tool, Tool())

    def shows(self, task: Task) -> bool:
        return task.agent == "echo"


class Host:
    def __init__(self) -> None:
        self.signals = Signals()
        self.door, self.agent = Door(self.signals), Agent(self.signals)
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.link = Tasked(self.agent, self.door, self.agent, self.hear)  # type: ignore[arg-type]

    def hear(self, raw: bytes) -> None:
        self.heard.put_nowait(json.loads(raw))

    def say(self, method: str, id: Any = 1, **params: Any) -> None:
        asked = {} if id is None else {"id": id}
        self.link.receive(json.dumps({"jsonrpc": "2.0", **asked, "method": method, "params": params}).encode())

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return await self.heard.get()

    async def ask(self, method: str, id: Any = 1, **params: Any) -> Any:
        self.say(method, id, **params)
        said = await self.next()
        assert said["id"] == id
        return said.get("result", said.get("error"))

    async def modern(self, method: str, id: Any = 1, **params: Any) -> Any:
        return await self.ask(method, id, **params, _meta=META)

    async def passes(self, method: str, id: Any = 1, **params: Any) -> None:
        """It goes on to the agent, as it is."""
        before = len(self.agent.taken)
        self.say(method, id, **params)
        await self.signals.until(lambda: len(self.agent.taken) > before)
        assert json.loads(self.agent.taken[-1].raw)["params"] == params
        assert self.heard.empty()

    def answers(self, result: dict[str, Any], id: Any = 1) -> None:
        """The agent answers a request that has gone on."""
        to = self.agent.to[id] or (lambda raw, _: self.hear(raw))
        to(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode(), True)

    async def begin(self, version: str = "2025-11-25") -> dict[str, Any]:
        await self.passes("initialize", protocolVersion=version, capabilities={})
        self.answers({"protocolVersion": version, "capabilities": self.agent.capabilities})
        return dict((await self.next())["result"])
