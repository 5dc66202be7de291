"""One connection to the MCP server, and the calls that are on it.

Ids on the mesh are unique, so calls of many callers share a connection as they are: no byte is changed. What comes back finds its call by
its id, a progress report by its token (which the calling bridge made the same as the id). What belongs to no call goes to `on_stray`.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from bridge.errors import ServerDied
from bridge.ports.base import ServerPort
from mesh.errors import CallTimeout, MeshError, RemoteError
from mesh.link.responder import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, scan

OWN_PREFIX: Final = "bridge."
"""Of the ids of the bridge's own requests. A mesh id begins with the caller's token and two dots follow; this has one."""

_log = structlog.get_logger("bridge")


class Channel:
    """Open it once. When the server ends, every call on it ends with `server_died`, and `on_end` is told why."""

    def __init__(
        self, agent: str, port: ServerPort, *, on_stray: Callable[[Frame, str | None], None], on_end: Callable[[str], None]
    ) -> None:
        self.agent = agent
        self.ended = False
        self._port = port
        self._on_stray = on_stray
        self._tell_end = on_end
        self._calls: dict[str, Call] = {}
        self._own: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)

    @property
    def calls(self) -> int:
        return len(self._calls)

    async def open(self) -> None:
        await self._port.open(self._on_frame, self._on_end)

    def take(self, call: Call) -> None:
        """Pass a call to the server."""
        self._calls[call.id] = call
        call.holder = self
        try:
            self._port.send(call.frame)
        except MeshError as error:
            del self._calls[call.id]
            call.refuse(error, **error.details)

    def cancel(self, call: Call, reason: str) -> None:
        if self._calls.pop(call.id, None) is not None:
            self.send(control.cancelled(call.id, reason))

    def send(self, raw: bytes) -> None:
        """Pass a notification, or an answer to a request of the server's."""
        self.pass_on(scan(raw))

    def pass_on(self, frame: Frame) -> None:
        try:
            self._port.send(frame)
        except MeshError as error:
            _log.warning("a notification was not passed on", agent=self.agent, method=frame.method, why=str(error))

    async def request(self, method: str, params: Mapping[str, Any], *, timeout: float | None) -> dict[str, Any]:
        """A request of the bridge's own, and its result; `timeout` None: it may last. Raises RemoteError, CallTimeout, ServerDied."""
        id = f"{OWN_PREFIX}{next(self._numbers)}"
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._own[id] = future
        try:
            self._port.send(scan(dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params})))
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise CallTimeout(f"{self.agent} did not answer {method} within {timeout:g} s") from None
        finally:
            self._own.pop(id, None)

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        self.send(dumps({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})}))

    async def close(self, reason: str) -> None:
        """End it, and what is still on it."""
        self._end(reason)
        await self._port.close()

    def _on_frame(self, frame: Frame, origin: str | None) -> None:
        if frame.final:
            call = self._calls.pop(frame.id, None) if isinstance(frame.id, str) else None
            if call is not None:
                call.finish(frame.raw)
            elif isinstance(frame.id, str) and frame.id in self._own:
                self._on_own(self._own[frame.id], frame)
            else:
                _log.debug("an answer to nothing", agent=self.agent, id=frame.id)
            return
        if frame.method == "notifications/progress" and isinstance(frame.token, str):
            if (call := self._calls.get(frame.token)) is not None:
                call.emit(frame.raw, named=True)
            return
        if frame.kind is Kind.NOTIFICATION and origin is not None and (call := self._calls.get(origin)) is not None:
            call.emit(frame.raw)
            return
        self._on_stray(frame, origin)

    def _on_own(self, future: "asyncio.Future[dict[str, Any]]", frame: Frame) -> None:
        if future.done():
            return
        body = json.loads(frame.raw)
        if frame.kind is Kind.RESULT:
            result = body["result"]
            future.set_result(result if isinstance(result, dict) else {})
        else:
            error = body["error"] if isinstance(body["error"], dict) else {}
            future.set_exception(RemoteError(error.get("code", 0), str(error.get("message", "")), error.get("data")))

    def _on_end(self, reason: str) -> None:
        if not self.ended:
            self._end(reason)
            self._tell_end(reason)

    def _end(self, reason: str) -> None:
        self.ended = True
        problem = ServerDied(f"the server of {self.agent} is gone: {reason}", hint="it may have run; call again if that does no harm")
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.refuse(problem)
        for future in self._own.values():
            if not future.done():
                future.set_exception(problem)
