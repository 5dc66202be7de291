"""Secrets stay where they belong: markers are planted wherever a person may put one, and all that is written meanwhile is searched.

What is searched: what each command prints, the command lines of all processes while they run, and every file of the state directory but
those of `auth/`, which are there to hold secrets. The streams are among these files, as the broker stores them.
"""

import asyncio
import contextlib
import json
import os
import secrets
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from bridge.app import port_factory
from bridge.config import read_file
from bridge.host_config import make_entry
from bridge.lines import beginning
from bridge.ports.remote import remote
from mesh import Mesh
from mesh.cli.app import make_app
from mesh.crypto import keys
from mesh.crypto.creds import read_credentials
from mesh.crypto.keys import Kind
from mesh.errors import ConfigError, MeshError
from mesh.identity.authority import Authority
from mesh.identity.tls import Certificates
from mesh.settings import make_settings
from tests.cli_helpers import ENVIRONMENT, ROOT, Ended, up
from tests.helpers import text_of


class Marked:
    """Secrets that were planted, by what they are, and where they were found."""

    def __init__(self) -> None:
        self.planted: dict[str, bytes] = {}
        self.found: set[str] = set()

    def new(self, what: str) -> str:
        return self.plant(what, f"marker{secrets.token_hex(12)}")

    def plant(self, what: str, secret: str) -> str:
        self.planted[what] = secret.encode()
        return secret

    def search(self, where: str, text: bytes | str) -> None:
        raw = text.encode() if isinstance(text, str) else text
        self.found |= {f"{what} in {where}" for what, secret in self.planted.items() if secret in raw}

    def search_files(self, directory: Path, spare: Iterable[Path] = ()) -> None:
        for path in directory.rglob("*"):
            if path.is_file() and not any(path.is_relative_to(each) for each in spare):
                self.search(str(path.relative_to(directory)), path.read_bytes())

    def search_processes(self) -> None:
        """The command lines, which every user of a machine can read."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.search(f"the command line {path.read_bytes()[:200]!r}", path.read_bytes())
            except OSError:
                continue  # it ended meanwhile

    def plant_files(self, authority: Path) -> None:
        """What the identities of a state directory are made of: seeds, tokens of users, keys of certificates."""
        for path in authority.rglob("*"):
            if path.suffix == ".seed":
                self.plant(path.name, path.read_text().strip())
            elif path.suffix == ".creds":
                held = read_credentials(path)
                self.plant(f"{path.name}: seed", held.seed)
                self.plant(f"{path.name}: JWT", held.jwt)
            elif path.suffix in (".key", ".pem") and "PRIVATE KEY" in path.read_text():
                body = path.read_text().partition("PRIVATE KEY-----\n")[2].splitlines()
                self.plant(f"{path.name}: key", body[1])


@pytest.fixture
def marked() -> Marked:
    return Marked()


@asynccontextmanager
async def turning_away() -> AsyncIterator[int]:
    """An HTTP server that lets nobody in."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # somebody only looks whether anything listens
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def agents(marked: Marked, port: int) -> str:
    """A mesh.toml with a secret in every place that has room for one."""
    new = marked.new
    return f"""
[agents.notes]
python = "examples.notes:server"
cwd = "{ROOT}"
env.NOTES_TOKEN = "{new("a variable of an agent in Python")}"
tools.add_note.journal = "none"
tools.find_notes.journal = "metadata"
[agents.time]
command = "mcp-server-time"
env.TIME_TOKEN = "{new("a variable")}"
[agents.docs]
url = "http://user:{new("a password in a URL")}@127.0.0.1:{port}/{new("a path of a URL")}"
headers.Authorization = "Bearer {new("a header")}"
[agents.away]
url = "ws://user:{new("a password of a WebSocket")}@127.0.0.1:1/x"
headers.X-Key = "{new("a header of a WebSocket")}"
"""


async def test_a_mesh_that_runs_writes_no_secret_anywhere(tmp_path: Path, marked: Marked) -> None:
    state = tmp_path / "state"
    Certificates(state).make_server()
    async with turning_away() as port:
        file = tmp_path / "mesh.toml"
        file.write_text(agents(marked, port))
        async with up(tmp_path, file, "--http-port", "0", "--tls") as running:
            await running.until("agent", agent="notes", state="ready")
            await running.until("agent", agent="docs", state="failed")
            async with Mesh(state_dir=state) as caller:
                quiet = marked.new("an argument that is not to be recorded")
                assert quiet in text_of(await caller.call("notes", "add_note", {"text": quiet}))
                assert quiet in str(await caller.call("notes", "find_notes", {"query": quiet}))
                open_secret = f"told{secrets.token_hex(12)}"
                await caller.call("time", "get_current_time", {"timezone": "UTC", "note": open_secret})
            facts = json.loads((state / "mesh.json").read_text())
            await knock(marked, facts["http"], Certificates(state).ca)
            issued = await running.mesh("auth", "issue", "qa", "--role", "agent", "--expires", "1h")
            marked.plant_files(state / "auth")
            said = [issued] + [
                await running.mesh(*words)
                for words in (
                    ("agents", "--json"), ("tools",), ("journal", "--json"),
                    ("auth", "export"), ("auth", "revoke", "qa"), ("doctor", "--json"),
                )
            ]  # fmt: skip
            marked.search_processes()
            assert await running.end() == 0
            assert running.process.stderr is not None
            said.append(Ended(0, "".join(map(json.dumps, running.said)), (await running.process.stderr.read()).decode()))
    for each in said:
        marked.search("what a command prints", each.out + each.err)
    marked.search_files(state, [state / "auth"])
    assert marked.found == set()
    # The search would have found them: what is recorded is there.
    marked.plant("an argument that is recorded", open_secret)
    marked.search_files(state, [state / "auth"])
    assert marked.found != set()
    assert all(each.startswith("an argument that is recorded in jetstream/") for each in marked.found), marked.found
    # And nobody else reads the files.
    assert {oct(path.stat().st_mode & 0o077) for path in (state, *state.iterdir(), *(state / "jetstream").rglob("*.blk"))} == {"0o0"}


async def knock(marked: Marked, url: str, ca: Path) -> None:
    """At the front, with tokens that do not count, wherever a client may put one."""
    async with httpx2.AsyncClient(verify=ssl.create_default_context(cafile=ca)) as http:
        for headers, query in (
            ({"Authorization": f"Bearer {marked.new('a bearer token')}"}, ""),
            ({"Authorization": f"Basic {marked.new('basic credentials')}"}, ""),
            ({"Cookie": f"session={marked.new('a cookie')}"}, ""),
            ({}, f"?access_token={marked.new('a token in a query')}"),
        ):
            answer = await http.post(f"{url}/agents/notes/mcp{query}", headers=headers, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
            assert 400 <= answer.status_code < 500
            marked.search("an answer over HTTP", answer.content + str(answer.headers).encode())


def test_commands_that_fail_repeat_no_secret(tmp_path: Path, marked: Marked, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("MESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    seed = marked.plant("a seed", keys.new_key(Kind.USER).seed)
    broken = {
        "half.creds": f"-----BEGIN NATS USER JWT-----\n{marked.new('a damaged JWT')}\n------END NATS USER JWT------\n",
        "seed.creds": f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
        "not.creds": marked.new("a file of another kind"),
        "not.pem": f"-----BEGIN CERTIFICATE-----\n{marked.new('a damaged certificate')}\n-----END CERTIFICATE-----\n",
    }
    for name, text in broken.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    password = marked.new("the broker's password")
    address = f"nats://user:{password}@127.0.0.1:1"
    meant: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (("agents", *more), {"MESH_BROKER": address, "MESH_CREDENTIALS": name})
        for name in ("half.creds", "seed.creds", "not.creds")
        for more in ((), ("--json",))
    ]
    meant += [(words, {"MESH_BROKER": address}) for words in (("agents",), ("call", "a", "b", "--json"), ("doctor",), ("journal",))]
    meant.append((("agents",), {"MESH_BROKER": address.replace("nats", "tls"), "MESH_CA": "not.pem"}))
    meant += [
        (("auth", "init", option, name), {})
        for option in ("--operator-seed", "--account-seed", "--operator-jwt", "--system-creds")
        for name in ("seed.creds", "not.creds")
    ]
    app = make_app()
    said = []
    for words, env in meant:
        ended = CliRunner().invoke(app, words, env=env)
        said.append(Ended(ended.exit_code, ended.stdout, ended.stderr))
    for program in (("mesh", "up", "--json"), ("bridge", "connect", "x")):
        done = subprocess.run(
            [sys.executable, "-m", *program], cwd=tmp_path, env={**ENVIRONMENT, "MESH_BROKER": address}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        said.append(Ended(done.returncode, done.stdout, done.stderr))
    assert all(each.code != 0 for each in said), [each for each in said if each.code == 0]
    for each in said:
        marked.search("what a command prints", each.out + each.err)
    marked.search_files(tmp_path, [tmp_path / name for name in broken])
    assert marked.found == set()


@pytest.mark.parametrize(
    "text",
    [
        '[agents.a]\nurl = "http://user:{0}@host:no/mcp"\n',
        '[agents.a]\nurl = "ftp://user:{0}@host/mcp"\n',
        '[agents.a]\nurl = "http://host/mcp"\nheaders = "{0}"\n',
        '[agents.a]\nurl = "http://host/mcp"\nheaders.Authorization = ["{0}"]\n',
        '[agents.a]\ncommand = "x"\nenv = "{0}"\n',
        '[agents.a]\ncommand = "x"\nenv.TOKEN = {{ secret = "{0}" }}\n',
        '[agents.a]\ncommand = "x"\nenv.TOKEN = "{0}\n',
        '[agents.a]\ncommand = "x"\nurl = "http://user:{0}@host"\n',
        '[agents.a]\ncommand = "no-such-program --token {0}"\n',
    ],
)
async def test_a_mistake_in_a_file_repeats_no_secret(tmp_path: Path, marked: Marked, text: str) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(text.format(marked.new("a secret beside a mistake")))
    try:
        for spec in read_file(file).agents:
            async with port_factory(spec):
                pass
        raise AssertionError("nothing was wrong")
    except MeshError as error:
        marked.search("the error", json.dumps(error.as_dict()) + str(error) + repr(error))
    assert marked.found == set()


def test_keys_and_credentials_show_no_secret(tmp_path: Path, marked: Marked) -> None:
    authority = Authority.open(tmp_path, create=True)
    held = read_credentials(authority.issue("qa").path)
    marked.plant_files(tmp_path / "auth")
    account = authority.trust.account_key()
    for each in (held, account, authority, authority.trust, authority.keyring, authority.users()):
        marked.search(type(each).__name__, f"{each!r} {each}")
    assert len(marked.planted) > 5
    assert marked.found == set()


def test_a_password_is_not_put_on_a_command_line(marked: Marked) -> None:
    address = f"nats://user:{marked.new('the password')}@broker.example:4222"
    for host in ("claude-code", "claude-desktop", "cursor"):
        _, text = make_entry(host, make_settings(broker=address), agent=None)
        entry = json.loads(text)["mcpServers"]["mesh"]
        marked.search("the command line", " ".join(entry["args"]))
        assert entry["env"]["MESH_BROKER"] == address
    assert marked.found == set()


@pytest.mark.parametrize("transport", ["http", "sse", "ws"])
def test_a_url_that_is_none_is_not_repeated(marked: Marked, transport: str) -> None:
    scheme = "ws" if transport == "ws" else "http"
    for url in (
        f"{scheme}://user:{marked.new('a')}@host:port/",
        f"{scheme}://user:{marked.new('b')}/c@host/",
        f"{scheme}://[{marked.new('c')}]/",
    ):
        try:
            remote("far", url, transport)  # type: ignore[arg-type]
        except ConfigError as error:
            marked.search("the error", json.dumps(error.as_dict()))
    assert marked.found == set()


@pytest.mark.parametrize("text", ["{}", "  {}", "[{}]", '"{}"', "\ufeff{}"])
def test_a_damaged_message_is_not_shown_in_a_log(marked: Marked, text: str) -> None:
    """An answer of a tool whose calls are not to be recorded may be one."""
    marked.search("the log", beginning(text.replace("{}", json.dumps({"result": marked.new("a result")})).encode()))
    assert marked.found == set()
    assert beginning(b"Listening on port 80" + b"." * 200) == "Listening on port 80" + "." * 100
