"""A forger: who speaks straight to the broker, and says what is not so."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from mesh import Mesh
from mesh.link.connection import Connection, Message
from mesh.subjects import Subjects
from mesh.wire.jsonrpc import dumps
from tests.helpers import Recorder, Signals

SUBJECTS = Subjects()
REPLY = SUBJECTS.reply_prefix("forger", "victim", "k")


class Forger:
    """A raw connection, and what comes back to it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.answers: list[tuple[str, dict[str, Any]]] = []
        self.signals = Signals()

    def hear(self, message: Message) -> None:
        if message.body:
            self.answers.append((message.subject, json.loads(message.body)))
        self.signals.tell()

    def call(
        self,
        n: int = 1,
        *,
        subject: str | None = None,
        reply: str | None = None,
        method: str = "tools/call",
        name: str = "t",
        id: Any = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """A call that is right but for what is given."""
        if body is None:
            params = {"name": name, "arguments": {"n": n}}
            body = dumps({"jsonrpc": "2.0", "id": f"forger.k.{n}" if id is None else id, "method": method, "params": params})
        subject = subject or SUBJECTS.call("victim", "any", "forger", "tools/call", "t")
        self.connection.send(subject, body, f"{REPLY}{n}" if reply is None else reply, headers)

    async def error(self) -> dict[str, Any]:
        await self.signals.until(lambda: self.answers)
        return dict(self.answers.pop()[1]["error"])


@asynccontextmanager
async def forging(url: str) -> AsyncIterator[Forger]:
    async with await Connection.open(url, name="forger") as connection:
        forger = Forger(connection)
        await connection.subscribe(SUBJECTS.replies_to("forger", "k"), forger.hear)
        await connection.subscribe(SUBJECTS.replies_to("forger", "k", quiet=True), forger.hear)
        yield forger


async def still_well(url: str, recorder: Recorder) -> None:
    """An honest caller is served as if nothing had been."""
    before = len(recorder.calls)
    async with Mesh(name="honest", broker=url) as mesh:
        assert await mesh.call("victim", "t", {"n": "honest"}) == {"echo": {"n": "honest"}}
    assert len(recorder.calls) == before + 1
