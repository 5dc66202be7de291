"""A process that the mesh starts for an agent acts as that agent, and its environment leads to nothing of others."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.identity.authority import Authority
from mesh.settings import make_settings
from tests.cli_helpers import ENVIRONMENT, ROOT, Up, up
from tests.test_up import NOTES

CALLING = [sys.executable, "-m", "tests.servers.calling"]


def agents_file(directory: Path, **agents: dict[str, Any]) -> None:
    """A mesh.toml with `notes`, and agents of a role that may only find notes there."""
    lines = ['[roles.reader]\ncall = ["notes/find_notes"]\n']
    for name, said in {"notes": NOTES, **{name: {"roles": ["reader"], **said} for name, said in agents.items()}}.items():
        lines.append(f"[agents.{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in said.items()))
    (directory / "mesh.toml").write_text("\n".join(lines))


def _toml(value: Any) -> str:
    return (
        "{" + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + "}"
        if isinstance(value, dict)
        else json.dumps(value)
    )


async def said(running: Up, agent: str, tool: str, *words: str) -> Any:
    called = await running.mesh("call", agent, tool, *words, "--json")
    assert called.code == 0, called
    structured = called.json["structuredContent"]
    return structured.get("result", structured)


async def test_what_an_agents_process_asks_it_asks_as_the_agent(tmp_path: Path) -> None:
    child, code = {"command": CALLING, "cwd": str(ROOT)}, {"python": "tests.servers.calling:server"}
    own = {"env": {"MESH_NAME": "somebody", "MESH_TIMEOUT": "7"}}
    agents_file(tmp_path, child=child, code=code, child2=child | own, code2=code | own)
    async with up(tmp_path) as running:  # its state is not where a process looks that was told nothing
        broker = (await running.until("ready"))["broker"]
        for agent in ("child", "code"):
            assert await said(running, agent, "ask", "agent=notes", "tool=find_notes") == "ok"
            assert await said(running, agent, "ask", "agent=notes", "tool=add_note") == "permission_denied"
            assert await said(running, agent, "variables") == {
                "MESH_NAME": agent,
                "MESH_PREFIX": "mesh",
                "MESH_BROKER": broker,
                "MESH_CREDENTIALS": str(running.state_dir / f"auth/users/{agent}.creds"),
            }
        for agent in ("child2", "code2"):  # what their entries say counts first
            variables = await said(running, agent, "variables")
            assert variables.items() >= own["env"].items()
            assert variables["MESH_CREDENTIALS"].endswith(f"/{agent}.creds")
        journal = (await running.mesh("journal", "--json")).out
        assert {call["caller"] for call in map(json.loads, journal.splitlines()) if call["target"] == "notes"} == {"child", "code"}
        assert await running.end() == 0


async def test_a_bridge_by_hand_with_nothing_but_its_credentials(tmp_path: Path) -> None:
    agents_file(tmp_path)
    async with up(tmp_path) as running:
        broker = (await running.until("ready"))["broker"]
        assert (await running.mesh("auth", "issue", "third", "--role", "agent", "--role", "reader")).code == 0
        credentials = (running.state_dir / "auth/users/third.creds").rename(tmp_path / "third.creds")
        words = ["-m", "bridge", "serve", "third", "--broker", broker, "--credentials", "third.creds", "--json"]
        env = ENVIRONMENT | {"MESH_STATE_DIR": str(running.state_dir), "MESH_NAME": "local", "MESH_TOKEN": "secret"}
        for server in (["--", *CALLING], ["--python", "tests.servers.calling:server"]):
            bridge = await asyncio.create_subprocess_exec(
                sys.executable, *words, *server, cwd=tmp_path, env=env, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert bridge.stdout is not None
                assert json.loads(await bridge.stdout.readline())["event"] == "ready"
                assert await said(running, "third", "ask", "agent=notes", "tool=find_notes") == "ok"
                assert await said(running, "third", "ask", "agent=notes", "tool=add_note") == "permission_denied"
                assert (await said(running, "third", "variables"))["MESH_CREDENTIALS"] == str(credentials)
            finally:
                bridge.terminate()
                await bridge.wait()
        assert await running.end() == 0


def test_an_environment_leads_to_nothing_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [each for each in os.environ if each.startswith("MESH_")]:
        monkeypatch.delenv(variable)
    for variable in ("MESH_NAME", "MESH_STATE_DIR", "MESH_CREDENTIALS", "MESH_TOKEN", "mesh_credentials"):
        monkeypatch.setenv(variable, str(tmp_path / "local"))
    monkeypatch.setenv("MESH_HEALTH_PERIOD", "3")
    monkeypatch.setenv("MESH_BROKER", "nats://user:password@one:4222,two:4222")
    made = make_settings(name="agent").environment(None)
    assert {name: value for name, value in made.items() if name.upper().startswith("MESH_")} == {
        "MESH_NAME": "agent", "MESH_PREFIX": "mesh", "MESH_BROKER": "nats://one:4222,two:4222", "MESH_HEALTH_PERIOD": "3"
    }  # fmt: skip
    assert made["PATH"] == os.environ["PATH"]


def test_credentials_that_are_given_say_the_name_before_the_environment_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = Authority.open(tmp_path, create=True).issue("ann", ("host",)).path
    monkeypatch.setenv("MESH_NAME", "agent")
    assert make_settings().name == "agent"
    assert make_settings(credentials=path).name == "ann"
    assert make_settings(credentials=path, name="bob").name == "bob"
    monkeypatch.setenv("MESH_CREDENTIALS", str(path))
    assert make_settings().name == "agent"
