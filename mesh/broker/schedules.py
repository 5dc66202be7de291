"""Messages that are sent later, or again and again: the control plane's side.

Theory of operation
-------------------
The broker keeps the time. A schedule is a message on `schedule.{sender}.{id}` that tells the broker to publish a copy of it on
`due.{sender}.{id}` at its time; both lie in the stream SCHEDULES, which outlives a killed broker. Only the control plane writes there:
whoever may write a schedule may have the broker publish on any subject of its stream. The sender is the caller whom the broker held to its
name when it asked.

What is due is taken from one durable consumer, by whichever control plane is there, and sent as a message of `mesh` in whose body the
sender stands; receivers believe that of `mesh` alone (mesh.wire.message). Before that it is asked again whether this sender may send there.

**Once.** A message that was due has the schedule's id, and of a schedule that repeats also its tick: the broker's word on when the next
one is (`Nats-Schedule-Next`), which is told with each. So what is taken a second time, since a control plane died between
sending and acknowledging, is the same message again, which its stream stores once and its receiver handles once. What the broker missed
while it was away comes once, late, if it was to come once; ticks that were missed do not come.

**What cannot be sent.** Where the target has no room, or the stream is away, what comes once is tried again and becomes a dead letter in
the end, and a tick is left out: the next one follows. Where the sender may not send there any more the schedule ends.

Source: NATS ADR-51; measured: the stream must discard old ones, a cron line has six fields, `@every` begins anew when the broker does.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from mesh import clock
from mesh.delivery.dead import letter_subject, write_letter
from mesh.errors import ApiError, BadSchedule, Denied, MalformedMessage, MeshError, NoSuchSchedule, Refused, TooLarge
from mesh.link.connection import Message
from mesh.link.jetstream import NO_MESSAGE, JetStream, parse_delivery, time_ns
from mesh.link.publisher import MSG_ID
from mesh.link.pull import PullLoop
from mesh.policy.retry import Backoff
from mesh.policy.when import When, read_when
from mesh.subjects import CONTROL_PLANE, PRIORITIES, Due, Subjects
from mesh.subjects import Schedule as ScheduleSubject
from mesh.topology import DUE, SCHEDULES
from mesh.wire.jsonrpc import dumps
from mesh.wire.letter import DeadLetter
from mesh.wire.message import AgentMessage

MOST_SCHEDULES: Final = 256
"""Of one sender. Each that repeats costs a message a second at most, and all of them must be read to be listed."""

MOST_BYTES: Final = 128 * 1024
"""Of one schedule: `MOST_SCHEDULES` of them are 32 MiB."""

FULL: Final = 0.9
"""Share of SCHEDULES' bytes above which nothing more is scheduled: its stream must make room by itself, and would throw out the oldest."""

LONGEST_ID: Final = 128

MOST_TRIES: Final = 12
"""Of a message that is due once: with `WAITS` some ten minutes."""

WAITS: Final = Backoff(first=1.0, longest=60.0)

BAD_PATTERN: Final = frozenset({10189, 10223})
"""The broker does not understand a schedule, or its time zone (nats-server, errors.json)."""

MaySend = Callable[[str, str, str], None]
"""`(sender, target, priority)`. Raises Denied."""

_log: Final = structlog.get_logger("mesh.broker")


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule, as its stream holds it. `secret` makes the deduplication ids of its messages: whoever could guess them could have a
    message of its own stored first, and ours would count as its copy."""

    id: str
    sender: str
    when: When
    message: AgentMessage
    """As it will be sent, but for its times; a deadline counts from when it is due."""
    expires: float | None
    made_ns: int
    secret: str

    def encode(self) -> bytes:
        said = {
            "to": self.message.target,
            "priority": self.message.priority,
            "when": self.when.as_dict(),
            "expires": self.expires,
            "made": self.made_ns,
            "secret": self.secret,
            "message": json.loads(self.message.encode()),
        }
        return dumps(said)

    def due(self, tick: str) -> AgentMessage:
        """The message of one tick (empty: the only one)."""
        now = clock.wall_ns()
        deadline = None if self.expires is None else now + round(self.expires * 1e9)
        id = f"{self.id}-{tick}" if tick else self.id
        return replace(self.message, id=id, sent_ns=now, deadline_ns=deadline)

    def digest(self, tick: str) -> str:
        """The deduplication id of that message."""
        return base64.b32encode(hmac.digest(self.secret.encode(), tick.encode(), hashlib.sha256)).decode().rstrip("=")

    def shown(self) -> dict[str, Any]:
        """For its sender."""
        return {
            "id": self.id,
            "to": self.message.target,
            "type": self.message.type,
            "content": self.message.content,
            "priority": self.message.priority,
            "made": clock.iso(self.made_ns),
            **self.when.as_dict(),
        }


def read_schedule(sender: str, id: str, body: bytes) -> Schedule:
    """What `encode` wrote. Raises MalformedMessage, BadSchedule."""
    try:
        said = json.loads(body)
        message = said["message"]
        asked = {"to": said["to"], "priority": said["priority"], "expires": said["expires"], **said["when"]}
        fields = {key: message.get(key) for key in ("type", "content", "correlation_id", "metadata")}
        made = make_schedule(sender, {**asked, **fields, "id": id})
        return replace(made, made_ns=int(said["made"]), secret=str(said["secret"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise MalformedMessage(f"this is no schedule: {problem!r}", starts=body[:80]) from None


def make_schedule(sender: str, asked: dict[str, Any]) -> Schedule:
    """What `sender` asks for: `{"id", "to", "type", "content"?, "priority"?, "correlation_id"?, "metadata"?, "expires"? (seconds)}` and the
    members of `When.as_dict`. Raises BadSchedule."""
    id, to, type_, metadata = asked.get("id"), asked.get("to"), asked.get("type"), asked.get("metadata") or {}
    expires, correlation = asked.get("expires"), asked.get("correlation_id")
    if not (isinstance(id, str) and 0 < len(id) <= LONGEST_ID and isinstance(to, str) and to and isinstance(type_, str) and type_):
        raise BadSchedule(f"a schedule has an id of at most {LONGEST_ID} characters, a target and a type")
    if asked.get("priority", "normal") not in PRIORITIES or not isinstance(metadata, dict) or not isinstance(correlation, str | None):
        raise BadSchedule(f"a message's priority is one of {', '.join(PRIORITIES)}, its metadata an object, its correlation id a text")
    if expires is not None and not (isinstance(expires, int | float) and 0 < expires < 1e9):
        raise BadSchedule("a message expires some seconds after it was due")
    message = AgentMessage(
        type=type_,
        content=asked.get("content"),
        id=id,
        sent_ns=0,
        correlation_id=correlation,
        metadata=metadata,
        sender=sender,
        target=to,
        priority=asked.get("priority", "normal"),
    )
    return Schedule(id, sender, read_when(asked), message, expires, clock.wall_ns(), secrets.token_hex(16))


class Schedules:
    """The schedules at the broker, for a control plane."""

    def __init__(self, js: JetStream, subjects: Subjects, may_send: MaySend) -> None:
        self._js = js
        self._subjects = subjects
        self._may_send = may_send

    async def add(self, caller: str, asked: dict[str, Any]) -> dict[str, Any]:
        """`mesh/schedule`. One with an id that is there already takes its place. Raises BadSchedule, Denied, TooLarge, ApiError."""
        schedule = make_schedule(caller, asked)
        self._may_send(caller, schedule.message.target, schedule.message.priority)
        body = schedule.encode()
        if len(body) > MOST_BYTES:
            raise TooLarge(f"a scheduled message has at most {MOST_BYTES:,} bytes", limit=MOST_BYTES)
        subject = self._subjects.build(ScheduleSubject(caller, schedule.id))
        info = await self._js.api(f"STREAM.INFO.{SCHEDULES}", {"subjects_filter": self._subjects.schedules_of(caller)})
        there = info["state"].get("subjects") or {}
        if subject not in there and len(there) >= MOST_SCHEDULES:
            raise BadSchedule(
                f"{caller!r} has {MOST_SCHEDULES} schedules, and may have no more", hint="`mesh schedules cancel ID` ends one"
            )
        if 0 < info["config"]["max_bytes"] * FULL < info["state"]["bytes"] + len(body):
            raise BadSchedule("the mesh keeps no more schedules now", hint="`mesh schedules list` shows yours")
        headers = {**schedule.when.headers(), "Nats-Schedule-Target": self._subjects.build(Due(caller, schedule.id))}
        try:
            await self._js.publish(subject, body, headers=headers)
        except ApiError as error:
            if error.err_code not in BAD_PATTERN:
                raise
            raise BadSchedule(
                f"the broker cannot keep this time: {error.description}", hint="a cron line ends in day, month, weekday"
            ) from None
        return {"id": schedule.id}

    async def list(self, caller: str) -> dict[str, Any]:
        """`mesh/schedules`: those of the caller."""
        return {"schedules": [each.shown() async for each in self._of(caller)]}

    async def cancel(self, caller: str, asked: dict[str, Any]) -> dict[str, Any]:
        """`mesh/unschedule` `{"id"}`. What is due already may still be sent. Raises NoSuchSchedule."""
        id = str(asked.get("id"))
        if not await self._end(caller, id):
            raise NoSuchSchedule(f"{caller!r} has no schedule {id!r}", hint="`mesh schedules list` shows those that there are")
        return {}

    async def _end(self, sender: str, id: str) -> bool:
        return bool(
            (await self._js.api(f"STREAM.PURGE.{SCHEDULES}", {"filter": self._subjects.build(ScheduleSubject(sender, id))}))["purged"]
        )

    async def _of(self, sender: str) -> AsyncIterator[Schedule]:
        subjects_filter = self._subjects.schedules_of(sender)
        state = (await self._js.api(f"STREAM.INFO.{SCHEDULES}", {"subjects_filter": subjects_filter}))["state"]
        for subject in sorted(state.get("subjects") or {}):
            try:
                found = (await self._js.api(f"STREAM.MSG.GET.{SCHEDULES}", {"last_by_subj": subject}))["message"]
            except ApiError as error:
                if error.err_code != NO_MESSAGE:
                    raise
                continue  # it was due meanwhile
            with contextlib.suppress(MeshError):  # the broker can be made to put an answer of its own there
                place = self._subjects.parse(subject)
                if isinstance(place, ScheduleSubject):
                    yield read_schedule(sender, place.id, base64.b64decode(found.get("data", "")))

    # what is due

    async def send_due(self) -> None:
        """Until it is cancelled."""
        async with PullLoop(self._js.connection, SCHEDULES, DUE, batch=100) as pulls:
            async for messages in pulls:
                for message in messages:
                    try:
                        await self._send(message)
                    except MeshError as problem:
                        _log.warning("a message that is due waits", subject=message.subject, why=str(problem))
                        with contextlib.suppress(MeshError):
                            await self._js.nak(message, WAITS.wait(parse_delivery(message.reply).deliveries, 0.5))

    async def _send(self, due: Message) -> None:
        """Raises MeshError: then it is tried again."""
        delivery, next_one = parse_delivery(due.reply), (due.headers or {}).get("Nats-Schedule-Next", "")
        try:
            subject = self._subjects.parse(due.subject)
            if not isinstance(subject, Due):
                raise Refused("no schedule's subject", subject=due.subject)
            schedule = read_schedule(subject.sender, subject.id, due.body)
        except MeshError as problem:
            _log.warning("what is due is none of ours", subject=due.subject, why=str(problem))
            await self._js.ack(due)
            return
        tick = str(time_ns(next_one) // 10**9) if schedule.when.repeats and next_one else ""
        message = schedule.due(tick)
        to = self._subjects.message(message.target, CONTROL_PLANE, message.priority)
        try:
            self._may_send(schedule.sender, message.target, message.priority)
            await self._js.publish(to, message.encode(for_sender=True), headers={MSG_ID: schedule.digest(tick)})
        except Denied as problem:
            await self._end(schedule.sender, schedule.id)
            await self._bury(due, message, "denied", problem.message)
        except ApiError as problem:
            if schedule.when.repeats:
                _log.info("a tick is left out", subject=due.subject, why=str(problem))
            elif delivery.deliveries < MOST_TRIES:
                raise
            else:
                await self._bury(due, message, "undelivered", problem.message)
        await self._js.ack(due)

    async def _bury(self, due: Message, message: AgentMessage, code: str, reason: str) -> None:
        delivery = parse_delivery(due.reply)
        letter = DeadLetter(
            subject=self._subjects.message(message.target, message.sender, message.priority),
            body=message.encode(),
            code=code,
            reason=reason,
            deliveries=delivery.deliveries,
            stored_ns=delivery.time_ns,
        )
        await write_letter(self._js, letter_subject(self._subjects, message.target, SCHEDULES, delivery.seq, delivery.time_ns), letter)
