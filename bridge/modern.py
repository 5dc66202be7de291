"""A handshake server as the modern era sees it.

`server/discover` is answered out of the server's `initialize` result, a listen out of subscribe and list changes (`bridge.listens`). A
call that may be asked something back, or that wants log messages, owns a child while it runs (`bridge.talks`), since on a shared one
neither could be told apart. Everything else shares the channel that the bridge has initialized.
"""

from dataclasses import dataclass

from bridge.channel import Channel
from bridge.eras.shapes import complete, discovered, read_wish, response, to_handshake
from bridge.eras.state import Sealer
from bridge.eras.words import GONE, MAY_ASK, UNSUPPORTED_VERSION
from bridge.facts import Facts
from bridge.listens import Listens
from bridge.pool import IDLE_SECONDS, MOST_CHILDREN, Pool
from bridge.ports.base import PortFactory
from bridge.talks import WAIT_SECONDS, Talks, state_of
from mesh.errors import MeshError
from mesh.link.responder import Call
from mesh.rpc import MODERN
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps


class ModernFace:
    """Takes the modern calls of one bridge whose server is of the handshake era."""

    def __init__(self, agent: str, instance: str, make_port: PortFactory) -> None:
        self._listens = Listens(agent)
        self._talks = Talks(
            agent, Sealer(agent, instance), Pool(agent, make_port, MOST_CHILDREN, IDLE_SECONDS), self._listens, WAIT_SECONDS
        )
        self._discovered = b"{}"
        self._channel: Channel | None = None

    def attach(self, channel: Channel, facts: Facts) -> None:
        """The shared channel is open, and these are the server's facts."""
        self._channel = channel
        self._discovered = discovered(facts.said)
        self._talks.can_log = "logging" in facts.capabilities
        self._listens.attach(channel, facts.capabilities)

    def lost(self) -> None:
        """The shared channel has ended."""
        self._channel = None
        self._listens.lost()

    def heard(self, frame: Frame) -> None:
        """What the server says on the shared channel to nobody in particular."""
        self._listens.heard(frame)

    async def close(self) -> None:
        await self._listens.close()
        await self._talks.close()

    def take(self, call: Call) -> None:
        """A call whose envelope says that it is of the modern era. There is a shared channel."""
        method = call.frame.method or ""
        if call.frame.era != MODERN:
            call.fail(UNSUPPORTED_VERSION, "Unsupported protocol version", {"supported": [MODERN], "requested": call.frame.era})
        elif method == "server/discover":
            call.finish(response(dumps(call.id), self._discovered))
        elif method == "subscriptions/listen":
            self._listens.take(call)
        elif method in GONE:
            call.fail(control.METHOD_NOT_FOUND, "Method not found", method)
        elif method not in MAY_ASK:
            self._share(call)
        elif (state := state_of(call)) is not None:
            self._talks.resume(call, state)
        elif (wish := read_wish(call.frame)).asks or (wish.level and self._talks.can_log):
            self._talks.begin(call, wish)
        else:
            self._share(call)

    def _share(self, call: Call) -> None:
        assert self._channel is not None
        passing = Passing(call, self._channel)
        call.holder = passing
        try:
            self._channel.ride(call.id, to_handshake(call.frame), passing)
        except MeshError as problem:
            call.refuse(problem, **problem.details)


@dataclass(slots=True, eq=False)
class Passing:
    """A call on the shared channel: only its result needs a word more."""

    call: Call
    channel: Channel

    def on_frame(self, frame: Frame) -> None:
        self.call.emit(frame.raw, named=frame.method == "notifications/progress")

    def on_final(self, frame: Frame) -> None:
        self.call.finish(complete(self.call.frame.method or "", frame))

    def on_died(self, problem: MeshError) -> None:
        self.call.refuse(problem)

    def cancel(self, call: Call, reason: str) -> None:
        self.channel.leave(call.id, reason)
