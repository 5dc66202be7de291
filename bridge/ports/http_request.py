"""One request over HTTP: posted once, answered once.

Theory of operation
-------------------
The body goes out as it is. The answer is one JSON message, or a stream of events: progress, logs and the server's own requests, and at
the end the answer. A stream that breaks is taken up again where the server gave its events ids (handshake era); the modern era has no
such thing, and there a broken stream is the call's end. The request is never posted a second time: it may have run. The one exception is
a refusal of its headers, which comes before anything runs (`http_headers`).

No time limit is set on an answer. The exchange above has a deadline and cancels: in the modern era that closes the stream, which is how
the server learns of it; in the handshake era it is a message, and the stream gets a few seconds to end. A peer that vanished is found by
TCP keepalive.

Source: MCP basic/transports, streamable HTTP: sending messages, resumability and redelivery.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import httpx2
import structlog

from bridge.lines import beginning
from bridge.ports import http_errors as errors
from bridge.ports.http_headers import BOTH, EVENTS, JSON, SESSION_ID, protocol_version, refuses_headers, tools_list
from bridge.ports.http_session import MOST_GARBAGE, Owner
from bridge.ports.http_wire import (
    LARGEST_BODY,
    Body,
    can_resume,
    chunks,
    content_type,
    drain,
    read_body,
    resume_delay,
    resume_headers,
    session_id,
)
from bridge.sse import Event, EventStream
from mesh.errors import MalformedMessage, MeshError, TooLarge
from mesh.wire.jsonrpc import Frame, Kind, scan

RESUME_TRIES: Final = 4
RESUME_DELAY: Final = 1.0
"""Attempts to take up a stream before the server is taken for dead, and seconds before the first where the server names none."""

MOST_PAGES: Final = 100
"""Of a tool list."""

_log = structlog.get_logger("bridge.http")


class Request:
    """One request, from `send` to its answer. The port owns its task."""

    def __init__(self, owner: Owner, frame: Frame, after: asyncio.Event | None, on_answered: Callable[["Request"], None]) -> None:
        assert frame.id_span is not None
        self.frame = frame
        self.id = str(frame.id)
        self.sent = asyncio.Event()
        """Set when the whole body was handed to the socket, or when it never will be."""
        self.started = False
        self.answered = False
        self.task: asyncio.Task[None] | None = None
        self.grace: asyncio.TimerHandle | None = None
        """Ends the task some time after a cancellation."""
        self._owner = owner
        self._client = owner.client
        self._name = owner.client.name
        self._after = after
        self._on_answered = on_answered
        self._id_text = frame.raw[slice(*frame.id_span)]
        self._events = EventStream()
        self._garbage = 0
        self._session_over = False

    async def run(self) -> None:
        client, name = self._client, self._name
        try:
            if self._after is not None:
                await self._after.wait()  # what was sent before this request arrives before it
            self.started = True
            if len(self.frame.raw) > LARGEST_BODY:
                raise TooLarge(f"{name}: the request is over the size limit", limit=LARGEST_BODY)
            await self._ask()
        except httpx2.HTTPError as problem:
            self._fail(errors.of_transport(name, client.where, problem))
        except MeshError as problem:
            self._fail(problem)
        except Exception as problem:
            _log.exception("a request failed here", agent=name)
            self._fail(MeshError(f"{name}: the bridge failed: {problem!r}"))
        finally:
            self.sent.set()
        if self._session_over:
            self._owner.lose("the server does not know this session any more")

    async def _ask(self, *, again: bool = True) -> None:
        answer: Frame | None = None
        async with self._client.stream("POST", self._headers(self.frame), Body(self.frame.raw, self.sent)) as response:
            if response.status_code != 200:
                answer = await self._error(response)
                again = again and response.status_code == 400 and self.frame.method == "tools/call" and refuses_headers(answer)
            else:
                again = False
                if self.frame.method == "initialize":
                    self._owner.session.id = session_id(response)
                kind = content_type(response)
                if kind == EVENTS:
                    await self._read_stream(response)
                elif kind == JSON:
                    answer = self._own(self._scan(await read_body(response)))
                else:
                    raise errors.BadAnswer(f"{self._name}: the answer is neither JSON nor a stream of events", content_type=kind[:100])
        if again:
            await self._learn_tools()
            await self._ask(again=False)
        elif answer is not None:
            self._finish(answer)
        elif not self.answered:
            await self._resume()

    def _headers(self, frame: Frame) -> dict[str, str]:
        return self._owner.headers(frame) | {"Content-Type": JSON, "Accept": BOTH, "Content-Length": str(len(frame.raw))}

    async def _error(self, response: httpx2.Response) -> Frame:
        """The JSON-RPC error that an HTTP error carries, or the error that says what HTTP said."""
        session, body = self._owner.session, b""
        self._session_over = response.status_code == 404 and session.id is not None and SESSION_ID in self._owner.headers(self.frame)
        with contextlib.suppress(TooLarge, MalformedMessage):
            json = content_type(response) == JSON
            body = await read_body(response, LARGEST_BODY if json else 2_000, cut=not json)
            if json and (answer := scan(body)).kind is Kind.ERROR and answer.id in (None, self.frame.id):
                return answer if answer.id is not None else errors.with_id(answer, self._id_text)
        if response.is_success:
            raise errors.BadAnswer(f"{self._name}: the server took the request and gave no answer: HTTP {response.status_code}")
        raise errors.of_status(self._name, response.status_code, response.headers, body)

    async def _read_stream(self, response: httpx2.Response) -> None:
        """Hand over what the stream holds. It may end before the answer only where it can be taken up again."""
        try:
            async with contextlib.aclosing(chunks(response)) as parts:
                async for part in parts:
                    for event in self._events.feed(part):
                        self._on_event(event)
                    if self.answered:
                        await drain(parts)
                        return
        except httpx2.TransportError as problem:
            if not self._resumable:
                raise
            _log.info("a stream broke", agent=self._name, why=str(problem))
        if not self._resumable:
            raise errors.cut_off(self._name)

    @property
    def _resumable(self) -> bool:
        return self._owner.session.id is not None and can_resume(self._events)

    async def _resume(self) -> None:
        failures = 0
        while failures < RESUME_TRIES:
            await asyncio.sleep(resume_delay(self._events, RESUME_DELAY * 2**failures))
            failures += 1
            try:
                async with self._client.stream("GET", self._owner.session.headers() | resume_headers(self._events)) as response:
                    status = response.status_code
                    self._session_over = status == 404
                    if 400 <= status < 500 and status not in (408, 409, 429):
                        raise errors.cut_off(self._name, f"the stream broke and cannot be taken up: HTTP {status}")
                    if status == 200 and content_type(response) == EVENTS:
                        failures = 0  # a server may answer by many short streams
                        self._events = self._events.next()
                        await self._read_stream(response)
                        if self.answered:
                            return
            except httpx2.TransportError as problem:
                _log.info("a stream cannot be taken up yet", agent=self._name, why=str(problem))
        raise errors.cut_off(self._name, "the stream broke, and the server cannot be reached to take it up")

    def _on_event(self, event: Event) -> None:
        if event.type != b"message" or not event.data or self.answered:
            return  # an event with an id and no data only marks where to take up the stream
        try:
            frame = scan(event.data)
            frame = self._own(frame) if frame.final else frame
        except (MalformedMessage, errors.BadAnswer) as problem:
            self._garbage += len(event.data)
            _log.warning("not a message for this request", agent=self._name, why=str(problem), starts=beginning(event.data))
            if self._garbage > MOST_GARBAGE:
                raise errors.BadAnswer(f"{self._name}: the stream holds much that is no message: {problem}") from None
            return
        if frame.final:
            self._finish(frame)
        else:
            self._owner.deliver(frame, self.id)

    def _scan(self, body: bytes) -> Frame:
        try:
            return scan(body)
        except MalformedMessage as problem:
            raise errors.BadAnswer(f"{self._name}: the answer is no JSON-RPC message: {problem}", starts=body[:100]) from None

    def _own(self, answer: Frame) -> Frame:
        """The answer, if it is one to this request."""
        if answer.kind is Kind.ERROR and answer.id is None:
            return errors.with_id(answer, self._id_text)
        if not answer.final or answer.id != self.frame.id:
            what = f"the answer is for request {str(answer.id)[:60]!r}" if answer.final else "a message came in place of the answer"
            raise errors.BadAnswer(f"{self._name}: {what}")
        return answer

    async def _learn_tools(self) -> None:
        """The server's tools as they are now, page by page. A failure leaves things as they are."""
        cursor: str | None = None
        with contextlib.suppress(httpx2.HTTPError, MeshError):
            for _ in range(MOST_PAGES):
                ask = scan(tools_list(self.frame, cursor))
                async with self._client.stream("POST", self._headers(ask), Body(ask.raw)) as response:
                    if response.status_code != 200 or content_type(response) != JSON:
                        return
                    cursor = self._client.params.learn(ask, self._own(self._scan(await read_body(response))))
                if cursor is None:
                    return

    def _finish(self, answer: Frame) -> None:
        """The one answer. What must be known before the caller acts on it is noted first."""
        if self.answered:
            return
        self.answered = True
        session = self._owner.session
        if self.frame.method == "initialize" and answer.kind is Kind.RESULT:
            session.begun, session.version = True, protocol_version(answer)
        elif self.frame.method == "tools/list" and self.frame.era is not None:
            self._client.params.learn(self.frame, answer)
        self._on_answered(self)
        self._owner.deliver(answer, self.id)

    def _fail(self, problem: MeshError) -> None:
        self._finish(errors.response(self._name, self._id_text, problem))
