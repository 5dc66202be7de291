"""The calling side: requests out, frames back, and an end to each.

Theory of operation
-------------------
One subscription takes every frame for this connection; an exchange is found by the reply subject, which names caller, target, connection
and exchange, so a frame from anybody but the target cannot be addressed to it. An exchange ends exactly once: with a final frame, by its
deadline, by cancellation, or because its holder is gone. Nothing waits without a deadline, and silence is a fact too:

- A serving bridge says "working" within half a second and then every two. So an exchange that has heard nothing for `SILENCE` is not
  held by anyone who can answer. It asks (`resume`), and if nobody answers within `ASKED` it ends with `instance_lost`.
- When an instance is seen to go, what it held ends at once; what it may have held asks.
- When this connection was down, everything open asks. The answer is the final frame again, "working", or "unknown".

"Unknown" can be proof: if every instance that lived when the call was sent says that it never saw the exchange, then the call was
lost on the way and is sent again, under the same id. Without proof the call is made again only where that is safe
(`safe_to_repeat`); otherwise it ends with `outcome_unknown`.

This module is long because these are one state machine: hearing, silence, loss and end all decide over the same few fields.
"""

import asyncio
from functools import partial
from typing import Final

import structlog

from mesh import clock
from mesh.background import Background
from mesh.errors import (
    BrokerUnavailable,
    CallError,
    CallTimeout,
    Disconnected,
    InstanceLost,
    MalformedMessage,
    MeshError,
    OutcomeUnknown,
    Refused,
    TooLarge,
)
from mesh.link.call import bounded
from mesh.link.connection import Connection, Message
from mesh.link.denial import action_of, check, denied
from mesh.link.exchange import Channel, Exchange, OnFailure, OnFrame, Series
from mesh.link.parts import Parts, read_stub
from mesh.link.probes import Probes
from mesh.link.targets import HEARD, Target, Targets
from mesh.link.wheel import SLOT, Wheel
from mesh.policy.lines import worth_a_line
from mesh.policy.repeat import safe_to_repeat
from mesh.subjects import ANY, Call, Subjects, escape
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, of_the_broker, peek_final, scan

SILENCE: Final = 3.5
"""Seconds without any frame after which a caller asks. Working frames come every two; with `ASKED` a hung instance is known in under
five."""

LONGEST_CANCELLATION: Final = 64 * 1024
"""Bytes of a client's own cancellation. A longer one is said in the mesh's words: it must always fit into one message of the broker."""

ASKED: Final = 1.0
"""Seconds to wait for an answer to that."""

RETURNING: Final = 3.0
"""Seconds after a reconnection for which the other side may still be on its way back: where nobody answers, it is asked again."""

OVERTAKEN: Final = 0.3
"""Seconds after a reconnection in which "unknown" proves nothing: the broker may still be reading what the broken connection brought it,
and what is said on the new one may overtake a call."""

PATIENCE: Final = 5.0
"""Seconds for which open calls wait for the connection to come back. A broker that restarts is back in one or two."""

TURNED_AWAY: Final = 1.0
"""Seconds for which they wait where the broker does not admit us any more: new credentials may be there just now."""

MOST_RESENDS: Final = 5
"""How often one exchange may be sent again, each time with proof that it never ran."""

BATCH: Final = 100
"""Exchanges a resume names at most."""

_log = structlog.get_logger("mesh.link")


class Exchanges:
    """All exchanges of one connection of one caller."""

    def __init__(self, connection: Connection, subjects: Subjects, caller: str) -> None:
        self.connection = connection
        self.subjects = subjects
        self.caller = caller
        self.name = connection.token
        self.probes = Probes(connection, subjects, caller)
        self.targets = Targets(connection, subjects, self.probes, self._on_gone)
        self.refused = 0
        """Frames that broke a rule; each is logged."""
        self._open: dict[str, Exchange] = {}
        self._channels: dict[str, Channel] = {}
        self._series = Series()
        self._id_prefix = subjects.reply_prefix(caller, "-", self.name).split(".")[3] + f".{self.name}."
        self._parts = Parts(connection, subjects, caller, self.name)
        self._wheel: Wheel[Exchange] = Wheel(self._on_due)
        self._reply_prefixes: dict[tuple[str, bool], str] = {}
        self._down_since = 0.0
        self._up_since = 0.0
        self._unproven: list[Exchange] = []
        """Nobody knew them, so soon after a reconnection that it proves nothing: they are asked for once more."""
        self._background = Background()
        connection.on_down(self._on_down)
        connection.on_up(self._on_up)
        connection.on_denied(self._on_denied)
        connection.on_renewed(self.targets.forget_subjects)

    async def start(self) -> None:
        await self._parts.start()
        for quiet in (False, True):
            await self.connection.subscribe(self.subjects.replies_to(self.caller, self.name, quiet=quiet), self._on_reply)

    async def close(self) -> None:
        for exchange in list(self._open.values()):
            exchange.cancel("the caller leaves the mesh")
            exchange.on_failure(Disconnected("this process leaves the mesh"))
        self._wheel.stop()
        await self._parts.close()
        await self._background.end()
        await self.targets.close()

    def open(
        self,
        target: Target,
        method: str,
        name: str | None = None,
        *,
        on_frame: OnFrame,
        on_failure: OnFailure,
        timeout: float | None,
        renew: bool = False,
        instance: str = ANY,
        series: Series | None = None,
        reads_all: bool = False,
    ) -> Exchange:
        """A new exchange, not yet sent.

        `on_frame` gets every frame, the final one last; `on_failure` is called instead of a final frame. Both run in the read loop.
        `timeout` in seconds, None for exchanges that last (a subscription); with `renew` each progress frame starts it anew. Where this is
        part of the work on a call, the exchange ends with that call. Raises Denied.
        `reads_all`: whoever gets the final frame parses all of it, so here its head is enough. `series`: that of the session's channel,
        for exchanges of a handshake session.
        """
        key = (method, name, instance)
        found = target.subjects.get(key)
        if found is None:
            quiet = target.journal.mode(method, name) != "full"
            subject = self.subjects.call(target.name, instance, self.caller, method, name, quiet=quiet)
            if len(target.subjects) > 1000:
                target.subjects.clear()
            check(self.connection, subject, self.caller, action_of(target.name, method, name))
            found = target.subjects[key] = (subject, quiet)
        subject, quiet = found
        series = series or self._series
        token = series.next(quiet=quiet)
        prefix = self._reply_prefixes.get((target.name, quiet))
        if prefix is None:
            prefix = self.subjects.reply_prefix(self.caller, target.name, self.name, quiet=quiet)
            self._reply_prefixes[target.name, quiet] = prefix
        exchange = Exchange(self, target, method, subject, prefix + token, self._id_prefix + token)
        exchange.quiet = quiet
        exchange.spare = series.quiet_spare if quiet else series.spare
        exchange.on_frame = on_frame
        exchange.on_failure = on_failure
        exchange.timeout = bounded(timeout)
        exchange.renew = renew
        exchange.reads_all = reads_all
        if instance != ANY:
            exchange.addressed = True
            exchange.agent, exchange.instance = target.name, instance
        return exchange

    def open_channel(self, exchange: Exchange, on_frame: OnFrame, on_lost: OnFailure) -> Channel:
        """Keep the reply subject of `exchange`, which opened a session, for frames that belong to no exchange of it.

        `on_lost` is called once, when the instance that holds the session is seen to go.
        """
        channel = self._channels[exchange.reply] = Channel(exchange, on_frame, on_lost)
        return channel

    def close_channel(self, channel: Channel) -> None:
        self._channels.pop(channel.reply, None)

    # the life of an exchange

    def launch(self, exchange: Exchange) -> None:
        now = clock.monotonic()
        try:
            if self._parts.too_large(len(exchange.body)):
                exchange.body = self._parts.offer(scan(exchange.body), lambda name: name == escape(exchange.agent or exchange.target.name))
            self._publish(exchange)
        except MeshError:
            exchange.discard()
            raise
        exchange.heard_at = now
        exchange.candidates = self._candidates(exchange)
        if exchange.timeout is not None:
            exchange.deadline = now + exchange.timeout
        self._open[exchange.reply] = exchange
        self._wheel.add(exchange, self._next_look(exchange))

    def _publish(self, exchange: Exchange) -> None:
        """With a deadline of its own only where that is not the usual one: headers cost most on the hot path."""
        headers = None
        if exchange.timeout != control.DEADLINE:
            left = exchange.timeout if exchange.deadline is None else exchange.deadline - clock.monotonic()
            headers = {control.DEADLINE_HEADER: "none" if left is None else f"{max(left, 0.001):.3f}"}
        self.connection.send(exchange.subject, exchange.body, exchange.reply, headers)

    def _on_reply(self, message: Message) -> None:
        exchange = self._open.get(message.subject)
        if exchange is None:
            if not self.probes.take(message):
                self._on_channel(message)
            return
        if message.headers:
            if message.headers.get("Status") == "503":
                self._resend(exchange)  # nobody took it (only `quiet` calls are told so): ask who is there, then send again or fail
                return
            if any(key.startswith("Nats-") for key in message.headers):
                self._refuse(exchange, "a frame with a header of the broker's")
                return
        try:
            frame = (peek_final(message.body) if exchange.reads_all else None) or scan(message.body)
            if frame.final and frame.id != exchange.id:
                raise Refused("a response with the id of something else")
            if frame.method is not None and frame.method.startswith(control.OWN):
                self._on_own(exchange, frame)
                return
            if not frame.final:
                _check_belongs(exchange.id, frame, message.headers)
        except MalformedMessage as error:
            self._refuse(exchange, str(error))
            if of_the_broker(message.body):
                return
            self._fail(exchange, CallError(f"{exchange.target.name} answered what is no JSON-RPC message: {error}"))
            return
        except Refused as error:
            self._refuse(exchange, str(error))
            return
        exchange.heard_at = now = clock.monotonic()
        exchange.asked_at = 0.0
        exchange.target.fresh_until = max(exchange.target.fresh_until, now + HEARD)
        if frame.final:
            if (stub := read_stub(frame)) is not None:
                if not self._parts.fetching(exchange.id):
                    self._parts.fetch(exchange.id, stub, exchange.agent or exchange.target.name, partial(self._on_whole, exchange))
                return
            self._end(exchange)
        elif exchange.renew and exchange.timeout is not None and frame.method == "notifications/progress":
            exchange.deadline = now + exchange.timeout
        exchange.on_frame(frame)

    def _on_whole(self, exchange: Exchange, body: bytes | MeshError) -> None:
        """The large body behind a stub is here, or cannot be had."""
        try:
            if isinstance(body, MeshError):
                raise body
            frame = scan(body)
            if not frame.final or frame.id != exchange.id:
                raise Refused("a large body that is no response to its exchange")
        except MeshError as error:
            self._fail(exchange, error if isinstance(error, CallError) else CallError(error.message, hint=error.hint))
            return
        if not exchange.ended:
            self._end(exchange)
            exchange.on_frame(frame)

    def _on_channel(self, message: Message) -> None:
        channel = self._channels.get(message.subject)
        if channel is None:
            return  # a final frame that was sent twice, or one that came after the end
        try:
            if message.headers and any(key.startswith("Nats-") for key in message.headers):
                raise Refused("a frame with a header of the broker's")
            frame = scan(message.body)
            if not frame.final and not (frame.method or "").startswith(control.OWN):
                _check_belongs(channel.id, frame, message.headers)
                channel.on_frame(frame)
        except (MalformedMessage, Refused) as error:
            self.refused += 1
            if worth_a_line(self.refused):
                _log.warning("frame refused", session=message.subject, why=str(error), count=self.refused)

    def _on_own(self, exchange: Exchange, frame: Frame) -> None:
        holder = control.read_holder(frame.raw)
        if holder.exchange != exchange.id:
            raise Refused("a frame of the mesh about another exchange")
        if frame.method == control.WORKING:
            exchange.heard_at = clock.monotonic()
            exchange.asked_at = 0.0
            named = exchange.instance
            exchange.agent, exchange.instance = holder.agent, holder.instance
            if not named:
                self.targets.follow(holder.agent)  # it may have been called by a role
                exchange.on_frame(frame)
        elif frame.method == control.UNKNOWN:
            self._on_unknown(exchange, holder)

    def _end(self, exchange: Exchange) -> None:
        exchange.ended = True
        self._open.pop(exchange.reply, None)
        self._wheel.remove(exchange)
        self._parts.withdraw(exchange.id)

    def _fail(self, exchange: Exchange, error: CallError) -> None:
        if exchange.ended:
            return
        self.drop(exchange, error.code)
        exchange.on_failure(error)

    def drop(self, exchange: Exchange, reason: str, said: bytes | None = None) -> None:
        """End it here. Whoever still works on it is told to stop, and the journal has its end."""
        self._end(exchange)
        body = said if said is not None and len(said) <= LONGEST_CANCELLATION else control.cancelled(exchange.id, reason)
        if exchange.instance:
            self.say(exchange, "notifications/cancelled", body)
        else:
            subject = self.subjects.note(exchange.target.name, self.caller, "notifications/cancelled")
            self._try_send(subject, body, exchange.reply)

    def say(self, to: Exchange | Channel, method: str, body: bytes) -> None:
        """Send a notification or an answer that belongs to an exchange or a session to the instance that holds it."""
        subject = self.subjects.call(to.agent, to.instance, self.caller, method, quiet=to.quiet)
        self._try_send(subject, body, to.reply, {control.EXCHANGE_HEADER: to.id})

    def _try_send(self, subject: str, body: bytes, reply: str, headers: dict[str, str] | None = None) -> None:
        try:
            self.connection.send(subject, body, reply, headers)
        except (BrokerUnavailable, TooLarge) as error:
            _log.info("not sent", subject=subject, why=str(error))

    def _refuse(self, exchange: Exchange, why: str) -> None:
        self.refused += 1
        if worth_a_line(self.refused):
            _log.warning("frame refused", exchange=exchange.id, target=exchange.target.name, why=why, count=self.refused)

    # silence, loss, reconnection

    def _next_look(self, exchange: Exchange) -> float:
        look = exchange.asked_at + ASKED if exchange.asked_at else exchange.heard_at + SILENCE
        return look if exchange.deadline is None else min(look, exchange.deadline)

    def _on_due(self, exchange: Exchange, now: float) -> None:
        if exchange.ended:
            return
        if exchange.deadline is not None and now >= exchange.deadline:
            exchange.cancel("the deadline passed")
            exchange.on_failure(
                CallTimeout(f"{exchange.target.name} did not finish within {exchange.timeout:g} s", target=exchange.target.name)
            )
            return
        if self._down_since:
            turned_away = self.connection.turned_away
            if now - self._down_since > (TURNED_AWAY if turned_away else PATIENCE):
                why = self.connection.why_down() if turned_away else BrokerUnavailable("the broker was away for too long")
                self._fail(exchange, Disconnected(f"{why.message}; the call may have run", hint=why.hint))
                return
            self._wheel.add(exchange, min(now + 0.5, exchange.deadline or now + 0.5))
            return
        if exchange.asked_at:
            if now - exchange.asked_at >= ASKED:
                if exchange.denied or now - self._up_since > RETURNING:
                    self._unanswered(exchange)
                    return
                self._ask([exchange])
        elif now - exchange.heard_at >= SILENCE and not self._parts.fetching(exchange.id):
            self._ask([exchange])
        self._wheel.add(exchange, max(self._next_look(exchange), now + 0.1))

    def check(self, target: str, method: str, name: str | None) -> None:
        """Raises Denied where we may not ask this of `target`."""
        check(self.connection, self.subjects.call(target, ANY, self.caller, method, name), self.caller, action_of(target, method, name))

    def _on_denied(self, refused: str) -> None:
        """The broker refused what our own look at the rights had passed: they were taken away a moment ago, or are not known to us."""
        self.probes.on_denied(refused)
        for exchange in [each for each in self._open.values() if each.subject.lower() == refused]:
            said = self.subjects.parse(exchange.subject)
            action = action_of(exchange.target.name, exchange.method, said.name if isinstance(said, Call) else None)
            self._fail(exchange, denied(exchange.subject, self.caller, action))

    def _on_gone(self, agent: str, instance: str) -> None:
        asking: list[Exchange] = []
        for exchange in list(self._open.values()):
            if exchange.instance == instance and exchange.agent == agent:
                self._lost(exchange)
            elif exchange.target.name == agent and not exchange.instance:
                exchange.gone.add(instance)
                asking.append(exchange)
        self._ask(asking)
        for channel in [each for each in self._channels.values() if each.agent == agent and each.instance == instance]:
            self.close_channel(channel)
            channel.on_lost(InstanceLost(f"instance {instance} of {agent} that held this session is gone", hint="begin a new session"))

    def _on_down(self) -> None:
        self._down_since = now = clock.monotonic()
        for exchange in self._open.values():
            look = now + TURNED_AWAY + SLOT
            self._wheel.move(exchange, look if exchange.deadline is None else min(look, exchange.deadline))

    def _on_up(self) -> None:
        self._down_since = 0.0
        self._up_since = clock.monotonic()
        self._unproven.clear()
        self._ask(list(self._open.values()))
        asyncio.get_running_loop().call_later(OVERTAKEN, self._ask_unproven)

    def _ask_unproven(self) -> None:
        unproven, self._unproven = self._unproven, []
        if not self._down_since:
            self._ask([each for each in unproven if not each.ended])

    def _ask(self, exchanges: list[Exchange]) -> None:
        """Ask every instance of each target what it knows of these."""
        now = clock.monotonic()
        by_target: dict[tuple[str, bool], list[Exchange]] = {}
        for exchange in exchanges:
            exchange.asked_at = now
            exchange.denied.clear()
            self._wheel.move(exchange, self._next_look(exchange))
            by_target.setdefault((exchange.target.name, exchange.quiet), []).append(exchange)
        for (target, _), asking in by_target.items():
            note = self.subjects.note(target, self.caller, control.RESUME)
            for batch in (asking[at : at + BATCH] for at in range(0, len(asking), BATCH)):
                try:
                    self.connection.send(note, control.resume([each.id for each in batch]), batch[0].reply)
                except BrokerUnavailable:
                    return  # on_up asks again

    def _on_unknown(self, exchange: Exchange, holder: control.Holder) -> None:
        if holder.forgotten:
            if holder.instance == exchange.instance:
                self._fail(exchange, OutcomeUnknown(f"{holder.agent} no longer knows how this call ended"))
            return
        if exchange.instance and exchange.instance != holder.instance:
            return  # it is known who holds it, and it is somebody else
        exchange.denied.add(holder.instance)
        if exchange.candidates is None:
            return
        if exchange.denied >= exchange.candidates:
            if clock.monotonic() - self._up_since < OVERTAKEN:
                self._unproven.append(exchange)
            else:
                self._resend(exchange)
        elif exchange.denied | exchange.gone >= exchange.candidates:
            self._lost(exchange)

    def _unanswered(self, exchange: Exchange) -> None:
        """Asked, and nobody holds it."""
        if safe_to_repeat(exchange.method) and not exchange.addressed:
            self._resend(exchange)
        elif exchange.denied and not exchange.gone:
            self._fail(exchange, OutcomeUnknown(f"no instance of {exchange.target.name} knows how this call ended"))
        else:
            self._lost(exchange)

    def _lost(self, exchange: Exchange) -> None:
        if safe_to_repeat(exchange.method) and not exchange.addressed:
            self._resend(exchange)
            return
        who = f"instance {exchange.instance} of {exchange.agent}" if exchange.instance else f"the instance of {exchange.target.name}"
        self.targets.stale(exchange.target.name)
        self._fail(exchange, InstanceLost(f"{who} that held this call is gone", hint="it may have run; call again if that does no harm"))

    def _resend(self, exchange: Exchange) -> None:
        if exchange.resends >= MOST_RESENDS:
            self._fail(exchange, OutcomeUnknown(f"the call was lost {MOST_RESENDS} times on its way to {exchange.target.name}"))
            return
        exchange.resends += 1
        exchange.asked_at = 0.0
        exchange.heard_at = clock.monotonic()
        exchange.denied.clear()
        exchange.gone.clear()
        if not exchange.addressed:
            exchange.agent = exchange.instance = ""
        self._wheel.move(exchange, self._next_look(exchange))
        self._background.start(self._send_again(exchange), f"resend {exchange.id}")

    async def _send_again(self, exchange: Exchange) -> None:
        """The proof that it never ran holds for the next time only if it is known who may take it now."""
        try:
            target = await self.targets.resolve(exchange.target.name)
            if not exchange.ended:
                exchange.target = target
                exchange.candidates = self._candidates(exchange)
                exchange.heard_at = clock.monotonic()
                self._publish(exchange)
        except BrokerUnavailable:
            pass  # on_up asks again
        except CallError as error:
            self._fail(exchange, error)

    def _candidates(self, exchange: Exchange) -> frozenset[str] | None:
        """Who may take it: all live instances, or the one that it is addressed to. None where that is not known."""
        if exchange.addressed:
            return frozenset({exchange.instance})
        return exchange.target.instances if exchange.target.complete else None


def _check_belongs(id: str, frame: Frame, headers: dict[str, str] | None) -> None:
    """A frame says which exchange it belongs to: a progress notification by its token, all others in a header. Raises Refused."""
    said = frame.token if frame.method == "notifications/progress" else (headers or {}).get(control.EXCHANGE_HEADER)
    if said != id:
        raise Refused("a frame that belongs to another exchange, or to none")
