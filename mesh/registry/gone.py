"""Callers that are gone: what runs for them is stopped, at whatever instance it runs (ADR 6).

The broker says when a connection ends, and why. It does not say whether the process behind it will come back: a client whose connection
broke closes its socket as one that was killed does. So a caller has a moment to return, and then the broker is asked whether anybody still
listens for its replies. So nobody is hurt by who lies about whose a connection is: a notice is sent only where nobody hears an answer.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog

from mesh.background import end_tasks
from mesh.crypto import jwt
from mesh.errors import BrokerUnavailable, CallTimeout, ConfigError, NoResponders, Refused
from mesh.link.connection import Connection
from mesh.subjects import CONTROL_PLANE, Gone, Subjects, client_name, read_client_name, unescape
from mesh.wire import control

GRACE: Final = 0.6
"""Seconds to come back for a connection that the broker ended (rights that were renewed, a client that was too slow): the client lives, and
may have a long way. An instance, too, has so long."""

RETURN: Final = 0.14
"""Seconds to come back where the client's end closed. A process that lives connects again at once, which takes milliseconds on a near way;
what a killed one has left running is to end within 0.2."""

CLOSED_BY_CLIENT: Final = frozenset({"Client Closed", "Read Error", "Write Error"})
"""The broker's reasons for which the other end was the first to go: a clean close and a kill are the first, a kill with bytes under way is
one of the others. Source: nats-server, ClosedState."""

SETTLE: Final = 0.02
"""Seconds from "nobody listens" to the notice. Where the caller was back and was cut off again just now, that event is on its way."""

ANSWER_SECONDS: Final = 1.0

_log = structlog.get_logger("mesh.plane")


def caller_of(client: Mapping[str, Any]) -> tuple[str, str] | None:
    """Agent and connection, by the `client` of a disconnect event; None where it is nobody who calls over the mesh.

    The connection is the client's own word. So is the agent at a broker that admits everybody; elsewhere the event repeats the user's
    claims, which the broker has verified.
    """
    name, claims = client.get("name"), client.get("jwt")
    said = read_client_name(name) if isinstance(name, str) else None
    if said is None or not isinstance(claims, str) or not claims:
        return said
    try:
        return unescape(jwt.read(claims, "user").name), said[1]
    except (ConfigError, Refused):
        return None


class Departures:
    """Callers whose connections have ended, until it is known whether they are back."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._open: dict[tuple[str, str], asyncio.Task[None]] = {}

    def left(self, caller: tuple[str, str], reason: str) -> None:
        """The broker has said that a connection of a caller ended. One that was asked about already must have been back: its time begins
        anew."""
        if (earlier := self._open.pop(caller, None)) is not None:
            earlier.cancel()
        task = self._open[caller] = asyncio.create_task(self._tell_if_gone(*caller, reason), name=f"whether {caller[0]} is gone")
        task.add_done_callback(lambda _: self._open.pop(caller, None) if self._open.get(caller) is task else None)

    async def close(self) -> None:
        await end_tasks(*self._open.values())

    async def _tell_if_gone(self, agent: str, token: str, reason: str) -> None:
        await asyncio.sleep(RETURN if reason in CLOSED_BY_CLIENT else GRACE)
        replies = self._subjects.reply_prefix(agent, CONTROL_PLANE, token, quiet=True)  # of the family that no stream listens to
        try:
            await self._connection.request(f"{replies}there", b"", timeout=ANSWER_SECONDS)
        except NoResponders:
            await asyncio.sleep(SETTLE)
            self._connection.send(self._subjects.build(Gone(agent, token)), control.gone(client_name(agent, token)))
            _log.debug("caller gone", agent=agent, connection=token, why=reason)
        except (CallTimeout, BrokerUnavailable):
            return  # it is there, and answers nothing; or we are not
