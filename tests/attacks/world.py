"""The stage of the attacks: a broker that enforces, its victims, a bystander who keeps calling, and attackers with real credentials.

An attacker is a plain NATS client with somebody's `.creds`. `Attacker.refused` is the broker's own word. The same attack by `unprotected`,
a user of the account whom the broker holds to nothing, shows that it would succeed.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from mesh import Mesh, clock
from mesh.crypto import jwt
from mesh.crypto.creds import format_credentials
from mesh.crypto.keys import Kind, new_key
from mesh.errors import MeshError
from mesh.identity.push import push
from mesh.link.call import Call
from mesh.subjects import Subjects, escape
from mesh.wire.jsonrpc import dumps
from tests.conftest import Broker
from tests.helpers import Recorder, Signals, Still, control_plane, serving

SUBJECTS: Final = Subjects()

AGENT, ACCOMPLICE, HOST = "mallory", "moll", "hank"
"""A malicious agent (it answers, and may call nobody), a second one, and a malicious host (it calls everybody, and answers)."""

USERS: Final = {
    "victim": ("agent", "librarian"),
    "honest": ("agent", "host"),
    "steady": ("agent",),
    "bystander": ("host",),
    AGENT: ("agent",),
    ACCOMPLICE: ("agent", "host"),
    HOST: ("agent", "host"),
}

USUAL: Final = 50
"""Calls of the bystander by which its usual p99 is known."""

FLOOR: Final = 1.0
"""Seconds that a call of the bystander may always take: this machine may be busy with something else."""


class Attacker:
    """A plain client, what the broker refused it, and what it heard."""

    client: Client

    def __init__(self, name: str) -> None:
        self.name = name
        self.errors: list[str] = []
        self.heard: list[Msg] = []
        self.readers = 0
        self.signals = Signals()

    async def publish(self, subject: str, body: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        await self.client.publish(subject, body, reply=reply, headers=headers)

    async def subscribe(self, subject: str, queue: str = "") -> None:
        await self.client.subscribe(subject, queue, cb=self._hear)

    async def ask(self, subject: str, body: bytes = b"", headers: dict[str, str] | None = None) -> dict[str, Any]:
        answer = await self.client.request(subject, body, timeout=3, headers=headers)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    async def settle(self) -> None:
        """Until the broker has dealt with all that was sent, and has said what it refuses."""
        await self.client.request("$SYS.REQ.USER.INFO", b"", timeout=5)

    async def refused(self, *subjects: str) -> list[str]:
        """Which of these the broker has refused by now."""
        await self.settle()
        return [each for each in subjects if any(f'"{each.lower()}"' in error for error in self.errors)]

    async def _hear(self, message: Msg) -> None:
        self.heard.append(message)
        self.signals.tell()

    async def on_error(self, error: Exception) -> None:
        self.errors.append(str(error).lower())


@dataclass
class Bystander:
    """Who keeps calling an agent that has nothing to do with it all."""

    took: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def usual(self) -> float:
        """Its p99 in seconds before anything else happened."""
        return sorted(self.took[:USUAL])[int(USUAL * 0.99)]

    async def run(self, mesh: Mesh, ready: asyncio.Event) -> None:
        while True:
            begun = clock.monotonic()
            try:
                await mesh.call("steady", "t", {"n": "bystander"}, timeout=10)
            except MeshError as problem:
                self.failures.append(repr(problem))
            self.took.append(clock.monotonic() - begun)
            if len(self.took) == USUAL:
                ready.set()
            await asyncio.sleep(0.01 if ready.is_set() else 0)


@asynccontextmanager
async def standing_by(url: str) -> AsyncIterator[Bystander]:
    """The control plane, an agent, and its caller."""
    bystander, ready = Bystander(), asyncio.Event()
    async with control_plane(url), serving(url, "steady", Recorder()), Mesh(name="bystander", broker=url) as mesh:
        calling = asyncio.create_task(bystander.run(mesh, ready))
        try:
            await ready.wait()
            yield bystander
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)


class World:
    """What one test has: it opens what it needs."""

    def __init__(self, broker: Broker, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.authority = broker.authority
        self.url = broker.url
        self.stack = stack

    async def join(self, name: str) -> Attacker:
        path = self.authority.credentials(name)
        assert path is not None
        return await self.connect(name, str(path))

    async def unprotected(self, name: str = "unprotected") -> Attacker:
        """Signed by the account's own key: the broker holds it to nothing."""
        key = new_key(Kind.USER)
        token = jwt.sign_user(self.authority.trust.account_key(), key.public, escape(name), issued=clock.wall_ns() // 10**9)
        path = self.authority.keyring.path.parent / f"{name}.creds"
        path.write_text(format_credentials(token, key.seed))
        return await self.connect(name, str(path))

    async def connect(self, who: str, credentials: str, **options: Any) -> Attacker:
        attacker = Attacker(who)
        attacker.client = await nats.connect(
            self.url, user_credentials=credentials, inbox_prefix=f"_INBOX.{escape(who)}", error_cb=attacker.on_error, **options
        )
        self.stack.push_async_callback(attacker.client.close)
        return attacker

    async def logged(self, attacker: Attacker, subject: str) -> bool:
        """Whether the broker's log says who tried what."""
        await attacker.settle()
        public = self.authority.user(attacker.name).public
        lines = (self.broker.server.state_dir.path / "broker.log").read_text().splitlines()
        return any("Violation" in line and public in line and f'"{subject}"' in line for line in lines)

    async def victim(self, recorder: Recorder | None = None, name: str = "victim", **options: Any) -> tuple[Recorder, Any]:
        recorder = recorder or Recorder()
        options.setdefault("heart", Still())
        [presence] = await self.stack.enter_async_context(serving(self.url, name, recorder, **options))
        return recorder, presence

    async def honest(self, name: str = "honest") -> Mesh:
        return await self.stack.enter_async_context(Mesh(name=name, broker=self.url))

    async def value(self, reader: Attacker, key: str) -> bytes:
        """What a bucket holds under `$KV.{bucket}.{key}`."""
        return bytes((await reader.client.request(f"$JS.API.DIRECT.GET.KV_{key.split('.')[1]}.{key}", b"", timeout=3)).data)


def call(caller: str, target: str, token: str, number: str | int = 1, *, tool: str = "t", quiet: bool = False) -> tuple[str, bytes, str]:
    """Subject, body and reply subject of a call that agrees with itself."""
    body = {"jsonrpc": "2.0", "id": f"{escape(caller)}.{token}.{number}", "method": "tools/call", "params": {"name": tool, "arguments": {}}}
    reply = f"{SUBJECTS.reply_prefix(caller, target, token, quiet=quiet)}{number}"
    return SUBJECTS.call(target, "any", caller, "tools/call", tool, quiet=quiet), dumps(body), reply


def result(call: Call) -> bytes:
    """An answer to it that its target never gave."""
    return dumps({"jsonrpc": "2.0", "id": call.id, "result": {"forged": True}})


async def held(recorder: Recorder, mesh: Mesh, tool: str = "t", target: str = "victim") -> tuple["asyncio.Task[Any]", Call]:
    """A call that its target has, and does not answer yet."""
    before = len(recorder.calls)
    task = asyncio.create_task(mesh.call(target, tool, {}))
    await recorder.signals.until(lambda: len(recorder.calls) > before)
    return task, recorder.calls[-1]


async def drop(task: "asyncio.Task[Any]") -> None:
    """Nobody waits for it any more, however it ends."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def stored(reader: Attacker, subject: str, stream: str = "JOURNAL") -> int:
    """How many messages of this subject a stream holds. The journal confirms nothing, so this may lag."""
    state = (await reader.ask(f"$JS.API.STREAM.INFO.{stream}", dumps({"subjects_filter": subject})))["state"]
    return sum((state.get("subjects") or {}).values())


async def until_stored(reader: Attacker, subject: str, *, more_than: int = 0, stream: str = "JOURNAL") -> None:
    async with asyncio.timeout(5):
        while await stored(reader, subject, stream) <= more_than:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)


async def until(true: Callable[[], object], timeout: float = 5.0) -> None:
    """For what nobody tells."""
    async with asyncio.timeout(timeout):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def issue_all(broker: Broker) -> None:
    changed = [broker.authority.issue(name, roles).account_changed for name, roles in USERS.items()]
    if any(changed):
        await push(broker.authority, broker.url)
