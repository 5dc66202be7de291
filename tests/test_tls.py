"""TLS with a private authority: broker, WebSocket and HTTP, each with its clients, and what must not happen without it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bridge.app import make_spec, port_factory
from bridge.config import HttpSpec, make_http
from bridge.errors import ServerUnreachable
from bridge.web.tls import place_of
from mesh import Mesh
from mesh.cli.live_checks import in_the_clear
from mesh.errors import BrokerUnavailable, ConfigError
from mesh.identity import tls as authority
from mesh.identity.tls import Certificates
from mesh.link.address import is_secure, without_userinfo
from mesh.link.connection import Connection
from mesh.link.server import EmbeddedServer
from mesh.link.tls import ClientTls, ServerTls
from mesh.wire.jsonrpc import dumps, scan
from tests.cli_helpers import ENVIRONMENT, Up, mesh, up
from tests.conftest import Broker
from tests.connections import Heard, client_of, in_lane, works
from tests.helpers import CUT_WARNINGS, Recorder, back, control_plane, serving
from tests.proxy import Proxy
from tests.web_world import front, request

pytestmark = [*CUT_WARNINGS, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


# ---- the authority


def test_the_authority_and_the_keys_stay(tmp_path: Path) -> None:
    there = Certificates(tmp_path)
    first = there.make_server(["mesh.example.com", "192.0.2.7"])
    kept = {name: (there.path / name).read_text() for name in ("ca.pem", "ca.key", "server.key")}
    again = there.make_server(days=20)
    assert {name: (there.path / name).read_text() for name in kept} == kept
    assert {"localhost", "127.0.0.1", "::1", "mesh.example.com", "192.0.2.7"} <= set(first.names)
    assert again.names == first.names
    assert timedelta(days=20) < again.expires - again.begins < timedelta(days=21)
    assert set(there.make_server(["other.example"]).names) == {*first.names, "other.example"} - {"mesh.example.com", "192.0.2.7"}


def test_only_the_owner_reads_the_files(tmp_path: Path) -> None:
    there = Certificates(tmp_path)
    there.make_server()
    there.make_client("qa manager")
    assert (there.path / "clients" / "qa_x20_manager.pem").exists()
    for path in (there.path, *there.path.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    (there.path / "ca.key").chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        there.make_server()


@pytest.mark.parametrize("host", ["", "a b", "-x", "x" * 64, "http://x", "münchen.example", "x;y", "1.2.3.4.5 "])
def test_what_is_no_host(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="no name or address"):
        Certificates(tmp_path).make_server([host])


def test_a_certificate_is_renewed_before_it_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Certificates(tmp_path)
    assert there.renew_server() is None
    made = there.make_server(["mesh.example.com"], days=30)
    assert there.renew_server() == made
    now = authority._now()
    monkeypatch.setattr(authority, "_now", lambda: now + timedelta(days=21))
    renewed = there.renew_server()
    assert renewed is not None
    assert (renewed.names, renewed.due, made.due) == (made.names, False, True)
    monkeypatch.setattr(authority, "_now", lambda: now + timedelta(days=3600))
    assert made.expired
    there.make_server()  # the authority would expire first: its key signs itself anew
    found = there.authority()
    assert found is not None
    assert found.expires > now + timedelta(days=7000)


def test_addresses() -> None:
    assert [is_secure(url) for url in ("tls://a", "wss://a", "nats://a", "ws://a", "a:4222", "nats://a,tls://b")] == [
        True, True, False, False, False, True,
    ]  # fmt: skip
    assert without_userinfo("nats://user:pass@a:1,tls://token@b") == "nats://a:1,tls://b"


def test_the_doctor_knows_who_listens_in_the_clear() -> None:
    good: dict[str, Any] = {
        "host": "127.0.0.1",
        "http_host": "127.0.0.1",
        "http_port": 8222,
        "websocket": {"host": "::1", "port": 1, "no_tls": True},
    }
    assert in_the_clear(good) == []
    assert in_the_clear(good | {"host": "0.0.0.0"}) == ["clients on 0.0.0.0"]
    assert in_the_clear(good | {"host": "0.0.0.0", "tls_required": True}) == []
    assert in_the_clear(good | {"http_host": "::"}) == ["monitoring on ::"]
    assert in_the_clear(good | {"websocket": {"host": "192.0.2.7", "port": 1, "no_tls": True}}) == ["WebSocket on 192.0.2.7"]


# ---- the broker


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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_the_broker_does_not_listen_elsewhere_without_tls(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="without TLS") as caught:
        EmbeddedServer(tmp_path, trust={}, host=host)
    assert "mesh auth tls" in caught.value.hint


# ---- the front


def test_where_a_front_may_listen(tmp_path: Path, certificates: Certificates) -> None:
    state = certificates.keyring.path.parent
    with pytest.raises(ConfigError, match="without TLS") as caught:
        place_of(make_http(host="0.0.0.0"), tmp_path)
    assert "mesh auth tls" in caught.value.hint
    assert "--behind-proxy" in caught.value.hint
    with pytest.raises(ConfigError, match="no certificate"):
        place_of(make_http(host="0.0.0.0", tls=True), tmp_path)
    place = place_of(make_http(host="::", tls=True), state)
    assert place.url(1) == "https://[::1]:1"
    assert {"localhost", "[::1]"} <= set(place.names)
    assert place_of(make_http(host="0.0.0.0", behind_proxy=True), tmp_path).url(1) == "http://127.0.0.1:1"


def test_what_the_command_line_makes_of_a_front() -> None:
    spec = HttpSpec()
    assert spec.placed(None, tls=False, behind_proxy=False) == spec
    assert spec.placed("127.0.0.1", tls=False, behind_proxy=False).tls is False
    assert spec.placed("0.0.0.0", tls=False, behind_proxy=False).tls is True
    assert spec.placed("0.0.0.0", tls=False, behind_proxy=True).tls is False
    assert spec.placed(None, tls=True, behind_proxy=False).tls is True


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


# ---- the commands


async def another_machine(tmp_path: Path, running: Up) -> Path:
    """A directory with what the README says that another machine needs, and nothing else."""
    there = tmp_path / "there"
    there.mkdir()
    made = [
        (await running.mesh("auth", "issue", "away", "--role", "agent", "--json")).json["file"],
        (await running.mesh("auth", "tls", "--client", "away", "--json")).json["clients"][0]["file"],
        str(running.state_dir / "auth" / "tls" / "ca.pem"),
    ]
    for file in made:
        shutil.copy(file, there)
    return there


@asynccontextmanager
async def bridge_of(there: Path, url: str) -> AsyncIterator[None]:
    """`mesh-bridge serve` over there, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge", "serve", "away", "--broker", url, "--credentials", "away.creds", "--client-cert", "away.pem",
        "--json", "--", "mcp-server-time", cwd=there, env={**ENVIRONMENT, "MESH_CA": "ca.pem"}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert json.loads(await process.stdout.readline())["event"] == "ready"
        yield
    finally:
        process.terminate()
        await process.communicate()


async def test_mesh_up_beyond_this_machine(tmp_path: Path) -> None:
    """Refused without a certificate, and with one everything finds its way: commands, agents in processes of their own, the doctor."""
    file = tmp_path / "mesh.toml"
    file.write_text(f'[agents.notes]\npython = "examples.notes:server"\ncwd = "{Path(__file__).parents[1]}"\n')
    said = await mesh("up", file, "--listen", "0.0.0.0", "--broker-port", 0, "--json", "--state-dir", tmp_path / "state", cwd=tmp_path)
    assert "mesh auth tls" in said.error["hint"]
    await mesh("auth", "tls", "--state-dir", tmp_path / "state", cwd=tmp_path)
    async with up(tmp_path, file, "--listen", "0.0.0.0", "--verify-clients") as running:
        ready = await running.until("ready")
        assert ready["broker"].startswith("tls://127.0.0.1:")
        assert ready["websocket"].startswith("wss://")
        called = await running.mesh("call", "notes", "add_note", "text=over TLS", "--json")
        assert called.code == 0, called
        there = await another_machine(tmp_path, running)
        async with bridge_of(there, ready["broker"].replace("127.0.0.1", "localhost")):
            called = await running.mesh("call", "away", "get_current_time", "timezone=UTC", "--json")
            assert called.code == 0, called
        checks = {each["check"]: each["result"] for each in (await running.mesh("doctor", "--json")).json["checks"]}
        assert checks["broker"] == "ok"
        assert not {"broker's listeners", "TLS"} & set(checks)
        assert await running.end() == 0
