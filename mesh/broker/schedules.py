"""Messages that are sent later, or again and again: the control plane's side.

Theory of operation
-------------------
What is scheduled lies in the bucket `schedules`, under `{sender}.{id}.{token}`. The sender is the caller whom the broker held to its name
when it asked. The broker keeps the time: a message on `schedule.{sender}.{token}` tells it to publish a copy of it on
`due.{sender}.{token}`, both in the stream SCHEDULES. Only the control plane writes there: whoever may write a schedule may have the broker
publish on any subject of its stream.

**The stream is no more than a clock.** Whoever may ask the broker for anything can have it store something there, and a stream of schedules
must allow that one message with `Nats-Rollup: all` removes all others. So what is due counts only as far as the bucket has it, whose keys
nobody else knows: the tokens have 128 random bits. And what the stream has lost is put back (`keep_all`).

What is due is taken from one durable consumer, by whichever control plane is there, and sent as a message of `mesh` in whose body the
sender stands; receivers believe that of `mesh` alone (mesh.wire.message). Before that it is asked again whether this sender may send there.

**Once.** A message that was due has the schedule's id, and of a schedule that repeats also its tick: the broker's word on when the next
one is (`Nats-Schedule-Next`), which is told with each. So what is taken a second time, since a control plane died between
sending and acknowledging, is the same message again, which its stream stores once and its receiver handles once. What the broker missed
while it was away comes once, late, if it was to come once; ticks that were missed do not come.

**What cannot be sent.** Where the target has no room, or the stream is away, what comes once is tried again and becomes a dead letter in
the end, and a tick is left out: the next one follows. Where the sender may not send there any more the schedule ends.

This module is long because a schedule's whole life stands here, from what is asked to what was sent.

Source: NATS ADR-51; measured: the stream must discard old ones, a cron line has six fields, `@every` begins anew when the broker does.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from mesh import clock
from mesh.delivery.dead import letter_subject, write_letter
from mesh.errors import ApiError, BadSchedule, Denied, MalformedMessage, MeshError, NoSuchSchedule, TooLarge
from mesh.link.buckets import Bucket, Entry
from mesh.link.connection import Message
from mesh.link.jetstream import JetStream, parse_delivery, time_ns
from mesh.link.publisher import MSG_ID
from mesh.link.pull import PullLoop
from mesh.policy.retry import Backoff
from mesh.policy.when import When, read_when
from mesh.subjects import CONTROL_PLANE, PRIORITIES, Due, Subjects, escape, unescape
from mesh.subjects import Schedule as ScheduleSubject
from mesh.topology import DUE, SCHEDULED, SCHEDULES, bucket_stream, bucket_subject
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

LOOK_SECONDS: Final = 15.0
"""Between two looks whether the stream still has what is scheduled."""

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
    token: str
    """In the subjects of the stream, in the place of the id."""

    @property
    def was_due(self) -> bool:
        """It comes once, and its time has passed: it is being sent."""
        return self.when.at_ns is not None and self.when.at_ns <= clock.wall_ns()

    @property
    def key(self) -> str:
        return f"{escape(self.sender)}.{escape(self.id)}.{self.token}"

    def encode(self) -> bytes:
        said = {
            "to": self.message.target,
            "priority": self.message.priority,
            "when": self.when.as_dict(),
            "expires": self.expires,
            "made": self.made_ns,
            "secret": self.secret,
            "token": self.token,
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


def read_schedule(entry: Entry) -> Schedule:
    """What `encode` wrote, under its key. Raises MalformedMessage, BadSchedule."""
    try:
        sender, id, _ = map(unescape, entry.key.split("."))
        said = json.loads(entry.value)
        message = said["message"]
        asked = {"to": said["to"], "priority": said["priority"], "expires": said["expires"], **said["when"]}
        fields = {key: message.get(key) for key in ("type", "content", "correlation_id", "metadata")}
        made = make_schedule(sender, {**asked, **fields, "id": id})
        return replace(made, made_ns=int(said["made"]), secret=str(said["secret"]), token=str(said["token"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise MalformedMessage(f"this is no schedule: {problem!r}", starts=entry.value[:80]) from None


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
    return Schedule(id, sender, read_when(asked), message, expires, clock.wall_ns(), secrets.token_hex(16), secrets.token_hex(16))


def _read(entry: Entry) -> Schedule | None:
    """None for what is no schedule: the broker can be made to put an answer of its own where none is."""
    try:
        return read_schedule(entry)
    except MeshError:
        return None


class Schedules:
    """The schedules at the broker, for a control plane."""

    def __init__(self, js: JetStream, subjects: Subjects, may_send: MaySend) -> None:
        self._js = js
        self._subjects = subjects
        self._may_send = may_send
        self._bucket = Bucket(js, SCHEDULED)

    async def add(self, caller: str, asked: dict[str, Any]) -> dict[str, Any]:
        """`mesh/schedule`. One with an id that is there already takes its place. Raises BadSchedule, Denied, TooLarge, ApiError."""
        schedule = make_schedule(caller, asked)
        self._may_send(caller, schedule.message.target, schedule.message.priority)
        body = schedule.encode()
        if len(body) > MOST_BYTES:
            raise TooLarge(f"a scheduled message has at most {MOST_BYTES:,} bytes", limit=MOST_BYTES)
        keys = bucket_subject(SCHEDULED, f"{escape(caller)}.*.*")
        info = await self._js.api(f"STREAM.INFO.{bucket_stream(SCHEDULED)}", {"subjects_filter": keys})
        there = info["state"].get("subjects") or {}
        if len(there) >= MOST_SCHEDULES and not await self._find(caller, schedule.id):
            raise BadSchedule(
                f"{caller!r} has {MOST_SCHEDULES} schedules, and may have no more", hint="`mesh schedules cancel ID` ends one"
            )
        if 0 < info["config"]["max_bytes"] * FULL < info["state"]["bytes"] + len(body):
            raise BadSchedule("the mesh keeps no more schedules now", hint="`mesh schedules list` shows yours")
        revision = await self._bucket.put(schedule.key, body)
        try:
            await self._set(schedule)
        except ApiError as error:
            if error.err_code not in BAD_PATTERN:
                raise
            await self._bucket.clear(schedule.key)
            raise BadSchedule(
                f"the broker cannot keep this time: {error.description}", hint="a cron line ends in day, month, weekday"
            ) from None
        for other, of_other in await self._find(caller, schedule.id):
            if of_other < revision:  # of several that came at once the last one stays
                await self._end(other)
        return {"id": schedule.id}

    async def list(self, caller: str) -> dict[str, Any]:
        """`mesh/schedules`: those of the caller."""
        found = (_read(entry) for _, entry in sorted((await self._bucket.snapshot(f"{escape(caller)}.*.*")).items()))
        return {"schedules": [each.shown() for each in found if each is not None and not each.was_due]}

    async def cancel(self, caller: str, asked: dict[str, Any]) -> dict[str, Any]:
        """`mesh/unschedule` `{"id"}`. What is due already may still be sent. Raises NoSuchSchedule."""
        id = str(asked.get("id"))
        found = await self._find(caller, id)
        if not found:
            raise NoSuchSchedule(f"{caller!r} has no schedule {id!r}", hint="`mesh schedules list` shows those that there are")
        for schedule, _ in found:
            await self._end(schedule)
        return {}

    async def _find(self, sender: str, id: str) -> Sequence[tuple[Schedule, int]]:
        """Those with an id, and the revision of each: several, while one takes another's place."""
        entries = (await self._bucket.snapshot(f"{escape(sender)}.{escape(id)}.*")).values()
        read = ((_read(entry), entry.revision) for entry in entries)
        return [(schedule, revision) for schedule, revision in read if schedule is not None and not schedule.was_due]

    async def _set(self, schedule: Schedule) -> None:
        """Have the broker keep its time."""
        subject = self._subjects.build(ScheduleSubject(schedule.sender, schedule.token))
        target = self._subjects.build(Due(schedule.sender, schedule.token))
        body = dumps({"id": schedule.id})
        await self._js.publish(subject, body, headers={**schedule.when.headers(), "Nats-Schedule-Target": target})

    async def _unset(self, schedule: Schedule) -> None:
        subject = self._subjects.build(ScheduleSubject(schedule.sender, schedule.token))
        await self._js.api(f"STREAM.PURGE.{SCHEDULES}", {"filter": subject})

    async def _end(self, schedule: Schedule) -> None:
        await self._bucket.clear(schedule.key)
        await self._unset(schedule)

    async def keep_all(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.put_back()
            except MeshError as problem:
                _log.info("what is scheduled cannot be looked at now", why=str(problem))

    async def put_back(self) -> int:
        """Set again what the stream does not have, neither waiting nor due. Returns how many there were."""
        before_ns = clock.wall_ns() - round(LOOK_SECONDS * 1e9)
        state = (await self._js.api(f"STREAM.INFO.{SCHEDULES}", {"subjects_filter": ">"}))["state"]
        there, count = state.get("subjects") or {}, 0
        keys = (await self._js.api(f"STREAM.INFO.{bucket_stream(SCHEDULED)}", {"subjects_filter": ">"}))["state"].get("subjects") or {}
        for key in (each.removeprefix(bucket_subject(SCHEDULED, "")) for each in keys):
            sender, _, token = key.rpartition(".")
            sender = sender.partition(".")[0]
            if any(f"{self._subjects.root}{family}.{sender}.{token}" in there for family in ("schedule", "due")):
                continue
            entry = await self._bucket.get(key)
            schedule = None if entry is None or entry.time_ns > before_ns else _read(entry)
            if schedule is not None:
                _log.warning("a schedule was lost, and is put back", sender=schedule.sender, id=schedule.id)
                await self._set(schedule)
                count += 1
        return count

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
            id = json.loads(due.body)["id"]
        except (MeshError, ValueError, KeyError, TypeError) as problem:
            _log.warning("what is due is none of ours", subject=due.subject, why=str(problem))
            await self._js.ack(due)
            return
        entry = None
        if isinstance(subject, Due):
            entry = await self._bucket.get(f"{escape(subject.sender)}.{escape(str(id))}.{escape(subject.id)}")
        schedule = None if entry is None else _read(entry)
        if schedule is None:
            await self._js.ack(due)  # it was cancelled, or another is in its place, or it was sent already
            return
        tick = str(time_ns(next_one) // 10**9) if schedule.when.repeats and next_one else ""
        message = schedule.due(tick)
        to = self._subjects.message(message.target, CONTROL_PLANE, message.priority)
        try:
            self._may_send(schedule.sender, message.target, message.priority)
            await self._js.publish(to, message.encode(for_sender=True), headers={MSG_ID: schedule.digest(tick)})
        except Denied as problem:
            await self._bury(due, message, "denied", problem.message)  # first: once its schedule has ended, nobody knows what was due
            await self._end(schedule)
        except ApiError as problem:
            if schedule.when.repeats:
                _log.info("a tick is left out", subject=due.subject, why=str(problem))
            elif delivery.deliveries < MOST_TRIES:
                raise
            else:
                await self._bury(due, message, "undelivered", problem.message)
        if not schedule.when.repeats:
            await self._bucket.clear(schedule.key)
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
