"""A session over an outage: the connection to the broker goes, or the instance's own, and both come back.

NATS delivers to who is there. So while this side is cut off, and until the session's instance has answered a probe again, what the
host says is kept, in order. The probe also tells the instance that the host is back, and it says again what may have been missed:
requests of the server that are unanswered, and notifications. A request that came already is then dropped here. A loss is noticed late, so
the last answers of the host are said again too; the instance drops those that it has.

Requests under way need none of this: the exchange asks for its final frame (`mesh.link.exchanges`).
"""

import asyncio
import json
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, NamedTuple

from mesh import Mesh, clock
from mesh.errors import BrokerUnavailable, Busy, CallTimeout, Denied, Disconnected, InstanceLost, MeshError, NoResponders
from mesh.link.exchange import Channel
from mesh.subjects import ANSWER
from mesh.wire.entries import ProbeQuestion
from mesh.wire.jsonrpc import Frame, Kind

PATIENCE: Final = 5.0
"""Seconds for which what the host says is kept while the broker is away: as long as open calls wait."""

RETURNING: Final = 10.0
"""Seconds after our own return in which the instance must have answered. It reconnects within two, or it is gone and health says so."""

BETWEEN: Final = 0.1
"""Seconds between two probes."""

MOST_HELD: Final = 1_000
"""Messages that are kept; one more is refused as busy."""

OVER: Final = frozenset({"session_lost", "server_died"})
"""`error.data.mesh` of an answer in a session after which there is no session any more: it is unknown there, or its server has ended."""

UNNOTICED: Final = 10.0
"""Seconds for which a connection may be dead before that is noticed: two pings."""

MOST_ANSWERS: Final = 100
"""Answers of the host that are kept for that; the oldest go first."""

MOST_ASKED: Final = 1_000
"""Unanswered requests of the server that are known; the oldest are forgotten first."""


class Held(NamedTuple):
    """A message that is kept: what is done with it when the instance is back, and what if that is not to be."""

    send: Callable[[], None]
    refuse: Callable[[MeshError], None]


class Standby:
    """Of one session. `away` while messages must be kept."""

    def __init__(self, mesh: Mesh, session: Channel, on_lost: Callable[[MeshError], None]) -> None:
        """`on_lost`: the instance does not come back."""
        self._away = False
        self._mesh = mesh
        self._session = session
        self._on_lost = on_lost
        self._held: deque[Held] = deque()
        self._asked: OrderedDict[str | int | None, None] = OrderedDict()
        self._answers: deque[tuple[float, bytes]] = deque(maxlen=MOST_ANSWERS)
        self._down_at = 0.0
        self._hopeless = False
        self._timer: asyncio.TimerHandle | None = None
        self._probing: asyncio.Task[None] | None = None
        self._detach = [mesh.connection.on_down(self._on_down), mesh.connection.on_up(self._on_up)]

    @property
    def away(self) -> bool:
        return self._away or not self._mesh.connection.connected

    def close(self) -> None:
        for detach in self._detach:
            detach()
        self._detach.clear()
        self._stop()
        self._give_up(Disconnected("the session is over"))

    def keep(self, held: Held) -> None:
        """A message of the host's, while the session is `away`."""
        if self._hopeless:
            held.refuse(BrokerUnavailable("the connection to the broker is down", hint="it is being rebuilt; try again in a moment"))
        elif len(self._held) >= MOST_HELD:
            held.refuse(Busy(f"{MOST_HELD} messages wait for the broker"))
        else:
            self._held.append(held)

    def is_new(self, frame: Frame) -> bool:
        """Whether the host has not yet had this message of the server's."""
        if frame.kind is Kind.REQUEST:
            if frame.id in self._asked:
                return False
            self._asked[frame.id] = None
            if len(self._asked) > MOST_ASKED:
                self._asked.popitem(last=False)
        elif frame.method == "notifications/cancelled":
            self._asked.pop(frame.cancels, None)
        return True

    def answer(self, frame: Frame) -> None:
        """The host answers a request of the server's."""
        self._asked.pop(frame.id, None)
        self._answers.append((clock.monotonic(), frame.raw))
        self._mesh.exchanges.say(self._session, ANSWER, frame.raw)

    def _on_down(self) -> None:
        self._away, self._hopeless = True, False
        self._down_at = clock.monotonic()
        self._stop()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._too_late)

    def _on_up(self) -> None:
        self._hopeless = False
        self._stop()
        self._probing = asyncio.create_task(self._probe(), name=f"return of the session with {self._session.agent}")

    async def _probe(self) -> None:
        session = self._session
        question = ProbeQuestion(session=session.reply, back=True).encode()
        until = clock.monotonic() + RETURNING
        while True:
            try:
                await self._mesh.exchanges.probes.ask(session.agent, question, 1.0, session.instance)
                break
            except (NoResponders, CallTimeout):
                if clock.monotonic() > until:
                    self._on_lost(
                        InstanceLost(f"instance {session.instance} of {session.agent} did not come back", hint="begin a new session")
                    )
                    return
                await asyncio.sleep(BETWEEN)
            except BrokerUnavailable:
                return  # `_on_up` probes again
            except Denied as problem:  # its rights were cut while it was away
                self._on_lost(problem)
                return
        for said_at, raw in self._answers:
            if said_at > self._down_at - UNNOTICED:
                self._mesh.exchanges.say(session, ANSWER, raw)
        self._away = False
        while self._held and not self.away:
            self._held.popleft().send()

    def _too_late(self) -> None:
        self._timer, self._hopeless = None, True
        self._give_up(Disconnected("the broker was away for too long; this was not sent"))

    def _give_up(self, problem: MeshError) -> None:
        while self._held:
            self._held.popleft().refuse(problem)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._probing is not None and self._probing is not asyncio.current_task():
            self._probing.cancel()
        self._probing = None


def problem_that_ends(raw: bytes) -> MeshError | None:
    """The problem that an error response in a session names, if it is the session's end."""
    if b'"mesh"' not in raw:
        return None
    try:
        said = json.loads(raw)["error"]
        ends = said["data"]["mesh"] in OVER
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return InstanceLost(str(said.get("message")), hint="begin a new session") if ends else None
