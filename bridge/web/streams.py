"""Streams for web clients: `/agents/{name}/streams/{type}`, a WebSocket that is one end of a stream of the mesh.

Text frames are text and binary frames bytes, in both directions; JSON of an agent arrives as a text frame. `?content=JSON` is what the
stream is opened with. Token, origin and host are looked at as for every path (`bridge.web.socket` says why a page cannot bring a token).
An agent that cannot be reached, or refuses, is an answer of HTTP to the handshake.

Backpressure goes both ways: what the agent has not read is not read from the socket either, and what the client does not read counts
against the window of the agent. A WebSocket has no half close: the client's 1000 ends its direction, and what the agent says after it is
not heard.

| closes with | when                                                                            |
|-------------|---------------------------------------------------------------------------------|
| 1000        | the agent has said all that it had to say                                       |
| 1008        | the token has expired                                                           |
| 1009        | a message was larger than one of the broker may be                              |
| 1011        | the agent's handler failed; the reason is its text                              |
| 4000        | `stream_cancelled`: the agent gave it up                                        |
| 4001        | `stream_lost`: the agent, or the broker, is gone                                |
| 4002        | `stream_idle`: nobody said anything for too long                                |
| 4003        | `stream_refused`: one side broke the protocol                                   |

Source: RFC 6455, section 7.4; ASGI WebSocket 2.4.
"""

import asyncio
import json
import math
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs

from bridge.web.asked import Asked
from bridge.web.outlet import STALL, Message, respond
from bridge.web.rules import Problem
from mesh import clock
from mesh.background import end_tasks
from mesh.errors import (
    Busy,
    Denied,
    MeshError,
    NoSuchAgent,
    RemoteError,
    StreamCancelled,
    StreamIdle,
    StreamLost,
    StreamRefused,
    TooLarge,
)
from mesh.streams import Stream
from mesh.wire import control

MOST: Final = 1_000
"""Streams over WebSocket of one front at once. One caller's are bounded by each agent."""

ENDED: Final = 1000
EXPIRED: Final = 1008
TOO_LARGE: Final = 1009
FAILED: Final = 1011
CODES: Final[dict[type[MeshError], int]] = {
    StreamCancelled: 4000,
    StreamLost: 4001,
    StreamIdle: 4002,
    StreamRefused: 4003,
    TooLarge: TOO_LARGE,
    RemoteError: FAILED,
}

LONGEST_REASON: Final = 120
"""Bytes of a reason, of the 123 that a close frame has."""

_STATUS: Final[dict[type[MeshError], int]] = {Denied: 403, NoSuchAgent: 404, StreamRefused: 404, Busy: 503}


class StreamSockets:
    """Those of one front."""

    def __init__(self) -> None:
        self._open = 0

    async def serve(self, asked: Asked, problem: Problem | None, type: str, query: bytes = b"") -> None:
        """From the handshake to the end. `problem`: why it is not to be."""
        await asked.receive()
        if problem is None and self._open >= MOST:
            problem = Problem(503, control.MESH_ERROR, "too many streams are open", {"mesh": Busy.code})
        self._open += 1
        try:
            if problem is None:
                try:
                    stream = await asked.user.mesh.create_stream(asked.agent or "", type, content=_content(query))
                except MeshError as error:
                    status = _STATUS.get(error.__class__, 502)
                    data = {"mesh": error.code, **({"hint": error.hint} if error.hint else {})}
                    problem = Problem(status, control.MESH_ERROR, error.message, data)
                except (ValueError, RecursionError):
                    problem = Problem(400, control.INVALID_REQUEST, "Bad Request: ?content= is no JSON")
                else:
                    async with stream:
                        await _run(stream, asked)
                    return
            await respond(_handshake(asked), problem.status, list(problem.headers), problem.body())
        finally:
            self._open -= 1


def _content(query: bytes) -> Any:
    said = parse_qs(query.decode("latin-1")).get("content")
    return None if said is None else json.loads(said[0])


def _handshake(asked: Asked) -> Any:
    async def send(message: Message) -> None:
        await asked.send({**message, "type": "websocket." + message["type"]})

    return send


async def _run(stream: Stream, asked: Asked) -> None:
    await asked.send({"type": "websocket.accept"})
    listening = asyncio.create_task(_listen(stream, asked), name="stream in")
    telling = asyncio.create_task(_tell(stream, asked), name="stream out")
    left = None if asked.until == math.inf else max(0.0, asked.until - clock.wall_ns() / 1e9)
    done: set[asyncio.Task[None]] = set()
    try:
        done, _ = await asyncio.wait((listening, telling), timeout=left, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(listening, telling)
    if listening in done and listening.exception() is None:
        return  # the client has left, or its socket is gone
    problem = next((error for task in done if (error := task.exception()) is not None), None)
    if not done:
        stream.cancel("the client's token has expired")
        await _close(asked, EXPIRED, "the token has expired")
    elif problem is None:
        await _close(asked, ENDED, "")
    elif isinstance(problem, MeshError):
        if isinstance(problem, TooLarge):
            stream.cancel(problem.message)
        await _close(asked, CODES.get(problem.__class__, FAILED), problem.message)
    elif isinstance(problem, TimeoutError | OSError):
        stream.cancel("the client does not read")
    else:
        raise problem


async def _listen(stream: Stream, asked: Asked) -> None:
    """From the socket to the agent, as fast as the agent reads."""
    while (message := await asked.receive())["type"] == "websocket.receive":
        text = message.get("text")
        await stream.send(message["bytes"] if text is None else text)
    if message.get("code", ENDED) in (ENDED, 1001, 1005):
        stream.end()
    else:
        stream.cancel(f"the WebSocket ended with {message.get('code')}")


async def _tell(stream: Stream, asked: Asked) -> None:
    """From the agent to the socket, as fast as the client reads."""
    async for said in stream:
        frame = {"bytes": said} if isinstance(said, bytes) else {"text": said if isinstance(said, str) else json.dumps(said)}
        async with asyncio.timeout(STALL):
            await asked.send({"type": "websocket.send", **frame})


async def _close(asked: Asked, code: int, reason: str) -> None:
    """A client that does not read, or is gone, is not waited for."""
    said = reason.encode()[:LONGEST_REASON].decode("utf-8", "ignore")
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(STALL):
            await asked.send({"type": "websocket.close", "code": code, "reason": said})
