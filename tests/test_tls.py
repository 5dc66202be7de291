"""A private authority, what may listen where without TLS, and a mesh that another machine reaches."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bridge.config import HttpSpec, make_http
from bridge.web.tls import place_of
from mesh.cli.live_checks import in_the_clear
from mesh.errors import BrokerUnavailable, ConfigError
from mesh.identity import tls as authority
from mesh.identity.tls import Certificates
from mesh.link.address import is_secure, without_userinfo
from mesh.link.connection import Connection
from mesh.link.server import EmbeddedServer
from mesh.link.tls import ClientTls
from tests.cli_helpers import ENVIRONMENT, Up, mesh, up

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


# ---- where it may listen


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_the_broker_does_not_listen_elsewhere_without_tls(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="without TLS") as caught:
        EmbeddedServer(tmp_path, trust={}, host=host)
    assert "mesh auth tls" in caught.value.hint


def test_where_a_front_may_listen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without TLS") as caught:
        place_of(make_http(host="0.0.0.0"), tmp_path)
    assert "mesh auth tls" in caught.value.hint
    assert "--behind-proxy" in caught.value.hint
    with pytest.raises(ConfigError, match="no certificate"):
        place_of(make_http(host="0.0.0.0", tls=True), tmp_path)
    Certificates(tmp_path).make_server()
    place = place_of(make_http(host="::", tls=True), tmp_path)
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
        url = ready["broker"].replace("127.0.0.1", "localhost")
        with pytest.raises(BrokerUnavailable, match="a certificate of ours") as bare:
            await Connection.open(url, name="away", user_credentials=there / "away.creds", tls=ClientTls(there / "ca.pem"))
        assert "MESH_CLIENT_CERT" in bare.value.hint
        async with bridge_of(there, url):
            called = await running.mesh("call", "away", "get_current_time", "timezone=UTC", "--json")
            assert called.code == 0, called
        checks = {each["check"]: each["result"] for each in (await running.mesh("doctor", "--json")).json["checks"]}
        assert checks["broker"] == "ok"
        assert not {"broker's listeners", "TLS"} & set(checks)
        assert await running.end() == 0
