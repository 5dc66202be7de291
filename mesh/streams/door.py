"""`mesh.streams`: streams of one participant."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, Self, TypedDict, Unpack

from mesh import clock
from mesh.background import end_tasks
from mesh.delivery import Participant
from mesh.errors import ConfigError, MalformedMessage, MeshError, RemoteError, StreamLost, StreamRefused
from mesh.link.call import Handler
from mesh.policy.stream_flow import IDLE, WINDOW, WINDOW_BYTES, Flow
from mesh.streams.durable import LEAVE_SECONDS, DurableStream
from mesh.streams.ends import Ends
from mesh.streams.serving import Serving, StreamHandler
from mesh.streams.stream import Stream
from mesh.subjects import CONTROL_PLANE
from mesh.wire import control
from mesh.wire.stream import (
    LARGEST_WINDOW,
    LARGEST_WINDOW_BYTES,
    LONGEST_ID,
    LONGEST_IDLE,
    OPEN,
    Mark,
    StreamAsked,
    StreamGranted,
    read_granted,
)

OPEN_SECONDS: Final = 10.0

Present = Callable[..., AbstractAsyncContextManager[object]]
"""`Mesh.present`."""


class StreamOptions(TypedDict, total=False):
    """How a stream is opened; `Streams.open` has the defaults."""

    content: Any
    window: int
    window_bytes: int
    idle: float
    timeout: float


class DurableOptions(TypedDict, total=False):
    """How a durable stream is opened; `Streams.open_durable` has the defaults."""

    id: str | None
    content: Any
    taken: int
    timeout: float


class ServingOptions(TypedDict, total=False):
    """The windows that are granted at most, and who else is told that a caller's connection is gone."""

    window: int
    window_bytes: int
    on_gone: Callable[[str, str], None]


class Streams:
    """Opens streams and serves them under one name. What it needs it opens when it is first used."""

    def __init__(self, me: Participant, present: Present) -> None:
        self._connection = me.connection
        self._subjects = me.subjects
        self._name = me.name
        self._store = me.store()
        self.ends = Ends(me.connection, me.subjects, me.name)
        self._ask = me.ask
        self._present = present

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ends.close()
        await self._store.close()

    async def open(
        self,
        to: str,
        type: str,
        *,
        content: Any = None,
        window: int = WINDOW,
        window_bytes: int = WINDOW_BYTES,
        idle: float = IDLE,
        timeout: float = OPEN_SECONDS,
    ) -> Stream:
        """Open a stream of a type to an agent, or to one who answers to a role: `async with await mesh.streams.open(…) as stream`.

        `window` messages and `window_bytes` bytes may be on their way unread, in each direction, or as many as the other end grants. After
        `idle` seconds without a message it ends. Raises Denied, NoSuchAgent, StreamRefused, Busy, CallTimeout, ConfigError.
        """
        if not (type and 0 < window <= LARGEST_WINDOW and 0 < window_bytes <= LARGEST_WINDOW_BYTES and 0 < idle <= LONGEST_IDLE):
            raise ConfigError(
                "a stream needs a type, and numbers that can be granted",
                hint=f"window up to {LARGEST_WINDOW}, window_bytes up to {LARGEST_WINDOW_BYTES}, idle up to {LONGEST_IDLE:g} s",
            )
        await self.ends.open()
        asked = StreamAsked(
            type=type,
            stream=secrets.token_hex(8),
            end=self.ends.end,
            window=window,
            window_bytes=window_bytes,
            idle=idle,
            content=content,
        )
        flow = Flow(clock.monotonic(), window=window, window_bytes=window_bytes, idle=idle)
        stream = self.ends.add(flow, id=asked.stream, peer=to, type=type, content=content)
        try:
            granted = await self._have_granted(to, asked, timeout)
        except BaseException:
            self.ends.release(stream)
            raise
        flow.window, flow.window_bytes = min(window, granted.window), min(window_bytes, granted.window_bytes)
        self.ends.rename(stream, granted.agent)
        self.ends.connect(stream, granted.end)
        return stream

    async def open_durable(
        self,
        to: str,
        type: str,
        *,
        id: str | None = None,
        content: Any = None,
        taken: int = 0,
        timeout: float = OPEN_SECONDS,
    ) -> DurableStream:
        """Open a durable stream to an agent, or go on with ours of that `id`, which both ends may have left in any way, for up to a week.

        Who goes on says what follows the stream's `sent`: so many of its messages the broker has had. Where it had left in order, nothing
        that it took comes again, unless it was written together with what it had not taken. Where it was killed, up to a window of messages
        may come again; not those that it has noted as `taken`, which the stream counts. A stream to a role stays with the member who took
        it (`peer`), who is the one to name.

        Raises StreamRefused where that stream is over, or one with somebody else; StreamLost where less was said to us than was `taken`:
        the broker has forgotten it, or it is another one. And as `open`.
        """
        if not type or taken < 0 or (id is None and taken) or (id is not None and not 0 < len(id) <= LONGEST_ID):
            raise ConfigError(f"a durable stream needs a type, has an id of up to {LONGEST_ID} characters, and taken counts that one's")
        await self.ends.open()
        stream_id = id or secrets.token_hex(16)

        async def known(peer: str) -> tuple[Mark, Mark]:
            """How far we are, and how far they are."""
            asked = {"with": peer, "stream": stream_id}
            answer = await self._ask(CONTROL_PLANE, "mesh/flow", asked, timeout=timeout)
            if other := answer.get("other"):
                raise StreamRefused(
                    f"the stream {stream_id!r} is one with {other!r}, not with {peer!r}",
                    hint=f"go on with it by that name: {other!r}; or open another one, with another id or none",
                )
            return Mark(**answer["said"]), Mark(**answer["heard"])

        async def serve(by: str, heard: Mark) -> StreamGranted:
            asked = StreamAsked(
                type=type,
                stream=stream_id,
                end=self.ends.end,
                window=WINDOW,
                window_bytes=WINDOW_BYTES,
                idle=IDLE,
                durable=True,
                sent=heard.last,
                ended=heard.ended,
                content=content,
            )
            return await self._have_granted(by, asked, timeout)

        said, heard = (Mark(), Mark()) if id is None else await known(to)
        if said.over or (heard.ended and not heard.unread):
            raise StreamRefused(
                f"the stream {stream_id!r} with {to!r} is over: nobody can go on with it", hint="open another one, with another id or none"
            )
        if taken > heard.last:
            raise StreamLost(
                f"{to!r} has said {heard.last} messages on the stream {stream_id!r} as far as the broker knows, and not {taken}",
                hint="is it this agent, and this id? What is silent for a week is forgotten: then open another one",
                stream=stream_id,
            )
        granted = None if _is_through(said, heard) else await serve(to, heard)
        peer = to if granted is None else granted.agent
        stream = self._durable(stream_id, peer, type, content, sent=said.last, ended=said.ended or heard.over, taken=taken)

        async def again() -> str:
            said, heard = await known(peer)
            if _is_through(said, heard):
                raise StreamRefused("what is left is to be read at the broker")
            return (await serve(peer, heard)).end

        try:
            await stream.listen()
        except BaseException:
            if id is None:
                stream.cancel("its opener could not read it")
                with suppress(MeshError):
                    await stream.close(LEAVE_SECONDS)
            raise
        if granted is not None:
            keeping = asyncio.create_task(
                stream.keep_served(again, lambda end: self._subjects.stream_frame(peer, end, self._name, stream_id), granted.end),
                name=f"who serves {stream_id}",
            )
            stream.on_close = partial(end_tasks, keeping)
        return stream

    async def _have_granted(self, to: str, asked: StreamAsked, timeout: float) -> StreamGranted:
        """Raises StreamRefused also where who was asked knows of no streams: it is an MCP server and nothing else."""
        try:
            return read_granted(await self._ask(to, OPEN, asked.params(), timeout=timeout))
        except MalformedMessage as problem:
            raise StreamRefused(f"{to!r} answers to streams/open, but grants no stream: {problem.message}") from None
        except RemoteError as problem:
            if problem.rpc_code != control.METHOD_NOT_FOUND:
                raise
            raise StreamRefused(f"{to!r} serves no streams", hint=f"`mesh tools {to}` shows what it offers") from None

    def _durable(self, id: str, peer: str, type: str, content: Any, *, sent: int = 0, ended: bool = False, taken: int = 0) -> DurableStream:
        return DurableStream(
            self._connection,
            self._subjects,
            self._store,
            self._ask,
            id=id,
            me=self._name,
            peer=peer,
            type=type,
            content=content,
            sent=sent,
            ended=ended,
            taken=taken,
        )

    @asynccontextmanager
    async def serve(
        self,
        handlers: Mapping[str, StreamHandler],
        *,
        agent: str | None = None,
        roles: tuple[str, ...] = (),
        **options: Unpack[ServingOptions],
    ) -> AsyncIterator[None]:
        """Serve streams, by their type, under our name (or `agent`) and `roles`, until the block ends. Where the same name has other calls
        to answer: `Mesh.present(…, streams=…)`. Raises Denied."""
        async with (
            self.behind(handlers, None, **options) as serving,
            self._present(serving, agent=agent, roles=roles, on_gone=serving.on_gone),
        ):
            yield

    @asynccontextmanager
    async def behind(
        self, handlers: Mapping[str, StreamHandler], inner: Handler | None, **options: Unpack[ServingOptions]
    ) -> AsyncIterator[Serving]:
        """A handler of calls that serves streams, and leaves all other calls to `inner`."""
        await self.ends.open()
        serving = Serving(self.ends, handlers, inner, make_durable=self._durable, **options)
        try:
            yield serving
        finally:
            await serving.close()


def _is_through(said: Mark, heard: Mark) -> bool:
    """Whether who served a durable stream is through with it, in both directions."""
    return heard.over or (heard.ended and said.ended and not said.unread)
