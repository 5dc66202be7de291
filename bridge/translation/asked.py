"""One call of a handshake host on a modern server, with the rounds in which the server asks back (`bridge.eras.rounds`)."""

import asyncio
from typing import Final, Protocol

from bridge.channel import Channel
from bridge.eras.machine import Impossible
from bridge.eras.rounds import MOST_ROUNDS, Do, Event, Rounds
from bridge.eras.shapes import read_required, result_of, retry, to_modern
from bridge.eras.words import MAY_ASK
from mesh.errors import MeshError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps

ASK_SECONDS: Final = 300.0
"""How long a host may take to answer all questions of one round. Its own deadline for the call mostly comes first."""


class Host(Protocol):
    """The session that a call belongs to."""

    channel: Channel

    def envelope(self) -> bytes: ...
    def new_question(self, asked: "Asked") -> str: ...
    def ask(self, call: Call, id: str, inside: bytes) -> None: ...
    def withdraw(self, id: str, call: Call | None = None) -> None: ...


class Asked:
    """The rider of its requests, and the holder of its call."""

    def __init__(self, host: Host, call: Call) -> None:
        self._host = host
        self._call = call
        self._rounds = Rounds()
        self._id = call.id
        """Of the request that is at the server: each retry has one of its own."""
        self._state: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None
        call.holder = self

    def send(self) -> None:
        self._ride(to_modern(self._call.frame.raw, self._host.envelope()))

    def answered(self, id: str, frame: Frame) -> None:
        """The host has answered one of the questions."""
        try:
            do = self._rounds.answered(id, result_of(frame))
        except (Impossible, KeyError):
            return  # it came too late
        self._do(do, frame)

    def cancel(self, call: Call, reason: str) -> None:
        self._end()

    # what the server says

    def on_frame(self, frame: Frame) -> None:
        if frame.method == "notifications/progress":
            self._call.emit(frame.splice([(frame.token_span, dumps(self._call.id))]), named=True)
        else:
            self._call.emit(frame.raw)

    def on_final(self, frame: Frame) -> None:
        required = read_required(frame) if self._call.frame.method in MAY_ASK else None
        if required is None:
            self._do(self._rounds.on(Event.COMPLETE), frame)
            return
        self._state = required.state
        ids = {self._host.new_question(self): key for key in required.questions}
        do = self._rounds.asked(ids)
        self._do(do, frame)
        if do is Do.ASK:
            for id, key in ids.items():
                self._host.ask(self._call, id, required.questions[key])
        else:
            for id in ids:
                self._host.withdraw(id)

    def on_died(self, problem: MeshError) -> None:
        self._call.refuse(problem)
        self._end()

    # what is done

    def _do(self, do: Do, frame: Frame | None = None) -> None:
        if do not in (Do.ASK, Do.NOTHING):
            self._drop_timer()
        match do:
            case Do.FINISH | Do.REFUSE:
                assert frame is not None
                self._withdraw()
                self._call.finish(frame.splice([(frame.id_span, dumps(self._call.id))]))
            case Do.ASK:
                self._timer = asyncio.get_running_loop().call_later(ASK_SECONDS, self._too_late)
            case Do.PAUSE:
                self._timer = asyncio.get_running_loop().call_later(self._rounds.pause, self._again)
            case Do.RETRY:
                self._retry()
            case Do.GIVE_UP:
                self._call.fail(control.INTERNAL_ERROR, f"the server asked for input more than {MOST_ROUNDS} times")
            case Do.STOP:
                self._host.channel.leave(self._id, "cancelled by the host")
            case Do.WITHDRAW:
                self._withdraw()
            case Do.NOTHING:
                pass

    def _again(self) -> None:
        self._do(self._rounds.on(Event.AGAIN))

    def _too_late(self) -> None:
        self._call.fail(control.REQUEST_TIMEOUT, f"the host did not answer within {ASK_SECONDS:g} s", {"mesh": "timeout"})
        self._end()

    def _end(self) -> None:
        try:
            do = self._rounds.on(Event.ENDED)
        except Impossible:
            return  # it has ended already
        self._do(do)

    def _retry(self) -> None:
        self._id = f"{self._call.id}~{self._rounds.round}"
        self._ride(retry(self._call.frame, dumps(self._id), self._host.envelope(), self._rounds.answers, self._state))

    def _ride(self, raw: bytes) -> None:
        try:
            self._host.channel.ride(self._id, raw, self)
        except MeshError as problem:
            self._call.refuse(problem, **problem.details)
            self._end()

    def _withdraw(self) -> None:
        """Nobody waits any more for what the host was asked."""
        for id in list(self._rounds.open):
            self._host.withdraw(id, self._call)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
