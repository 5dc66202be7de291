"""Storing a message at the broker, once.

The deduplication id is a digest of subject and message id under a secret of the sender. The broker compares such ids over a whole stream,
so with a plain one anybody could store it first, and the true message would count as its copy. The subject is in the digest because who
receives a message sees its id, and must not be able to swallow the same message to somebody else.
"""

import base64
import hashlib
import hmac
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from mesh.crypto.creds import read_credentials
from mesh.errors import ApiError, MailboxFull, TooLarge
from mesh.link.connection import Connection
from mesh.link.denial import check
from mesh.link.jetstream import PubAck
from mesh.link.publisher import WindowedPublisher
from mesh.subjects import Subjects
from mesh.topology import MOST_WAITING
from mesh.wire.message import ROOM, AgentMessage

WINDOW: Final = 256

NO_ROOM: Final = 10077
"""The stream, or the subject in it, is full (nats-server, errors.json: JSStreamStoreFailedF). The text says which."""

PER_SUBJECT: Final = "per subject"


def secret_of(credentials: Path | None) -> bytes:
    """What deduplication ids are made with: the same for as long as the credentials' key is; without credentials, as this process. Raises
    ConfigError."""
    if credentials is None:
        return secrets.token_bytes(32)
    return hmac.digest(read_credentials(credentials).seed.encode(), b"mesh: ids of messages", hashlib.sha256)


class Sender:
    """Of one participant. It opens its publisher when it first sends."""

    def __init__(self, connection: Connection, subjects: Subjects, name: str, secret: bytes) -> None:
        self._connection = connection
        self._subjects = subjects
        self._name = name
        self._secret = secret
        self._publisher = WindowedPublisher(connection, window=WINDOW)
        self._open = False
        self._stack = AsyncExitStack()

    async def close(self) -> None:
        """Waits for what is on its way."""
        await self._stack.aclose()

    async def send(self, message: AgentMessage, *, msg_id: str = "") -> PubAck:
        """Store a message for `message.target`. `msg_id` is what makes it the same as another one, if not its id.

        Raises Denied, MailboxFull, TooLarge, BrokerUnavailable: it may be stored or not; sent again with the same id, it is stored once.
        """
        subject = self._subjects.message(message.target, message.sender, message.priority)
        check(self._connection, subject, self._name, f"send {message.target}")
        body = message.encode()
        if len(body) > self._connection.max_payload - ROOM:
            raise TooLarge(
                f"the message has {len(body)} bytes", hint="send where its content lies instead", limit=self._connection.max_payload - ROOM
            )
        try:
            return await (await self.publisher()).publish(subject, body, msg_id=self._digest(subject, msg_id or message.id))
        except ApiError as error:
            raise full(error, message.target, message.priority) from None

    async def publisher(self) -> WindowedPublisher:
        if not self._open:
            self._open = True
            await self._stack.enter_async_context(self._publisher)
        return self._publisher

    def _digest(self, subject: str, id: str) -> str:
        digest = hmac.digest(self._secret, f"{subject} {id}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        return base64.b32encode(digest).decode().rstrip("=")


def full(error: ApiError, target: str, priority: str) -> ApiError | MailboxFull:
    """What a sender is told."""
    if error.err_code != NO_ROOM:
        return error
    hint = "send it again later; `mesh listen` and the agents that answer to the name make room"
    if PER_SUBJECT in error.description:
        return MailboxFull(f"{target!r} has {MOST_WAITING:,} {priority} messages of this sender waiting", hint=hint, limit=MOST_WAITING)
    return MailboxFull(f"the stream of {priority} messages is full: {error.description}", hint=hint)
