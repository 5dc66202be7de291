"""Modern calls on a handshake server that may ask something back: each owns a child of the pool, from its first exchange to its result.

`bridge.eras.conversation` says what happens in which state; here it is done. A question of the server ends the client's exchange with
"input required" and a sealed state; the retry brings the answers and its own exchange, and the call goes on. A call that nobody comes back
for ends after `WAIT_SECONDS`: its questions are answered with an error, and its child goes.
"""

import asyncio
from typing import Any, Final, Protocol

import structlog

from bridge.eras.conversation import Conversation, Do, Event, State
from bridge.eras.edit import find_text
from bridge.eras.machine import Impossible
from bridge.eras.shapes import Wish, complete, input_required, is_logged, lacking, read_answers, response, to_handshake
from bridge.eras.state import Claim, Sealer, StateRefused
from bridge.eras.words import LOG, QUESTIONS, STATE_REFUSED
from bridge.translation.pool import Child, Pool
from mesh import clock
from mesh.background import Background
from mesh.errors import CallError, MeshError
from mesh.link.call import Call
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Kind, dumps, error

WAIT_SECONDS: Final = 300.0
"""How long a call waits for its client to come back with answers: a person may have to be found."""

GONE_SECONDS: Final = 10.0
"""The same once the client's connection is gone: a front that is restarted comes back, a client that was killed does not."""

MOST_KEPT: Final = 100
"""Log messages and the like that are kept for the next exchange while the client has none open. The oldest go first."""

LEVEL_SECONDS: Final = 10.0

_log = structlog.get_logger("bridge")


class Listener(Protocol):
    """Takes what a child says to all, for those who listen."""

    def heard(self, frame: Frame, caller: str) -> bool:
        """Whether it was something to listen to."""


class Talks:
    """All of them, of one bridge."""

    def __init__(self, agent: str, sealer: Sealer, pool: Pool, listener: Listener, wait_seconds: float) -> None:
        self.agent = agent
        self.sealer = sealer
        self.pool = pool
        self.listener = listener
        self.wait_seconds = wait_seconds
        self.can_log = False
        """Whether the server has the logging capability."""
        self._waiting: dict[str, Talk] = {}
        self._background = Background()

    def begin(self, call: Call, wish: Wish) -> None:
        self._background.start(Talk(self, call, wish).start(), f"call {call.id}")

    def resume(self, call: Call, state: str) -> None:
        """A retry: the call that waits takes it over. One that is forged, late, used already, or another's is refused."""
        try:
            claim = self.sealer.open(state, clock.monotonic())
            claim.check(call.caller, call.frame)
            talk = self._waiting.get(claim.waiting)
            if talk is None or talk.conversation.round != claim.round:
                raise StateRefused("used already, or given up")
        except StateRefused as problem:
            _log.warning("request state refused", agent=self.agent, caller=call.caller, why=str(problem))
            call.fail(*STATE_REFUSED)
        else:
            talk.resume(call)

    def gone(self, caller: str, connection: str) -> None:
        """A connection of a caller's is there no more: its calls wait for another one of that caller, and not for long."""
        for talk in self._waiting.values():
            if (talk.call.caller, talk.call.peer.connection) == (caller, connection):
                talk.wait(min(GONE_SECONDS, self.wait_seconds))

    async def close(self) -> None:
        await self._background.end()
        for talk in list(self._waiting.values()):
            talk.drop_timer()

    def wait(self, talk: "Talk") -> None:
        self._waiting[talk.id] = talk

    def forget(self, talk: "Talk") -> None:
        self._waiting.pop(talk.id, None)


class Talk:
    """One call. It is the holder of the exchange that it has at the time, the rider of its request, and the owner of its child."""

    def __init__(self, talks: Talks, call: Call, wish: Wish) -> None:
        self.id = call.id
        self.conversation = Conversation()
        self._talks = talks
        self._wish = wish
        self._request = call.frame
        self._child: Child | None = None
        self._early: list[Frame] = []
        self._kept: list[bytes] = []
        self._answer: Frame | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.call = call
        call.holder = self

    async def start(self) -> None:
        try:
            child = await self._talks.pool.take(self.call, self._wish, self)
        except MeshError as problem:
            if not self.conversation.over:
                self._do(self.conversation.on(Event.DIED), problem)
            return
        if self._wish.level and self._talks.can_log:
            try:
                await child.channel.request("logging/setLevel", {"level": self._wish.level}, timeout=LEVEL_SECONDS)
            except CallError as problem:
                _log.info("the log level was not set", agent=self._talks.agent, why=str(problem))
        if self.conversation.over:
            self._talks.pool.give(child, clean=True)
        else:
            self._child = child
            self._do(self.conversation.on(Event.READY))
            early, self._early = [*child.take_early(), *self._early], []
            for question in early:
                self._on_question(question)

    def resume(self, call: Call) -> None:
        """The client is back."""
        self._talks.forget(self)
        self.drop_timer()
        do, answered = self.conversation.retried(read_answers(call.frame))
        self.call = call
        call.holder = self
        kept, self._kept = self._kept, []
        for raw in kept:
            call.emit(raw)
        for question, answer in answered:
            self._send(response(dumps(question.id), answer))
        self._do(do)

    def cancel(self, call: Call, reason: str) -> None:
        if call is self.call and not self.conversation.over and self.conversation.state is not State.WAITING:
            self._do(self.conversation.on(Event.CANCELLED))

    def wait(self, seconds: float) -> None:
        """For the client's next exchange, from now on."""
        self.drop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # what the child says

    def on_final(self, frame: Frame) -> None:
        self._answer = frame
        self._do(self.conversation.on(Event.ANSWERED))

    def on_frame(self, frame: Frame) -> None:
        if frame.method != "notifications/progress":
            self.on_stray(frame)
        elif self.call.frame.token_span is not None:
            self._emit(frame.splice([(frame.token_span, dumps(self.call.id))]), named=True)

    def on_died(self, problem: MeshError) -> None:
        self._do(self.conversation.on(Event.DIED), problem)

    def on_stray(self, frame: Frame) -> None:
        method = frame.method or ""
        if frame.kind is Kind.REQUEST:
            self._on_question(frame)
        elif method == LOG:
            if is_logged(frame, self._wish.level):
                self._emit(frame.raw)
        elif method == "notifications/cancelled":
            self.conversation.withdrawn(frame.cancels)
        elif not self._talks.listener.heard(frame, self.call.caller) and method != "notifications/elicitation/complete":
            self._emit(frame.raw)

    def _on_question(self, frame: Frame) -> None:
        if frame.method == "ping" and self._child is not None:
            self._send(response(dumps(frame.id), b"{}"))
        elif self.conversation.state is State.STARTING:
            self._early.append(frame)  # some ask for the roots as soon as they are initialized
        elif frame.method not in QUESTIONS or frame.method not in self._wish.asks:
            self._send(error(dumps(frame.id), control.METHOD_NOT_FOUND, "the client has not declared that it can be asked this"))
            if frame.method in QUESTIONS and self.conversation.state is State.RUNNING:
                self.call.fail(*lacking(frame.method))
                self._do(self.conversation.on(Event.CANCELLED))
        else:
            try:
                do = self.conversation.asked(frame)
            except Impossible:
                self._send(error(dumps(frame.id), control.INVALID_REQUEST, "no call is under way"))
            else:
                self._do(do)

    def _emit(self, raw: bytes, *, named: bool = False) -> None:
        if self.conversation.state is State.RUNNING:
            self.call.emit(raw, named=named)
        elif self.conversation.state is State.WAITING and not named:
            self._kept = [*self._kept[-MOST_KEPT + 1 :], raw]

    # what is done

    def _do(self, do: Do, problem: Any = None) -> None:
        match do:
            case Do.SEND:
                assert self._child is not None
                try:
                    self._child.channel.ride(self.id, to_handshake(self._request), self)
                except MeshError as refused:
                    self._do(self.conversation.on(Event.DIED), refused)
            case Do.ASK | Do.ANSWER_AND_ASK:
                self._ask()
            case Do.ANSWER | Do.QUEUE | Do.NOTHING:
                pass
            case Do.FINISH:
                self._deliver()
                self._leave(clean=True)
            case Do.KEEP:
                self._leave(clean=True)
            case Do.DELIVER:
                self._deliver()
            case Do.STOP:
                self._stop()
            case Do.FAIL:
                self.call.refuse(problem, **problem.details)
                self._leave(clean=False)
            case Do.FORGET:
                self._talks.forget(self)
                self.drop_timer()
                self._leave(clean=False)

    def _ask(self) -> None:
        now = clock.monotonic()
        name = self._request.name or ""
        claim = Claim(self.call.caller, self._request.method or "", name, self.id, self.conversation.round)
        state = self._talks.sealer.seal(claim, now + self._talks.wait_seconds)
        self._talks.wait(self)
        self.wait(self._talks.wait_seconds)
        self.call.finish(input_required(dumps(self.call.id), self.conversation.open, state))

    def _expire(self) -> None:
        self._timer = None
        self._do(self.conversation.on(Event.EXPIRED))

    def _deliver(self) -> None:
        frame = self._answer
        assert frame is not None
        assert self._request.method is not None
        self.call.finish(complete(self._request.method, frame, frame.splice([(frame.id_span, dumps(self.call.id))])))

    def _stop(self) -> None:
        self._talks.forget(self)
        self.drop_timer()
        if self._child is not None:
            for frame in self.conversation.open.values():
                self._send(error(dumps(frame.id), control.REQUEST_TIMEOUT, "the client did not come back"))
            self._child.channel.leave(self.id, "nobody waits for it any more")
        self._leave(clean=False)

    def _leave(self, *, clean: bool) -> None:
        child, self._child = self._child, None
        if child is not None:
            self._talks.pool.give(child, clean=clean and not self.conversation.open)

    def _send(self, raw: bytes) -> None:
        if self._child is not None:
            self._child.channel.send(raw)


def state_of(call: Call) -> str | None:
    """The request state that a call brings, if it is a retry."""
    return find_text(call.frame.raw, "params", "requestState") if b'"requestState"' in call.frame.raw else None
