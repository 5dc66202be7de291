"""`mesh.messages`: durable messages of one participant."""

import asyncio
import itertools
import json
import random
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypedDict, Unpack

from mesh import clock
from mesh.broker.handled import Handled
from mesh.broker.handling import Handler
from mesh.broker.letters import DeadLetters
from mesh.broker.receiving import MessageSubscription
from mesh.broker.sending import Sender, secret_of
from mesh.errors import CallTimeout, ConfigError, Disconnected, MailboxFull, RemoteError
from mesh.link.connection import Connection, Message, Subscription
from mesh.link.denial import check_answers
from mesh.link.jetstream import JetStream
from mesh.policy.retry import Backoff
from mesh.subjects import CONTROL_PLANE, PRIORITIES, Reply, Subjects
from mesh.wire.control import MESH_ERROR
from mesh.wire.message import AgentMessage

SEND_SECONDS: Final = 60.0
LANES_SECONDS: Final = 5.0
"""For the control plane to make lanes, which takes it milliseconds."""

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


class ReceiverOptions(TypedDict, total=False):
    """How messages are received; `mesh.broker.receiving` has the defaults."""

    workers: int
    prefetch: int
    handler_seconds: float
    backoff: Backoff
    handled: Handled
    shares: Mapping[str, int]


class MessageBroker:
    """Sends and receives messages under one name. What it needs it opens when it is first used."""

    def __init__(self, connection: Connection, subjects: Subjects, name: str, credentials: Path | None, ask: Ask) -> None:
        self._connection = connection
        self._subjects = subjects
        self._name = name
        self._ask = ask
        self._sender = Sender(connection, subjects, name, secret_of(credentials))
        self.dead_letters = DeadLetters(connection, subjects, self._sender)
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
        await self._sender.close()
        if self._listening is not None:
            await self._listening.unsubscribe()

    async def publish_message(
        self, to: str, type: str, content: Any = None, *, expires: float | None = None, **options: Unpack[MessageOptions]
    ) -> str:
        """Send a message to an agent, or to one of those who answer to a role, and return its id once the broker has it. It is handled once
        somebody listens. What nobody has begun to handle `expires` seconds from now becomes a dead letter.

        Raises Denied, MailboxFull (nothing was stored), TooLarge, and BrokerUnavailable where the broker did not answer: sent again with
        the same id, it is stored once.
        """
        message = self._message(to, type, content, expires, None, options)
        await self._sender.send(message)
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
                await self._store(message)
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

    def subscribe_to_messages(
        self, handler: Handler, *, roles: tuple[str, ...] = (), **options: Unpack[ReceiverOptions]
    ) -> MessageSubscription:
        """Receive the messages to our name, and to `roles`, for as long as the `async with` block lasts:
        `async with mesh.messages.subscribe_to_messages(handle): …`. Several processes of one name share its messages. Raises Denied."""
        targets = (self._name, *roles)
        for target in targets:
            check_answers(self._connection, self._subjects, self._name, target)
        return MessageSubscription(JetStream(self._connection), self._subjects, self._lanes, targets, handler, **options)

    async def _lanes(self, target: str, wanted: Collection[str]) -> list[str]:
        params = {"target": target, "wanted": sorted(wanted)}
        return list((await self._ask(CONTROL_PLANE, "mesh/lanes", params, timeout=LANES_SECONDS))["lanes"])

    async def _store(self, message: AgentMessage) -> None:
        backoff = Backoff()
        for attempt in itertools.count(1):
            try:
                await self._sender.send(message)
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
            id=options.get("id") or secrets.token_hex(8),
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
