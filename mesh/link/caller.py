"""Calls of our own: one MCP request, and its result. Bridges carry the requests of others, and open exchanges themselves."""

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from mesh.errors import CallError, ConfigError, InstanceLost
from mesh.link.exchanges import Exchanges
from mesh.link.targets import Target
from mesh.rpc import Progress, build_request, read_response
from mesh.subjects import ANY, NAME_KEYS
from mesh.wire.jsonrpc import Frame


class Caller:
    """`timeout` is what a call takes at most where nothing else is said, in seconds."""

    def __init__(self, exchanges: Exchanges, timeout: float) -> None:
        self._exchanges = exchanges
        self._timeout = timeout

    async def target(self, agent: str) -> Target:
        """Whom a name stands for, asked or remembered. Raises NoSuchAgent."""
        return self._exchanges.targets.fresh(agent) or await self._exchanges.targets.resolve(agent)

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
        """The result of an MCP request; `Mesh.call` says more. Tried a second time only where nobody can have taken the first one."""
        seconds = self._timeout if timeout is None else timeout
        name = _name_in(method, params)
        for attempt in (1, 2):
            target = self._exchanges.targets.fresh(agent)
            if target is None:
                self._exchanges.check(agent, method, name)  # who may not is told what it asked for
                target = await self._exchanges.targets.resolve(agent)
            done: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
            exchange = self._exchanges.open(
                target,
                method,
                name,
                on_frame=partial(_on_frame, done, progress),
                on_failure=partial(_on_failure, done),
                timeout=seconds,
                renew=progress is not None,
                reads_all=True,
                instance=instance,
            )
            try:
                body = build_request(exchange.id, method, params, progress=progress is not None)
            except ConfigError:
                exchange.discard()
                raise
            exchange.send(body)
            try:
                frame = await done
            except asyncio.CancelledError:
                exchange.cancel("the caller gave up")
                raise
            answer, again = read_response(frame.raw)
            if again and attempt == 1:
                self._exchanges.targets.stale(agent)
                continue
            if isinstance(answer, InstanceLost):
                self._exchanges.targets.stale(agent)  # it says so itself, before the broker does
            if isinstance(answer, CallError):
                raise answer
            return answer
        raise AssertionError("unreachable")


def _name_in(method: str, params: Mapping[str, Any] | None) -> str | None:
    key = NAME_KEYS.get(method)
    return None if key is None else str((params or {}).get(key, ""))


def _on_frame(done: asyncio.Future[Frame], progress: Progress | None, frame: Frame) -> None:
    if frame.final:
        if not done.done():
            done.set_result(frame)
    elif progress is not None and frame.method == "notifications/progress":
        params = json.loads(frame.raw).get("params") or {}
        progress(params.get("progress", 0), params.get("total"), params.get("message"))


def _on_failure(done: asyncio.Future[Frame], error: CallError) -> None:
    if not done.done():
        done.set_exception(error)
