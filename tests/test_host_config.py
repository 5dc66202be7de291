"""The entries that `mesh-bridge connect --print-config` writes for hosts."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.config import HostFile, read_file
from bridge.host_config import HOSTS, advice, make_entry, make_http_entry
from mesh.identity.authority import Authority
from mesh.settings import make_settings
from tests.helpers import ROOT


def entry(host: str = "cursor", agent: str | None = None, **given: Any) -> dict[str, Any]:
    options = {key: given.pop(key) for key in ("only_find", "timeout") if key in given}
    _, text = make_entry(host, make_settings(name="host", **given), agent=agent, **options)
    ((_, found),) = json.loads(text)["mcpServers"].items()
    return dict(found)


@pytest.mark.parametrize("host", HOSTS)
def test_every_path_is_absolute(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = entry(host, "time", state_dir=Path("here"), credentials=Path("mine.creds"))
    args = found["args"]
    assert Path(found["command"]).is_absolute()
    assert args[args.index("--state-dir") + 1] == str(tmp_path / "here")
    assert args[args.index("--credentials") + 1] == str(tmp_path / "mine.creds")
    assert args[args.index("connect") + 1] == "time"
    assert found.get("type") == (None if host == "claude-desktop" else "stdio")


def test_options_are_kept() -> None:
    found = entry(broker="nats://b:4222", prefix="other", only_find=True, timeout=5.0)
    assert found["args"][found["args"].index("connect") :] == [
        "connect",
        "--broker",
        "nats://b:4222",
        "--as",
        "host",
        "--timeout",
        "5",
        "--find-only",
    ]
    assert found["env"] == {"MESH_PREFIX": "other"}


def test_the_server_gets_a_name_that_hosts_take() -> None:
    assert make_entry("cursor", make_settings(), agent="qa.manager")[0] == "qa_manager"
    assert make_entry("cursor", make_settings(), agent=None)[0] == "mesh"


def test_the_advice_can_be_pasted() -> None:
    name, text = make_entry("claude-code", make_settings(name="it's me"), agent=None)
    words = shlex.split(advice("claude-code", name, text).partition("or: ")[2])
    assert words[:4] == ["claude", "mcp", "add-json", "mesh"]
    assert json.loads(words[4]) == json.loads(text)["mcpServers"]["mesh"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bridge", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_the_command_prints_the_file_on_stdout_and_the_advice_on_stderr() -> None:
    printed = run("connect", "time", "--print-config", "cursor")
    assert printed.returncode == 0
    assert "time" in json.loads(printed.stdout)["mcpServers"]
    assert ".cursor/mcp.json" in printed.stderr


def test_a_host_is_who_its_credentials_say(tmp_path: Path) -> None:
    credentials = Authority.open(tmp_path, create=True).issue("ann", ("host",)).path
    for words, name in (((), "host"), (("--credentials", str(credentials)), "ann")):
        ((_, made),) = json.loads(run("connect", "--print-config", "cursor", *words).stdout)["mcpServers"].items()
        assert made["args"][made["args"].index("--as") + 1] == name


def test_find_only_is_for_all_agents() -> None:
    refused = run("connect", "time", "--find-only")
    assert refused.returncode == 1
    assert "leave the name out" in refused.stderr


def test_the_control_plane_is_no_agent() -> None:
    refused = run("connect", "mesh")
    assert refused.returncode == 1
    assert "leave the name out: the mesh's own tools stand beside" in refused.stderr


def test_mesh_up_leaves_the_hosts_way_onto_the_mesh_out(tmp_path: Path) -> None:
    _, over_http = make_http_entry("claude-code", "http://127.0.0.1:8808", agent=None)
    servers = {"time": {"command": "mcp-server-time"}, "mesh": entry("claude-code"), "web": json.loads(over_http)["mcpServers"]["mesh"]}
    path = tmp_path / ".mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    said = read_file(path)
    assert isinstance(said, HostFile)
    assert ([agent.name for agent in said.agents], said.left_out) == (["time"], ("mesh", "web"))
