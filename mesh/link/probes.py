"""Probes: "is anyone there?", on a subject that no stream takes, so that "nobody" is answered at once.

The answer comes on a quiet reply subject of ours that names who answers, never on an inbox: the broker lets an instance publish where its
own name stands, and nowhere else. So nobody can answer for another, and nobody can be made to publish to a subject that an asker chose.
"""

import asyncio
import itertools
from dataclasses import dataclass

import structlog

from mesh.errors import BrokerUnavailable, CallTimeout, MalformedMessage, MeshError, NoResponders
from mesh.link.connection import Connection, Message
from mesh.link.denial import check, denied
from mesh.policy.lines import worth_a_line
from mesh.subjects import ANY, Subjects
from mesh.wire.entries import ProbeAnswer, read

_log = structlog.get_logger("mesh.link")


@dataclass(frozen=True, slots=True)
class _Asked:
    target: str
    subject: str
    answer: asyncio.Future[ProbeAnswer]

    def fail(self, problem: MeshError) -> None:
        if not self.answer.done():
            self.answer.set_exception(problem)


class Probes:
    """Those of one connection of one caller. `take` gets what comes on its quiet reply subjects."""

    def __init__(self, connection: Connection, subjects: Subjects, caller: str) -> None:
        self._connection = connection
        self._subjects = subjects
        self._caller = caller
        self._numbers = itertools.count(1)
        self._open: dict[str, _Asked] = {}
        """By reply subject."""
        self.refused = 0
        connection.on_down(self._on_down)

    def check(self, target: str) -> None:
        """Raises Denied where we may not ask for `target`."""
        check(self._connection, self._subjects.probe(target, ANY, self._caller), self._caller, f"call {target}")

    async def ask(self, target: str, body: bytes, timeout: float, instance: str = ANY) -> ProbeAnswer:
        """The answer of an instance of `target`. Raises NoResponders, CallTimeout after `timeout` seconds, Denied, BrokerUnavailable."""
        self.check(target)
        subject = self._subjects.probe(target, instance, self._caller)
        reply = f"{self._subjects.reply_prefix(self._caller, target, self._connection.token, quiet=True)}p{next(self._numbers)}"
        asked = self._open[reply] = _Asked(target, subject, asyncio.get_running_loop().create_future())
        try:
            self._connection.send(subject, body, reply)
            async with asyncio.timeout(timeout):
                return await asked.answer
        except TimeoutError:
            raise CallTimeout(f"{target!r} did not answer within {timeout:g} s") from None
        finally:
            del self._open[reply]

    def take(self, message: Message) -> bool:
        """Whether `message` answers a probe."""
        asked = self._open.get(message.subject)
        if asked is None:
            return False
        if message.headers and message.headers.get("Status") == "503":
            asked.fail(NoResponders(f"nobody answers to {asked.target!r}"))
            return True
        try:
            answer = read(ProbeAnswer, message.body)
        except MalformedMessage as problem:  # an answer of the broker's to somebody who named our subject: the target's comes still
            self.refused += 1
            if worth_a_line(self.refused):
                _log.warning("probe's answer refused", target=asked.target, why=str(problem), count=self.refused)
            return True
        if not asked.answer.done():
            asked.answer.set_result(answer)
        return True

    def on_denied(self, refused: str) -> None:
        """The broker refused a message; `refused` is its subject in lower case."""
        for asked in self._open.values():
            if asked.subject.lower() == refused:
                asked.fail(denied(asked.subject, self._caller, f"call {asked.target}"))

    def _on_down(self) -> None:
        for asked in self._open.values():
            asked.fail(BrokerUnavailable("the connection to the broker was lost while asking"))
