"""Answering `streams/open`: who asks gets a stream, and a handler of ours its other end."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from mesh import clock
from mesh.errors import Busy, MalformedMessage, MeshError, StreamIdle, StreamLost, StreamRefused
from mesh.link.call import Call, Handler
from mesh.policy.stream_flow import LEFT, WINDOW, WINDOW_BYTES, Flow
from mesh.streams.durable import DurableStream
from mesh.streams.ends import MOST_EACH, Ends
from mesh.streams.flows import MOST_FLOWS
from mesh.streams.stream import Stream
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps
from mesh.wire.stream import OPEN, StreamAsked, StreamGranted, read_asked

StreamHandler = Callable[[Any], Awaitable[None]]
"""What serves one `Stream`, or `DurableStream` if it was opened as one. When it returns, our direction ends; what it raises ends it too,
and is told."""

LEFT_SECONDS: Final = 30.0
"""For a handler to read on, from message to message, what was said by an end that has left in order, and to finish its work. Of one that
cancelled, or is lost, the handler is cancelled at once."""

END_SECONDS: Final = 5.0
"""For handlers to end when serving does."""

_log = structlog.get_logger("mesh.streams")


class Serving:
    """A handler of calls that takes `streams/open` for the types in `handlers`, and leaves all else to `inner`."""

    def __init__(
        self,
        ends: Ends,
        handlers: Mapping[str, StreamHandler],
        inner: Handler | None = None,
        *,
        make_durable: Callable[..., DurableStream],
        on_gone: Callable[[str, str], None] = lambda *_: None,
        window: int = WINDOW,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._ends = ends
        self._handlers = dict(handlers)
        self._inner = inner
        self._tell_gone = on_gone
        self._make_durable = make_durable
        self._window = window
        self._window_bytes = window_bytes
        self._tasks: dict[asyncio.Task[None], Stream] = {}
        self._durable: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def close(self) -> None:
        """End what runs: the other ends are told that we leave."""
        for task, stream in self._tasks.items():
            stream.cancel("the one who serves it is being stopped")
            task.cancel()
        for task in self._durable.values():
            task.cancel()
        if running := [*self._tasks, *self._durable.values()]:
            await asyncio.wait(running, timeout=END_SECONDS)

    def on_call(self, call: Call) -> None:
        if call.frame.method == OPEN:
            self._on_open(call)
        elif self._inner is not None:
            self._inner.on_call(call)
        elif call.frame.method == "ping":
            call.finish(b'{"jsonrpc":"2.0","id":' + dumps(call.id) + b',"result":{}}')
        else:
            call.fail(control.METHOD_NOT_FOUND, f"only streams are served here, not {call.frame.method}")

    def on_cancel(self, call: Call, reason: str) -> None:
        if self._inner is not None and call.frame.method != OPEN:
            self._inner.on_cancel(call, reason)

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        if self._inner is not None:
            self._inner.on_message(caller, reply, frame)

    def on_gone(self, caller: str, connection: str) -> None:
        """The control plane says that a caller's connection is gone."""
        self._ends.lost(caller, connection, f"{caller!r} is gone")
        self._tell_gone(caller, connection)

    def _on_open(self, call: Call) -> None:
        try:
            asked = read_asked(json.loads(call.frame.raw).get("params"))
            handler = self._handlers.get(asked.type)
            if handler is None:
                types = ", ".join(sorted(self._handlers)) or "none"
                raise StreamRefused(f"{self._ends.me!r} serves no streams of type {asked.type!r}", hint=f"the types it serves: {types}")
            if asked.durable:
                self._take_durable(call, asked, handler)
                self._grant(call, asked.window, asked.window_bytes)
                return
            stream = self._take(call, asked)
        except (ValueError, RecursionError, MalformedMessage) as problem:
            call.fail(control.INVALID_PARAMS, str(problem))
            return
        except MeshError as problem:
            call.refuse(problem)
            return
        self._grant(call, stream.flow.window, stream.flow.window_bytes)
        task = asyncio.create_task(self._serve(handler, stream), name=f"stream {asked.type} of {call.caller}")
        self._tasks[task] = stream
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def _grant(self, call: Call, window: int, window_bytes: int) -> None:
        granted = StreamGranted(agent=self._ends.me, end=self._ends.end, window=window, window_bytes=window_bytes)
        call.finish(b'{"jsonrpc":"2.0","id":' + dumps(call.id) + b',"result":' + dumps(granted.result()) + b"}")

    def _take_durable(self, call: Call, asked: StreamAsked, handler: StreamHandler) -> None:
        """Serve it, unless we do so already. Raises Busy."""
        key = (call.caller, asked.stream)
        if key in self._durable:
            return
        if sum(caller == call.caller for caller, _ in self._durable) >= MOST_EACH:
            raise Busy(f"{self._ends.me!r} serves {MOST_EACH} durable streams of {call.caller!r}, and no more", retry_after=1.0)
        if len(self._durable) >= MOST_FLOWS:  # the broker lets it read no more
            raise Busy(f"{self._ends.me!r} serves {MOST_FLOWS} durable streams, and no more", retry_after=1.0)
        stream = self._make_durable(asked.stream, call.caller, asked.type, asked.content, sent=asked.sent, ended=asked.ended)
        task = asyncio.create_task(self._serve_durable(handler, stream), name=f"durable stream {asked.type} of {call.caller}")
        self._durable[key] = task
        task.add_done_callback(lambda _: self._durable.pop(key, None))

    async def _serve_durable(self, handler: StreamHandler, stream: DurableStream) -> None:
        try:
            async with stream:
                try:
                    await handler(stream)
                    stream.served()
                except (StreamLost, StreamIdle):
                    raise
                except Exception as problem:
                    _log.warning("a durable stream's handler failed", type=stream.type, peer=stream.peer, error=repr(problem))
                    stream.served(f"{type(problem).__name__}: {problem}")
        except MeshError as problem:
            _log.info("a durable stream is not served here any more", stream=stream.id, peer=stream.peer, why=problem.message)

    def _take(self, call: Call, asked: StreamAsked) -> Stream:
        window, window_bytes = min(asked.window, self._window), min(asked.window_bytes, self._window_bytes)
        flow = Flow(clock.monotonic(), window=window, window_bytes=window_bytes, idle=asked.idle, opens=False)
        stream = self._ends.add(flow, id=asked.stream, peer=call.caller, type=asked.type, content=asked.content, opened_by=call.caller)
        self._ends.connect(stream, asked.end)
        return stream

    async def _serve(self, handler: StreamHandler, stream: Stream) -> None:
        work = asyncio.ensure_future(handler(stream))
        timer: asyncio.TimerHandle | None = None

        def over(taken: int = -1) -> None:
            nonlocal timer
            if stream.flow.abort is not None and stream.flow.abort.code == LEFT and stream.flow.taken > taken:
                timer = asyncio.get_running_loop().call_later(LEFT_SECONDS, over, stream.flow.taken)  # what was said is still being read
            else:
                work.cancel()

        stream.on_over = over
        try:
            await work
        except asyncio.CancelledError:
            work.cancel()
            stream.cancel("the one who serves it stopped")
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
        except Exception as problem:
            if stream.flow.abort is None:
                _log.warning("a stream's handler failed", type=stream.type, peer=stream.peer, error=repr(problem))
                data = {"mesh": problem.code} if isinstance(problem, MeshError) else None
                stream.fail(f"{type(problem).__name__}: {problem}", data)
        finally:
            stream.on_over = None
            if timer is not None:
                timer.cancel()
            await stream.close()
