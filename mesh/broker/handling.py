"""What becomes of one message.

| the handler                                 | the broker is told            | the message                                        |
|---------------------------------------------|-------------------------------|----------------------------------------------------|
| returns                                     | done                          | is gone; its sender has the answer if it waits     |
| raises, or takes longer than it may         | again, after a backoff        | comes again; after the last attempt: a dead letter |
| raises `Retry(after)`                       | again, after `after`          | the same                                           |
| raises `Reject(reason)`                     | a dead letter, then never again | is a dead letter at once                         |
| (its deadline has passed, it is unreadable) | a dead letter, then never again | the same, and the handler never saw it           |

A dead letter is stored before its message is taken away. Where it cannot be stored the message comes again, and after the last delivery the
control plane keeps it (`mesh.broker.given_up`).
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Final

import structlog

from mesh import clock
from mesh.broker.dead import letter_subject, write_letter
from mesh.broker.handled import Handled
from mesh.errors import MalformedMessage, MeshError, Refused
from mesh.link.connection import Message
from mesh.link.jetstream import Delivery, JetStream, parse_delivery
from mesh.policy.lines import worth_a_line
from mesh.policy.retry import Backoff
from mesh.subjects import Msg, Reply, Subjects
from mesh.wire.jsonrpc import dumps
from mesh.wire.message import AgentMessage, Attempt, DeadLetter, is_brokers, read_message

Handler = Callable[[AgentMessage], Awaitable[Any]]
"""What it returns is the answer, if the sender waits for one. What it raises decides what becomes of the message."""

HANDLER_SECONDS: Final = 300.0
"""For one message. What takes longer is a job."""

MOST_FAILURES: Final = 1000
"""Messages whose failed attempts are remembered for their dead letters. Others of them went to other instances, or nobody knows where."""

_log: Final = structlog.get_logger("mesh.broker")


class Retry(Exception):
    """Raised by a handler: try again, after `after` seconds if given. It counts as an attempt."""

    def __init__(self, why: str = "", *, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Reject(Exception):
    """Raised by a handler: never try again. The message becomes a dead letter with this reason."""


class Handling:
    """Of one subscription."""

    def __init__(
        self, js: JetStream, subjects: Subjects, handler: Handler, handler_seconds: float, backoff: Backoff, handled: Handled
    ) -> None:
        self._js = js
        self._subjects = subjects
        self._parse = lru_cache(maxsize=1024)(subjects.parse)
        self._handler = handler
        self._handler_seconds = handler_seconds
        self._backoff = backoff
        self._handled = handled
        self._failures: dict[tuple[str, int], list[Attempt]] = {}
        """Of messages that will come again, by stream and sequence."""
        self.foreign = 0
        """What is no message but an answer of the broker's own."""

    async def deal_with(self, raw: Message, target: str, most: int) -> None:
        """One message to `target`, which is delivered `most` times (-1: without end). Raises MeshError where the broker cannot be told:
        then it comes again."""
        delivery = parse_delivery(raw.reply)
        try:
            subject = self._parse(raw.subject)
            if not isinstance(subject, Msg):
                raise Refused("no message's subject", subject=raw.subject)
            message = read_message(subject, raw.body, delivery.deliveries)
        except (MalformedMessage, Refused) as problem:
            if is_brokers(raw.body):
                self.foreign += 1
                if worth_a_line(self.foreign):
                    _log.warning("an answer of the broker's in a lane", subject=raw.subject, count=self.foreign)
                await self._js.term(raw, "an answer of the broker's own")
                return
            await self._bury(raw, target, delivery, "malformed", problem.message)
            return
        if message.deadline_ns is not None and clock.wall_ns() > message.deadline_ns:
            await self._bury(raw, target, delivery, "expired", "its deadline had passed when it came to be handled", message)
            return
        key = (message.target, message.sender, message.id)
        if await self._handled.seen(key):  # also at the first delivery: a broker that was killed knows neither its counts nor its ids
            await self._js.ack(raw)
            return
        try:
            async with asyncio.timeout(self._handler_seconds):
                answer = await self._handler(message)
        except Reject as rejected:
            await self._bury(raw, target, delivery, "rejected", str(rejected) or "the handler rejected it", message)
        except Exception as error:
            await self._fail(raw, target, most, delivery, message, error)
        else:
            await self._handled.record(key)
            self._failures.pop((delivery.stream, delivery.seq), None)
            if message.answer_to is not None:
                self._answer(message, {"result": answer})
            await self._js.ack(raw)

    async def _fail(self, raw: Message, target: str, most: int, delivery: Delivery, message: AgentMessage, error: Exception) -> None:
        said = f"longer than {self._handler_seconds:g} s" if isinstance(error, TimeoutError) and not str(error) else repr(error)
        if not isinstance(error, Retry):
            _log.warning("a message's handler failed", subject=raw.subject, id=message.id, attempt=delivery.deliveries, error=said)
        attempts = self._failures.setdefault((delivery.stream, delivery.seq), [])
        attempts.append(Attempt(clock.wall_ns(), said))
        while len(self._failures) > MOST_FAILURES:  # messages that went to another instance, or nobody knows where
            del self._failures[next(iter(self._failures))]
        if 0 < most <= delivery.deliveries:
            await self._bury(raw, target, delivery, "failed", f"the last of {delivery.deliveries} attempts failed: {said}", message)
            return
        after = error.after if isinstance(error, Retry) else None
        await self._js.nak(raw, self._backoff.wait(delivery.deliveries, random.random()) if after is None else max(0.0, after))

    async def _bury(
        self, raw: Message, target: str, delivery: Delivery, code: str, reason: str, message: AgentMessage | None = None
    ) -> None:
        letter = DeadLetter(
            subject=raw.subject,
            body=raw.body,
            code=code,
            reason=reason,
            deliveries=delivery.deliveries,
            stored_ns=delivery.time_ns,
            attempts=tuple(self._failures.get((delivery.stream, delivery.seq), ())),
        )
        subject = letter_subject(self._subjects, target, delivery.stream, delivery.seq, delivery.time_ns)
        try:
            await write_letter(self._js, subject, letter)
        except MeshError as problem:
            _log.warning("a dead letter could not be kept; its message comes again", subject=letter.subject, why=str(problem))
            await self._js.nak(raw, self._backoff.longest)
            return
        self._failures.pop((delivery.stream, delivery.seq), None)
        await self._js.term(raw, code)
        if message is not None and message.answer_to is not None:
            self._answer(message, {"error": {"code": code, "message": reason}})

    def _answer(self, message: AgentMessage, said: dict[str, Any]) -> None:
        """To who waits for it, if it still does. Only on a subject that can be its own."""
        with contextlib.suppress(MeshError, TypeError, ValueError):  # no subject, no room, no connection, or nothing that JSON can say
            to = self._subjects.parse(message.answer_to or "")
            if isinstance(to, Reply) and to.quiet and (to.caller, to.target) == (message.sender, message.target):
                self._js.connection.send(message.answer_to or "", dumps({"id": message.id, **said}))
