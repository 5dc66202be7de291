"""`mesh auth` as a person types it, against the files and a server in operator mode. Secrets are printed only where they are asked for."""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nats
import pytest
from nats.errors import Error
from typer.testing import CliRunner

from mesh.cli.app import make_app
from mesh.crypto import jwt, keys
from mesh.crypto.creds import parse_credentials, read_credentials
from mesh.crypto.keys import Kind
from mesh.identity.authority import Authority
from mesh.settings import write_runtime
from tests.cli_helpers import Ended, mesh
from tests.helpers import CUT_WARNINGS
from tests.operator_server import operator_server

pytestmark = CUT_WARNINGS


def secrets_of(directory: Path) -> set[str]:
    """Every seed and every user's JWT below a directory."""
    found = {path.read_text().strip() for path in directory.rglob("*.seed")}
    for path in directory.rglob("*.creds"):
        credentials = read_credentials(path)
        found |= {credentials.seed, credentials.jwt}
    return found


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """`mesh auth …` in this process and an empty directory: for commands that only look at files."""
    for name in [each for each in os.environ if each.startswith("MESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    app = make_app()

    def run(*words: str) -> Ended:
        result = CliRunner().invoke(app, ["auth", *words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    """A running server that the state directory tells of, as `mesh up` does."""
    state = tmp_path / ".mesh"
    async with operator_server(Authority.open(state, create=True), tmp_path / "server") as url:
        write_runtime(state, {"broker": url})
        yield url


async def connects(url: str, credentials: Path) -> bool:
    try:
        client = await nats.connect(url, user_credentials=str(credentials), allow_reconnect=False, error_cb=_silent)
    except Error:
        return False
    await client.close()
    return True


async def test_issue_renew_revoke_at_a_running_broker(server: str, tmp_path: Path) -> None:
    made = (await mesh("auth", "issue", "qa", "--role", "agent", "--role", "host", "--expires", "30d", "--json", cwd=tmp_path)).json
    assert (made["roles"], made["scope"], made["told"]) == (["agent", "host"], "agent+host", True)
    file = Path(made["file"])
    assert await connects(server, file)
    copy = tmp_path / "copy.creds"
    copy.write_bytes(file.read_bytes())
    copy.chmod(0o600)

    again = await mesh("auth", "issue", "qa", cwd=tmp_path)
    assert again.out == f"{file}\n"
    renewed, first = read_credentials(file), read_credentials(copy)
    assert renewed.public == first.public
    assert renewed.expires is not None
    assert await connects(server, copy)

    rotated = (await mesh("auth", "rotate", "user", "qa", "--json", cwd=tmp_path)).json
    assert (rotated["renewed"], rotated["told"]) == (["qa"], True)
    assert await connects(server, file)
    assert not await connects(server, copy)

    copy.write_bytes(file.read_bytes())
    revoked = await mesh("auth", "revoke", "qa", cwd=tmp_path)
    assert (revoked.code, revoked.out) == (0, "qa is revoked\n")
    assert not await connects(server, copy)
    assert (await mesh("auth", "list", "--json", cwd=tmp_path)).json == []
    assert [each["state"] for each in (await mesh("auth", "list", "--all", "--json", cwd=tmp_path)).json] == ["revoked"]


async def test_a_broker_that_is_not_told(server: str, tmp_path: Path) -> None:
    made = (await mesh("auth", "issue", "qa", "--json", cwd=tmp_path)).json
    assert "told" not in made  # the scope of a ready-made role is known from the start
    ended = await mesh("auth", "revoke", "qa", "--offline", cwd=tmp_path)
    assert "was not told" in ended.err
    write_runtime(tmp_path / ".mesh", {"broker": "nats://127.0.0.1:1"})
    await mesh("auth", "issue", "qa", cwd=tmp_path)
    ended = await mesh("auth", "revoke", "qa", "--json", cwd=tmp_path)
    assert ended.error["code"] == "broker_unavailable"
    assert "The files are changed" in ended.error["hint"]
    (tmp_path / ".mesh/mesh.json").unlink()
    assert "No broker runs here" in (await mesh("auth", "revoke", "qa", cwd=tmp_path)).err


def test_nothing_secret_is_printed_unless_it_is_asked_for(typed: Callable[..., Ended], tmp_path: Path) -> None:
    said: list[Ended] = []
    secrets: set[str] = set()
    for words in (
        ("init",), ("issue", "qa", "--expires", "1h"), ("init", "--json"), ("issue", "qa", "--json"), ("list",), ("list", "--json"),
        ("show", "qa"), ("show", "qa", "--json"), ("export",), ("export", "--server-config"), ("export", "--account-template"),
        ("rotate", "user", "qa"), ("rotate", "account-signing"), ("rotate", "scope", "agent", "--retire"),
        ("rotate", "operator"), ("rotate", "operator", "--retire"), ("revoke", "qa"), ("issue", "qa"),
    ):  # fmt: skip
        said += [typed(*words)]
        secrets |= secrets_of(tmp_path / ".mesh/auth")
    assert {each.code for each in said} == {0}, said
    assert len(secrets) > 20
    assert not [each for each in said if any(secret in each.out + each.err for secret in secrets)]
    asked = typed("export", "--creds", "qa")
    assert parse_credentials(asked.out) == read_credentials(tmp_path / ".mesh/auth/users/qa.creds")


def test_show_and_export(typed: Callable[..., Ended], tmp_path: Path) -> None:
    typed("init")
    typed("issue", "qa", "--role", "agent", "--role", "QA")
    shown = (typed("show", "qa", "--json")).json
    assert "mesh.v1.call.QA.any.>" in shown["subscribe"]
    assert "{{" not in json.dumps(shown)
    assert "mesh.v1.call.QA.any.>" in (typed("show", "qa")).out
    exported = (typed("export")).json
    assert [each["name"] for each in exported["users"]] == ["qa"]
    config = (typed("export", "--server-config", "--resolver-dir", "/data/jwt")).out
    assert 'dir: "/data/jwt"' in config
    assert exported["account"] in config
    assert (typed("export", "--server-config", "--creds", "qa", "--json")).error["code"] == "invalid_config"


def test_an_operator_that_was_made_elsewhere(typed: Callable[..., Ended], tmp_path: Path) -> None:
    operator, owned, system = (keys.new_key(kind) for kind in (Kind.OPERATOR, Kind.ACCOUNT, Kind.ACCOUNT))
    (tmp_path / "op.jwt").write_text(jwt.sign_operator(operator, "ACME", system_account=system.public, signing_keys=[], issued=1))
    (tmp_path / "account.seed").write_text(owned.seed)
    ended = typed("init", "--operator-jwt", "op.jwt", "--account-seed", "account.seed", "--json")
    assert (ended.json["operator"], ended.json["account"], ended.json["signs_accounts"]) == (operator.public, owned.public, False)
    assert "--account-template" in ended.json["note"]
    assert "signed the account" in (typed("issue", "qa")).err
    template = (typed("export", "--account-template")).out.strip()
    claims = jwt.read(template, "account", issuers={owned.public})
    (tmp_path / "account.jwt").write_text(jwt.sign(operator, owned.public, "AGENTS", claims.nats, issued=2))
    loaded = typed("init", "--account-jwt", "account.jwt")
    assert (loaded.code, "signed the account" in loaded.err) == (0, False)
    assert claims.nats["signing_keys"]
    (tmp_path / "policy.toml").write_text('[roles.agent-of-time]\ncall = ["time"]\n')
    assert "signed the account" not in (typed("apply", "policy.toml")).err
    typed("issue", "ann", "--role", "agent-of-time")
    assert "signed the account" in (typed("apply", "policy.toml")).err
    assert operator.public in (typed("export")).out


@pytest.mark.parametrize(
    "words",
    [
        ("issue", "qa", "--expires", "soon"), ("issue", "qa", "--expires", "0d"), ("issue", "qa", "--expires", "99999999999w"),
        ("rotate", "user"), ("rotate", "operator", "qa"), ("rotate", "user", "qa", "--retire"), ("rotate", "nothing"),
    ],
)  # fmt: skip
def test_wrong_usage_is_2(words: tuple[str, ...], typed: Callable[..., Ended]) -> None:
    ended = typed(*words)
    assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize("words", [("list",), ("show", "qa"), ("issue", "qa"), ("revoke", "qa"), ("export",), ("rotate", "operator")])
def test_where_nothing_was_made(words: tuple[str, ...], typed: Callable[..., Ended]) -> None:
    ended = typed(*words, "--json")
    assert "mesh auth init" in ended.error["hint"]


async def _silent(_: Exception) -> None:
    """nats-py would print it."""
