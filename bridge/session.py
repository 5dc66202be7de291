"""A handshake session at the serving side: one host, one channel to the server, from `initialize` until one of them is gone.

What the server says in a session and not to a call (log messages, list changes, requests for sampling or elicitation) goes to the
session's own reply subject: that of the `initialize` call. Requests of the server keep their ids: nobody else is on this channel.
"""

from collections.abc import Callable

from bridge.channel import Channel
from bridge.ports.base import ServerPort
from mesh import clock
from mesh.link.responder import Call
from mesh.wire.jsonrpc import Frame


class Session:
    """Made for an `initialize` call. `key` is its reply subject, which names caller, connection and exchange."""

    def __init__(self, agent: str, call: Call, port: ServerPort, on_end: "Callable[[Session, str], None]") -> None:
        self.key = call.prefix + call.exchange
        self.heard_at = clock.monotonic()
        self._opener = call
        self.channel = Channel(agent, port, on_stray=self._on_stray, on_end=lambda reason: on_end(self, reason))

    def _on_stray(self, frame: Frame, _origin: str | None) -> None:
        self._opener.say(frame.raw)
