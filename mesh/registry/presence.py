"""An instance's place on the mesh: entry, heartbeat, and the calls that it takes. In this order, and backwards when it leaves.

The first heartbeat is stored before the first call can arrive, so whoever knows all heartbeats knows all who may hold a call.
When the broker was away, the health bucket (memory) may be empty and this connection has another number: both are written anew.
The registry forgets what is old, so that nobody who left comes back: an entry that stays is written again and again.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from typing import Final, Literal

import structlog

from mesh import clock
from mesh.background import end_tasks
from mesh.errors import BrokerError, MalformedMessage, MeshError
from mesh.link.buckets import Bucket, gone
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.heart import Heart, OpenConnection
from mesh.link.jetstream import JetStream
from mesh.link.responder import Responder
from mesh.policy.lines import worth_a_line
from mesh.registry.vitals import Vitals
from mesh.subjects import key_of
from mesh.topology import HEALTH, REGISTRY, REGISTRY_AGE, bucket_subject
from mesh.wire.entries import HEALTH_TTL_SECONDS, Client, Health, InstanceEntry, read

BUCKET_SECONDS: Final = 3.0
"""How long to wait for buckets that are not there. A control plane makes them within one."""

RENEW_SECONDS: Final = REGISTRY_AGE / 3
"""After which an entry is written again."""

LOOK_SECONDS: Final = 20.0
"""Between two looks whether it is time to. The time is the wall's, which the broker goes by: a machine that slept may be late at once."""

State = Literal["up", "degraded"]

_log = structlog.get_logger("mesh.registry")


class Presence:
    """One instance. `enter` once, `leave` once; `update` when what the server offers has changed."""

    def __init__(
        self,
        connection: Connection,
        heart: Heart,
        open_connection: OpenConnection,
        entry: InstanceEntry,
        responder: Responder,
        copies: str,
        vitals: Vitals | None = None,
    ) -> None:
        """`copies`: where the broker says what it has stored of this agent in the registry."""
        self.entry = entry
        self.overwritten = 0
        self._state: State = "up"
        self._vitals = vitals
        self._connection = connection
        self._heart = heart
        self._open_connection = open_connection
        self._responder = responder
        js = JetStream(connection)
        self._health = Bucket(js, HEALTH)
        self._registry = Bucket(js, REGISTRY)
        self._key = key_of(entry.agent, entry.instance)
        self._subject = bucket_subject(HEALTH, self._key)
        self._copies = copies
        self._copy: Subscription | None = None
        self._detach: Callable[[], None] | None = None
        self._again: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._written_ns = 0

    @property
    def state(self) -> State:
        """degraded: the bridge lives, its server does not."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        if self._vitals is not None:
            self._vitals.changed(state)

    def count(self, processes: Callable[[], Collection[int]]) -> None:
        """Tell in events on `agent.health` what these use, which are the server's own."""
        if self._vitals is not None:
            self._vitals.processes = processes

    async def enter(self) -> None:
        """Be there. Raises BrokerError where the buckets are missing (`mesh topology apply`, or no control plane has run yet)."""
        if self._connection.rights is None or self._connection.rights.may_subscribe(self._copies):
            self._copy = await self._connection.subscribe(self._copies, self._on_copy)
        await self._write_first()
        self._heart.add(self._subject, self._beat, self._open_connection)
        self._detach = self._connection.on_up(self._rewrite)
        await self._responder.start()
        self._renewing = asyncio.create_task(self._renew(), name=f"renewal of {self.entry.agent}")
        if self._vitals is not None:
            self._vitals.start()

    async def update(self, entry: InstanceEntry) -> None:
        """Say something else of this instance from now on."""
        self.entry = entry
        await self._put()

    async def leave(self) -> None:
        """Take no more calls, then be gone, told as such. Where the broker is away, the heartbeat's TTL says it instead."""
        if self._detach is not None:
            self._detach()
        await end_tasks(self._renewing)
        await end_tasks(self._again)
        if self._vitals is not None:
            await self._vitals.stop()
        await self._heart.remove(self._subject)
        try:
            if self._copy is not None:
                await self._copy.unsubscribe()
            await self._responder.stop()
            await self._registry.delete(self._key)
            await self._health.delete(self._key)
        except MeshError as error:
            _log.info("left without a word", agent=self.entry.agent, why=str(error))

    def _beat(self) -> bytes | None:
        if not self._connection.connected:
            return None
        responder = self._responder
        return Health(
            agent=self.entry.agent,
            instance=self.entry.instance,
            state=self._state,
            client=Client(server=self._connection.server_id, id=self._connection.client_id),
            running=responder.running,
            served=responder.served,
            failed=responder.failed,
        ).encode()

    async def _write(self) -> None:
        beat = self._beat()
        if beat is not None:
            await self._health.put(self._key, beat, ttl=HEALTH_TTL_SECONDS)
        await self._put()

    async def _put(self) -> None:
        await self._registry.put(self._key, self.entry.encode())
        self._written_ns = clock.wall_ns()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS * (0.5 + random.random() / 2))  # a thousand that were started together do not write together
            if abs(clock.wall_ns() - self._written_ns) > RENEW_SECONDS * 1e9:  # less than nothing, where the clock was set back
                self._rewrite()

    async def _write_first(self) -> None:
        """A broker that was just restarted has no health bucket until the control plane has made it again: wait for that, a little."""
        give_up = clock.monotonic() + BUCKET_SECONDS
        while True:
            try:
                await self._write()
            except BrokerError:
                if clock.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.2)
            else:
                return

    def _on_copy(self, message: Message) -> None:
        """The broker can be made to put an answer of its own under our key. Then we say again what belongs there; a heartbeat does so by
        itself."""
        headers = message.headers or {}
        if headers.get("Nats-Subject") != bucket_subject(REGISTRY, self._key) or gone(headers):
            return
        try:
            read(InstanceEntry, message.body)
        except MalformedMessage:
            self.overwritten += 1
            if worth_a_line(self.overwritten):
                _log.warning("our registry entry was overwritten", agent=self.entry.agent, count=self.overwritten)
            self._rewrite()

    def _rewrite(self) -> None:
        if self._again is None or self._again.done():
            self._again = asyncio.create_task(self._write_until_done(), name=f"presence of {self.entry.agent}")

    async def _write_until_done(self) -> None:
        while True:
            try:
                await self._write()
            except MeshError as error:
                _log.info("the registry cannot be written yet", agent=self.entry.agent, why=str(error))
                await asyncio.sleep(0.5)
            else:
                return
