"""Readers: consumers that somebody pulls from who may not make consumers.

Whoever may create consumers may have the broker publish anywhere (`deliver_subject`), and subjects cannot forbid that. So only the control
plane and operators make them, and everybody else asks it (`mesh/reader`). A reader is pulled, takes no acks, and goes by itself when nobody
pulls. Who knows its name may pull, and the broker cannot hold a reader to one user: so the name is a secret of 128 bits.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mesh.errors import ApiError, BrokerUnavailable, CallError, ConfigError, Denied, NoSuchAgent
from mesh.link.connection import Connection
from mesh.link.jetstream import JetStream
from mesh.link.reader import Made, make_consumer
from mesh.link.reconcile import ensure
from mesh.subjects import rights_api
from mesh.topology import ConsumerSpec, reader_spec
from mesh.wire.entries import ReaderQuestion

Ask = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Asks the control plane's `mesh/reader` with these params. Raises CallError."""


def secret_name() -> str:
    return f"reader-{secrets.token_hex(16)}"


async def make_reader(js: JetStream, bucket: str, keys: tuple[str, ...] = (">",)) -> str:
    """Make a reader of these keys of a bucket, and return its name. For those who may create consumers."""
    name = secret_name()
    await ensure(js, reader_spec(bucket, name, keys))
    return name


class Readers:
    """Has readers made for one participant: by itself where its rights allow that, else by the control plane."""

    def __init__(self, connection: Connection, ask: Ask) -> None:
        self._connection = connection
        self._ask = ask

    async def of_bucket(self, bucket: str, keys: tuple[str, ...] = ()) -> str:
        """A reader of what of a bucket we may see; of the schemas, these keys. Where no control plane runs, and we may, we make our own."""
        try:
            return await self._asked(ReaderQuestion(bucket=bucket, filters=keys))
        except NoSuchAgent as nobody:
            try:
                return await make_reader(JetStream(self._connection), bucket, keys or (">",))
            except ApiError as error:
                raise ConfigError(
                    f"the broker has no bucket {bucket!r}: {error}", hint="start `mesh up`, or run `mesh topology apply`"
                ) from None
            except Denied:
                nobody.hint = "no control plane runs that could show who is there: start `mesh up`"
                raise nobody from None

    async def of_stream(self, spec: ConsumerSpec) -> Made:
        """A reader of a stream, for `read_stream`. Raises Denied, BrokerUnavailable where nobody can make it now, ApiError."""
        rights = self._connection.rights
        if rights is None or rights.may_publish(rights_api(f"CONSUMER.CREATE.{spec.stream}.{spec.name}")):
            return await make_consumer(JetStream(self._connection), spec)
        question = ReaderQuestion(stream=spec.stream, filters=spec.filters, start_seq=spec.start_seq, start_time_ns=spec.start_time_ns)
        try:
            said = await self._ask(question.model_dump(exclude_defaults=True))
            return Made(str(said["consumer"]), str(said["created"]), int(said["last_seq"]), int(said["waiting"]))
        except Denied:
            raise
        except CallError as problem:
            raise BrokerUnavailable(
                f"no control plane makes a reader of {spec.stream}: {problem.message}", hint="start `mesh up`, or read as `operator`"
            ) from None

    async def _asked(self, question: ReaderQuestion) -> str:
        return str((await self._ask(question.model_dump(exclude_defaults=True)))["consumer"])
