"""The ASGI application: routes, and what each request must pass before it reaches an agent.

| path | method | |
|---|---|---|
| `/agents/{name}/mcp` | POST, GET, DELETE | MCP over streamable HTTP, the agent as if it were here |
| `/agents/{name}/ws` | WebSocket | the same, one message a text frame |
| `/agents/{name}/streams/{type}` | WebSocket | a stream to the agent, one message a frame (`bridge.web.streams`) |
| `/mcp`, `/ws` | | the same for all agents as one |
| `/health`, `/ready` | GET, HEAD | for supervisors; without a token |
| `/.well-known/oauth-protected-resource`, and with one of the paths above behind it | GET, HEAD | how to get in; without a token |

A plain ASGI callable: no framework stands between the server and the bytes, since each layer costs on every call.

Source: MCP basic/transports; observable behaviour follows the Python SDK's server.
"""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import structlog

from bridge.web import rules
from bridge.web.asked import Asked
from bridge.web.challenge import WELL_KNOWN
from bridge.web.door import Door
from bridge.web.endpoint import Endpoint
from bridge.web.guard import Guard
from bridge.web.outlet import Message, Receive, Send, respond
from bridge.web.rules import Headers, Problem
from bridge.web.streams import StreamSockets
from mesh.wire import control

BODY_SECONDS: Final = 60.0
"""For a body to arrive, once its head is there."""

MOST_ROUTES: Final = 10_000

_log = structlog.get_logger("bridge.web")


Look = Callable[[], dict[str, Any]]
"""What `/ready` says: `{"ready": bool, …}`."""


class App:
    """The application. `most_bytes`: of one body."""

    def __init__(self, endpoint: Endpoint, look: Look, guard: Guard, door: Door, *, most_bytes: int) -> None:
        self._endpoint = endpoint
        self._door = door
        self._look = look
        self._guard = guard
        self._streams = StreamSockets()
        self._most_bytes = most_bytes
        self._routes: dict[bytes, tuple[str, str | None]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        asked: Asked | None = None
        try:
            path: bytes = scope["raw_path"]
            kind, agent = self._routes.get(path) or self._route(path)
            asked = Asked(agent, scope["headers"], receive, send)
            refusal = self._guard.refusal(asked.headers.get(b"host"), asked.headers.get(b"origin"))
            problem = None if refusal is None else Problem(refusal[0], control.INVALID_REQUEST, refusal[1])
            if problem is None and kind in ("mcp", "ws", "stream"):
                problem = await self._let_in(asked, path, scope)
            if scope["type"] == "websocket":
                if kind == "stream":
                    await self._streams.serve(
                        asked, problem, unquote(path.partition(b"?")[0].decode("latin-1").split("/")[4]), scope.get("query_string", b"")
                    )
                    return
                if problem is None and kind != "ws":
                    problem = Problem(404, control.INVALID_REQUEST, "Not Found")
                await self._endpoint.serve_socket(asked, scope, problem)
                return
            if problem is None:
                problem = await (self._on_mcp(scope["method"], asked) if kind == "mcp" else self._on_other(kind, scope["method"], asked))
            if problem is not None:
                await respond(asked.send, problem.status, list(problem.headers), problem.body())
        except Exception:
            _log.exception("a request failed", path=scope.get("path"))
            raise
        finally:
            if asked is not None and asked.guest is not None:
                asked.guest.held -= 1

    async def _let_in(self, asked: Asked, path: bytes, scope: Message) -> Problem | None:
        """Find out who asks, and count it. From then on the user is held until the request ends."""
        said = path.partition(b"?")[0].decode("latin-1")
        gathered = asked.agent is None
        entered = self._door.known(asked.headers, asked.pairs, said, gathered) or await self._door.enter(
            asked.headers, asked.pairs, said, gathered, scope.get("client")
        )
        if isinstance(entered, Problem):
            return entered
        asked.guest, asked.until = entered
        asked.guest.held += 1
        if self._door.protected:
            asked.denied = partial(self._door.denied, asked.headers, said)
        problem, asked.send = self._door.limit(asked.guest, asked.send)
        return problem

    def _route(self, path: bytes) -> tuple[str, str | None]:
        """What a path is: its kind (`mcp`, `ws`, `health`, `ready`, `metadata`, or empty) and the agent's name, or the path that metadata
        is about."""
        said = path.partition(b"?")[0].decode("latin-1")
        parts = said.split("/")[1:]
        found: tuple[str, str | None] = ("", None)
        if len(parts) == 3 and parts[0] == "agents" and parts[1] and parts[2] in ("mcp", "ws"):
            found = (parts[2], unquote(parts[1]))
        elif len(parts) == 4 and parts[0] == "agents" and parts[1] and parts[2] == "streams" and parts[3]:
            found = ("stream", unquote(parts[1]))
        elif len(parts) == 1 and parts[0] in ("health", "ready", "mcp", "ws"):
            found = (parts[0], None)
        elif said == WELL_KNOWN or (
            said.startswith(WELL_KNOWN + "/") and self._route(path[len(WELL_KNOWN) :])[0] in ("mcp", "ws", "stream")
        ):
            found = ("metadata", said[len(WELL_KNOWN) :])
        if len(self._routes) >= MOST_ROUTES:
            self._routes.clear()
        self._routes[path] = found
        return found

    async def _on_other(self, kind: str, method: str, asked: Asked) -> Problem | None:
        if not kind or (kind == "metadata" and not self._door.protected):
            return Problem(404, control.INVALID_REQUEST, "Not Found: there is /agents/{name}/mcp, /mcp, /health and /ready")
        if kind in ("ws", "stream"):
            return Problem(426, control.INVALID_REQUEST, "Upgrade Required", headers=((b"upgrade", b"websocket"),))
        if method not in ("GET", "HEAD"):
            return Problem(405, control.INVALID_REQUEST, "Method Not Allowed", headers=((b"allow", b"GET, HEAD"),))
        if kind == "metadata":
            await respond(asked.send, 200, [(b"cache-control", b"max-age=60")], self._door.metadata(asked.headers, asked.agent or ""))
            return None
        said = {"status": "ok"} if kind == "health" else self._look()
        await respond(asked.send, 200 if said.get("ready", True) else 503, [(b"cache-control", b"no-store")], json.dumps(said).encode())
        return None

    async def _body(self, headers: Headers, receive: Receive) -> bytes | Problem | None:
        """The whole body; or what is wrong with it; or None where the client has left."""
        too_large = Problem(413, control.INVALID_REQUEST, f"Content Too Large: at most {self._most_bytes} bytes")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > self._most_bytes:
            return too_large
        message = await receive()
        body: bytes = message.get("body", b"")
        try:
            async with asyncio.timeout(BODY_SECONDS if message.get("more_body") else None):
                parts, size = [body], len(body)
                while message.get("more_body"):
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._most_bytes:
                        return too_large
        except TimeoutError:
            return Problem(408, control.INVALID_REQUEST, "Request Timeout: the body did not arrive")
        if message["type"] == "http.disconnect":
            return None
        return b"".join(parts) if len(parts) > 1 else body

    async def _on_mcp(self, method: str, asked: Asked) -> Problem | None:
        modern = rules.is_modern(asked.headers)
        if method == "POST":
            if (problem := rules.post_problem(asked.headers)) is not None:
                return problem
            body = await self._body(asked.headers, asked.receive)
            return await self._endpoint.post(asked, body, modern) if isinstance(body, bytes) else body
        if modern or method not in ("GET", "DELETE"):
            allowed = b"POST" if modern else b"GET, POST, DELETE"
            return Problem(405, control.INVALID_REQUEST, "Method Not Allowed", headers=((b"allow", allowed),))
        return await (self._endpoint.get(asked) if method == "GET" else self._endpoint.delete(asked))
