"""Key-value buckets: reading and writing keys, and a live local copy of a bucket.

A key's *revision* is its sequence in the bucket's stream. A key is gone when its newest message is a marker: `KV-Operation: DEL` or
`PURGE` that a client wrote, or `Nats-Marker-Reason` that the server wrote when a TTL ran out.

`Bucket.get` and `create` need the right to get directly, and `snapshot` that to create consumers: they are for the control plane
and for operators. An agent puts and deletes its own keys, and reads through a `BucketView` (mesh.link.view).

Traps answered:

- nats-py's KV gives an entry with the value None for an expired key, and its `create` then fails for ever: an agent could never
  register again. Here a marker is a key that is not there, and `create` writes over it.
- nats-py's `put` has no TTL. One without a TTL lives until the bucket's own `max_age`.
- What was overwritten may come back when a broker is killed. Its file store writes nothing down when a key's newer message takes the place
  of an older one, as it finds that out again when it starts; but that the newer one expired or was purged it does write down, and then it
  takes the older one for the key's newest. So whatever is written over a value has to stay until that value is too old for the bucket: a
  marker has no TTL of its own, and goes by the bucket's `max_age`. Of a bucket that is written once, the value is purged before, which
  is written down; there a marker needs a TTL, and has one.
- A purge through the stream's API leaves no marker and is told to nobody, so it is not offered here.

Source: NATS ADR-8 (key-value), ADR-31 (direct get), ADR-43 (TTL and markers).
"""

from collections.abc import Mapping
from contextlib import aclosing
from typing import Final, NamedTuple

from mesh.errors import ApiError, BrokerError, BrokerUnavailable, CallTimeout, NoResponders, Refused
from mesh.link.jetstream import API, WRONG_LAST_SEQUENCE, JetStream, time_ns
from mesh.link.reader import read_stream
from mesh.topology import bucket_stream, bucket_subject

OPERATION: Final = "KV-Operation"
MARKER: Final = "Nats-Marker-Reason"
TTL: Final = "Nats-TTL"
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"

MARKER_SECONDS: Final = 60
"""How long the marker of a deleted key stays in a bucket that is written once. Copies hear of it at once, and one that was away reads the
bucket anew."""

PER_SUBJECT: Final = "maximum messages per subject exceeded"
"""Of a key that is written once (nats-server, store.go); what a full stream says has the same code."""

_ATTEMPTS: Final = 5


class Entry(NamedTuple):
    """A key that is there. `time_ns` is the broker's clock (UTC) when it was put."""

    key: str
    value: bytes
    revision: int
    time_ns: int


def gone(headers: Mapping[str, str] | None) -> str | None:
    """Why a message says that its key is gone (`deleted`, `expired`), or None where it is a value."""
    if headers is None:
        return None
    if headers.get(OPERATION) in ("DEL", "PURGE"):
        return "deleted"
    reason = headers.get(MARKER)
    return None if reason is None else "expired" if reason == "MaxAge" else "deleted"


class Bucket:
    """The keys of one bucket. A key is one or more subject tokens, as `mesh.subjects.escape` makes them. Of a bucket that is `written_once`
    (`BucketSpec`) a key is removed before it is written again, which needs the right to purge."""

    def __init__(self, js: JetStream, name: str, *, written_once: bool = False) -> None:
        self.name = name
        self._written_once = written_once
        self._js = js
        self._stream = bucket_stream(name)

    async def put(self, key: str, value: bytes, *, ttl: int | None = None, revision: int | None = None) -> int:
        """Write, and return the new revision. `ttl` is in whole seconds, at least 1. In a bucket on disk that is not written once, what has
        one may be followed by the value that it was written over, if the broker is killed (see above).

        With `revision` only if that is the key's newest (0: none); else raises Refused, as somebody else has written meanwhile.
        """
        headers: dict[str, str] = {}
        if ttl is not None:
            headers[TTL] = f"{ttl}s"
        return await self._write(key, value, headers, revision)

    async def delete(self, key: str, *, revision: int | None = None) -> int:
        """Put a marker in the key's place, whether it is there or not. Returns the marker's revision."""
        return await self._write(key, b"", {OPERATION: "DEL", **({TTL: f"{MARKER_SECONDS}s"} if self._written_once else {})}, revision)

    async def create(self, key: str, value: bytes, *, ttl: int | None = None) -> int:
        """Write a key that is not there, or is marked as gone. Raises Refused where it is there."""
        for _ in range(_ATTEMPTS):
            entry, newest = await self._newest(key)
            if entry is not None:
                break
            try:
                return await self.put(key, value, ttl=ttl, revision=newest)
            except Refused:
                continue  # another creator, or the marker ran out between the reading and the writing
        raise Refused(f"the key {key} of {self.name} is there already", key=key)

    async def get(self, key: str) -> Entry | None:
        """The key's value, or None where it is not there."""
        return (await self._newest(key))[0]

    async def clear(self, key: str) -> None:
        """Remove a key without a marker: nobody is told. For what is no entry, but lies in the place of one."""
        await self._js.api(f"STREAM.PURGE.{self._stream}", {"filter": bucket_subject(self.name, key)})

    async def snapshot(self, keys: str = ">") -> dict[str, Entry]:
        """All keys that match the pattern, as they are now."""
        found: dict[str, Entry] = {}
        prefix = len(bucket_subject(self.name, ""))
        async with aclosing(read_stream(self._js.connection, self._stream, subjects=(bucket_subject(self.name, keys),))) as lists:
            async for messages in lists:
                for message in messages:
                    key = message.subject[prefix:]
                    if gone(message.headers):
                        found.pop(key, None)
                    else:
                        found[key] = Entry(key, message.body, message.seq, message.time_ns)
        return found

    async def _write(self, key: str, value: bytes, headers: dict[str, str], revision: int | None) -> int:
        if self._written_once:
            newest = (await self._newest(key))[1]
            if revision not in (None, newest):
                raise Refused(f"the key {key} of {self.name} was written by somebody else", key=key, revision=revision)
            if newest:
                await self.clear(key)
            revision = 0
        if revision is not None:
            headers[EXPECTED] = str(revision)
        try:
            return (await self._js.publish(bucket_subject(self.name, key), value, headers=headers)).seq
        except NoResponders:
            raise BrokerError(f"there is no bucket {self.name}", hint="`mesh topology apply` creates what is missing") from None
        except ApiError as error:
            if error.err_code in WRONG_LAST_SEQUENCE or (self._written_once and error.description == PER_SUBJECT):
                raise Refused(f"the key {key} of {self.name} was written by somebody else", key=key, revision=revision) from None
            raise

    async def _newest(self, key: str) -> tuple[Entry | None, int]:
        """The entry, and the sequence of the key's newest message (0: none), which may be a marker."""
        subject = f"{API}DIRECT.GET.{self._stream}.{bucket_subject(self.name, key)}"
        try:
            message = await self._js.connection.request(subject, b"", timeout=self._js.timeout)
        except (NoResponders, CallTimeout) as error:
            raise BrokerUnavailable(f"the bucket {self.name} does not answer: {error}") from None
        headers = message.headers or {}
        if headers.get("Status") == "404":
            return None, 0
        if "Status" in headers:
            raise ApiError(int(headers["Status"]), 0, headers.get("Description", ""))
        revision = int(headers["Nats-Sequence"])
        if gone(headers):
            return None, revision
        return Entry(key, message.body, revision, time_ns(headers["Nats-Time-Stamp"])), revision
