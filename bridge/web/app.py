"""The ASGI application: routes, and what each request must pass before it reaches an agent.

| path | method | |
|---|---|---|
| `/agents/{name}/mcp` | POST, GET, DELETE | MCP over streamable HTTP, the agent as if it were here |
| `/agents/{name}/ws` | WebSocket | the same, one message a text frame |
| `/mcp`, `/ws` | | the same for all agents as one |
| `/health`, `/ready` | GET, HEAD | for supervisors |

A plain ASGI callable: no framework stands between the server and the bytes, since each layer costs on every call.

Source: MCP basic/transports; observable behaviour follows the Python SDK's server.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

import structlog

from bridge.web import rules
from bridge.web.endpoint import Asked, Endpoint
from bridge.web.guard import Guard
from bridge.web.outlet import Message, Receive, Send, respond
from bridge.web.rules import Headers, Problem
from mesh.wire import control

BODY_SECONDS: Final = 60.0
"""For a body to arrive, once its head is there."""

MOST_ROUTES: Final = 10_000

_log = structlog.get_logger("bridge.web")


Look = Callable[[], dict[str, Any]]
"""What `/ready` says: `{"ready": bool, …}`."""


class App:
    """The application. `most_bytes`: of one body."""

    def __init__(self, endpoint: Endpoint, look: Look, guard: Guard, *, most_bytes: int) -> None:
        self._endpoint = endpoint
        self._look = look
        self._guard = guard
        self._most_bytes = most_bytes
        self._routes: dict[bytes, tuple[str, str | None]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            path: bytes = scope["raw_path"]
            kind, agent = self._routes.get(path) or self._route(path)
            asked = Asked(agent, scope["headers"], receive, send)
            refusal = self._guard.refusal(asked.headers.get(b"host"), asked.headers.get(b"origin"))
            if scope["type"] == "websocket":
                await self._endpoint.serve_socket(asked, scope, refusal or (None if kind == "ws" else (404, "Not Found")))
                return
            problem = None if refusal is None else Problem(refusal[0], control.INVALID_REQUEST, refusal[1])
            if problem is None:
                problem = await (self._on_mcp(scope["method"], asked) if kind == "mcp" else self._on_other(kind, scope["method"], send))
            if problem is not None:
                await respond(send, problem.status, list(problem.headers), problem.body())
        except Exception:
            _log.exception("a request failed", path=scope.get("path"))
            raise

    def _route(self, path: bytes) -> tuple[str, str | None]:
        """What a path is: its kind (`mcp`, `ws`, `health`, `ready`, or empty) and the agent's name."""
        parts = path.partition(b"?")[0].decode("latin-1").split("/")[1:]
        found: tuple[str, str | None] = ("", None)
        if len(parts) == 3 and parts[0] == "agents" and parts[1] and parts[2] in ("mcp", "ws"):
            found = (parts[2], unquote(parts[1]))
        elif len(parts) == 1 and parts[0] in ("health", "ready", "mcp", "ws"):
            found = (parts[0], None)
        if len(self._routes) >= MOST_ROUTES:
            self._routes.clear()
        self._routes[path] = found
        return found

    async def _on_other(self, kind: str, method: str, send: Send) -> Problem | None:
        if not kind:
            return Problem(404, control.INVALID_REQUEST, "Not Found: there is /agents/{name}/mcp, /mcp, /health and /ready")
        if kind == "ws":
            return Problem(426, control.INVALID_REQUEST, "Upgrade Required", headers=((b"upgrade", b"websocket"),))
        if method not in ("GET", "HEAD"):
            return Problem(405, control.INVALID_REQUEST, "Method Not Allowed", headers=((b"allow", b"GET, HEAD"),))
        said = {"status": "ok"} if kind == "health" else self._look()
        await respond(send, 200 if said.get("ready", True) else 503, [(b"cache-control", b"no-store")], json.dumps(said).encode())
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
