"""JetStream by its own protocol: requests in JSON, acks as they come on the wire. No objects of nats-py's `js`.

Traps answered:

- nats-py's configs know only the settings of their release, and drop the others in silence. Here a request is a plain dict.
- nats-py cuts times down to microseconds. The server's are nanoseconds, and stay so here.
- A request in flight when the connection drops waits out its timeout in nats-py. `Connection.request` fails it at once.
- `msg.term()` cannot give a reason; the protocol can.

Source: NATS ADR-1 (JSON API), ADR-15 (acks and their subjects); nats-server, errors.json.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from mesh.errors import ApiError, BrokerError, BrokerUnavailable, CallTimeout, NoResponders
from mesh.link.connection import Connection, Message

API: Final = "$JS.API."

CONSUMER_NOT_FOUND: Final = 10014
STREAM_NOT_FOUND: Final = 10059
NO_MESSAGE: Final = 10037
STORE_NOT_MADE: Final = 10049
WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
"""The subject's newest message is not the one that the sender expected. 10164 is the same, said without the number."""

PASSING: Final = frozenset({10004, 10008, 10009, 10118, 10167})
"""No leader yet, a stream that is offline, too much at once: the same request succeeds a little later.

The status does not tell, as 503 is also "the stream is full"."""


class PubAck(NamedTuple):
    """The broker's word that it has stored a message. `duplicate`: it had it already, at `seq`."""

    stream: str
    seq: int
    duplicate: bool


class Delivery(NamedTuple):
    """What the reply subject of a delivered message says of it. `time_ns` is the broker's clock at storing, `pending` how many follow."""

    stream: str
    consumer: str
    deliveries: int
    seq: int
    consumer_seq: int
    time_ns: int
    pending: int


def parse_delivery(reply: str) -> Delivery:
    """Read `$JS.ACK.{stream}.{consumer}.{deliveries}.{seq}.{consumer seq}.{time}.{pending}`, also with a domain before the stream."""
    tokens = reply.split(".")
    if len(tokens) > 9:
        del tokens[2:4]
    try:
        stream, consumer, deliveries, seq, consumer_seq, time_ns, pending = tokens[2:9]
        return Delivery(stream, consumer, int(deliveries), int(seq), int(consumer_seq), int(time_ns), int(pending))
    except ValueError:
        raise BrokerError(f"no delivery of a consumer has the reply subject {reply!r}") from None


def time_ns(text: str) -> int:
    """Nanoseconds since 1970 of a time as the server writes it: `2026-01-31T12:00:00.123456789Z`, zeros at the end left out."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int(fraction[:9].ljust(9, "0"))


def parse_ack(message: Message) -> PubAck:
    """The broker's answer to a durable publish. Raises ApiError where it refused, NoResponders where no stream takes the subject."""
    if message.headers and message.headers.get("Status") == "503":
        raise NoResponders("no stream takes this subject", hint="`mesh topology plan` shows what is missing")
    answer = _answer(message.body)
    return PubAck(str(answer["stream"]), int(answer["seq"]), bool(answer.get("duplicate", False)))


class JetStream:
    """The JetStream of one connection. `timeout` is in seconds, for each request."""

    def __init__(self, connection: Connection, *, timeout: float = 5.0) -> None:
        self.connection = connection
        self.timeout = timeout

    async def api(self, tail: str, payload: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask `$JS.API.{tail}`. Raises ApiError where the server refuses, BrokerUnavailable where it does not answer."""
        body = json.dumps(payload).encode() if payload is not None else b""
        try:
            message = await self.connection.request(API + tail, body, timeout=self.timeout)
        except (NoResponders, CallTimeout) as error:
            raise BrokerUnavailable(
                f"JetStream does not answer {tail}: {error}", hint="is it enabled, and does it have a leader?"
            ) from None
        return _answer(message.body)

    async def consumer(self, stream: str, consumer: str) -> dict[str, Any] | None:
        """What the broker says of a consumer; None where it is not there."""
        try:
            return await self.api(f"CONSUMER.INFO.{stream}.{consumer}")
        except ApiError as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise
            return None

    async def publish(self, subject: str, body: bytes, *, headers: Mapping[str, str] | None = None, timeout: float | None = None) -> PubAck:
        """Publish once and wait for the ack. Where many are sent, or one must get through a restart, use WindowedPublisher.

        Raises ApiError, NoResponders, CallTimeout, and BrokerUnavailable when the connection drops: then it may have been stored or not.
        """
        return parse_ack(await self.connection.request(subject, body, timeout=timeout or self.timeout, headers=headers))

    # what the receiver of a delivered message says of it

    async def ack(self, message: Message) -> None:
        """It is done. Not confirmed: if this is lost the message comes again."""
        await self.connection.publish(message.reply, b"+ACK")

    async def nak(self, message: Message, delay: float = 0.0) -> None:
        """Deliver it again, after `delay` seconds (accurate to some milliseconds)."""
        await self.connection.publish(message.reply, b"-NAK" + (json.dumps({"delay": round(delay * 1e9)}).encode() if delay else b""))

    async def term(self, message: Message, reason: str = "") -> None:
        """Never deliver it again. The reason stands in the server's advisory."""
        await self.connection.publish(message.reply, f"+TERM {reason}".rstrip().encode())

    async def in_progress(self, message: Message) -> None:
        """Still at it: the ack wait begins anew."""
        await self.connection.publish(message.reply, b"+WPI")


def _answer(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body.decode())
        error = answer.get("error")
    except (ValueError, AttributeError):
        raise BrokerError(f"an answer that is not of JetStream: {body[:80]!r}") from None
    if error is not None:
        raise ApiError(int(error.get("code", 500)), int(error.get("err_code", 0)), str(error.get("description", "")))
    return dict(answer)
