"""The entry that an MCP host needs to start `mesh-bridge connect`: the file's text, and where it belongs.

Hosts start their servers from a directory of their own and with little of a shell's environment, so every path in the entry is absolute.

Source: the hosts' own documentation: Claude Code (`.mcp.json`, `claude mcp add-json`), Claude Desktop (`claude_desktop_config.json`),
Cursor (`.cursor/mcp.json`).
"""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from mesh.errors import ConfigError
from mesh.link.address import without_userinfo
from mesh.settings import Settings

HOSTS: Final = {
    "claude-code": "Put it into .mcp.json in the project, or: claude mcp add-json {name} {entry}",
    "claude-desktop": "Put it into claude_desktop_config.json (Settings, Developer, Edit Config), and start Claude Desktop again.",
    "cursor": "Put it into .cursor/mcp.json in the project, or into ~/.cursor/mcp.json for all projects.",
}
"""Each host, and what to do with the entry."""

TYPED: Final = frozenset({"claude-code", "cursor"})
"""Hosts whose entries say their transport. Claude Desktop knows stdio only."""

_VARIABLE: Final = {"claude-code": "${MESH_TOKEN}", "cursor": "${env:MESH_TOKEN}"}
"""How a host's file says a variable of its environment."""

DEFAULT_PREFIX: Final = "mesh"

_foreign: Final = re.compile(r"[^A-Za-z0-9_-]")


def make_entry(
    host: str, settings: Settings, *, agent: str | None, only_find: bool = False, timeout: float | None = None
) -> tuple[str, str]:
    """The name of the server in the host, and the file `{"mcpServers": {name: entry}}` as text. `settings.name` is the host's name on the
    mesh. Without an agent the entry is for all agents as one."""
    command, *args = program()
    args += ["connect"] if agent is None else ["connect", agent]
    env = {} if settings.prefix == DEFAULT_PREFIX else {"MESH_PREFIX": settings.prefix}
    if settings.broker and without_userinfo(settings.broker) != settings.broker:
        env["MESH_BROKER"] = settings.broker  # every user of the machine can read a command line
    elif settings.broker:
        args += ["--broker", settings.broker]
    else:
        args += ["--state-dir", str(settings.state_dir.absolute())]
    files = {"--credentials": settings.credentials, "--ca": settings.ca, "--client-cert": settings.client_cert}
    args += [part for option, file in files.items() if file is not None for part in (option, str(file.absolute()))]
    args += ["--as", settings.name]
    if timeout is not None:
        args += ["--timeout", f"{timeout:g}"]
    if only_find:
        args.append("--find-only")
    entry: dict[str, Any] = {"type": "stdio"} if host in TYPED else {}
    entry |= {"command": command, "args": args}
    if env:
        entry["env"] = env
    name = _foreign.sub("_", agent) if agent else "mesh"
    return name, json.dumps({"mcpServers": {name: entry}}, indent=2)


def make_http_entry(host: str, front: str, *, agent: str | None) -> tuple[str, str]:
    """The same for a host that comes over HTTP, to the front at this URL. The file names the variable that holds the token, never a token.

    Raises ConfigError for a host that sends no headers of its own.
    """
    if host not in _VARIABLE:
        raise ConfigError(f"{host} cannot send a token", hint="let it start mesh-bridge: leave --http out")
    path = "/mcp" if agent is None else f"/agents/{quote(agent, safe='')}/mcp"
    entry = {"type": "http", "url": front.rstrip("/") + path, "headers": {"Authorization": f"Bearer {_VARIABLE[host]}"}}
    name = _foreign.sub("_", agent) if agent else "mesh"
    return name, json.dumps({"mcpServers": {name: entry}}, indent=2)


def advice(host: str, name: str, text: str) -> str:
    """What to do with the entry, for a person."""
    entry = json.dumps(json.loads(text)["mcpServers"][name])
    return HOSTS[host].format(name=name, entry=shlex.quote(entry))


def program() -> list[str]:
    """How this program is started from anywhere: its console script beside the running Python, or on PATH, or Python itself."""
    beside = Path(sys.executable).parent / "mesh-bridge"
    found = str(beside) if beside.is_file() else shutil.which("mesh-bridge")
    return [str(Path(found).absolute())] if found else [sys.executable, "-m", "bridge"]
