"""Messages, as `mesh.delivery` has to know them: where they come from, how one is read, who is told of its end, and its dead letters."""

import contextlib
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import structlog

from mesh.delivery import Again, Family, Kept, Key, Lane, Told
from mesh.errors import MalformedMessage, MeshError, Refused, TooLarge
from mesh.link.connection import Connection, Message
from mesh.link.jetstream import Delivery
from mesh.policy.lines import worth_a_line
from mesh.subjects import PRIORITIES, Msg, Reply, Subject, Subjects, escape
from mesh.topology import LANES
from mesh.wire.jsonrpc import dumps
from mesh.wire.letter import DeadLetter
from mesh.wire.message import AgentMessage, read_message
from mesh.wire.reading import is_brokers

UNANSWERABLE: Final = "unanswerable"
"""The code of an answer in whose place there is none: the message was done."""

AskLanes = Callable[[str, Collection[str]], Awaitable[list[str]]]
"""Has the control plane make lanes of a name, and returns the priorities of those there are. Raises MeshError."""

_log: Final = structlog.get_logger("mesh.broker")


class MessageLanes:
    """The lanes of some names: `normal` from the start, the others when their first message comes."""

    def __init__(self, subjects: Subjects, ask: AskLanes, targets: tuple[str, ...]) -> None:
        self._ask = ask
        self._targets = targets
        self.notices: Mapping[str, Hashable] = {
            subjects.lane(target, priority): (target, priority) for target in targets for priority in PRIORITIES
        }

    async def find(self, noticed: Collection[Hashable]) -> tuple[Collection[Lane], bool]:
        lanes, all_found = [], True
        for target in self._targets:
            try:
                there: Collection[str] = await self._ask(target, {"normal", *(each for each in PRIORITIES if (target, each) in noticed)})
            except MeshError as problem:
                # Lanes that are there already do without the control plane.
                _log.info("nobody makes lanes now", target=target, why=str(problem))
                there, all_found = PRIORITIES, False
            lanes += [Lane(target, priority, LANES[priority], escape(target)) for priority in PRIORITIES if priority in there]
        return lanes, all_found


class MessageFamily(Family[AgentMessage]):
    """How a message is read, and its sender answered."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection = connection
        self._subjects = subjects
        self._parse = lru_cache(maxsize=1024)(subjects.parse)
        self.foreign = 0
        """What is no message but an answer of the broker's own."""

    def read(self, raw: Message, delivery: Delivery, lane: Lane) -> AgentMessage | None:
        subject = self._parse(raw.subject)
        if not isinstance(subject, Msg):
            raise Refused("no message's subject", subject=raw.subject)
        try:
            return read_message(subject, raw.body, delivery.deliveries)
        except MalformedMessage:
            if not is_brokers(raw.body):
                raise
        self.foreign += 1
        if worth_a_line(self.foreign):
            _log.warning("an answer of the broker's in a lane", subject=raw.subject, count=self.foreign)
        return None

    def key(self, item: AgentMessage) -> Key:
        return item.key

    def deadline_ns(self, item: AgentMessage) -> int | None:
        return item.deadline_ns

    def trace(self, item: AgentMessage) -> str:
        return item.trace

    def done(self, item: AgentMessage, result: object) -> None:
        if item.answer_to is not None:
            self._answer(item, {"result": result})

    def buried(self, item: AgentMessage, code: str, reason: str) -> None:
        if item.answer_to is not None:
            self._answer(item, {"error": {"code": code, "message": reason}})

    def _answer(self, message: AgentMessage, said: dict[str, Any]) -> None:
        """To who waits for it, if it still does. Only on a subject that can be its own."""
        with contextlib.suppress(MeshError):  # no subject, no connection
            to = self._subjects.parse(message.answer_to or "")
            if isinstance(to, Reply) and to.quiet and (to.caller, to.target) == (message.sender, message.target):
                try:
                    self._connection.send(message.answer_to or "", dumps({"id": message.id, **said}))
                except (TypeError, ValueError, RecursionError, TooLarge) as problem:
                    error = {"code": UNANSWERABLE, "message": f"what its handler returned cannot be sent: {problem}"}
                    self._connection.send(message.answer_to or "", dumps({"id": message.id, "error": error}))


class MessageLetters:
    """Dead letters of messages. Sent again is a message in its sender's name, with its id, so that who has done it already does not do it
    again; its deadline, which has passed, and its wish for an answer, for which nobody waits, are left out."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects

    def tell(self, target: str, sent: Subject, letter: DeadLetter) -> Told | None:
        if not isinstance(sent, Msg) or sent.target != target:
            return None
        try:
            message = read_message(sent, letter.body, letter.deliveries)
        except MalformedMessage:
            return Told(sent.sender, sent.priority, "?", None)
        return Told(message.sender, sent.priority, message.type, message)

    def mended(self, kept: Kept, content: Any) -> bytes:
        if kept.item is None:
            return AgentMessage(type="unreadable", content=content, id=f"dead-{kept.number}", sent_ns=kept.letter.stored_ns).encode()
        message: AgentMessage = replace(kept.item, content=content)
        return message.encode()

    def again(self, kept: Kept) -> Again:
        message: AgentMessage = replace(kept.item, deadline_ns=None, answer_to=None)
        subject = self._subjects.message(message.target, message.sender, message.priority)
        return Again(subject, message.encode(), {}, f"send {message.target}")
