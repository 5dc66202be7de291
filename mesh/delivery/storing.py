"""Storing something at the broker, once.

The deduplication id is a digest of subject and id under a secret of the sender. The broker compares such ids over a whole stream, so with a
plain one anybody could store it first, and the true message would count as its copy. The subject is in the digest because who receives a
message sees its id, and must not be able to swallow the same message to somebody else.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal

from mesh.crypto.creds import read_credentials
from mesh.errors import ApiError, TooLarge
from mesh.link.connection import Connection
from mesh.link.denial import check
from mesh.link.jetstream import PubAck
from mesh.link.publisher import WindowedPublisher
from mesh.wire.letter import ROOM

WINDOW: Final = 256

_NO_ROOM: Final = 10077
"""The stream, or the subject in it, is full (nats-server, errors.json: JSStreamStoreFailedF). The text says which."""

DIGEST_LENGTH: Final = 48
"""Characters of a deduplication id."""


def what_is_full(error: BaseException) -> Literal["subject", "stream"] | None:
    """What had no room, where that is why the broker refused to store something."""
    if not isinstance(error, ApiError) or error.err_code != _NO_ROOM:
        return None
    return "subject" if "per subject" in error.description else "stream"


def secret_of(credentials: Path | None) -> bytes:
    """What deduplication ids are made with: the same for as long as the credentials' key is; without credentials, as this process. Raises
    ConfigError."""
    if credentials is None:
        return secrets.token_bytes(32)
    return hmac.digest(read_credentials(credentials).seed.encode(), b"mesh: ids of messages", hashlib.sha256)


class Store:
    """What one participant stores. It opens its publisher when it first stores something."""

    def __init__(self, connection: Connection, name: str, secret: bytes) -> None:
        self._connection = connection
        self._name = name
        self._secret = secret
        self._publisher = WindowedPublisher(connection, window=WINDOW)
        self._open = False
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def close(self) -> None:
        """Waits for what is on its way."""
        await self._stack.aclose()

    async def put(self, subject: str, body: bytes, *, id: str, action: str, headers: Mapping[str, str] | None = None) -> PubAck:
        """Store it; put again with the same id on the same subject, it is stored once, and the answer is the first one's.

        `action` is what our roles have to allow, in the words of `mesh auth explain`. Raises Denied, TooLarge, ApiError where the stream
        refuses it (`what_is_full` tells), NoResponders, BrokerUnavailable: it may be stored or not.
        """
        return await (await self.submit(subject, body, id=id, action=action, headers=headers))

    async def submit(
        self, subject: str, body: bytes, *, id: str, action: str, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[PubAck]:
        """As `put`; returns when there is room to send it. So one task can keep the whole window full."""
        check(self._connection, subject, self._name, action)
        if len(body) > self._connection.max_payload - ROOM:
            limit = self._connection.max_payload - ROOM
            raise TooLarge(f"it has {len(body):,} bytes, of at most {limit:,}", hint="send where its content lies instead", limit=limit)
        if not self._open:
            async with self._opening:
                if not self._open:
                    await self._stack.enter_async_context(self._publisher)
                    self._open = True
        return await self._publisher.submit(subject, body, headers=headers, msg_id=self.digest(f"{subject} {id}"))

    def digest(self, text: str) -> str:
        """Of a text, under our secret: nobody else can make it, and nobody can tell the text from it."""
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=DIGEST_LENGTH // 2).hexdigest()
