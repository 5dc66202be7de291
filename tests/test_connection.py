"""One supervised connection: whatever ends it, it says so at once, comes back, and has its subscriptions again."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, cast

import nats.aio.client
import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from mesh import clock
from mesh.errors import BrokerUnavailable
from mesh.link.client import _Lane
from mesh.link.connection import Connection
from tests.conftest import Broker
from tests.connections import Heard, abort, client_of, connected, in_lane, works
from tests.helpers import CUT_WARNINGS, Proxy, back, up

BARE = True  # what is tested here is below all identities

pytestmark = CUT_WARNINGS


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


async def test_closing_ends_a_rebuild_that_swallows_its_cancellation(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `asyncio.wait_for` does before Python 3.12, inside of nats-py, when it comes in the same turn as the result."""
    connection = await Connection.open(broker.url, name="closing")
    begun = asyncio.Event()

    connect = connection._connect

    async def swallow(client: Any, **options: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await connect(client, **options)

    monkeypatch.setattr(connection, "_connect", swallow)
    await connection._client.close()
    async with asyncio.timeout(10):
        await begun.wait()
        await connection.close()
