"""One supervised connection: whatever ends it, it says so at once, comes back, and has its subscriptions again."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import nats.aio.client
import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from mesh import clock
from mesh.errors import BrokerError, BrokerUnavailable, BrokerUnsuitable, CallTimeout, NoResponders, TooLarge
from mesh.link.client import FastClient, _Lane
from mesh.link.connection import Connection, Message
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Proxy, Signals, back, up

pytestmark = CUT_WARNINGS


class Heard:
    """What a subscription brought."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.signals = Signals()

    def __call__(self, message: Message) -> None:
        self.bodies.append(message.body)
        self.signals.tell()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[Connection, Heard]]:
    async with asyncio.timeout(25), await Connection.open(url, name="test") as connection:
        await connection.subscribe("here", heard := Heard())
        yield connection, heard


async def works(connection: Connection, heard: Heard, text: bytes = b"still") -> None:
    """Its subscription brings what is sent, and requests are answered."""
    await connection.publish("here", text)
    await heard.signals.until(lambda: heard.bodies and heard.bodies[-1] == text)
    with pytest.raises(NoResponders):
        await connection.request("nobody.here", b"", timeout=5)


def client_of(connection: Connection) -> FastClient:
    return connection._client


async def in_lane(connection: Connection) -> None:
    """Wait until the fast lane is taken: at the first moment without a half-read frame."""
    async with asyncio.timeout(5):
        while client_of(connection)._wire is None:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.01)


# ---- what can end it


def kill_reading_task(connection: Connection) -> None:
    task = client_of(connection)._reading_task
    assert task is not None
    task.cancel()


def send_oversize(connection: Connection) -> None:
    """Past our own check: the server answers with a -ERR that closes."""
    client_of(connection).post(b"PUB here  9000000\r\n")


def send_nonsense(connection: Connection) -> None:
    client_of(connection).post(b"THIS IS NO PROTOCOL\r\n")


def subscribe_wrongly(connection: Connection) -> None:
    client_of(connection).post(b"SUB a..b >\r\n")


def abort(connection: Connection) -> None:
    transport = client_of(connection)._transport
    assert isinstance(transport, TcpTransport)
    assert transport._io_writer is not None
    transport._io_writer.transport.abort()


@pytest.mark.parametrize("disturb", [kill_reading_task, send_oversize, send_nonsense, abort])
async def test_it_comes_back_from(broker: Broker, disturb: Callable[[Connection], None]) -> None:
    async with connected(broker.url) as (connection, heard):
        await works(connection, heard, b"before")
        await in_lane(connection)
        number = connection.client_id
        downs: list[bool] = []
        connection.on_down(lambda: downs.append(connection.connected))
        await back(connection, lambda: disturb(connection))
        assert downs == [False]
        assert connection.client_id != number
        await works(connection, heard)


@pytest.mark.parametrize("line", [b"MSG here x 5\r\nhello\r\n", b"MSG\r\n", b"-ERR 'Whatever'\r\n", b"MSG here 1 -5\r\n"])
async def test_it_comes_back_from_a_broker_that_says(broker: Broker, line: bytes) -> None:
    async with Proxy(broker.url) as proxy, connected(proxy.url) as (connection, heard):
        await works(connection, heard, b"before")
        for ready in (up, in_lane):
            await ready(connection)
            await back(connection, lambda: proxy.to_client(line))
            await works(connection, heard)


async def test_it_comes_back_when_the_broker_was_killed(broker: Broker) -> None:
    async with connected(broker.url) as (connection, heard):
        await back(connection, broker.kill)
        await works(connection, heard)


@pytest.mark.parametrize(
    "greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {\r\n", b"INFO {}\r\n", b"\xff\x00" * 100, b"INFO 5\r\n"]
)
@pytest.mark.parametrize("first", [abort, send_nonsense])
async def test_it_outlasts_something_else_on_the_brokers_port(broker: Broker, greeting: bytes, first: Callable[[Connection], None]) -> None:
    """A port that another program took for a moment, a proxy that is being restarted."""
    async with Proxy(broker.url) as proxy, connected(proxy.url) as (connection, heard):
        await works(connection, heard, b"before")
        proxy.greeting = greeting
        lost = asyncio.Event()
        connection.on_down(lost.set)
        first(connection)
        await lost.wait()
        before = proxy.connections
        async with asyncio.timeout(12):
            while proxy.connections < before + 2:  # noqa: ASYNC110 - it tries on; nobody tells us
                await asyncio.sleep(0.02)
        proxy.greeting = None
        await up(connection)
        await works(connection, heard)


async def test_it_is_closed_for_good_while_the_broker_is_away(broker: Broker) -> None:
    async with Proxy(broker.url) as proxy, asyncio.timeout(10):
        for disturb in (abort, send_nonsense):
            proxy.refuse = False
            connection = await Connection.open(proxy.url, name="test")
            proxy.refuse = True
            lost = asyncio.Event()
            connection.on_down(lost.set)
            disturb(connection)
            await lost.wait()
            await connection.close()
            await connection.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert [task for task in others if "nats" in repr(task.get_coro()) or "connection" in task.get_name()] == []


# ---- what it does while it is down


async def test_while_it_is_down_everything_fails_at_once(broker: Broker) -> None:
    async with Proxy(broker.url) as proxy, connected(proxy.url) as (connection, heard):
        await connection.subscribe("silent", lambda _: None)
        waiting = [asyncio.create_task(connection.request("silent", b"", timeout=20)) for _ in range(20)]
        await connection.flush()
        lost = asyncio.Event()
        connection.on_down(lost.set)
        proxy.refuse = True
        proxy.cut()
        await lost.wait()
        begun = clock.monotonic()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, BrokerUnavailable) for result in results)
        with pytest.raises(BrokerUnavailable):
            await connection.publish("here", b"lost")
        with pytest.raises(BrokerUnavailable):
            connection.send("here", b"lost")
        with pytest.raises(BrokerUnavailable):
            await connection.request("here", b"lost", timeout=5)
        assert clock.monotonic() - begun < 0.5
        assert not connection.connected
        proxy.refuse = False
        await up(connection)
        await works(connection, heard)
        assert heard.bodies == [b"still"], "what was refused is not sent later"


async def test_a_subscription_made_or_ended_meanwhile_is_as_it_should_be(broker: Broker) -> None:
    async with Proxy(broker.url) as proxy, connected(proxy.url) as (connection, heard):
        ended = Heard()
        subscription = await connection.subscribe("here", ended)
        for disturb in (proxy.cut, lambda: send_nonsense(connection)):
            await back(connection, disturb)
            await works(connection, heard)
            heard.bodies.clear()
        assert ended.bodies == [b"still", b"still"]
        await subscription.unsubscribe()
        await subscription.unsubscribe()
        await back(connection, proxy.cut)
        await works(connection, heard)
        assert ended.bodies == [b"still", b"still"]
        assert heard.bodies == [b"still"]


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


# ---- the seams


async def test_the_private_parts_of_nats_py_are_there(broker: Broker) -> None:
    """mesh.link.client stands on these. If this fails after an upgrade, read its head before anything else."""
    async with connected(broker.url) as (connection, _):
        client = client_of(connection)
        for name in ("_pending", "_pending_data_size", "_flush_queue", "_reading_task", "_server_info", "_transport", "_subs", "_ps"):
            assert hasattr(client, name), name
        assert isinstance(client._pending, list)
        assert isinstance(client._transport, TcpTransport)
        assert client._transport._io_writer is not None
        assert isinstance(client._transport._io_reader, asyncio.StreamReader)
        assert hasattr(client._transport._io_reader, "_buffer")
        assert isinstance(client._ps, Parser)
        assert (client._ps.state, bytes(client._ps.buf)) == (AWAITING_CONTROL_LINE, b"")
        await in_lane(connection)
        transport = cast(Any, client._transport._io_writer.transport)
        assert isinstance(transport.get_protocol(), _Lane), "the fast lane is taken"
        assert client._parse_header_lines(b"A: b\r\nC: d\r\n\r\n") == {"A": "b", "C": "d"}
        made = await client.subscribe("x")
        assert client._subs[made._id] is made
        await made.unsubscribe()
    source = inspect.getsource(nats.aio.client)
    assert "self.msg_class" in source or "msg_class(" in source or "_build_message" in inspect.getsource(Client)
