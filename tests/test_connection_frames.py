"""What one connection takes and refuses to send, and that frames come whole, in order and to their handlers."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from mesh.errors import BrokerError, BrokerUnavailable, BrokerUnsuitable, CallTimeout, TooLarge
from mesh.link.client import parse_headers
from mesh.link.connection import Connection, Message
from tests.conftest import Broker
from tests.connections import abort, connected, in_lane, works
from tests.helpers import CUT_WARNINGS, Proxy, Signals, back

BARE = True  # what is tested here is below all identities

pytestmark = CUT_WARNINGS


# ---- what it refuses


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(broker: Broker) -> None:
    async with connected(broker.url) as (connection, heard):
        limit, number = connection.max_payload, connection.client_id
        with pytest.raises(TooLarge):
            await connection.publish("here", b"x" * (limit + 1))
        with pytest.raises(TooLarge):
            await connection.publish("here", b"x" * (limit - 100), headers={"a": "b" * 200})
        with pytest.raises(TooLarge):
            await connection.publish("here", b"", headers={"a": "b" * limit})
        await connection.publish("here", b"x" * limit)
        await heard.signals.until(lambda: heard.bodies)
        await works(connection, heard)
        assert connection.client_id == number


@pytest.mark.parametrize("headers", [{"a": "b\r\nc: d"}, {"a\r\nb": "c"}, {"a:b": "c"}, {"a": "\n"}])
async def test_a_header_that_would_be_two_is_refused(broker: Broker, headers: dict[str, str]) -> None:
    async with connected(broker.url) as (connection, heard):
        with pytest.raises(BrokerError, match="header"):
            await connection.publish("here", b"", headers=headers)
        await works(connection, heard)


async def test_a_port_without_a_broker_is_told(broker: Broker) -> None:
    async with asyncio.timeout(15), Proxy(broker.url) as proxy:
        for greeting in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {}\r\n", b"INFO {\r\n", b""):
            proxy.greeting = greeting
            with pytest.raises((BrokerUnavailable, BrokerUnsuitable)):
                await Connection.open(proxy.url, name="test", connect_timeout=1.0)
        with pytest.raises(BrokerUnavailable, match="no broker"):
            await Connection.open("nats://127.0.0.1:1", name="test", connect_timeout=1.0)


# ---- handlers and frames


async def test_a_handler_that_fails_disturbs_no_other(broker: Broker) -> None:
    def fail(message: Message) -> None:
        raise RuntimeError("a mistake")

    async with connected(broker.url) as (connection, heard):
        await connection.subscribe("here", fail)
        number = connection.client_id
        for _ in range(10):
            await works(connection, heard)
        assert connection.client_id == number


async def test_a_callback_that_fails_disturbs_no_other(broker: Broker) -> None:
    def fail() -> None:
        raise RuntimeError("a mistake")

    async with connected(broker.url) as (connection, heard):
        connection.on_down(fail)
        connection.on_up(fail)
        await back(connection, lambda: abort(connection))
        await works(connection, heard)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 16])
async def test_frames_are_whole_in_whatever_pieces_they_come(broker: Broker, chunk: int) -> None:
    async with Proxy(broker.url) as proxy, connected(proxy.url) as (connection, _):
        await in_lane(connection)
        proxy.chunk = chunk
        got: list[Message] = []
        signals = Signals()

        def hear(message: Message) -> None:
            got.append(message)
            signals.tell()

        await connection.subscribe("pieces.>", hear)
        sent: list[tuple[bytes, dict[str, str] | None]] = [
            (b"", None),
            (b"\r\n", None),
            (b"MSG here 1 5\r\nhello\r\n", None),
            (b"x" * 500, {"Key": "value: \u00e9", "Status": "503", "Other": ""}),
            (b"PING\r\n", {"a": "b"}),
            (b"", {"a": "b"}),
        ] * 5
        for number, (body, headers) in enumerate(sent):
            await connection.publish(f"pieces.{number}", body, headers=headers, reply="back" if number % 2 else "")
        await signals.until(lambda: len(got) == len(sent))
        for number, (message, (body, headers)) in enumerate(zip(got, sent, strict=True)):
            assert (message.subject, message.body, message.reply) == (f"pieces.{number}", body, "back" if number % 2 else "")
            if headers is None:
                assert message.headers is None
            else:
                expected = {key: value for key, value in headers.items() if key != "Status"}
                assert message.headers == expected


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"a: b", b"a:c", b"\xc3\xa9: x", b"a b: c", b": x", b"\x1c:", b"k:\t\xff "])))
def test_headers_are_read_as_nats_py_reads_them(lines: list[bytes]) -> None:
    block = b"\r\n".join(lines) + b"\r\n\r\n"
    assert parse_headers(block) == Client._parse_header_lines(block)


async def test_order_is_kept_between_send_and_publish_and_over_many(broker: Broker) -> None:
    async with connected(broker.url) as (connection, heard):
        for number in range(5000):
            if number % 3:
                connection.send("here", b"%d" % number)
            else:
                await connection.publish("here", b"%d" % number)
        await heard.signals.until(lambda: len(heard.bodies) == 5000)
        assert heard.bodies == [b"%d" % number for number in range(5000)]


async def test_a_request_times_out_and_answers_come_to_their_own(broker: Broker) -> None:
    async with connected(broker.url) as (connection, _):
        await connection.subscribe("silent", lambda _: None)
        with pytest.raises(CallTimeout, match="within"):
            await connection.request("silent", b"", timeout=0.05)
        await connection.subscribe("echo", lambda message: connection.send(message.reply, message.body))
        answers = await asyncio.gather(*(connection.request("echo", b"%d" % number, timeout=5) for number in range(200)))
        assert [answer.body for answer in answers] == [b"%d" % number for number in range(200)]
        assert connection._requests == {}


async def test_what_waits_for_the_socket_is_bounded(broker: Broker) -> None:
    async with connected(broker.url) as (connection, _):
        body = b"x" * connection.max_payload

        def flood() -> None:
            for _ in range(200):
                connection.send("nowhere", body)

        with pytest.raises(BrokerUnavailable, match="does not take"):
            flood()
