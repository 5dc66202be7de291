"""`mesh auth token`, and the front of `mesh up` that takes what it prints."""

import asyncio
import json
import shlex
from pathlib import Path

import httpx2
import pytest

from bridge.config import read_file
from bridge.host_config import advice, make_http_entry
from mesh.crypto import bearer
from mesh.errors import ConfigError
from mesh.policy.rate import Rate
from tests.cli_helpers import mesh, started, up
from tests.test_auth_cli import secrets_of


async def status(url: str, token: str) -> int:
    async with httpx2.AsyncClient() as http:
        return (await http.get(url + "/agents/nobody/mcp", headers={"Authorization": f"Bearer {token}"})).status_code


async def test_a_token_for_the_front_of_the_mesh_that_runs(tmp_path: Path) -> None:
    async with up(tmp_path, "--http-port", 0) as running:
        front = (await running.until("ready"))["http"]
        printed = await running.mesh("auth", "token")
        assert await status(front, printed.out.strip()) == 400  # let in, and no session is named
        said = (await running.mesh("auth", "token", "local", "--expires", "90s", "--json")).json
        assert (said["name"], said["audience"], await status(front, said["token"])) == ("local", front, 400)
        other = (await running.mesh("auth", "token", "--audience", front + "/agents/other")).out.strip()
        assert await status(front, other) == 401

        copy = tmp_path / "elsewhere.creds"
        copy.write_bytes((running.state_dir / "auth" / "users" / "local.creds").read_bytes())
        copy.chmod(0o600)
        made = await mesh("auth", "token", "--credentials", copy, "--audience", front, cwd=tmp_path)
        assert await status(front, made.out.strip()) == 400

        for words, said_so in (
            (("nobody",), "auth list"), (("--audience", "time"), "http://"), (("--expires", "31d"), "30 days"),
        ):  # fmt: skip
            failed = await running.mesh("auth", "token", *words, "--json")
            assert said_so in json.dumps(failed.error)
        assert not any(secret in printed.out for secret in secrets_of(running.state_dir))
        assert (await running.mesh("auth", "token", "--expires", "never")).code == 2
        await running.end()
        assert "no mesh runs" in (await running.mesh("auth", "token", "--json")).error["message"]


async def test_where_no_front_is_it_says_so(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        await running.until("ready")
        assert "--http-port" in (await running.mesh("auth", "token", "--json")).error["hint"]


@pytest.mark.parametrize("auth", ["token", "none"])
async def test_mesh_up_says_how_a_host_gets_in(tmp_path: Path, auth: str) -> None:
    words = ("up", "--http-port", 0, "--http-auth", auth, "--broker-port", 0, "--state-dir", tmp_path / "s")
    async with asyncio.timeout(30), started(*words, cwd=tmp_path) as process:
        assert process.stdout is not None
        lines = ""
        while "Ctrl-C ends it." not in lines:
            lines += (await process.stdout.readline()).decode()
        assert ("mesh auth token local" in lines, "WARNING: HTTP asks for no token" in lines) == (auth == "token", auth == "none")
        assert bearer.ALGORITHM not in lines


async def test_without_tokens_only_on_loopback(tmp_path: Path) -> None:
    words = ("up", "--http-port", 0, "--http-auth", "none", "--broker-port", 0, "--listen", "0.0.0.0", "--behind-proxy", "--json")
    ended = await mesh("auth", "tls", "--host", "mesh.example", cwd=tmp_path)
    assert ended.code == 0, ended
    ended = await mesh(*words, cwd=tmp_path)
    assert "this machine only" in ended.err, ended
    assert (await mesh("up", "--http-auth", "sometimes", cwd=tmp_path)).code == 2


def test_what_mesh_toml_may_say(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(
        '[http]\nauth = "token"\nrate = "5/min"\nurl = "https://m.example"\ncredentials = "users"\n'
        '[[http.issuers]]\nissuer = "https://id.example"\njwks = "keys.json"\nalgorithms = ["ES256"]\nclaim = "email"\n'
    )
    http = read_file(file).http
    assert http is not None
    assert (http.rate, http.issuers[0].as_issuer().claim) == (Rate(5, 60.0), "email")
    for wrong in (
        'rate = "5"',
        'auth = "maybe"',
        'url = "m.example"',
        '[[http.issuers]]\nissuer = "x"\njwks = "y"\nalgorithms = ["HS256"]',
    ):
        file.write_text("[http]\n" + wrong)
        with pytest.raises(ConfigError, match="http"):
            read_file(file)


def test_an_entry_for_hosts_that_come_over_http() -> None:
    name, text = make_http_entry("claude-code", "http://127.0.0.1:8600/", agent="qa manager")
    entry = json.loads(text)["mcpServers"][name]
    assert entry == {
        "type": "http",
        "url": "http://127.0.0.1:8600/agents/qa%20manager/mcp",
        "headers": {"Authorization": "Bearer ${MESH_TOKEN}"},
    }
    assert json.loads(shlex.split(advice("claude-code", name, text).partition("or: ")[2])[4]) == entry
    assert json.loads(make_http_entry("cursor", "https://m", agent=None)[1])["mcpServers"]["mesh"]["url"] == "https://m/mcp"
    with pytest.raises(ConfigError, match="cannot send"):
        make_http_entry("claude-desktop", "https://m", agent=None)
