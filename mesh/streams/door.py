"""`mesh.streams`: streams of one participant."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, Self, TypedDict, Unpack

from mesh import clock
from mesh.background import end_tasks
from mesh.delivery import Participant
from mesh.errors import ConfigError, MalformedMessage, StreamRefused
from mesh.link.call import Handler
from mesh.policy.stream_flow import IDLE, WINDOW, WINDOW_BYTES, Flow
from mesh.streams.durable import DurableStream
from mesh.streams.ends import Ends
from mesh.streams.serving import Serving, StreamHandler
from mesh.streams.stream import Stream
from mesh.subjects import CONTROL_PLANE
from mesh.wire.stream import LARGEST_WINDOW, LARGEST_WINDOW_BYTES, LONGEST_ID, LONGEST_IDLE, OPEN, StreamAsked, StreamGranted, read_granted

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
    sent: int | None
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
            granted = read_granted(await self._ask(to, OPEN, asked.params(), timeout=timeout))
        except MalformedMessage as problem:
            self.ends.release(stream)
            raise StreamRefused(f"{to!r} answers to streams/open, but grants no stream: {problem.message}") from None
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
        sent: int | None = None,
        taken: int = 0,
        timeout: float = OPEN_SECONDS,
    ) -> DurableStream:
        """Open a durable stream to an agent, or go on with the one of that `id`, which both ends may have left in any way.

        Who goes on finds in the stream's `sent` how many of its messages the broker has had. That is known while something lies there, or
        the one who reads it lives; where all was read and both ends were away it is 0, unless it is given as `sent`. To say a message again
        under its number does no harm. `taken`: the number of the last message that this end is done with. A stream to a role stays with the
        member who took it (`peer`), and that one is asked to go on. Raises as `open`.
        """
        if not type or (sent or 0) < 0 or taken < 0 or (id is not None and not 0 < len(id) <= LONGEST_ID):
            raise ConfigError(f"a durable stream needs a type, counts from 0, and has an id of up to {LONGEST_ID} characters")
        await self.ends.open()
        stream_id = id or secrets.token_hex(16)

        async def serve(by: str, said: int) -> StreamGranted:
            asked = StreamAsked(
                type=type,
                stream=stream_id,
                end=self.ends.end,
                window=WINDOW,
                window_bytes=WINDOW_BYTES,
                idle=IDLE,
                durable=True,
                sent=said,
                content=content,
            )
            return read_granted(await self._ask(by, OPEN, asked.params(), timeout=timeout))

        async def stored(way: str, peer: str) -> int:
            asked = {way: peer, "stream": stream_id, "stored": True}
            return int((await self._ask(CONTROL_PLANE, "mesh/flow", asked, timeout=timeout))["stored"])

        said = taken if id is None else max(taken, await stored("from", to))
        granted = await serve(to, said)
        peer = granted.agent
        if sent is None:
            # The queue first: where it is empty, who reads it has taken all of it by the time that he is asked.
            sent = 0 if id is None else await stored("to", peer) or (await serve(peer, said)).taken
        stream = self._durable(stream_id, peer, type, content, sent=sent, taken=taken)

        async def again() -> str:
            return (await serve(peer, max(await stored("from", peer), stream.taken))).end

        try:
            await stream.listen()
        except BaseException:
            if id is None:
                await stream.give_up("its opener could not read it")
            raise
        keeping = asyncio.create_task(
            stream.keep_served(again, lambda end: self._subjects.stream_frame(peer, end, self._name, stream_id), granted.end),
            name=f"who serves {stream_id}",
        )
        stream.on_close = partial(end_tasks, keeping)
        return stream

    def _durable(self, id: str, peer: str, type: str, content: Any, *, sent: int = 0, taken: int = 0) -> DurableStream:
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
