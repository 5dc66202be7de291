"""A handshake server as the modern era sees it.

`server/discover` is answered out of the server's `initialize` result, a listen out of subscribe and list changes
(`bridge.translation.listens`). A client that says that it can be asked gets a child which was initialized for it, and each of its calls
that may ask something owns one while it runs (`bridge.translation.talks`); so does a call that wants log messages, since those name no
call either. Everything else shares the channel that the bridge has initialized (`bridge.translation.passing`).
"""

from bridge.channel import Channel
from bridge.eras.shapes import discovered, read_wish, response
from bridge.eras.state import Sealer
from bridge.eras.words import GONE, MAY_ASK, QUESTIONS, UNSUPPORTED_VERSION
from bridge.facts import Facts
from bridge.ports.base import PortFactory
from bridge.translation.listens import Listens
from bridge.translation.passing import Lent, Passing
from bridge.translation.pool import IDLE_SECONDS, MOST_CHILDREN, Pool
from bridge.translation.talks import WAIT_SECONDS, Talks, state_of
from mesh.link.call import Call
from mesh.rpc import MODERN
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, dumps


class ModernFace:
    """Takes the modern calls of one bridge whose server is of the handshake era."""

    def __init__(self, agent: str, sealer: Sealer, make_port: PortFactory) -> None:
        self._listens = Listens(agent)
        self._pool = Pool(agent, make_port, MOST_CHILDREN, IDLE_SECONDS)
        self._talks = Talks(agent, sealer, self._pool, self._listens, WAIT_SECONDS)
        self._lent = Lent(self._pool)
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

    def asked(self, frame: Frame) -> None:
        """The server asks something on the shared channel, where no client has declared that it can be asked."""
        only = self._channel.only_rider() if self._channel is not None else None
        if isinstance(only, Passing) and frame.method in QUESTIONS:
            only.on_question(frame.method)

    def gone(self, caller: str, connection: str) -> None:
        """A connection of a caller's is there no more. What ran for it was cancelled."""
        self._talks.gone(caller, connection)
        self._pool.gone(caller, connection)

    async def close(self) -> None:
        await self._listens.close()
        await self._lent.close()
        await self._talks.close()
        await self._pool.close()

    def take(self, call: Call) -> None:
        """A call whose envelope says that it is of the modern era. There is a shared channel."""
        method = call.frame.method or ""
        if call.frame.era != MODERN:
            call.fail(UNSUPPORTED_VERSION, "Unsupported protocol version", {"supported": [MODERN], "requested": call.frame.era})
        elif method == "server/discover":
            call.finish(response(dumps(call.id), self._discovered))
        elif method in GONE:
            call.fail(control.METHOD_NOT_FOUND, "Method not found", method)
        elif method in MAY_ASK and (state := state_of(call)) is not None:
            self._talks.resume(call, state)
        else:
            self._begin(call, method)

    def _begin(self, call: Call, method: str) -> None:
        wish = read_wish(call.frame)
        if method in MAY_ASK and (wish.asks or (wish.level and self._talks.can_log)):
            self._talks.begin(call, wish)
        elif method == "subscriptions/listen":
            if wish.asks:
                self._lent.listen(call, wish)
            else:
                self._listens.take(call)
        elif wish.asks:
            self._lent.take(call, wish)
        else:
            assert self._channel is not None
            Passing(call, self._channel)
