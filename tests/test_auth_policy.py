"""`mesh auth explain | diff | apply`: what they say is what the authority and the broker then do."""

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest
import typer
from typer.testing import CliRunner

from mesh.cli import auth_policy
from mesh.identity.authority import Authority
from tests.helpers import CUT_WARNINGS
from tests.operator_server import operator_server

POLICY = """
[roles.reviewer]
call = ["time/now", "notes/prompt:weekly"]
"""

WIDER = """
[roles.reviewer]
call = ["time/now", "git"]
"""

pytestmark = CUT_WARNINGS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority.open(tmp_path, create=True)
    write(authority, POLICY)
    run(authority, "apply")
    authority.issue("bob", ["agent", "reviewer"])
    authority.issue("eve", ["agent"])
    return authority


def write(authority: Authority, text: str) -> None:
    (authority.keyring.path / "policy.toml").write_text(text)


def command(authority: Authority, *words: str) -> tuple[int, str, str]:
    app = typer.Typer()
    auth_policy.add_to(app)
    found = CliRunner().invoke(app, [words[0], "--state-dir", str(authority.keyring.path.parent), *words[1:]])
    return found.exit_code, found.stdout, found.stderr


def run(authority: Authority, *words: str) -> Any:
    code, out, err = command(authority, words[0], "--json", *words[1:])
    assert code in (0, 1), err
    assert not err, err
    return json.loads(out) | {"code": code}


def test_explain_says_whether_and_why(authority: Authority) -> None:
    allowed = run(authority, "explain", "bob", "call", "time/now")
    assert (allowed["code"], allowed["allowed"], allowed["role"], allowed["rule"]) == (0, True, "reviewer", "time/now")
    assert allowed["allowed_by"] == "mesh.v1.call.time.*.bob.tools.call.now"
    denied = run(authority, "explain", "eve", "call time/now")
    assert (denied["code"], denied["allowed"], denied["would_allow"]) == (1, False, ["host", "reviewer"])


def test_explain_for_people(authority: Authority) -> None:
    code, out, _ = command(authority, "explain", "bob", "call", "time/now")
    assert code == 0
    assert out.splitlines() == [
        "allowed: the rule 'time/now' of the role 'reviewer' allows it",
        "subject: mesh.v1.call.time.*.bob.tools.call.now",
        "allowed by: mesh.v1.call.time.*.bob.tools.call.now",
    ]
    code, out, _ = command(authority, "explain", "bob", "read", "journal")
    assert code == 1
    assert out.startswith("denied: nothing allows it: 'bob' has agent, reviewer; any of the roles auditor, operator would allow it\n")


def test_explain_by_other_roles_and_another_policy(authority: Authority, tmp_path: Path) -> None:
    other = tmp_path / "wider.toml"
    other.write_text(WIDER)
    assert run(authority, "explain", "bob", "call", "git", "--policy", str(other))["allowed"]
    assert not run(authority, "explain", "bob", "call", "git")["allowed"]
    assert run(authority, "explain", "bob", "call", "git", "--role", "host")["role"] == "host"
    assert run(authority, "explain", "nobody-yet", "call", "git", "--role", "host")["allowed"]


def test_explain_of_nobody_and_of_nothing(authority: Authority) -> None:
    code, _, err = command(authority, "explain", "nobody", "call", "git")
    assert code == 1
    assert "nobody is named 'nobody'" in err
    code, _, err = command(authority, "explain", "bob", "fly")
    assert code == 1
    assert "call AGENT/TOOL" in err


def test_diff_says_what_apply_then_does(authority: Authority) -> None:
    write(authority, WIDER)
    before = authority.account_jwt()
    told = run(authority, "diff")
    assert authority.account_jwt() == before
    (change,) = told["scopes"]
    assert told["roles"] == ["reviewer"]
    assert (change["scope"], change["users"], told["renewed"]) == ("agent+reviewer", ["bob"], [])
    assert "mesh.v1.call.git.*.{{name()}}.>" in change["publish"]["added"]
    assert "mesh.v1.call.notes.*.{{name()}}.prompts.get.weekly" in change["publish"]["removed"]
    assert "mesh.v1.health.notes.*" in change["subscribe"]["removed"]
    applied = run(authority, "apply")
    assert applied["scopes"] == told["scopes"]
    assert not applied["told"]
    assert told["account_bytes"] == {"before": len(before), "after": len(authority.account_jwt())}
    assert (run(authority, "diff")["scopes"], run(authority, "diff")["roles"]) == ([], [])
    assert run(authority, "explain", "bob", "call", "git")["allowed"]


def test_diff_names_who_gets_new_credentials(authority: Authority) -> None:
    """A role that is no longer defined is only a name: its holders come into another scope."""
    write(authority, "")
    told = run(authority, "diff")
    assert told["renewed"] == ["bob"]
    (change,) = told["scopes"]
    assert (change["scope"], change["users"], change["publish"]["added"]) == ("agent", ["bob"], [])
    run(authority, "apply")
    assert told["account_bytes"]["after"] == len(authority.account_jwt())


def test_a_policy_that_cannot_be_read_changes_nothing(authority: Authority) -> None:
    write(authority, "[roles.reviewer]\ncall = ['ti*/now']")
    for words in (["apply"], ["diff"]):
        code, out, err = command(authority, *words)
        assert (code, out) == (1, "")
        assert "role 'reviewer': the rule 'ti*/now'" in err
    assert run(authority, "explain", "bob", "call", "time/now")["allowed"]


def test_a_pattern_needs_a_mesh_that_runs(authority: Authority) -> None:
    write(authority, "[roles.reviewer]\ncall = ['git/git_*']")
    code, _, err = command(authority, "apply")
    assert code == 1
    assert "'git/git_*' stands for tools that are known, and no mesh runs" in err


async def test_what_is_applied_reaches_who_is_connected(authority: Authority, tmp_path: Path) -> None:
    back = asyncio.Event()

    async def on_back() -> None:
        back.set()

    async def quiet(_: Exception) -> None:
        """The server says why it cuts a client off."""

    async with operator_server(authority, tmp_path / "server") as url:
        client = await nats.connect(
            url,
            user_credentials=str(authority.credentials("bob")),
            inbox_prefix="_INBOX.bob",
            reconnect_time_wait=0.05,
            reconnected_cb=on_back,
            error_cb=quiet,
        )
        try:
            write(authority, WIDER)
            applied = await asyncio.to_thread(run, authority, "apply", "--broker", url)
            assert applied["told"]
            async with asyncio.timeout(5):
                await back.wait()
                said = json.loads((await client.request("$SYS.REQ.USER.INFO", b"")).data)
            assert "mesh.v1.call.git.*.bob.>" in said["data"]["permissions"]["publish"]["allow"]
            assert "mesh.v1.call.notes.*.bob.prompts.get.weekly" not in said["data"]["permissions"]["publish"]["allow"]
        finally:
            await client.close()
