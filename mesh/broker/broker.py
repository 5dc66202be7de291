"""`mesh.messages`: durable messages of one participant."""

import asyncio
import itertools
import json
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypedDict, Unpack

from mesh import clock
from mesh.broker.family import MessageFamily, MessageLanes, MessageLetters
from mesh.broker.sending import send
from mesh.delivery import DeadLetters, HandledInBucket, Handler, LetterFamily, Receiver, ReceiverOptions, Store, secret_of
from mesh.errors import CallTimeout, ConfigError, Disconnected, MailboxFull, RemoteError
from mesh.events import EventLetters
from mesh.jobs import JobLetters
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.denial import check, check_answers
from mesh.link.jetstream import JetStream
from mesh.policy.retry import Backoff
from mesh.policy.when import When, at_ns, read_when
from mesh.subjects import CONTROL_PLANE, PRIORITIES, Cast, Event, Job, Msg, Reply, Subjects
from mesh.wire.control import MESH_ERROR
from mesh.wire.message import AgentMessage

SEND_SECONDS: Final = 60.0
LANES_SECONDS: Final = 5.0
"""For the control plane to make lanes, which takes it milliseconds."""

SCHEDULE_SECONDS: Final = 10.0
"""For the control plane to keep a schedule, or to read all that there are."""

Ask = Callable[..., Awaitable[dict[str, Any]]]
"""`Mesh.request`."""


class MessageOptions(TypedDict, total=False):
    """What a message may say besides what it is."""

    priority: str
    """critical, high, normal (default), low."""
    id: str
    """Sent twice with the same id to the same target, it is stored once (for ten minutes) and handled once. Default: a new one."""
    correlation_id: str | None
    metadata: Mapping[str, Any]


class MessageBroker:
    """Sends and receives messages under one name. What it needs it opens when it is first used."""

    def __init__(self, connection: Connection, subjects: Subjects, name: str, credentials: Path | None, ask: Ask) -> None:
        self._connection = connection
        self._subjects = subjects
        self._name = name
        self._ask = ask
        self._store = Store(connection, name, secret_of(credentials))
        events = EventLetters(subjects)
        families: dict[type, LetterFamily] = {Msg: MessageLetters(subjects), Event: events, Cast: events, Job: JobLetters(subjects)}
        self.dead_letters = DeadLetters(connection, subjects, self._store, families)
        """For operators."""
        self._token = secrets.token_hex(5)
        self._numbers = itertools.count(1)
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._listening: Subscription | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for future in self._answers.values():
            if not future.done():
                future.set_exception(Disconnected("this process leaves the mesh"))
        await self._store.close()
        if self._listening is not None:
            await self._listening.unsubscribe()

    async def publish_message(
        self,
        to: str,
        type: str,
        content: Any = None,
        *,
        expires: float | None = None,
        delay: float | None = None,
        at: datetime | str | None = None,
        **options: Unpack[MessageOptions],
    ) -> str:
        """Send a message to an agent, or to one of those who answer to a role, and return its id once the broker has it. It is handled once
        somebody listens. What nobody has begun to handle `expires` seconds from now becomes a dead letter.

        With `delay` (seconds) or `at` (a time with its zone, or ISO 8601) it is sent then, as `schedule_message` has it; `expires` counts
        from there.

        Raises Denied, MailboxFull (nothing was stored), TooLarge, and BrokerUnavailable where the broker did not answer: sent again with
        the same id, it is stored once.
        """
        if delay is not None or at is not None:
            due = When(at_ns=at_ns(at) if delay is None else clock.wall_ns() + round(delay * 1e9))
            return await self._schedule(due, to, type, content, expires, options)
        message = self._message(to, type, content, expires, None, options)
        await send(self._store, self._subjects, message)
        return message.id

    async def send_message(
        self, to: str, type: str, content: Any = None, *, timeout: float = SEND_SECONDS, **options: Unpack[MessageOptions]
    ) -> Any:
        """Send a message, wait until it was handled, and return what the handler returned.

        Where the target has no room it is tried again, with a backoff, within `timeout` seconds. After these nobody begins to handle it.
        Raises as `publish_message`, RemoteError where it became a dead letter (`data["mesh"]` says why), and CallTimeout: it may have been
        handled, or be handled now.
        """
        number = next(self._numbers)
        subject = self._subjects.build(Reply(self._name, to, self._token, str(number), quiet=True))
        message = self._message(to, type, content, timeout, subject, options)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[subject] = future
        try:
            async with asyncio.timeout(timeout):
                await self._listen()
                await self._persist(message)
                answer = await future
        except TimeoutError:
            raise CallTimeout(f"{to!r} did not answer the message within {timeout:g} s", id=message.id) from None
        finally:
            del self._answers[subject]
        error = answer.get("error")
        if isinstance(error, dict):
            said = {"mesh": error.get("code"), "id": message.id}
            raise RemoteError(MESH_ERROR, f"{to!r} did not do it: {error.get('message')}", said)
        return answer.get("result")

    async def schedule_message(
        self,
        to: str,
        type: str,
        content: Any = None,
        *,
        every: int | None = None,
        cron: str | None = None,
        zone: str | None = None,
        expires: float | None = None,
        **options: Unpack[MessageOptions],
    ) -> str:
        """Send a message again and again: `every` so many seconds, or as a `cron` line of five fields says (six: with seconds first),
        in UTC or in the time zone `zone`. Returns the schedule's id, once the broker keeps it: that of `options`, or a new one. A schedule
        with an id of ours that is there already takes its place. Each message has an id of its own, which begins with the schedule's.

        It outlives this process, and is sent in our name as long as we may send there. Raises BadSchedule, Denied, TooLarge, NoSuchAgent
        where no control plane runs.
        """
        when = read_when({"every": every, "cron": cron, "zone": zone})
        return await self._schedule(when, to, type, content, expires, options)

    async def list_schedules(self) -> list[dict[str, Any]]:
        """Ours that are still to be sent: `{"id", "to", "type", "content", "priority", "made"}` and `at`, `every`, or `cron` and `zone`."""
        return list((await self._ask(CONTROL_PLANE, "mesh/schedules", {}, timeout=SCHEDULE_SECONDS))["schedules"])

    async def cancel_schedule(self, id: str) -> None:
        """Send it no more. What is due this moment may still be sent. Raises NoSuchSchedule."""
        await self._ask(CONTROL_PLANE, "mesh/unschedule", {"id": id}, timeout=SCHEDULE_SECONDS)

    def subscribe_to_messages(
        self, handler: Handler[AgentMessage], *, roles: tuple[str, ...] = (), **options: Unpack[ReceiverOptions]
    ) -> Receiver[AgentMessage]:
        """Receive the messages to our name, and to `roles`, for as long as the `async with` block lasts:
        `async with mesh.messages.subscribe_to_messages(handle): …`. Several processes of one name share its messages. Raises Denied."""
        targets = (self._name, *roles)
        for target in targets:
            check_answers(self._connection, self._subjects, self._name, target)
        family = MessageFamily(self._connection, self._subjects)
        lanes = MessageLanes(self._subjects, self._lanes, targets)
        return Receiver(JetStream(self._connection), self._subjects, family, lanes, handler, **options)

    async def _schedule(self, when: When, to: str, type: str, content: Any, expires: float | None, options: MessageOptions) -> str:
        message = self._message(to, type, content, None, None, options)
        check(self._connection, self._subjects.message(to, self._name, message.priority), self._name, f"send {to}")
        asked = {
            "id": message.id,
            "to": to,
            "type": type,
            "content": content,
            "priority": message.priority,
            "correlation_id": message.correlation_id,
            "metadata": message.metadata,
            "expires": expires,
            **when.as_dict(),
        }
        return str((await self._ask(CONTROL_PLANE, "mesh/schedule", asked, timeout=SCHEDULE_SECONDS))["id"])

    def handled_in_bucket(self, *, roles: tuple[str, ...] = ()) -> HandledInBucket:
        """A record of what was done, kept at the broker for all who answer to our name and to `roles`:
        `async with mesh.messages.handled_in_bucket() as handled`, then `subscribe_to_messages(handle, handled=handled)`."""
        return HandledInBucket(self._connection, self._subjects, (self._name, *roles), self._ask)

    async def _lanes(self, target: str, wanted: Collection[str]) -> list[str]:
        params = {"target": target, "wanted": sorted(wanted)}
        return list((await self._ask(CONTROL_PLANE, "mesh/lanes", params, timeout=LANES_SECONDS))["lanes"])

    async def _persist(self, message: AgentMessage) -> None:
        backoff = Backoff()
        for attempt in itertools.count(1):
            try:
                await send(self._store, self._subjects, message)
                return
            except MailboxFull:
                await asyncio.sleep(backoff.wait(attempt, random.random()))

    def _message(
        self, to: str, type: str, content: Any, expires: float | None, answer_to: str | None, options: MessageOptions
    ) -> AgentMessage:
        priority, now = options.get("priority", "normal"), clock.wall_ns()
        if not to or not type or priority not in PRIORITIES:
            raise ConfigError(
                f"a message has a target, a type and a priority, not {priority!r}", hint=f"the priorities are {', '.join(PRIORITIES)}"
            )
        return AgentMessage(
            type=type,
            content=content,
            id=options.get("id") or f"{random.getrandbits(64):016x}",
            sent_ns=now,
            deadline_ns=None if expires is None else now + round(expires * 1e9),
            correlation_id=options.get("correlation_id"),
            answer_to=answer_to,
            metadata=options.get("metadata", {}),
            sender=self._name,
            target=to,
            priority=priority,
        )

    async def _listen(self) -> None:
        async with self._opening:
            if self._listening is None:
                replies = self._subjects.replies_to(self._name, self._token, quiet=True)
                self._listening = await self._connection.subscribe(replies, self._on_answer)

    def _on_answer(self, message: Message) -> None:
        future = self._answers.get(message.subject)
        if future is None or future.done():
            return
        with suppress(ValueError, RecursionError):
            said = json.loads(message.body)
            if isinstance(said, dict) and "id" in said:  # an answer of the broker's own has none
                future.set_result(said)
