"""Nonsense said to a mesh that runs: by a participant with its own, real rights to an agent and to the control plane, and by anybody to the
HTTP front. A bystander keeps calling all the while: none of its calls may fail, and at the end everybody still answers."""

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import nats

from bridge.config import HttpSpec
from bridge.web.server import serving
from mesh import Mesh
from mesh.identity.authority import Authority
from mesh.link.call import Call
from mesh.settings import make_settings
from mesh.wire.jsonrpc import Frame, dumps
from tests.fuzzing.mutate import mutate
from tests.fuzzing.targets import MESSAGES

ATTACKER: Final = "fuzzer"
TARGET: Final = "steady"
TAILS: Final = (
    "tools.call.now",
    "ping",
    "initialize",
    "server.discover",
    "notifications.cancelled",
    "mesh.answer",
    "mesh.reader",
    "x.y",
    "resources.read.a",
)

HTTP: Final = (
    (
        b"POST /agents/steady/mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json, text/event-stream\r\n"
        b"Content-Type: application/json\r\n"
        b"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: now\r\nContent-Length: 2\r\n\r\n{}"
    ),
    b"GET /agents/steady/mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\nLast-Event-ID: 1\r\n\r\n",
    (
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ),
    b"DELETE /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nMcp-Session-Id: x\r\n\r\n",
)


class Steady:
    """Answers every call at once."""

    def on_call(self, call: Call) -> None:
        call.finish(b'{"jsonrpc":"2.0","id":' + dumps(call.id) + b',"result":{"content":[]}}')

    def on_cancel(self, call: Call, reason: str) -> None:
        """Nothing runs."""

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        """It has no sessions."""


@asynccontextmanager
async def world(broker: str) -> AsyncIterator[tuple[Mesh, str]]:
    """An agent, a front, and a bystander that calls; yields the bystander and the front's address. The control plane runs elsewhere."""
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(Mesh(name=TARGET, broker=broker))
        await stack.enter_async_context(agent.present(Steady()))
        front = await stack.enter_async_context(serving(HttpSpec(port=0, auth="none"), make_settings(broker=broker)))
        yield await stack.enter_async_context(Mesh(name="bystander", broker=broker)), front


async def fuzz(broker: str, inputs: int, seed: int) -> list[str]:
    """Say `inputs` things; returns what went wrong."""
    problems: list[str] = []
    async with AsyncExitStack() as stack:
        bystander, front = await stack.enter_async_context(world(broker))
        own = await stack.enter_async_context(Mesh(name=ATTACKER, broker=broker))  # has its credentials made
        attacker = Attacker(broker, Authority.open(own.settings.state_dir).credentials(ATTACKER), own.connection.token)
        stack.push_async_callback(attacker.close)
        calling = asyncio.create_task(_call_on(bystander, problems), name="bystander")
        rng = random.Random(f"live/{seed}")
        for number in range(inputs):
            if calling.done():
                break
            if number % 20:
                await attacker.say(rng)
            else:
                await _ask_front(front, rng)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        for name in (TARGET, "mesh"):
            try:
                await bystander.request(name, "ping", timeout=10)
            except Exception as error:
                problems.append(f"{name} no longer answers: {error!r}")
        if attacker.refused > inputs * 0.2:
            problems.append(f"the client itself refused {attacker.refused} of the messages: too few were sent")
    return problems


async def _call_on(mesh: Mesh, problems: list[str]) -> None:
    while not problems:
        try:
            await mesh.call(TARGET, "now", timeout=10)
        except Exception as error:
            problems.append(f"a call of the bystander failed: {error!r}")
        await asyncio.sleep(0.005)


class Attacker:
    """A raw client with the attacker's credentials. What it says is within its rights, but for what is wrong with it."""

    def __init__(self, broker: str, credentials: Path | None, token: str) -> None:
        self.refused = 0
        """Messages that did not leave this process."""
        self._broker = broker
        self._credentials = credentials
        self._token = token
        self._client: Any = None
        self._said = 0

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def say(self, rng: random.Random) -> None:
        """One message; every hundredth waits until the broker has read what came before."""
        if self._client is None or self._client.is_closed:  # the broker ends a client that does not keep to its protocol
            self._client = await nats.connect(
                self._broker, user_credentials=str(self._credentials), inbox_prefix=f"_INBOX.{ATTACKER}".encode(), error_cb=_ignore
            )
        self._said += 1
        try:
            subject, body, reply, headers = _message(self._token, rng)
            await self._client.publish(subject, body, reply=reply, headers=headers)
            if self._said % 100 == 0:
                await self._client.flush(timeout=10)
        except Exception:
            self.refused += 1


def _message(token: str, rng: random.Random) -> tuple[str, bytes, str, dict[str, str] | None]:
    target = rng.choice((TARGET, "mesh"))
    family, instance = rng.choice(("call", "quiet")), rng.choice(("any", "any", "i1"))
    subject = rng.choice(
        (
            f"mesh.v1.{family}.{target}.{instance}.{ATTACKER}.{rng.choice(TAILS)}",
            f"mesh.v1.probe.{target}.{instance}.{ATTACKER}",
            f"mesh.v1.note.{target}.{ATTACKER}.notifications.{rng.choice(('cancelled', 'mesh.resume', 'x'))}",
            f"mesh.v1.part.{target}.{instance}.{ATTACKER}.{ATTACKER}.{token}.1",
        )
    )
    if rng.random() < 0.3:
        subject = f"mesh.v1.{family}.{target}.{instance}.{ATTACKER}.{_token(mutate(b'tools.call.now', (b'_x41_',), rng))}"
    exchange = f"{'q' if family == 'quiet' else ''}{rng.randrange(1_000_000)}"
    reply = f"mesh.v1.{'hush' if family == 'quiet' else 'reply'}.{ATTACKER}.{target}.{token}.{exchange}"
    body = rng.choice(MESSAGES).replace(b"qa.c1.7", f"{ATTACKER}.{token}.{exchange}".encode())
    headers = None
    if rng.random() < 0.3:
        key = rng.choice(("Mesh-Exchange", "Mesh-Deadline", "Nats-Msg-Id", "Nats-Expected-Stream", "Status", "X"))
        value = mutate(b"12.5", (b"none", b"-1", b"1e999"), rng).decode("latin-1")
        headers = {key: "".join(each for each in value if each.isprintable())[:500].strip() or "x"}
    return subject, mutate(body, MESSAGES, rng) if rng.random() < 0.8 else body, reply, headers


def _token(raw: bytes) -> str:
    """What may stand in a subject on the wire: no space and no control character. All else is the broker's to judge."""
    return "".join(chr(each) for each in raw[:300] if 32 < each < 127) or "x"


async def _ask_front(front: str, rng: random.Random) -> None:
    """One HTTP request, or what is left of it, and up to a moment's patience for an answer."""
    host, _, port = front.removeprefix("http://").rpartition(":")
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(mutate(rng.choice(HTTP), (*HTTP, *MESSAGES), rng))
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await reader.read(4096)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def _ignore(_: Exception) -> None:
    """The broker refuses much of it, as it should."""


def report(broker: str, inputs: int, seed: int) -> int:
    """Run and say what was found. Returns the number of findings."""
    begun = time.monotonic()
    found = asyncio.run(fuzz(broker, inputs, seed))
    for each in found[:20]:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write(f"live: {inputs:,} messages in {time.monotonic() - begun:.0f} s, seed {seed}: {len(found)} findings\n")
    return len(found)
