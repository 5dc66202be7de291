"""`mesh up`: what it says, what it starts, and that nothing of it is left when it ends, however it ends."""

import asyncio
import http.client
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.bare import bare_config
from mesh.cli.stopping import children_of
from mesh.link.server import EmbeddedServer
from tests.cli_helpers import ROOT, alive, mesh, up

NOTES = {"command": [sys.executable, str(ROOT / "examples/notes.py")]}

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(40)"
"""An agent that never answers and does not end when it is asked to. Should a test leave it behind, it goes by itself."""


def agents_file(directory: Path, **agents: Any) -> Path:
    """A mesh.toml: TOML takes JSON's strings and lists as they are."""
    lines = [
        f"[agents.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items()) for name, said in agents.items()
    ]
    path = directory / "mesh.toml"
    path.write_text("\n".join(lines))
    return path


def get(url: str) -> tuple[int, Any]:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", f"/{path}")
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


async def test_an_empty_mesh_from_start_to_end(tmp_path: Path) -> None:
    async with up(tmp_path, "--http-port", 0) as running:
        ready = await running.until("ready")
        assert ready["agents"] == []
        assert ready["broker"].startswith("nats://127.0.0.1:")
        assert json.loads((running.state_dir / "mesh.json").read_text())["broker"] == ready["broker"]
        assert await asyncio.to_thread(get, ready["http"] + "/health") == (200, {"status": "ok"})
        assert await asyncio.to_thread(get, ready["http"] + "/ready") == (200, {"ready": True, "agents": {}})
        assert (await asyncio.to_thread(get, ready["http"] + "/other"))[0] == 404
        children = children_of(running.process.pid)
        assert len(children) == 1, "the broker"
        assert (await running.mesh("doctor")).code == 0
        assert await running.end() == 0
        assert running.process.stderr is not None
        assert await running.process.stderr.read() == b""
    assert not any(map(alive, children))
    assert not (running.state_dir / "mesh.json").exists()


async def test_agents_of_a_file(tmp_path: Path) -> None:
    """One as a child that speaks over stdio, one from Python code; both gone when Ctrl-C ends it."""
    agents_file(tmp_path, child=NOTES, code={"python": "examples.notes:server", "roles": ["notebook"]})
    async with up(tmp_path) as running:
        ready = await running.until("ready")
        assert ready["agents"] == ["child", "code"]
        assert {(each["agent"], each["state"]) for each in running.said if each["event"] == "agent"} == {
            (name, state) for name in ("child", "code") for state in ("starting", "ready")
        }
        for name in ("child", "code", "notebook"):
            called = await running.mesh("call", name, "add_note", "text=7", "--json")
            assert called.json["structuredContent"]["text"] == "7"
        children = children_of(running.process.pid)
        assert len(children) == 3
        assert await running.end(signal.SIGINT) == 0
    assert not any(map(alive, children))


async def test_a_hosts_own_file(tmp_path: Path) -> None:
    command, *arguments = NOTES["command"]
    path = tmp_path / ".mcp.json"
    path.write_text(json.dumps({"mcpServers": {"notes": {"command": command, "args": arguments, "type": "stdio"}}}))
    async with up(tmp_path, path) as running:
        assert (await running.until("ready"))["agents"] == ["notes"]
        assert await running.end() == 0


async def test_an_agent_that_does_not_start_disturbs_no_other(tmp_path: Path) -> None:
    agents_file(tmp_path, good=NOTES, bad={"command": ["no-such-program"]})
    async with up(tmp_path, "--http-port", 0) as running:
        await running.until("agent", agent="bad", state="failed")
        if not any(each.get("agent") == "good" and each["state"] == "ready" for each in running.said):
            await running.until("agent", agent="good", state="ready")
        assert (await running.mesh("call", "good", "find_notes")).code == 0
        facts = json.loads((running.state_dir / "mesh.json").read_text())
        assert await asyncio.to_thread(get, facts["http"] + "/ready") == (503, {"ready": False, "agents": {"bad": False, "good": True}})
        assert await running.end() == 0
        assert not any(each["event"] == "ready" for each in running.said)


async def test_an_agent_that_was_revoked_disturbs_no_other(tmp_path: Path) -> None:
    """Neither one whose process asks for its credentials nor one whose bridge does."""
    agents_file(tmp_path, good=NOTES, code={"python": "examples.notes:server"}, child=NOTES)
    assert (await mesh("auth", "init", "--state-dir", tmp_path / "state", cwd=tmp_path)).code == 0
    for name in ("code", "child"):
        for words in (("issue", name, "--role", "agent"), ("revoke", name)):
            assert (await mesh("auth", *words, "--state-dir", tmp_path / "state", cwd=tmp_path)).code == 0
    async with up(tmp_path) as running:
        for name in ("code", "child"):
            failed = {"agent": name, "state": "failed"}
            if not any(failed.items() <= each.items() for each in running.said):
                await running.until("agent", **failed)
            detail = next(each["detail"] for each in running.said if failed.items() <= each.items())
            assert detail == f"{name} was revoked (`mesh auth issue {name}` lets it in again, with a new key.)"
        if not any(each.get("agent") == "good" and each["state"] == "ready" for each in running.said):
            await running.until("agent", agent="good", state="ready")
        assert (await running.mesh("auth", "issue", "code")).code == 0
        await running.until("agent", agent="code", state="ready")
        assert await running.end() == 0


async def test_an_agent_of_python_code_is_named_where_it_writes_and_says_why_it_failed(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import sys\nfrom examples.notes import server\nprint('hello', 'you\\x1b', sep='\\n', file=sys.stderr)\n"
    )
    agents_file(tmp_path, loud={"python": "loud:server"}, gone={"python": "loud:nobody"})
    async with up(tmp_path) as running:
        failed = await running.until("agent", agent="gone", state="failed")
        assert failed["detail"].startswith("loud:nobody cannot be loaded: ")
        assert failed["detail"].endswith(" (it is written module:name, importable from here)")
        if not any(each.get("agent") == "loud" and each["state"] == "ready" for each in running.said):
            await running.until("agent", agent="loud", state="ready")
        assert await running.end() == 0
        assert running.process.stderr is not None
        written = (await running.process.stderr.read()).decode().splitlines()
    assert {line for line in written if line.startswith("loud")} == {"loud | hello", "loud | you "}
    assert all(line.startswith(("loud | ", "gone | ")) for line in written), written


async def test_a_broker_that_dies_comes_back_and_the_mesh_with_it(tmp_path: Path) -> None:
    agents_file(tmp_path, notes=NOTES)
    async with up(tmp_path) as running:
        await running.until("ready")
        os.kill(int((running.state_dir / "broker.pid").read_text()), signal.SIGKILL)
        await running.until("broker", state="restarted")
        called = await running.mesh("call", "notes", "find_notes", "--json")
        assert called.code == 0, called
        assert await running.end() == 0


async def test_asked_to_end_while_it_starts(tmp_path: Path) -> None:
    agents_file(tmp_path, stubborn={"command": [sys.executable, "-c", STUBBORN]})
    async with up(tmp_path) as running:
        await running.until("agent", agent="stubborn", state="starting")
        assert await running.end() == 0
    assert not (running.state_dir / "mesh.json").exists()


async def test_a_second_signal_ends_at_once_and_leaves_nobody(tmp_path: Path) -> None:
    agents_file(tmp_path, good=NOTES, stubborn={"command": [sys.executable, "-c", STUBBORN]})
    async with up(tmp_path) as running:
        await running.until("agent", agent="good", state="ready")
        children = children_of(running.process.pid)
        assert len(children) == 3
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(2):
            assert await running.process.wait() == 130
    async with asyncio.timeout(2):  # they were killed before it ended; the kernel takes a moment to bury them
        while any(map(alive, children)):  # noqa: ASYNC110 - no children of ours: nobody tells us
            await asyncio.sleep(0.01)


async def test_two_meshes_on_one_state_directory(tmp_path: Path) -> None:
    async with up(tmp_path) as first:
        ready = await first.until("ready")
        second = await mesh("up", "--json", "--state-dir", first.state_dir, "--broker-port", 0, cwd=tmp_path)
        assert second.error["code"] == "state_dir_in_use"
        third = await mesh("up", "--json", "--state-dir", first.state_dir, "--broker", ready["broker"], cwd=tmp_path)
        assert third.error["code"] == "state_dir_in_use", "a broker of somebody else's changes nothing about it"
        assert json.loads((first.state_dir / "mesh.json").read_text())["broker"] == ready["broker"]
        taken = ready["broker"].rpartition(":")[2]
        fourth = await mesh("up", "--json", "--state-dir", tmp_path / "other", "--broker-port", taken, cwd=tmp_path)
        assert (fourth.error["code"], fourth.error["details"]["port"]) == ("port_taken", int(taken))
        assert await first.end() == 0


async def test_a_mesh_that_may_not_start_changes_nobodys_rights(tmp_path: Path) -> None:
    """A second one on the state directory of another, with agents and roles of its own."""
    async with up(tmp_path) as first:
        await first.until("ready")
        before = {path: path.read_bytes() for path in (first.state_dir / "auth").glob("*.js*")}
        assert before
        file = agents_file(tmp_path, time=NOTES)
        file.write_text(f'{file.read_text()}\n[roles.reader]\ncall = ["*"]\n')
        second = await mesh("up", file, "--json", "--state-dir", first.state_dir, "--broker-port", 0, cwd=tmp_path)
        assert second.error["code"] == "state_dir_in_use"
        assert {path: path.read_bytes() for path in (first.state_dir / "auth").glob("*.js*")} == before
        assert await first.end() == 0


async def test_what_was_stored_before_there_were_identities_is_there(tmp_path: Path) -> None:
    file = agents_file(tmp_path, notes=NOTES)
    async with up(tmp_path, file) as first:
        await first.until("ready")
        assert (await first.mesh("call", "notes", "find_notes")).code == 0
        assert await first.end() == 0
    state = tmp_path / "state"
    (store,) = (state / "jetstream").iterdir()
    store.rename(store.with_name("MESH"))
    shutil.rmtree(state / "auth")
    async with up(tmp_path, file) as second:
        assert "as before" in (await second.until("broker"))["detail"]
        await second.until("ready")
        assert "find_notes" in (await second.mesh("journal")).out
        assert await second.end() == 0


async def test_what_another_account_stored_is_told(tmp_path: Path) -> None:
    async with up(tmp_path) as first:
        await first.until("ready")
        assert await first.end() == 0
    shutil.rmtree(tmp_path / "state/auth")
    async with up(tmp_path) as second:
        assert "holds streams of another account" in (await second.until("broker"))["detail"]
        await second.until("ready")
        assert await second.end() == 0


async def test_a_role_that_is_misspelled_is_told(tmp_path: Path) -> None:
    file = agents_file(tmp_path, notes=NOTES | {"roles": ["raeder"]})
    file.write_text(f'{file.read_text()}\n[roles.reader]\ncall = ["note/add_note", "elsewhere"]\n')
    async with up(tmp_path, file) as first:
        assert "did you mean 'reader'?" in (await first.until("agent", agent="notes", state="note"))["detail"]
        said = (await first.until("broker", state="note"))["detail"]
        assert said == "role 'reader' names 'note', and the file has no such agent; did you mean 'notes'?"
        assert await first.end() == 0


async def test_a_broker_that_admits_everybody_is_told(tmp_path: Path) -> None:
    bare = EmbeddedServer(tmp_path / "bare", trust={}, config=bare_config(tmp_path), port=0, monitor_port=0, websocket_port=0)
    async with bare, up(tmp_path, "--broker", bare.url) as first:
        assert "no role counts" in (await first.until("broker", state="WARNING"))["detail"]
        await first.until("ready")
        assert await first.end() == 0


async def test_with_a_broker_that_runs_already(tmp_path: Path) -> None:
    async with up(tmp_path) as first:
        broker = (await first.until("ready"))["broker"]
        (tmp_path / "second").mkdir()
        shutil.copytree(first.state_dir / "auth", tmp_path / "second/state/auth")
        async with up(tmp_path / "second", "--broker", broker) as second:
            assert (await second.until("ready"))["broker"] == broker
            assert children_of(second.process.pid) == []
            everybody = (await second.mesh("agents", "--all", "--json")).json
            assert [len(each["instances"]) for each in everybody if each["name"] == "mesh"] == [2]
            assert await second.end() == 0
        only = tmp_path / "only/state/auth/users/mesh.creds"
        only.parent.mkdir(parents=True, mode=0o700)
        shutil.copy2(first.state_dir / "auth/users/mesh.creds", only)
        async with up(tmp_path / "only", "--broker", broker) as third:
            assert "whoever may call anybody is shown who there is" in (await third.until("broker", state="WARNING"))["detail"]
            await third.until("ready")
            assert await third.end() == 0
        stranger = await mesh("up", "--json", "--state-dir", tmp_path / "third", "--broker", broker, cwd=tmp_path)
        assert stranger.error["code"] == "not_admitted"
        assert await first.end() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("[agents.a]\n", "exactly one of command, url, python"), ("agents = [", "is not TOML"), (None, "cannot be read")],
)
async def test_a_file_that_cannot_be_used(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    if text is not None:
        path.write_text(text)
    ended = await mesh("up", path, "--json", "--state-dir", tmp_path / "state", cwd=tmp_path)
    assert ended.error["code"] == "invalid_config"
    assert said in ended.error["message"]
    assert not (tmp_path / "state").exists()


async def test_nobody_reads_what_it_says(tmp_path: Path) -> None:
    """Whoever started it may close the pipe when it is ready."""
    async with up(tmp_path) as running:
        await running.until("ready")
        running.process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        os.kill(int((running.state_dir / "broker.pid").read_text()), signal.SIGKILL)
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await running.process.wait() == 0
