"""One exchange at the calling side: what is known of it, from its publication to its end. Its life is led by mesh.link.exchanges."""

import itertools
from collections.abc import Callable
from typing import Protocol

from mesh.errors import CallError
from mesh.link.targets import Target
from mesh.wire.jsonrpc import Frame

OnFrame = Callable[[Frame], None]
OnFailure = Callable[[CallError], None]


class Owner(Protocol):
    """Who leads the lives of exchanges."""

    def launch(self, exchange: "Exchange") -> None:
        """Publish its request and watch over it."""

    def drop(self, exchange: "Exchange", reason: str, said: bytes | None = None) -> None:
        """End it, and tell the target."""


class Exchange:
    """One call, from its publication to its end. Made by `Exchanges.open`."""

    __slots__ = (
        "_owner",
        "addressed",
        "agent",
        "asked_at",
        "body",
        "candidates",
        "deadline",
        "denied",
        "ended",
        "gone",
        "heard_at",
        "id",
        "instance",
        "method",
        "on_failure",
        "on_frame",
        "quiet",
        "reads_all",
        "renew",
        "reply",
        "resends",
        "slot",
        "spare",
        "subject",
        "target",
        "timeout",
        "token",
    )

    def __init__(self, owner: Owner, target: Target, method: str, subject: str, reply: str, id: str) -> None:
        self._owner = owner
        self.target = target
        self.method = method
        self.subject = subject
        self.reply = reply
        self.id = id
        self.token = reply.rpartition(".")[2]
        self.body = b""
        self.addressed = False
        self.agent = ""
        self.instance = ""
        self.deadline: float | None = None
        self.timeout: float | None = None
        self.renew = False
        self.reads_all = False
        self.heard_at = 0.0
        self.asked_at = 0.0
        self.denied: set[str] = set()
        self.gone: set[str] = set()
        self.candidates: frozenset[str] | None = None
        self.resends = 0
        self.slot = -1
        self.ended = False
        self.quiet = False
        self.spare: list[str] = []
        self.on_frame: OnFrame = _ignore_frame
        self.on_failure: OnFailure = _ignore_failure

    def send(self, body: bytes) -> None:
        """Publish the request. `body` is the whole JSON-RPC request, and its id is `self.id`. Raises TooLarge, BrokerUnavailable."""
        self.body = body
        self._owner.launch(self)

    def discard(self) -> None:
        """It will not be sent after all: its number is used by the next one, since a gap in the journal means a loss."""
        self.spare.append(self.token)

    def cancel(self, reason: str, said: bytes | None = None) -> None:
        """End it here, and tell the target that nobody waits any more. `said`: the client's own cancellation, with this id in it."""
        if not self.ended:
            self._owner.drop(self, reason, said)


class Channel:
    """Where frames go that belong to a session and to no exchange of it: the reply subject of the exchange that opened the session."""

    def __init__(self, exchange: Exchange, on_frame: OnFrame, on_lost: OnFailure) -> None:
        self.id = exchange.id
        self.reply = exchange.reply
        self.quiet = exchange.quiet
        self.series = Series(exchange.token)
        self.agent = exchange.agent
        self.instance = exchange.instance
        self.on_frame = on_frame
        self.on_lost = on_lost


class Series:
    """The exchanges of one session: `{token}-1`, `{token}-2`, …"""

    def __init__(self, token: str = "") -> None:
        self._start = f"{token}-" if token else ""
        self._numbers = itertools.count(1)
        self._quiet_numbers = itertools.count(1)
        self.spare: list[str] = []
        self.quiet_spare: list[str] = []
        """Tokens that were given out and not used."""

    def next(self, *, quiet: bool) -> str:
        """The next token. Journaled exchanges are counted without gaps, so that a gap in the journal means a loss."""
        spare = self.quiet_spare if quiet else self.spare
        if spare:
            return spare.pop()
        return f"{self._start}q{next(self._quiet_numbers)}" if quiet else f"{self._start}{next(self._numbers)}"


def _ignore_frame(_: Frame) -> None:
    return


def _ignore_failure(_: CallError) -> None:
    return
