"""The control plane: an agent named `mesh` that keeps the registry true and answers questions about it.

Calls and deliveries go on while none runs; several may run side by side, since everything it does can be done twice.

- **Loss.** The broker says at once when a connection ends. If the instance that named this connection in its heartbeat has not come back
  with another within `GRACE`, it is gone: its heartbeat is deleted, which tells everybody who watches, and its entry
  is marked as lost for an hour, so that people see who died, and an event on `agent.health` says so (`mesh.registry.vitals`). A heartbeat
  that expired is a hung instance and is marked the same way.
- **Callers that are gone.** The same events say that a caller is gone; the instances are told, and stop its work (`mesh.registry.gone`).
- **Shares.** An agent whose keys fill the registry loses them, before nobody else could write there.
- **Questions.** A probe to `mesh` with a name in its body gets the live instances of that name, or the names that come close. What others
  may not do by themselves they ask of it (`mesh.registry.desk`). Micro discovery is answered from the directory.
- **Duties.** What nobody else can see to, it does by itself (`mesh.registry.duties`).
"""

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Self

import structlog

from mesh import clock
from mesh.background import Background
from mesh.errors import MalformedMessage, MeshError
from mesh.link.buckets import Bucket
from mesh.link.call import Call
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import JetStream
from mesh.link.reconcile import reconcile
from mesh.policy.lines import worth_a_line
from mesh.policy.rate import Rate
from mesh.registry import duties, micro
from mesh.registry.desk import Desk
from mesh.registry.directory import Directory
from mesh.registry.gone import GRACE, Departures, caller_of
from mesh.registry.readers import make_reader
from mesh.registry.sight import RightsOf, Sight
from mesh.registry.vitals import Losses
from mesh.subjects import CONTROL_PLANE, Subjects, unescape
from mesh.topology import HEALTH, REGISTRY, bucket_stream, bucket_subject, declare
from mesh.wire import control
from mesh.wire.entries import JournalPolicy, Loss, ProbeAnswer, ProbeQuestion, read
from mesh.wire.jsonrpc import Frame, dumps, locate

SWEEP: Final = 5.0
"""Seconds between two looks for entries without a heartbeat. One that is found twice counts as lost."""

SILENT: Final = "its heartbeat stopped: it hangs, or its machine is gone"

PLANE_JOURNAL: Final = JournalPolicy(default="none")
"""What people look for in the journal are the calls between their agents."""

MOST_ASKED: Final = Rate(200, 60.0)
"""What one participant may ask. A reader that nobody uses lives five minutes and a bucket takes 10,000 of them, so no one can take all;
a directory asks for two."""

_log = structlog.get_logger("mesh.plane")


class ControlPlane:
    """The handler behind the agent `mesh`. `async with` it after its node is connected and before it is present."""

    def __init__(self, connection: Connection, subjects: Subjects, instance: str, rights_of: RightsOf | None = None) -> None:
        self._connection = connection
        self._subjects = subjects
        self._instance = instance
        self._sight = Sight(subjects, rights_of)
        self._topology = declare(subjects.prefix)
        self._js = JetStream(connection)
        self._desk = Desk(self._js, subjects, self._sight)
        self._registry = Bucket(self._js, REGISTRY)
        self._health = Bucket(self._js, HEALTH)
        self.directory = Directory(self._js, subjects, partial(make_reader, self._js), self._on_change, self._on_heavy)
        self._departures = Departures(connection, subjects)
        self._losses = Losses(connection, subjects)
        self._purging: set[str] = set()
        self.refused = 0
        self._background = Background()
        self._stack = AsyncExitStack()

    @property
    def knows_rights(self) -> bool:
        """Whether it shows each caller whom it may call, and no more."""
        return self._sight.limited

    async def __aenter__(self) -> Self:
        await reconcile(self._js, self._topology)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._background)
            stack.push_async_callback(self._departures.close)
            await stack.enter_async_context(self.directory)
            for subject, handler, queue in (
                (self._subjects.disconnects, self._on_disconnect, ""),
                (micro.PATTERN, self._on_micro, CONTROL_PLANE),
            ):
                subscription = await self._connection.subscribe(subject, handler, queue=queue)
                stack.push_async_callback(subscription.unsubscribe)
            self._background.start(self._sweep(), "sweep of the registry")
            for what in duties.DUTIES:
                self._background.start(duties.do(what, self._js, self._subjects, self._sight), what)
            stack.callback(self._connection.on_up(self._on_up))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # what is asked of it

    def on_probe(self, caller: str, body: bytes) -> bytes:
        answer = ProbeAnswer(agent=CONTROL_PLANE, instance=self._instance, journal=PLANE_JOURNAL)
        if body:
            try:
                about = read(ProbeQuestion, body).about
            except MalformedMessage:
                return answer.encode()
            instances = self.directory.instances_of(about) if self._sight.sees(caller, about) else ()
            close = () if instances else tuple(each for each in self.directory.close_to(about) if self._sight.sees(caller, each))
            answer = answer.model_copy(update={"instances": instances, "close": close})
        return answer.encode()

    def on_call(self, call: Call) -> None:
        match call.frame.method:
            case "ping":
                self._answer(call, {})
            case str() as method if method in self._desk.methods:
                self._background.start(self._ask(call, method), f"{method} for {call.caller}")
            case method:
                call.fail(control.METHOD_NOT_FOUND, f"the control plane has no method {method}")

    def on_cancel(self, call: Call, reason: str) -> None:
        """What it does takes milliseconds."""

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        """It has no sessions."""

    async def _ask(self, call: Call, method: str) -> None:
        try:
            params = locate(call.frame.raw, "params")
            result = await self._desk.answer(method, call.caller, b"{}" if params is None else call.frame.raw[slice(*params)])
        except MalformedMessage as problem:
            call.fail(control.INVALID_PARAMS, problem.message)
        except MeshError as problem:
            call.refuse(problem)
        else:
            self._answer(call, result)

    def _answer(self, call: Call, result: dict[str, Any]) -> None:
        call.finish(b'{"jsonrpc":"2.0","id":' + dumps(call.id) + b',"result":' + dumps(result) + b"}")

    def _on_micro(self, message: Message) -> None:
        if not message.reply.startswith("_INBOX."):
            return
        for answer in micro.answers(self._subjects, self.directory.agents(), message.subject):
            self._connection.send(message.reply, answer)

    # loss

    def _on_disconnect(self, message: Message) -> None:
        try:
            event = json.loads(message.body)
            client, server, reason = int(event["client"]["id"]), str(event["server"]["id"]), str(event.get("reason", ""))
            caller = caller_of(event["client"])
        except (ValueError, KeyError, TypeError):
            self.refused += 1
            if worth_a_line(self.refused):
                said = message.body[:200].decode("utf-8", "replace")
                _log.warning("a disconnect event that cannot be read", body=said, count=self.refused)
            return
        if caller is not None:
            self._departures.left(caller, reason)
        for key in self.directory.keys_of_client(server, client):
            self._background.start(self._after_grace(key, server, client, reason), f"grace of {key}")

    async def _after_grace(self, key: str, server: str, client: int, reason: str) -> None:
        await asyncio.sleep(GRACE)
        if key not in self.directory.keys_of_client(server, client):
            return  # it came back, or left in order
        await self._mark_lost(key, f"its connection ended: {reason}")
        await self._health.delete(key)

    def _on_up(self) -> None:
        self._background.start(self._restore(), "topology after a reconnection")

    async def _restore(self) -> None:
        """A broker that was restarted has lost what it kept in memory: the health bucket, settings and all."""
        while True:
            try:
                await reconcile(self._js, self._topology)
            except MeshError as error:
                _log.info("the topology cannot be restored yet", why=str(error))
                await asyncio.sleep(0.3)
            else:
                return

    def _on_change(self, what: str, key: str, reason: str) -> None:
        self._losses.changed(key, self.directory.entry(key), self.directory.health(key))
        if what != HEALTH:
            return
        if reason == "expired":
            self._background.start(self._mark_lost(key, SILENT), f"loss of {key}")
        elif (entry := self.directory.entry(key)) is not None and entry.lost is not None and self.directory.health(key) is not None:
            self._background.start(self._put_back(key), f"return of {key}")

    async def _sweep(self) -> None:
        """Entries without a heartbeat whose end nobody saw: the broker was away, or no control plane ran."""
        suspects: set[str] = set()
        while True:
            await asyncio.sleep(SWEEP)
            silent = set(self.directory.silent())
            for key in suspects & silent:
                await self._mark_lost(key, SILENT)
            suspects = silent

    async def _put_back(self, key: str) -> None:
        """It hung, and goes on: its heartbeat is there again."""
        if (entry := self.directory.entry(key)) is not None:
            await self._registry.put(key, entry.model_copy(update={"lost": None}).encode())

    def _on_heavy(self, owner: str) -> None:
        """An agent fills the registry, so that soon nobody else could write there: all that it has there goes."""
        if owner not in self._purging:
            self._purging.add(owner)
            self._background.start(self._purge(owner), f"purge of {owner}")

    async def _purge(self, owner: str) -> None:
        try:
            _log.warning("an agent fills the registry: its entries are purged", agent=unescape(owner))
            await self._js.api(f"STREAM.PURGE.{bucket_stream(REGISTRY)}", {"filter": bucket_subject(REGISTRY, f"{owner}.*")})
            self.directory.forget(owner)
        finally:
            self._purging.discard(owner)

    async def _mark_lost(self, key: str, reason: str) -> None:
        entry = self.directory.entry(key)
        if entry is None or entry.lost is not None:
            return
        _log.warning("instance lost", agent=entry.agent, instance=entry.instance, why=reason)
        lost = entry.model_copy(update={"lost": Loss(at_ns=clock.wall_ns(), reason=reason)})
        await self._registry.put(key, lost.encode())
        self._losses.lost(key, entry, reason)
