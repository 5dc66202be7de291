"""`mesh.messages`: durable messages of one participant.

This module is long because it is the one door: each way to send, receive or settle has a method here, and each of these is a few lines.
"""

import asyncio
import itertools
import json
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final, Self, Unpack

from mesh import clock
from mesh.background import Background
from mesh.broker.family import UNANSWERABLE, MessageFamily, MessageLanes, MessageLetters
from mesh.broker.mailboxes import Mailbox, Mailboxes, Over
from mesh.broker.receiving import MessageSubscription, settle
from mesh.broker.sending import MessageOptions, build, send, submit, told
from mesh.broker.topics import ALL, as_message, event_options, role_of
from mesh.delivery import DeadLetters, HandledInBucket, Handler, LetterFamily, Participant, Receiver, ReceiverOptions, Retry
from mesh.errors import CallTimeout, ConfigError, Disconnected, MailboxFull, RemoteError
from mesh.events import Event as CloudEvent
from mesh.events import EventBridge, EventLetters, EventOptions
from mesh.jobs import JobLetters, JobOptions, JobRecord, Jobs
from mesh.link.connection import Message, Subscription
from mesh.link.denial import check, check_answers
from mesh.link.jetstream import JetStream, PubAck
from mesh.policy.retry import Backoff
from mesh.policy.when import When, at_ns, in_a_while, read_when
from mesh.subjects import CONTROL_PLANE, Cast, Event, Job, Msg, Reply
from mesh.wire.control import MESH_ERROR
from mesh.wire.message import AgentMessage

SEND_SECONDS: Final = 60.0
LANES_SECONDS: Final = 5.0
"""For the control plane to make lanes, which takes it milliseconds."""

SCHEDULE_SECONDS: Final = 10.0
"""For the control plane to keep a schedule, or to read all that there are."""


MAILBOXES_SECONDS: Final = 30.0
"""For it to look through all that waits."""


class MessageBroker:
    """Sends and receives messages under one name. What it needs it opens when it is first used."""

    def __init__(self, me: Participant, events: Callable[[], EventBridge], jobs: Jobs, target: Callable[[str], Awaitable[object]]) -> None:
        """`target` raises NoSuchAgent where nobody has a name."""
        connection, subjects = me.connection, me.subjects
        self._connection = connection
        self._subjects = subjects
        self._name = me.name
        self._ask = me.ask
        self._events = events
        self._jobs = jobs
        self._background = Background()
        self._mailboxes = Mailboxes(self.mailbox, target, self._background)
        self._subscriptions: set[MessageSubscription] = set()
        self._store = me.store()
        letters = EventLetters(subjects)
        families: dict[type, LetterFamily] = {Msg: MessageLetters(subjects), Event: letters, Cast: letters, Job: JobLetters(subjects)}
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
        await self._background.end()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(Disconnected("this process leaves the mesh"))
        await self._store.close()
        if self._listening is not None:
            await self._listening.unsubscribe()

    async def request_response(
        self, to: str, type: str, content: Mapping[str, Any] | None = None, *, async_: bool = True, **options: Unpack[JobOptions]
    ) -> Any:
        """Have the tool `type` of an agent called as a job, with `content` as its arguments (`mesh.jobs`). With `async_` its id, at once:
        how it stands is asked with `mesh.jobs`, or told (`subscribe_to_response`). Else its result, once it has one. Raises as
        `Jobs.submit`, and JobFailed, JobCancelled."""
        job = await self._jobs.submit(to, type, content, **options)
        return job.id if async_ else await self._jobs.result(job.id)

    def subscribe_to_response(self, id: str, callback: Callable[[JobRecord], Awaitable[object] | None]) -> "asyncio.Task[None]":
        """Call `callback` with the job's record once it is over, as long as this process is on the mesh. Cancel the task to hear no
        more."""

        async def tell() -> None:
            said = callback(await self._jobs.wait(id))
            if said is not None:
                await said

        return self._background.own(asyncio.create_task(tell(), name=f"response of {id}"))

    async def publish_message(
        self,
        to: str | None = None,
        type: str | None = None,
        content: Any = None,
        *,
        topic: str | None = None,
        expires: float | None = None,
        delay: float | None = None,
        at: datetime | str | None = None,
        **options: Unpack[MessageOptions],
    ) -> str:
        """Send a message to an agent, or to one of those who answer to a role, and return its id once the broker has it. It is handled once
        somebody listens. What nobody has begun to handle `expires` seconds from now becomes a dead letter.

        With a `topic` instead (`publish_message(topic="system.update", content=…)`) it goes to whoever has subscribed to that topic
        (`subscribe_to_messages(topics=…)`): to each that is durable, once. Its type is the topic, unless it has one of its own. After
        `expires` seconds, at least one, it is gone then.

        With `delay` (seconds) or `at` (a time with its zone, or ISO 8601) it is sent then, as `schedule_message` has it; `expires` counts
        from there.

        Where more than 100,000 messages wait for the target, from all its senders, it goes out slowly; with `over="refuse"` it is
        MailboxFull instead.

        Raises Denied, MailboxFull (nothing was stored), TooLarge, and BrokerUnavailable where the broker did not answer: sent again with
        the same id, it is stored once.
        """
        if topic is not None and to is None and delay is None and at is None:
            return await self._events().publish(topic, content, **self._event_options(type or topic, expires, options))
        if to is None or type is None or topic is not None:
            raise ConfigError(
                "a message of a type goes to a name, now or later, or else now to a topic",
                hint="say publish_message(to, type, content), or publish_message(topic=…, content=…)",
            )
        if delay is not None or at is not None:
            due = When(at_ns=at_ns(at)) if delay is None else in_a_while(delay, clock.wall_ns())
            return await self._schedule(due, to, type, content, expires, options)
        message = build(self._name, to, type, content, expires, None, options)
        if (turn := self._mailboxes.sending(to, options.get("over", "slow"))) is not None:
            await turn
        await send(self._store, self._subjects, message)
        return message.id

    async def submit_message(
        self, to: str, type: str, content: Any = None, *, expires: float | None = None, **options: Unpack[MessageOptions]
    ) -> "asyncio.Future[str]":
        """As `publish_message` to a name; returns when there is room to send it, and the future ends when the broker has it. So one task
        can keep a whole window of messages on their way, which the broker gets in this order."""
        message = build(self._name, to, type, content, expires, None, options)
        if (turn := self._mailboxes.sending(to, options.get("over", "slow"))) is not None:
            await turn
        stored = await submit(self._store, self._subjects, message)
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stored.add_done_callback(partial(_end, done, message))
        return done

    async def publish_messages(self, messages: Iterable[tuple[str, str, Any]], **options: Unpack[MessageOptions]) -> list[str]:
        """Send many: target, type and content of each. Returns their ids once the broker has them all; a window of them is on its way at
        once, in this order, and none waits for another to fill a batch. Raises as `publish_message` for the first that fails: those before
        it are stored, of the others any may be. Each has an id of its own."""
        if "id" in options:
            raise ConfigError("several messages with one id would be stored as one", hint="leave the id out, or send each by itself")
        built = [build(self._name, to, type, content, None, None, options) for to, type, content in messages]
        on_their_way: list[asyncio.Future[PubAck]] = []
        refused: Exception | None = None
        for message in built:
            try:
                if (turn := self._mailboxes.sending(message.target, options.get("over", "slow"))) is not None:
                    await turn
                on_their_way.append(await submit(self._store, self._subjects, message))
            except Exception as error:
                refused = error
                break
        stored = await asyncio.gather(*on_their_way, return_exceptions=True)
        for message, said in zip(built, stored, strict=False):
            if isinstance(said, BaseException):
                raise told(said, message)
        if refused is not None:
            raise refused
        return [message.id for message in built]

    async def broadcast(
        self, type: str, content: Any = None, *, to: str = ALL, expires: float | None = None, **options: Unpack[MessageOptions]
    ) -> str:
        """Send a message to all, or to all who answer to a role; it stays until each durable subscription with `broadcasts` has had it.
        Returns its id once the broker has it. Raises Denied, EventsFull, TooLarge, BrokerUnavailable."""
        return await self._events().broadcast(role_of(to), content, **self._event_options(type, expires, options))

    def acknowledge_message(self, message: AgentMessage | str, result: Any = None) -> bool:
        """With `ack="manual"`: a message is done, named by itself or by its id. `result` goes to its sender, if it waits. False where it is
        not in our hands (any more): it comes again, or has ended."""
        return settle(self._subscriptions, message, result, None)

    def retry_message(self, message: AgentMessage | str, *, after: float | None = None, why: str = "") -> bool:
        """With `ack="manual"`: a message is to come again, after `after` seconds or the usual backoff. It counts as an attempt."""
        return settle(self._subscriptions, message, None, Retry(why, after=after))

    async def send_message(
        self, to: str, type: str, content: Any = None, *, timeout: float = SEND_SECONDS, **options: Unpack[MessageOptions]
    ) -> Any:
        """Send a message, wait until it was handled, and return what the handler returned.

        Where the target has no room it is tried again, with a backoff, within `timeout` seconds. After these nobody begins to handle it.
        Raises as `publish_message`, RemoteError where it became a dead letter (`data["mesh"]` says why) or what the handler returned cannot
        be sent (`unanswerable`), and CallTimeout: it may have been handled, or be handled now.
        """
        number = next(self._numbers)
        subject = self._subjects.build(Reply(self._name, to, self._token, str(number), quiet=True))
        message = build(self._name, to, type, content, timeout, subject, options)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[subject] = future
        try:
            async with asyncio.timeout(timeout):
                await self._listen()
                await self._persist(message, options.get("over", "slow"))
                answer = await future
        except TimeoutError:
            raise CallTimeout(f"{to!r} did not answer the message within {timeout:g} s", id=message.id) from None
        finally:
            del self._answers[subject]
        error = answer.get("error")
        if isinstance(error, dict):
            said = {"mesh": error.get("code"), "id": message.id}
            what = "did it, and cannot answer" if error.get("code") == UNANSWERABLE else "did not do it"
            raise RemoteError(MESH_ERROR, f"{to!r} {what}: {error.get('message')}", said)
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
        self,
        handler: Handler[AgentMessage],
        *,
        roles: tuple[str, ...] = (),
        topics: tuple[str, ...] = (),
        broadcasts: bool = False,
        name: str = "messages",
        **options: Unpack[ReceiverOptions],
    ) -> MessageSubscription:
        """Receive the messages to our name, and to `roles`, for as long as the `async with` block lasts:
        `async with mesh.messages.subscribe_to_messages(handle): …`. Several processes of one name share its messages.

        `topics` (`*` is any word, `>` the rest) and `broadcasts` (to all, and to `roles`) come too, from when they were first subscribed to
        under this `name`: durable, so that what was sent while we were away is there. Each of them has `workers` of its own. With
        `ack="manual"` the handler's return says nothing, and each message is settled by `acknowledge_message` or `retry_message`, within
        `handler_seconds`. Raises Denied.
        """
        targets = (self._name, *roles)
        for target in targets:
            check_answers(self._connection, self._subjects, self._name, target)
        family = MessageFamily(self._connection, self._subjects)
        lanes = MessageLanes(self._subjects, self._lanes, targets)
        receiver = Receiver(JetStream(self._connection), self._subjects, family, lanes, handler, **options)

        async def heard(event: CloudEvent) -> Any:
            return await handler(as_message(event))

        others = [self._events().subscribe(topic, heard, name=f"{name}/{topic}", **options) for topic in topics]
        if broadcasts:
            others.append(self._events().subscribe_to_broadcasts(heard, roles=roles, name=name, **options))
        return MessageSubscription(receiver, others, self._subscriptions)

    def _event_options(self, type: str, expires: float | None, options: MessageOptions) -> EventOptions:
        return event_options(
            type,
            options.get("priority", "normal"),
            options.get("id"),
            options.get("correlation_id"),
            options.get("metadata", {}),
            expires,
        )

    async def _schedule(self, when: When, to: str, type: str, content: Any, expires: float | None, options: MessageOptions) -> str:
        message = build(self._name, to, type, content, None, None, options)
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

    async def mailbox(self, name: str) -> Mailbox:
        """What waits for a name to which we may send, or which is ours. Raises Denied, NoSuchAgent where no control plane runs."""
        (said,) = (await self._ask(CONTROL_PLANE, "mesh/mailbox", {"target": name}, timeout=LANES_SECONDS))["mailboxes"]
        return Mailbox(said["lanes"], said["listened"])

    async def mailboxes(self) -> dict[str, Mailbox]:
        """What waits for anybody, the fullest first. For operators."""
        said = (await self._ask(CONTROL_PLANE, "mesh/mailbox", {}, timeout=MAILBOXES_SECONDS))["mailboxes"]
        return {each["name"]: Mailbox(each["lanes"], each["listened"]) for each in said}

    def handled_in_bucket(self, *, roles: tuple[str, ...] = ()) -> HandledInBucket:
        """A record of what was done, kept at the broker for all who answer to our name and to `roles`:
        `async with mesh.messages.handled_in_bucket() as handled`, then `subscribe_to_messages(handle, handled=handled)`."""
        return HandledInBucket(self._connection, self._subjects, (self._name, *roles), self._ask)

    async def _lanes(self, target: str, wanted: Collection[str]) -> list[str]:
        params = {"target": target, "wanted": sorted(wanted)}
        return list((await self._ask(CONTROL_PLANE, "mesh/lanes", params, timeout=LANES_SECONDS))["lanes"])

    async def _persist(self, message: AgentMessage, over: Over) -> None:
        backoff = Backoff()
        for attempt in itertools.count(1):
            try:
                if (turn := self._mailboxes.sending(message.target, over)) is not None:
                    await turn
                await send(self._store, self._subjects, message)
                return
            except MailboxFull:
                await asyncio.sleep(backoff.wait(attempt, random.random()))

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


def _end(done: "asyncio.Future[str]", message: AgentMessage, stored: "asyncio.Future[PubAck]") -> None:
    error = None if stored.cancelled() else stored.exception()
    if done.done():  # who sent it waits no more
        return
    if stored.cancelled():
        done.cancel()
    elif error is not None:
        done.set_exception(told(error, message))
    else:
        done.set_result(message.id)
