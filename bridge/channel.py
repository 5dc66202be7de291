"""One connection to the MCP server, and the calls that are on it.

Ids on the mesh are unique, so calls of many callers share a connection as they are: no byte is changed. What comes back finds its call by
its id, a progress report by its token (which the calling bridge made the same as the id), a frame of a listen by its subscription id. What
belongs to no call goes to `on_stray`.

A call that is translated on its way does not pass as it is: a `Rider` takes its place, under an id of its own.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from bridge.eras.shapes import INPUT_REQUIRED, is_logged, read_wish
from bridge.eras.words import CANCELLED
from bridge.errors import ServerDied
from bridge.ports.base import ServerPort
from mesh.errors import CallError, CallTimeout, MeshError, RemoteError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error, scan

OWN_PREFIX: Final = "bridge."
"""Of the ids of the bridge's own requests. A mesh id begins with the caller's token and two dots follow; this has one."""

_log = structlog.get_logger("bridge")


class Rider(Protocol):
    """A request on a channel that is not simply a call which passes."""

    def on_frame(self, frame: Frame) -> None:
        """What belongs to it and does not end it."""

    def on_final(self, frame: Frame) -> None:
        """Its response. It is no longer on the channel."""

    def on_died(self, problem: MeshError) -> None:
        """The server is gone."""


class Channel:
    """Open it once. When the server ends, every call on it ends with `server_died`, and `on_end` is told why."""

    def __init__(
        self,
        agent: str,
        port: ServerPort,
        *,
        on_stray: Callable[[Frame, str | None], None],
        on_end: Callable[[str], None],
        on_asks: Callable[[Call, Frame], None] | None = None,
    ) -> None:
        """`on_asks` ends a call whose response may ask for input; without it all responses pass."""
        self.agent = agent
        self.ended = False
        self._port = port
        self._on_stray = on_stray
        self._tell_end = on_end
        self._on_asks = on_asks
        self._calls: dict[str, Call] = {}
        self._riders: dict[str, Rider] = {}
        self._own: dict[str, asyncio.Future[Frame]] = {}
        self._numbers = itertools.count(1)

    @property
    def calls(self) -> int:
        return len(self._calls)

    def call_of(self, origin: str | None) -> Call | None:
        """The call that something belongs to which the server says to no call: by the port's knowledge, else the only one there is."""
        return self._calls.get(origin) if origin is not None else next(iter(self._calls.values())) if len(self._calls) == 1 else None

    def only_rider(self) -> Rider | None:
        """The one request there is, if it is the only one."""
        return next(iter(self._riders.values())) if len(self._riders) == 1 and not self._calls else None

    def logged(self, frame: Frame) -> Call | None:
        """The call that a log message of a modern server is for, where its port does not know: over a pipe it names none.

        A server logs for the requests that ask for it and for no others. If all that run here are one connection's, it is for that one, on
        the first of them that asks; with those of several nobody can tell, and one's logs are not another's to read.
        """
        running = [call for call in self._calls.values() if call.frame.method != "subscriptions/listen"]
        if any(call.peer is not running[0].peer for call in running):
            return None
        return next((call for call in running if is_logged(frame, read_wish(call.frame).level)), None)

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
            self.send(call.cancellation or control.cancelled(call.id, reason))

    def drop(self, session: str, problem: MeshError, reason: str) -> None:
        """End the calls of one session, which is named by its reply subject."""
        for call in [call for call in self._calls.values() if call.prefix + call.series == session]:
            self.cancel(call, reason)
            call.refuse(problem)

    def ride(self, id: str, raw: bytes, rider: Rider) -> None:
        """Send a request whose frames go to `rider`. Raises MeshError where the server does not take it, or is gone."""
        if self.ended:
            raise ServerDied(f"the server of {self.agent} is gone")
        self._port.send(scan(raw))
        self._riders[id] = rider

    def leave(self, id: str, reason: str) -> None:
        """Cancel a request that was sent with `ride`. Nothing comes for it any more."""
        if self._riders.pop(id, None) is not None:
            self.send(control.cancelled(id, reason))

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
        result = self._read(await self.ask(method, params, timeout=timeout))["result"]
        return result if isinstance(result, dict) else {}

    async def ask(self, method: str, params: Mapping[str, Any], *, timeout: float | None) -> Frame:
        """The same, and the response as it came."""
        if self.ended:
            raise ServerDied(f"the server of {self.agent} is gone")
        id = f"{OWN_PREFIX}{next(self._numbers)}"
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._own[id] = future
        try:
            self._port.send(scan(dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params})))
            async with asyncio.timeout(timeout):
                frame = await future
        except TimeoutError:
            raise CallTimeout(f"{self.agent} did not answer {method} within {timeout:g} s") from None
        finally:
            self._own.pop(id, None)
        if frame.kind is Kind.ERROR:
            said = self._read(frame)["error"]
            said = said if isinstance(said, dict) else {}
            raise RemoteError(said.get("code", 0), str(said.get("message", "")), said.get("data"))
        return frame

    def _read(self, frame: Frame) -> Any:
        """The message as Python has it, which is not every message that passes. Raises CallError."""
        try:
            return json.loads(frame.raw)
        except (ValueError, RecursionError) as problem:
            raise CallError(f"{self.agent} answers what cannot be read here: {problem}") from None

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
                if self._on_asks is not None and INPUT_REQUIRED in frame.raw:
                    self._on_asks(call, frame)
                else:
                    call.finish(frame.raw)
            elif isinstance(frame.id, str) and (rider := self._riders.pop(frame.id, None)) is not None:
                rider.on_final(frame)
            elif isinstance(frame.id, str) and frame.id in self._own:
                if not self._own[frame.id].done():
                    self._own[frame.id].set_result(frame)
            else:
                _log.debug("an answer to nothing", agent=self.agent, id=frame.id)
            return
        if frame.method == "notifications/cancelled" and isinstance(frame.cancels, str) and self._on_cancelled(frame, frame.cancels):
            return
        if frame.kind is Kind.NOTIFICATION:
            progress = frame.method == "notifications/progress"
            owner = frame.token if progress else origin if origin is not None else frame.subscription
            if isinstance(owner, str):
                if (call := self._calls.get(owner)) is not None:
                    call.emit(frame.raw, named=progress)
                    return
                if (rider := self._riders.get(owner)) is not None:
                    rider.on_frame(frame)
                    return
            if progress and isinstance(owner, str):
                return  # of a call that has ended
        self._on_stray(frame, origin)

    def _on_cancelled(self, frame: Frame, id: str) -> bool:
        """The server ends a request of ours without an answer, as it may a listen over stdio. Whether it is one of ours.

        Source: MCP 2026-07-28, basic/patterns/cancellation."""
        said = (CANCELLED, "the server has ended this request", {"mesh": "cancelled"})
        call, rider = self._calls.pop(id, None), self._riders.pop(id, None)
        if call is not None:
            call.emit(frame.raw)
            call.fail(*said)
        elif rider is not None:
            rider.on_final(scan(error(dumps(id), *said)))
        return call is not None or rider is not None

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
        riders, self._riders = self._riders, {}
        for rider in riders.values():
            rider.on_died(problem)
        for future in self._own.values():
            if not future.done():
                future.set_exception(problem)
