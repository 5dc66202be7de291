"""`async with Mesh(...) as mesh`: one participant, wired and shut down.

What is opened, in this order, and closed in the reverse one: the connection, the exchanges on it (calls of ours), messages, the heart (a
thread), and the presences (names that we answer to). Presences leave first, so that no call arrives while we stop answering, and the
connection is closed last, so that the last answers go out.
"""

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self, Unpack, overload

from mesh import clock
from mesh.broker import MessageBroker
from mesh.delivery import Participant, secret_of
from mesh.errors import ConfigError
from mesh.events import EventBridge
from mesh.events.schemas import Schemas
from mesh.identity.book import RightsBook
from mesh.identity.finding import find_credentials
from mesh.jobs import Jobs
from mesh.link.call import Handler
from mesh.link.caller import Caller
from mesh.link.connection import Connection
from mesh.link.denial import check_answers
from mesh.link.exchanges import Exchanges
from mesh.link.heart import Heart
from mesh.link.jetstream import JetStream
from mesh.link.reach import Reach
from mesh.link.responder import Responder
from mesh.link.targets import Target
from mesh.logs import be_quiet_by_default
from mesh.policy.admission import AT_ONCE
from mesh.policy.rate import Limits
from mesh.registry.directory import Directory
from mesh.registry.plane import MOST_ASKED, PLANE_JOURNAL, ControlPlane
from mesh.registry.presence import Presence
from mesh.registry.readers import Readers
from mesh.registry.vitals import Vitals
from mesh.rpc import Progress
from mesh.settings import Settings, installed_version, make_settings
from mesh.streams import DurableStream, Stream, StreamHandler, Streams
from mesh.streams.door import DurableOptions, StreamOptions
from mesh.subjects import ANY, CONTROL_PLANE, Subjects
from mesh.topology import REGISTRY
from mesh.wire.entries import InstanceEntry, JournalPolicy, ProbeAnswer

VERSION: Final = installed_version()

READER_SECONDS: Final = 5.0
"""For the control plane to make a reader, which takes it milliseconds."""

be_quiet_by_default()


class Mesh:
    """A participant of the mesh.

    `state_dir` is that of a running `mesh up` (default: `.mesh` here, or `MESH_STATE_DIR`), or `broker` says where the broker is. `name` is
    who calls. `roles` are those that its credentials are made with on a machine that holds the keys (default: it may answer under its name,
    and call everybody); elsewhere `mesh auth issue` says it. `heart` is shared by the participants of one process that has several.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        state_dir: str | Path | None = None,
        broker: str | None = None,
        credentials: str | Path | None = None,
        timeout: float | None = None,
        prefix: str | None = None,
        roles: tuple[str, ...] | None = None,
        settings: Settings | None = None,
        heart: Heart | None = None,
    ) -> None:
        self.settings = settings or make_settings(
            name=name, state_dir=state_dir, broker=broker, credentials=credentials, timeout=timeout, prefix=prefix
        )
        self.name = self.settings.name
        self._roles = roles
        self.subjects = Subjects(self.settings.prefix)
        self.connection: Connection
        self.exchanges: Exchanges
        self._caller: Caller
        self.reach: Reach
        self.readers: Readers
        self.messages: MessageBroker
        self.events: EventBridge
        self.jobs: Jobs
        self.streams: Streams
        self._shared_heart = heart
        self._heart: Heart
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect. Raises BrokerUnavailable, BrokerUnsuitable."""
        async with AsyncExitStack() as stack:
            self.connection = await stack.enter_async_context(await self._open_connection())
            self.exchanges = Exchanges(self.connection, self.subjects, self.name)
            self.reach = Reach(self.connection, self.subjects, self.name)
            self._caller = Caller(self.exchanges, self.settings.timeout)
            self.readers = Readers(self.connection, partial(self.request, CONTROL_PLANE, "mesh/reader", timeout=READER_SECONDS))
            await self.exchanges.start()
            stack.push_async_callback(self.exchanges.close)
            me = Participant(self.connection, self.subjects, self.name, secret_of(self._credentials), self.request)
            self.jobs = await stack.enter_async_context(Jobs(me))
            self.messages = await stack.enter_async_context(MessageBroker(me, lambda: self.events, self.jobs, self.target))
            schemas = await stack.enter_async_context(Schemas(me, self.readers.of_bucket))
            events = EventBridge(me, self.readers.of_stream, self.messages.submit_message, schemas)
            self.events = await stack.enter_async_context(events)
            self.streams = await stack.enter_async_context(Streams(me, self.present))
            self._heart = self._shared_heart or Heart()
            if self._shared_heart is None:
                stack.push_async_callback(self._heart.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # calling

    async def call(
        self,
        agent: str,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Call a tool and return MCP's result object, `{"content": [...], "isError"?, "structuredContent"?, …}`.

        `timeout` in seconds; with `progress(progress, total, message)` each report starts it anew. Cancelling the task cancels the call
        at the agent. In a tool that serves a call itself, it takes no longer than that call has left. Raises RemoteError (the far
        side's own JSON-RPC error), NoSuchAgent, CallTimeout, InstanceLost, OutcomeUnknown, Busy.
        """
        return await self.request(agent, "tools/call", {"name": tool, "arguments": arguments or {}}, timeout=timeout, progress=progress)

    async def request(
        self,
        agent: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
        instance: str = ANY,
    ) -> dict[str, Any]:
        """Any MCP request, and its result. As `call`."""
        return await self._caller.request(agent, method, params, timeout=timeout, progress=progress, instance=instance)

    @overload
    async def create_stream(self, to: str, type: str, *, durable: Literal[False] = False, **options: Unpack[StreamOptions]) -> Stream: ...

    @overload
    async def create_stream(self, to: str, type: str, *, durable: Literal[True], **options: Unpack[DurableOptions]) -> DurableStream: ...

    async def create_stream(self, to: str, type: str, *, durable: bool = False, **options: Any) -> Stream | DurableStream:
        """Open a stream to an agent: `async with await mesh.create_stream("qa", "test_run") as stream`. As `mesh.streams.open`, and
        where it is to outlive both ends `mesh.streams.open_durable`."""
        return await (self.streams.open_durable(to, type, **options) if durable else self.streams.open(to, type, **options))

    async def target(self, agent: str) -> Target:
        """Whom a name stands for, asked or remembered. For bridges, which open exchanges of their own."""
        return await self._caller.target(agent)

    # being called

    @asynccontextmanager
    async def present(
        self,
        handler: Handler,
        *,
        agent: str | None = None,
        instance: str | None = None,
        roles: tuple[str, ...] = (),
        entry: Mapping[str, Any] | None = None,
        journal: JournalPolicy | None = None,
        at_once: int = AT_ONCE,
        limits: Limits | None = None,
        on_probe: Callable[[str, bytes], bytes] | None = None,
        on_gone: Callable[[str, str], None] = lambda *_: None,
        streams: Mapping[str, StreamHandler] | None = None,
    ) -> AsyncIterator[Presence]:
        """Answer to a name with `handler`, until the block ends. `entry` holds what the registry should say (fields of
        InstanceEntry), `at_once` how many calls may run at once: the others wait, callers taking turns; `limits` how often each caller may
        call. `on_gone(caller, connection)` is told of callers that are gone, when their calls are cancelled already. `streams` are served
        by their type, under the participant's own name. Raises Denied where the participant may not answer to `agent` or one of `roles`."""
        agent = agent or self.name
        if streams is not None:
            async with (
                self.streams.behind(streams, handler, on_gone=on_gone) as serving,
                self.present(
                    serving, agent=agent, instance=instance, roles=roles, entry=entry, journal=journal, at_once=at_once, limits=limits,
                    on_probe=on_probe, on_gone=serving.on_gone,
                ) as presence,
            ):  # fmt: skip
                yield presence
            return
        if agent == CONTROL_PLANE and not isinstance(handler, ControlPlane):
            raise ConfigError(f"{CONTROL_PLANE!r} is the control plane's name", hint="give the agent another name")
        for name in (agent, *roles):
            check_answers(self.connection, self.subjects, self.name, name)
        instance = instance or new_instance()
        journal = journal or JournalPolicy()
        answer = ProbeAnswer(agent=agent, instance=instance, journal=journal).encode()
        said = InstanceEntry(
            agent=agent,
            instance=instance,
            roles=roles,
            journal=journal,
            started_ns=clock.wall_ns(),
            host=socket.gethostname(),
            pid=os.getpid(),
            mesh_version=VERSION,
            **(entry or {}),
        )
        responder = Responder(
            self.connection,
            self.subjects,
            agent,
            instance,
            handler,
            roles=roles,
            journal=journal,
            at_once=at_once,
            limits=limits,
            on_probe=on_probe or (lambda _caller, _body: answer),
            on_gone=on_gone,
        )
        vitals = None
        if agent != CONTROL_PLANE:
            vitals = Vitals(self.connection, self.subjects, self.name, responder, self.settings.health_period)
        copies = self.subjects.bucket_copy(REGISTRY, agent)
        presence = Presence(self.connection, self._heart, self._open_connection, said, responder, copies, vitals)
        try:
            await presence.enter()
            yield presence
        finally:
            await presence.leave()

    @asynccontextmanager
    async def control_plane(self) -> AsyncIterator[ControlPlane]:
        """Create what the mesh needs at the broker, and be its control plane until the block ends."""
        instance = new_instance()
        async with (
            ControlPlane(self.connection, self.subjects, instance, RightsBook.find(self.settings.state_dir, self.settings.prefix)) as plane,
            self.present(
                plane,
                agent=CONTROL_PLANE,
                instance=instance,
                on_probe=plane.on_probe,
                entry={"version": VERSION},
                journal=PLANE_JOURNAL,
                limits=Limits(MOST_ASKED),
            ),
        ):
            yield plane

    # looking

    def directory(self, on_change: Callable[[str, str, str], None] | None = None) -> Directory:
        """A live copy of who is there: `async with mesh.directory() as directory`."""
        return Directory(JetStream(self.connection), self.subjects, self.readers.of_bucket, on_change)

    def environment(self) -> dict[str, str]:
        """The environment for a process that is to be this participant, as `Settings.environment`."""
        return self.settings.environment(self._credentials)

    async def _open_connection(self) -> Connection:
        url, tls = self.settings.broker_url(), self.settings.broker_tls()
        self._credentials: Path | None = self.settings.credentials or await find_credentials(
            self.settings.state_dir, self.name, url, self._roles, prefix=self.settings.prefix, tls=tls
        )
        return await Connection.open(url, name=self.name, user_credentials=self._credentials, tls=tls)


def new_instance() -> str:
    """A name for an instance that nobody else has."""
    return secrets.token_hex(4)
