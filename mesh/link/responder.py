"""The serving side: calls in, checked; frames out; each call answered once, and none run twice.

Theory of operation
-------------------
A call is taken only if everything about it agrees: the subject is of the family that was subscribed, the reply subject is that caller's
and this target's, no header is the broker's own (`Nats-…` can keep a message out of the journal), and the body is a JSON-RPC request
whose method and name are those of the subject and whose id is that of the reply subject. A tool that the journal must not hold comes on
`quiet`, and only such a one. What does not agree is refused, counted and logged, and answered where there is somebody to answer.

What it took an instance remembers (`mesh.policy.memory`): a second copy does not run, a `resume` gets the final frame again. A call that
takes longer is reported as held (`working`), first after half a second, so that a caller can tell a slow call from a lost one. A
cancellation may overtake its call, since subscriptions are served side by side; so one for an unknown call is remembered for a while.

The handler gets a `Call` and must end it with `finish` or `fail`, now or later. Everything here runs in the read loop and waits for
nothing.

This module is long because what is checked, remembered and ended of a call stands side by side here, to be read as one.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog

from mesh import clock
from mesh.errors import BrokerUnavailable, Busy, Disconnected, MalformedMessage, MeshError, RateLimited, Refused, TooLarge
from mesh.link.call import Call, Handler, current
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.parts import Parts, read_stub
from mesh.link.wheel import Wheel
from mesh.policy.admission import AT_ONCE, Admission, Verdict
from mesh.policy.lines import worth_a_line
from mesh.policy.memory import Fate, Memory, Peer
from mesh.policy.rate import CallLimiter, Limits, Rate
from mesh.subjects import ANSWER, ANY, Gone, Record, Subjects, client_name, escape, tail, unescape
from mesh.wire import control
from mesh.wire.bodies import End, read_end
from mesh.wire.entries import JournalPolicy
from mesh.wire.jsonrpc import Frame, Kind, dumps, error, scan

GRACE: Final = 1.0
"""Seconds beyond a call's deadline. The caller ends it, and says so; this ends what a caller that is gone has left behind."""

FIRST_WORKING: Final = 0.5
NEXT_WORKING: Final = 2.0
"""Seconds until the first `working` frame, and between the next ones. The caller asks after 3.5 s of silence."""

MOST_HELD: Final = 4_000
"""Calls that one instance holds at once, running, waiting or lasting; one more is refused as busy."""

LATENCIES: Final = 1_000
"""Of the last calls, for p50 and p99."""

GATHER_FROM: Final = 16
GATHER: Final = 8
GATHER_SECONDS: Final = 0.008
"""While so many calls run, final frames go out in groups: so many at once, or after so many seconds. Each frame alone wakes the broker and
the caller, and on a busy machine that takes the processor from the servers that do the work (ADR 4 has the figures). One call at a time
never waits."""

MOST_UNSENT: Final = 10_000
"""Final frames and records kept while the connection is down. What is over is asked for by its caller, or missed in the journal."""

MOST_PEERS: Final = 10_000
"""Connections remembered at once."""

MOST_EACH: Final = 750
"""Of these, connections of one caller; and calls of one caller that are held at once, so that of 1,000 places to wait in it leaves some."""

LONGEST_ID: Final = 2_048
"""Characters of an exchange's id: the caller's name, and two short tokens."""

MOST_CANCELLED: Final = 1_000
KEEP_CANCELLED: Final = 30.0
"""Cancellations remembered for each caller, and for how many seconds, in case their calls come later."""

_log = structlog.get_logger("mesh.link")


class Responder:
    """Takes the calls of one agent at one instance, under the agent's name and its roles."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        agent: str,
        instance: str,
        handler: Handler,
        *,
        roles: tuple[str, ...] = (),
        journal: JournalPolicy | None = None,
        on_probe: Callable[[str, bytes], bytes],
        on_gone: Callable[[str, str], None] = lambda *_: None,
        at_once: int = AT_ONCE,
        limits: Limits | None = None,
    ) -> None:
        self.agent = agent
        self.instance = instance
        self.journal = journal or JournalPolicy()
        self.refused = 0
        self.served = 0
        self.failed = 0
        self.took: deque[int] = deque(maxlen=LATENCIES)
        """Nanoseconds that the last calls took; whoever looks may clear it."""
        self._connection = connection
        self._subjects = subjects
        self._handler = handler
        self._names = (agent, *roles)
        self._on_probe = on_probe
        self._tell_gone = on_gone
        self._admission: Admission[Call] = Admission(at_once)
        self._limiter = None if limits is None else CallLimiter(limits)
        self._memory = Memory()
        self._running: dict[str, Call] = {}
        self._held: dict[str, int] = {}
        """How many of those each caller has."""
        self._cancelled: dict[str, OrderedDict[str, float]] = {}
        self._parts = Parts(connection, subjects, agent, instance)
        self._wheel: Wheel[Call] = Wheel(self._on_due)
        self._senders: dict[str, tuple[str, str]] = {}
        self._subscriptions: list[Subscription] = []
        self._gathered: list[tuple[str, bytes]] = []
        self._gathering: asyncio.TimerHandle | None = None
        self._unsent: list[tuple[str, bytes]] = []
        self._expired = 0.0
        connection.on_up(self._on_up)

    @property
    def running(self) -> int:
        return len(self._running)

    async def start(self) -> None:
        """Begin to take calls. The instance's first heartbeat should be out by then."""
        subjects, take = self._subjects, self._connection.subscribe
        await self._parts.start()
        for name in self._names:
            group = escape(name)
            made = [
                await take(subjects.notes_to(name), partial(self._on_note, name)),
                await take(subjects.calls_to(name, ANY), partial(self._on_call, name, False), queue=group),
                await take(subjects.calls_to(name, ANY, quiet=True), partial(self._on_call, name, True), queue=group),
                await take(subjects.probes_to(name, ANY), partial(self._on_probe_message, name), queue=group),
            ]
            self._subscriptions += made
        self._subscriptions += [
            await take(subjects.calls_to(self.agent, self.instance), partial(self._on_call, self.agent, False)),
            await take(subjects.calls_to(self.agent, self.instance, quiet=True), partial(self._on_call, self.agent, True)),
            await take(subjects.probes_to(self.agent, self.instance), partial(self._on_probe_message, self.agent)),
            await take(subjects.gone, self._on_gone),
        ]
        await self._connection.flush()  # the broker has them: whoever is told "ready" now finds us

    async def stop(self) -> None:
        """Take no more calls. What still runs is ended with an error, so that nobody waits for it."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        for call in list(self._running.values()):
            call.fail(control.MESH_ERROR, f"{self.agent} is being stopped", {"mesh": "instance_lost"})
            if call.begun:
                self._handler.on_cancel(call, "the bridge is being stopped")
        self._send_gathered()
        self._wheel.stop()
        await self._parts.close()

    # what comes in

    def _on_call(self, target: str, quiet: bool, message: Message) -> None:
        try:
            caller, said = self._sender(message.subject)
            peer, prefix, exchange = self._peer(caller, target, quiet, message)
        except Refused as problem:
            self._refuse(message, problem)
            return
        call_id = f"{escape(caller)}.{peer.connection}.{exchange}"
        try:
            if message.headers and any(key.startswith("Nats-") for key in message.headers):
                raise Refused("a call with a header of the broker's")
            timeout = _deadline(message.headers)
            frame = scan(message.body)
            if frame.method is None:
                if said != tail(ANSWER, None):
                    raise Refused("an answer on the subject of a request")
            elif tail(frame.method, frame.name) != said:
                raise Refused("the body's method is not the one in the subject")
            if frame.kind is not Kind.REQUEST:
                self._on_message(caller, message.reply, frame)
                return
            if frame.id != call_id:
                raise Refused("the body's id is not the one in the reply subject")
        except (MalformedMessage, Refused, TooLarge) as problem:
            self._refuse(message, problem)
            code = control.PARSE_ERROR if isinstance(problem, MalformedMessage) else control.INVALID_REQUEST
            self.emit(message.reply, error(dumps(call_id), code, problem.message, {"mesh": problem.code}))
            return
        now = clock.monotonic()
        fate = self._memory.fate(peer, exchange)
        if fate is not Fate.NEW:
            self._tell_fate(prefix + exchange, call_id, fate)
            return
        if prefix[:-1] not in self._memory.peers:
            if len(self._memory.peers) >= MOST_PEERS or self._memory.peers_of(caller) >= MOST_EACH:
                self._expire(now)
            most = MOST_PEERS if len(self._memory.peers) >= MOST_PEERS else MOST_EACH if self._memory.peers_of(caller) >= MOST_EACH else 0
            if most:
                why = f"{self.agent} remembers {most} connections{f' of {caller}' * (most == MOST_EACH)} and takes no more"
                self.emit(message.reply, error(dumps(call_id), control.MESH_ERROR, why, {"mesh": Busy.code, "retry_after": 10.0}))
                return
            self._memory.remember(prefix[:-1], peer)
        self._memory.begin(peer, exchange, now)
        call = Call(self, frame, caller, target, prefix, exchange, peer)
        call.started_ns = clock.wall_ns()
        call.heard_at, call.timeout = now, timeout
        self._running[call_id] = call
        self._held[caller] = self._held.get(caller, 0) + 1
        call.mode = self.journal.mode(frame.method or "", frame.name)
        if quiet is (call.mode == "full"):
            call.refuse(
                Refused("the journal's rule for this tool has changed", hint="ask the target again, then call again"), quiet=not quiet
            )
        elif self._take_cancelled(caller, call_id, now):
            call.fail(control.REQUEST_TIMEOUT, "cancelled before it arrived", {"mesh": "cancelled"})
        elif len(self._running) > MOST_HELD or self._held.get(caller, 0) > MOST_EACH:
            self._refuse_busy(call)
        elif self._limiter is not None and (over := self._limiter.take(caller, _tool_of(frame), now)) is not None:
            self._refuse_often(call, *over)
        else:
            self._wheel.add(call, min(now + FIRST_WORKING, self._next_look(call, now)))
            if target != self.agent:
                call.announce()
            if (stub := read_stub(frame)) is not None:
                self._parts.fetch(call_id, stub, caller, partial(self._on_whole, call, said))
            else:
                self._admit(call)

    def _admit(self, call: Call) -> None:
        """Have it run now, or later, or refuse it. A call that lasts (a subscription) takes nobody's place."""
        verdict = Verdict.RUN if call.timeout is None else self._admission.arrive(call.caller, call)
        if verdict is Verdict.RUN:
            self._run(call)
        elif verdict is Verdict.REFUSE:
            self._refuse_busy(call)

    def _run(self, call: Call) -> None:
        if not call.ended:
            call.begun = True
            token = current.set(call)
            try:
                self._handler.on_call(call)
            finally:
                current.reset(token)

    def _refuse_busy(self, call: Call) -> None:
        problem = f"{self.agent} is busy: {self._admission.at_once} calls run and {self._admission.waiting} wait"
        call.fail(control.MESH_ERROR, problem, {"mesh": "busy", "hint": "call again in a moment", "retry_after": 1.0})

    def _refuse_often(self, call: Call, rate: Rate, wait: float) -> None:
        problem = RateLimited(f"{call.caller!r} may ask this of {self.agent} {rate}, no more", hint=f"call again in {wait:.1f} s")
        call.refuse(problem, retry_after=round(wait, 3))

    def _on_whole(self, call: Call, said: str, body: bytes | MeshError) -> None:
        """The large request behind a stub is here, or cannot be had. It must be what the stub said."""
        if call.ended:
            return
        try:
            if isinstance(body, MeshError):
                raise body
            frame = scan(body)
            if frame.kind is not Kind.REQUEST or frame.id != call.id or tail(frame.method or "", frame.name) != said:
                raise Refused("a large body that is not the request that was announced")
        except MeshError as problem:
            call.refuse(problem)
            return
        call.frame = frame
        self._admit(call)

    def _on_message(self, caller: str, reply: str, frame: Frame) -> None:
        if frame.method == "notifications/cancelled":
            self._cancel(caller, frame)
        else:
            self._handler.on_message(caller, reply, frame)

    def _on_note(self, target: str, message: Message) -> None:
        try:
            caller, said = self._sender(message.subject)
            frame = scan(message.body)
            if frame.kind is not Kind.NOTIFICATION or tail(frame.method or "", None) != said:
                raise Refused("a notice whose body is not the notification in its subject")
            if frame.method == "notifications/cancelled":
                self._cancel(caller, frame)
                return
            hushed = message.reply.startswith(f"{self._subjects.root}hush.")
            if frame.method == control.RESUME:
                peer, prefix, _ = self._peer(caller, target, hushed, message)
                self._resume(peer, prefix, control.read_resume(frame.raw))
                return
            if message.reply:  # it names the session that the notice belongs to: one of the caller's own
                self._peer(caller, target, hushed, message)
            self._handler.on_message(caller, message.reply, frame)
        except (Refused, MalformedMessage, TooLarge) as problem:
            self._refuse(message, problem)

    def _on_probe_message(self, target: str, message: Message) -> None:
        caller = unescape(message.subject.rpartition(".")[2])
        if message.reply:  # a sign of life of a session wants no answer
            try:
                self._peer(caller, target, True, message)
            except Refused as problem:
                self._refuse(message, problem)
                return
        answer = self._on_probe(caller, message.body)
        if message.reply:
            self.emit(message.reply, answer)

    def _on_gone(self, message: Message) -> None:
        """The control plane says that a caller is gone (ADR 6): nobody waits for what runs for it."""
        try:
            gone = self._subjects.parse(message.subject)
            if not isinstance(gone, Gone) or not control.says_gone(message.body, client_name(gone.agent, gone.connection)):
                raise Refused("not the control plane's word that a caller is gone")
        except Refused as problem:
            self._refuse(message, problem)
            return
        for call in list(self._running.values()):
            if call.caller == gone.agent and call.peer.connection == escape(gone.connection):
                self._give_up(call, "its caller is gone", Disconnected.code)
        self._tell_gone(gone.agent, gone.connection)

    def _sender(self, subject: str) -> tuple[str, str]:
        """Caller and tail of a subject that one of our subscriptions matched. The same few come again and again."""
        found = self._senders.get(subject)
        if found is None:
            family, *tokens = subject[len(self._subjects.root) :].split(".")
            at = 1 if family == "note" else 2
            if len(tokens) < at + 2:
                raise Refused("a subject without a method", subject=subject)
            found = unescape(tokens[at]), ".".join(tokens[at + 1 :])
            if len(self._senders) > 4096:
                self._senders.clear()
            self._senders[subject] = found
        return found

    def _peer(self, caller: str, target: str, quiet: bool, message: Message) -> tuple[Peer, str, str]:
        """The caller's connection, by the reply subject: what it is remembered under, the subject's prefix, and the exchange's token.

        A quiet call is answered quietly, and only a quiet one: what the journal holds of a call it holds of its answer.
        """
        prefix, dot, exchange = message.reply.rpartition(".")
        peer = self._memory.peers.get(prefix)
        if peer is None:
            start = f"{self._subjects.root}{'hush' if quiet else 'reply'}.{escape(caller)}.{escape(target)}."
            connection = prefix[len(start) :]
            if not prefix.startswith(start) or not connection or "." in connection:
                raise Refused("the reply subject is not the caller's own", reply=message.reply)
            peer = Peer(caller, connection, quiet)  # remembered once a call of it is taken: nonsense must not fill the memory
        elif peer.caller != caller or peer.quiet is not quiet:
            raise Refused("the reply subject is another caller's", reply=message.reply)
        if not exchange:
            raise Refused("the reply subject names no exchange", reply=message.reply)
        return peer, prefix + dot, exchange

    # what happens to a call

    def _cancel(self, caller: str, frame: Frame) -> None:
        call_id = str(frame.cancels)
        if not call_id.startswith(escape(caller) + ".") or len(call_id) > LONGEST_ID:
            raise Refused("the cancellation of another caller's exchange", exchange=call_id[:LONGEST_ID])
        call = self._running.get(call_id)
        if call is not None:
            call.cancellation = frame.raw
            self._give_up(call, "cancelled by the caller")
            return
        remembered = self._cancelled.setdefault(caller, OrderedDict())
        remembered[call_id] = clock.monotonic() + KEEP_CANCELLED
        if len(remembered) > MOST_CANCELLED:
            remembered.popitem(last=False)

    def _take_cancelled(self, caller: str, call_id: str, now: float) -> bool:
        remembered = self._cancelled.get(caller)
        return remembered is not None and remembered.pop(call_id, 0.0) > now

    def _resume(self, peer: Peer, prefix: str, exchanges: list[str]) -> None:
        start = f"{escape(peer.caller)}.{peer.connection}."
        for call_id in exchanges:
            if not call_id.startswith(start):
                raise Refused("the exchange of another connection", exchange=call_id)
            exchange = call_id[len(start) :]
            if exchange.count("."):
                raise Refused("an exchange that is no token", exchange=call_id)
            self._tell_fate(prefix + exchange, call_id, self._memory.fate(peer, exchange))

    def _tell_fate(self, reply: str, call_id: str, fate: "bytes | Fate") -> None:
        if isinstance(fate, bytes):
            self.emit(reply, fate)
        elif fate is Fate.RUNNING:
            self.emit(reply, control.working(call_id, self.agent, self.instance))
        else:
            self.emit(reply, control.unknown(call_id, self.agent, self.instance, forgotten=fate is Fate.FORGOTTEN))

    def announce(self, call: Call) -> None:
        self.emit(call.prefix + call.exchange, control.working(call.id, self.agent, self.instance))

    def _on_due(self, call: Call, now: float) -> None:
        if call.ended:
            return
        if call.timeout is not None and now >= call.heard_at + call.timeout + GRACE:
            self._give_up(call, "its deadline passed")
            return
        self.announce(call)
        self._wheel.add(call, self._next_look(call, now))

    def _next_look(self, call: Call, now: float) -> float:
        """When to say again that it is held, or to end it."""
        look = now + NEXT_WORKING
        return look if call.timeout is None else min(look, call.heard_at + call.timeout + GRACE)

    def _give_up(self, call: Call, reason: str, code: str = "cancelled") -> None:
        """Nobody waits for it: stop the work, and remember that it ended."""
        if call.begun:
            self._handler.on_cancel(call, reason)
        self._record(call)
        self._remember(call, error(dumps(call.id), control.REQUEST_TIMEOUT, reason, {"mesh": code}))

    def finish(self, call: Call, raw: bytes) -> None:
        if call.mode == "metadata":
            self._record(call, raw)
        try:
            if self._parts.too_large(len(raw)):  # what is remembered is the stub: the body would push all others out
                raw = self._parts.offer(scan(raw), lambda name: name == escape(call.caller))
        except MeshError as problem:
            raw = error(dumps(call.id), control.MESH_ERROR, f"the response: {problem}", {"mesh": problem.code})
        others = self._admission.held - (call.timeout is not None)
        if others < GATHER_FROM:
            if self._gathered:
                self._send_gathered()
            try:
                self._send_surely(call.prefix + call.exchange, raw)  # first of all: somebody waits for it
            finally:
                self._remember(call, raw)
            return
        self._remember(call, raw)
        self._gathered.append((call.prefix + call.exchange, raw))
        if len(self._gathered) >= GATHER:
            self._send_gathered()
        elif len(self._gathered) == 1:
            self._gathering = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._send_gathered)

    def _send_gathered(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        gathered, self._gathered = self._gathered, []
        for subject, raw in gathered:
            self._send_surely(subject, raw)

    def _remember(self, call: Call, raw: bytes) -> None:
        call.ended = True
        self.served += 1
        self.took.append(clock.wall_ns() - call.started_ns)
        if self._running.pop(call.id, None) is not None:
            if left := self._held[call.caller] - 1:
                self._held[call.caller] = left
            else:
                del self._held[call.caller]
        self._wheel.remove(call)
        if call.timeout is not None and (following := self._admission.end(call.caller, call)) is not None:
            asyncio.get_running_loop().call_soon(self._run, following)
        now = clock.monotonic()
        self._memory.finish(call.peer, call.exchange, raw, now)
        self._expire(now)

    def _expire(self, now: float) -> None:
        if now - self._expired > 1.0:
            self._expired = now
            self._memory.expire(now)

    def _record(self, call: Call, raw: bytes = b"") -> None:
        """For tools whose bodies the journal must not hold: what happened, without what was said."""
        if call.mode != "metadata":
            return
        try:
            end = read_end(scan(raw)) if raw else End("cancelled")
        except MalformedMessage as problem:
            end = End("error", message=problem.message)
        record: dict[str, Any] = {
            "id": call.id,
            "caller": call.caller,
            "target": call.target,
            "instance": self.instance,
            "method": call.frame.method,
            "name": call.frame.name,
            "outcome": end.outcome,
            "started_ns": call.started_ns,
            "duration_ms": round((clock.wall_ns() - call.started_ns) / 1e6, 3),
            "bytes_in": len(call.frame.raw),
            "bytes_out": len(raw),
        }
        if end.code is not None:
            record["code"] = end.code
        self._send_surely(self._subjects.build(Record(call.target, call.caller)), dumps(record))

    def _send_surely(self, subject: str, body: bytes) -> None:
        """Send, or keep it until the connection is back. Raises TooLarge."""
        try:
            self._connection.send(subject, body)
        except BrokerUnavailable:
            if len(self._unsent) < MOST_UNSENT:
                self._unsent.append((subject, body))

    def emit(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send what may be lost: a frame that is not final, or one that is asked for again."""
        try:
            self._connection.send(subject, body, headers=headers)
        except BrokerUnavailable:
            return
        except TooLarge as problem:
            _log.warning("a frame is too large and was not sent", subject=subject, why=str(problem))

    def _on_up(self) -> None:
        unsent, self._unsent = self._unsent, []
        for subject, raw in unsent:
            self.emit(subject, raw)

    def _refuse(self, message: Message, problem: MeshError) -> None:
        self.refused += 1
        if worth_a_line(self.refused):
            _log.warning("message refused", agent=self.agent, subject=message.subject, why=str(problem), count=self.refused)


def _tool_of(frame: Frame) -> str | None:
    return frame.name if frame.method == "tools/call" else None


def _deadline(headers: dict[str, str] | None) -> float | None:
    """Seconds that a call may take; None for one that lasts. Raises Refused."""
    said = (headers or {}).get(control.DEADLINE_HEADER)
    if said is None:
        return control.DEADLINE
    if said == "none":
        return None
    try:
        seconds = float(said)
    except ValueError:
        seconds = -1.0
    if not 0.0 < seconds < 1e9:
        raise Refused("a deadline that is no number of seconds")
    return seconds
