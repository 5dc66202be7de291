"""Agents and callers on a real broker, whose calls fill a real journal: the stage of tests/test_journal.py."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from mesh.audit.calls import JournalCall
from mesh.audit.journal import Journal
from mesh.link.call import Call
from mesh.link.connection import Connection
from mesh.link.exchanges import Exchanges
from mesh.link.jetstream import JetStream
from mesh.link.responder import Responder
from mesh.subjects import Subjects
from mesh.topology import JOURNAL
from mesh.wire.entries import JournalPolicy, ProbeAnswer
from mesh.wire.jsonrpc import Frame, dumps
from tests.conftest import Broker

SUBJECTS = Subjects()
POLICY = JournalPolicy(tools={"secret": "metadata", "hidden": "none"})


class Tools:
    """A server: the tool's name says how the call ends."""

    def __init__(self) -> None:
        self.held: dict[str, Call] = {}
        self.came: asyncio.Queue[str] = asyncio.Queue()
        """The ids of the calls that are held."""

    def on_call(self, call: Call) -> None:
        match call.frame.name:
            case "hold":
                self.held[call.id] = call
                self.came.put_nowait(call.id)
            case "fail":
                call.fail(-32602, "no such city", {"city": "x"})
            case "complain":
                self.finish(call, isError=True)
            case "report":
                call.announce()
                call.emit(dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "half"}}))
                progress = {"progressToken": call.id, "progress": 1, "total": 2}
                call.emit(dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}), named=True)
                self.finish(call, text="done")
            case _:
                self.finish(call, text=f"{call.frame.name} for {call.caller}")

    def finish(self, call: Call, *, text: str = "", isError: bool = False) -> None:  # noqa: N803 (MCP's own word)
        result = {"content": [{"type": "text", "text": text}], "isError": isError}
        call.finish(dumps({"jsonrpc": "2.0", "id": call.id, "result": result}))

    def on_cancel(self, call: Call, reason: str) -> None:
        self.held.pop(call.id, None)

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        return


class Caller:
    def __init__(self, exchanges: Exchanges) -> None:
        self.exchanges = exchanges

    async def start(self, target: str, tool: str, *, timeout: float = 10.0, **arguments: Any) -> tuple[str, asyncio.Future[Frame]]:
        """Send a call. Returns its id and what it comes to."""
        found = self.exchanges.targets.fresh(target) or await self.exchanges.targets.resolve(target)
        done: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        exchange = self.exchanges.open(
            found,
            "tools/call",
            tool,
            on_frame=lambda frame: done.set_result(frame) if frame.final else None,
            on_failure=done.set_exception,
            timeout=timeout,
        )
        body = {"jsonrpc": "2.0", "id": exchange.id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
        exchange.send(dumps(body))
        done.add_done_callback(lambda future: exchange.cancel("the caller gave up") if future.cancelled() else None)
        return exchange.id, done

    async def call(self, target: str, tool: str, **options: Any) -> str:
        """Call, wait for the answer, and return the id."""
        id, done = await self.start(target, tool, **options)
        await done
        return id


class World:
    """Agents and callers on one broker, and the journal of what they do."""

    def __init__(self, broker: Broker, stack: AsyncExitStack, connection: Connection) -> None:
        self.broker = broker
        self.connection = connection
        self.journal = Journal(connection, SUBJECTS)
        self._stack = stack

    async def connect(self, name: str) -> Connection:
        return await self._stack.enter_async_context(await Connection.open(self.broker.url, name=name))

    async def agent(self, name: str, instance: str = "i1", roles: tuple[str, ...] = ()) -> Tools:
        tools = Tools()
        answer = ProbeAnswer(agent=name, instance=instance, journal=POLICY).encode()
        responder = Responder(
            await self.connect(name), SUBJECTS, name, instance, tools, roles=roles, journal=POLICY, on_probe=lambda _caller, _body: answer
        )
        await responder.start()
        self._stack.push_async_callback(responder.stop)
        return tools

    async def caller(self, name: str) -> Caller:
        exchanges = Exchanges(await self.connect(name), SUBJECTS, name)
        await exchanges.start()
        self._stack.push_async_callback(exchanges.close)
        return Caller(exchanges)

    async def settled(self, *connections: Connection) -> None:
        """Wait until the journal holds what these have sent: it has no acks, so ask until nothing comes any more."""
        before = -1
        while True:
            for connection in (self.connection, *connections):
                await connection.flush()
            now = (await JetStream(self.connection).api(f"STREAM.INFO.{JOURNAL}"))["state"]["last_seq"]
            if now == before:
                return
            before = now

    async def calls(self, **filters: Any) -> list[JournalCall]:
        await self.settled()
        async with asyncio.timeout(10):
            return [call async for call in self.journal.calls(**filters)]
