"""The listen that a bridge holds at a modern server for one handshake host (`bridge.eras.standing`)."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Final

from bridge.channel import Channel
from bridge.eras.machine import Machine
from bridge.eras.shapes import read_filter, response
from bridge.eras.standing import TABLE, Do, Event, State
from bridge.eras.words import ACKNOWLEDGED
from mesh.errors import MeshError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error, scan

PAUSE: Final = 2.0
"""Seconds before a listen that the server ended is opened again."""


class Standing:
    """`want` more, and what changes goes to `on_change`."""

    def __init__(
        self, channel: Channel, params: Callable[[], dict[str, Any]], on_change: Callable[[Frame], None], on_denied: Callable[[str], None]
    ) -> None:
        """`params()`: those of a listen for all that is wanted now. `on_denied(uri)`: the server does not give this one."""
        self._channel = channel
        self._params = params
        self._on_change = on_change
        self._on_denied = on_denied
        self._machine: Machine[State, Event, Do] = Machine(TABLE, State.IDLE)
        self._numbers = itertools.count(1)
        self._newest: _Listen | None = None
        self._older: _Listen | None = None
        self._waiting: list[tuple[Call, str]] = []
        """Subscriptions that the listen which is being opened asks for."""
        self._later: list[tuple[Call, str]] = []
        """Those that only the next one will ask for."""
        self._timer: asyncio.TimerHandle | None = None

    def want(self, call: Call | None = None, uri: str = "") -> None:
        """More is wanted: for a subscription, which is answered when the server has it, or at all."""
        if call is not None:
            self._later.append((call, uri))
        self._do(self._machine.on(Event.WANTED))

    def close(self, problem: MeshError) -> None:
        """The server is gone, or the session."""
        self._drop_timer()
        self._newest = self._older = None
        waiting, self._waiting, self._later = [*self._waiting, *self._later], [], []
        for call, _ in waiting:
            call.refuse(problem)

    def heard(self, listen: "_Listen", frame: Frame) -> None:
        if frame.method == ACKNOWLEDGED:
            if listen is self._newest and not listen.told:
                listen.told = True
                self._do(self._machine.on(Event.ACKNOWLEDGED), frame)
        elif listen.told and (listen is self._newest or not (self._newest is not None and self._newest.told)):
            self._on_change(frame)

    def ended(self, listen: "_Listen", frame: Frame) -> None:
        if listen is self._older:
            self._older = None
        elif listen is self._newest:
            self._newest, self._older = self._older, None
            self._do(self._machine.on(Event.ENDED if self._newest is None else Event.REFUSED), frame)

    def _do(self, do: Do, frame: Frame | None = None) -> None:
        if do is Do.SETTLE or do is Do.SETTLE_AND_OPEN:
            assert frame is not None
            self._settle(frame)
        elif do is Do.REFUSE or do is Do.REFUSE_AND_OPEN:
            assert frame is not None
            self._refuse(frame)
        elif do is Do.PAUSE:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._again)
        if do is Do.OPEN or do is Do.SETTLE_AND_OPEN or do is Do.REFUSE_AND_OPEN:
            self._open()

    def _open(self) -> None:
        self._drop_timer()
        self._waiting, self._later = self._later, []
        self._older = self._newest
        id = f"bridge.listen.{next(self._numbers)}"
        self._newest = _Listen(self, id)
        raw = dumps({"jsonrpc": "2.0", "id": id, "method": "subscriptions/listen", "params": self._params()})
        try:
            self._channel.ride(id, raw, self._newest)
        except MeshError as problem:
            self.ended(self._newest, scan(error(dumps(id), control.MESH_ERROR, problem.message, {"mesh": problem.code})))

    def _settle(self, frame: Frame) -> None:
        """Answer the subscriptions that waited for this listen, and close the one before it."""
        honoured = read_filter(frame)
        uris = frozenset(honoured.uris) if honoured is not None else frozenset()
        waiting, self._waiting = self._waiting, []
        for call, uri in waiting:
            if uri in uris:
                call.finish(response(dumps(call.id), b"{}"))
            else:
                self._on_denied(uri)
                call.fail(control.INVALID_PARAMS, "the server does not let this resource be subscribed", {"uri": uri})
        older, self._older = self._older, None
        if older is not None:
            self._channel.leave(older.id, "a newer one has taken its place")

    def _refuse(self, frame: Frame) -> None:
        waiting, self._waiting = self._waiting, []
        for call, uri in waiting:
            self._on_denied(uri)
            if frame.kind is Kind.ERROR:
                call.finish(frame.splice([(frame.id_span, dumps(call.id))]))
            else:
                call.fail(control.INTERNAL_ERROR, "the server ended the subscription as soon as it began")

    def _again(self) -> None:
        self._do(self._machine.on(Event.AGAIN))

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Listen:
    """One listen: the rider of its request."""

    def __init__(self, standing: Standing, id: str) -> None:
        self.id = id
        self.told = False
        """Whether it was acknowledged."""
        self._standing = standing

    def on_frame(self, frame: Frame) -> None:
        self._standing.heard(self, frame)

    def on_final(self, frame: Frame) -> None:
        self._standing.ended(self, frame)

    def on_died(self, problem: MeshError) -> None:
        self._standing.close(problem)
