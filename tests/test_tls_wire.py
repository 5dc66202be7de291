"""TLS on the way: broker, WebSocket and HTTP with their clients, and what must not happen to who asks for it."""

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bridge.app import make_spec, port_factory
from bridge.errors import ServerUnreachable
from mesh import Mesh
from mesh.errors import BrokerUnavailable, ConfigError
from mesh.identity import tls as authority
from mesh.identity.tls import Certificates
from mesh.link.connection import Connection
from mesh.link.tls import ClientTls, ServerTls
from mesh.wire.jsonrpc import dumps, scan
from tests.conftest import Broker
from tests.connections import Heard, client_of, in_lane, works
from tests.helpers import CUT_WARNINGS, Recorder, back, control_plane, serving
from tests.proxy import Proxy
from tests.web_world import front, request

pytestmark = [*CUT_WARNINGS, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    there = Certificates(tmp_path_factory.mktemp("authority"))
    there.make_server()
    there.make_client("known")
    return there


@pytest.fixture(scope="module")
def server_tls(certificates: Certificates) -> ServerTls:
    return ServerTls(certificates.path / "server.pem", certificates.server_key)


@pytest.fixture(scope="module")
def trust(certificates: Certificates) -> ClientTls:
    return ClientTls(certificates.ca)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, server_tls: ServerTls) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker") / ".mesh", bare=True, tls=server_tls)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_a_connection_works_and_comes_back(broker: Broker, trust: ClientTls, scheme: str) -> None:
    url = broker.url if scheme == "tls" else broker.server.websocket_url
    assert url.startswith(f"{scheme}://")
    async with asyncio.timeout(25), await Connection.open(url, name="test", tls=trust) as connection:
        assert connection.secure
        await connection.subscribe("here", heard := Heard())
        if scheme == "tls":
            await in_lane(connection)
        await works(connection, heard)
        big = [os.urandom(900_000) for _ in range(8)]
        for body in big:
            await connection.publish("here", body)
        await connection.flush()
        assert heard.bodies[-8:] == big
        await back(connection, broker.kill)
        assert connection.secure
        if scheme == "tls":
            await in_lane(connection)
        await works(connection, heard, b"again")


async def test_calls_go_over_it(broker: Broker, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_CA", str(certificates.ca))
    await asyncio.to_thread(broker.wait_ready)
    async with asyncio.timeout(25), control_plane(broker.url), serving(broker.url, "echo", Recorder()), Mesh(broker=broker.url) as caller:
        answers = await asyncio.gather(*(caller.call("echo", "say", {"n": n, "text": "x" * 50_000}) for n in range(40)))
        assert [answer["echo"]["n"] for answer in answers] == list(range(40))


async def test_a_connection_that_is_cut_comes_back(broker: Broker, trust: ClientTls) -> None:
    async with asyncio.timeout(25), Proxy(broker.url.replace("tls://", "nats://")) as proxy:
        url = proxy.url.replace("nats://", "tls://")
        async with await Connection.open(url, name="test", tls=trust) as connection:
            await connection.subscribe("here", heard := Heard())
            await back(connection, proxy.cut)
            await works(connection, heard)


async def test_a_broker_that_hangs_does_not_hold_the_end(broker: Broker, trust: ClientTls) -> None:
    """TLS wants a goodbye from the other side, and asyncio would wait half a minute for it."""
    async with asyncio.timeout(25):
        connection = await Connection.open(broker.url, name="test", tls=trust)
        await in_lane(connection)
        pid = broker.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            transport = client_of(connection)._transport
            assert transport is not None
            transport.close()
            async with asyncio.timeout(5):
                await transport.wait_closed()
                await connection.close()
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_whom_we_do_not_trust(broker: Broker, tmp_path: Path) -> None:
    other = Certificates(tmp_path)
    other.make_server()
    for url in (broker.url, broker.server.websocket_url):
        for tls in (ClientTls(other.ca), None):
            with pytest.raises(BrokerUnavailable, match="no TLS with the broker") as caught:
                await Connection.open(url, name="test", tls=tls)
            assert "MESH_CA" in caught.value.hint
    with pytest.raises(ConfigError, match="TLS cannot be set up with"):
        await Connection.open(broker.url, name="test", tls=ClientTls(tmp_path / "none.pem"))


async def test_a_certificate_is_for_its_names_only(
    tmp_path: Path, trust: ClientTls, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "_own_names", lambda: ("elsewhere.example",))
    other = Certificates(tmp_path)
    made = other.make_server()
    assert made.names == ("elsewhere.example",)
    context = ServerTls(made.path, other.server_key).context()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for '127.0.0.1'"):
            await asyncio.open_connection("127.0.0.1", port, ssl=ClientTls(other.ca).context())


async def test_nothing_is_said_to_a_broker_that_denies_tls() -> None:
    """Whoever stands on the way can say that the broker has none."""
    got = bytearray()

    async def deny(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"X","version":"2.15.1","max_payload":1048576,"headers":true,"jetstream":true}\r\n')
        with contextlib.suppress(OSError):
            got.extend(await reader.read(4096))
        writer.close()

    async with asyncio.timeout(10), await asyncio.start_server(deny, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="does not speak TLS"):
            await Connection.open(f"tls://127.0.0.1:{port}", name="test")
        assert bytes(got) == b""


async def test_clients_show_certificates_where_they_are_asked_to(tmp_path: Path, certificates: Certificates, server_tls: ServerTls) -> None:
    asks = ServerTls(server_tls.cert, server_tls.key, certificates.ca)
    broker = Broker(tmp_path / ".mesh", bare=True, tls=asks)
    try:
        await asyncio.to_thread(broker.start)
        for url in (broker.url, broker.server.websocket_url):
            with pytest.raises(BrokerUnavailable):
                await Connection.open(url, name="test", tls=ClientTls(certificates.ca))
            known = ClientTls(certificates.ca, certificates.path / "clients" / "known.pem")
            async with await Connection.open(url, name="test", tls=known) as connection:
                await connection.flush()
    finally:
        await asyncio.to_thread(broker.close)


@pytest.mark.parametrize("asks", [False, True], ids=["", "clients show certificates"])
async def test_a_front_over_https_and_wss_is_an_agent_with_an_authority(
    broker: Broker, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, asks: bool
) -> None:
    """The front of one mesh as an agent of another: over HTTP and over WebSocket, with the authority that the entry names."""
    monkeypatch.setenv("MESH_CA", str(certificates.ca))
    await asyncio.to_thread(broker.wait_ready)
    files = {"cert": certificates.path / "server.pem", "key": certificates.server_key}
    async with (
        asyncio.timeout(25),
        control_plane(broker.url),
        front(broker.url, tls=files | ({"client_ca": certificates.ca} if asks else {})) as url,
    ):
        assert url.startswith("https://")
        context = ClientTls(certificates.ca, certificates.path / "clients" / "known.pem").context()
        async with httpx2.AsyncClient(verify=context) as http:
            assert (await http.get(f"{url}/health")).status_code == 200
        for address in (f"{url}/mcp", f"wss{url.removeprefix('https')}/ws"):
            for ca in (None, certificates.ca):
                fails = asks or ca is None
                async with port_factory(make_spec(name="far", url=address, ca=ca)) as make_port:
                    assert await _reaches(make_port()) is not fails, (address, ca)


async def _reaches(port: Any) -> bool:
    """Whether `server/discover` is answered with a result."""

    answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_frame(frame: Any, _: Any) -> None:
        if not answered.done():
            answered.set_result(b'"result"' in frame.raw)

    try:
        await port.open(on_frame, lambda _: None)
        port.send(scan(dumps(request(1, "server/discover"))))
        return await answered
    except ServerUnreachable:
        return False
    finally:
        await port.close()
