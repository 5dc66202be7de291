"""The file that says which agents there are: `mesh.toml`, or the `mcpServers` JSON that MCP hosts already have.

rate = "1000/s"                         # for every agent below that says nothing else

[agents.time]
command = "mcp-server-time"             # a stdio server: a command line, or a list; or with `args` as hosts write it
roles = ["clock"]

[agents.vault]
url = "https://vault.example:9000/mcp"  # a server over streamable HTTP; ws:// and wss:// are a WebSocket
ca = "certs/vault-ca.pem"               # whom to trust there, where this machine does not know its authority
journal = "metadata"                    # full (the default), metadata, none
at_once = 8                             # calls that run at once; the others wait, and callers take turns
rate = "100/s"                          # what one caller may ask of it: so many, all at once if need be, and then as they come back
tools.read_secret.journal = "none"
tools.read_secret.rate = "5/min"
inbox = "take_message"                  # messages to it are handed to this tool of its server,
answers = ["read_secret"]               # but those of these types to the tool of that name, with their content as its arguments
topics = ["system.update"]              # and so are messages on these topics, which one of its roles lets it hear,
broadcasts = true                       # and what is sent to all, or to all of its roles
sessions = "shared"                     # one child for all sessions of the handshake era; "own" (the default): one for each

[agents.attic]
url = "http://127.0.0.1:9001/sse"
transport = "sse"                       # HTTP+SSE, the transport of 2024-11-05 ("type" in mcpServers JSON)

[agents.notes]
python = "examples.notes:server"        # an MCPServer object of the SDK, served in a process of its own
streams = "examples.notes:streams"      # what serves its streams, by their types: {"dictation": async def f(stream), …}

[http]
port = 8600                             # serve the agents over HTTP and WebSocket too
rate = "100/s"                          # requests of one caller
tls = true                              # with the certificate of `mesh auth tls`; or {cert, key, client_ca}, files

[[http.issuers]]                        # tokens of an outside identity provider are taken too
issuer = "https://id.example.com"
jwks = "https://id.example.com/jwks"
claim = "email"                         # which one names the mesh user

[roles.reviewer]                        # what the holders of a role may do: mesh/identity/policy_file.py
call = ["vault/read_secret", "notes"]
"""

import json
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bridge.http_spec import HttpSpec, RateText, make_http, mistake
from mesh.errors import ConfigError
from mesh.identity.policy_file import read_roles
from mesh.policy.admission import AT_ONCE
from mesh.policy.rate import Limits
from mesh.policy.rights import Role
from mesh.subjects import CONTROL_PLANE
from mesh.wire.entries import JournalMode, JournalPolicy

__all__ = ["AgentSpec", "HostFile", "HttpSpec", "MeshFile", "ToolSpec", "Transport", "make_http", "read_file"]

_HINT: Final = "examples/quickstart.toml shows what an agent may have"

Transport = Literal["", "http", "sse", "ws"]
"""How a URL is spoken to. Empty: as its scheme says, where http is streamable HTTP."""

_TYPES: Final[dict[str, Transport]] = {
    "http": "http",
    "streamable-http": "http",
    "streamableHttp": "http",
    "sse": "sse",
    "ws": "ws",
    "websocket": "ws",
}
"""What hosts write as the `type` of a server with a URL."""


class ToolSpec(BaseModel):
    """What is said of one tool of an agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    journal: JournalMode = "full"
    rate: RateText | None = None
    """How often one caller may call it: `5/min`. Each instance counts for itself."""


class AgentSpec(BaseModel):
    """One agent. Exactly one of `command`, `url`, `python` says where its server is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    command: tuple[str, ...] = ()
    """The command line, split."""
    url: str = ""
    transport: Transport = ""
    headers: dict[str, str] = {}
    ca: Path | None = None
    """The authority that its certificate must come from, PEM. None: those that this machine trusts."""
    python: str = ""
    """`module:name` of an MCPServer object."""
    env: dict[str, str] = {}
    cwd: Path | None = None
    roles: tuple[str, ...] = ()
    at_once: int = Field(AT_ONCE, ge=1)
    """How many calls may run at once; the others wait, callers taking turns."""
    sessions: Literal["own", "shared"] = "own"
    """Whether sessions of the handshake era have a server of their own, or share one (`bridge.shared` says what is then not kept apart)."""
    inbox: str = ""
    """The tool that its messages are handed to (`bridge.inbox`). Empty: it has to take them itself."""
    answers: tuple[str, ...] = ()
    """Tools that answer messages of the type of their name, as a call with its content as arguments: also to who may send to the agent, but
    not call them."""
    topics: tuple[str, ...] = ()
    """Messages on these topics are handed to its tools, too."""
    broadcasts: bool = False
    """And those to all, and to all who answer to one of its roles."""
    streams: str = ""
    """`module:name` of what serves its streams: a mapping of their types to handlers."""
    journal: JournalMode = "full"
    rate: RateText | None = None
    """How often one caller may ask it anything: `100/s`. Each instance counts for itself."""
    tools: dict[str, ToolSpec] = {}

    @field_validator("command", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_server(self) -> Self:
        if sum(map(bool, (self.command, self.url, self.python))) != 1:
            raise ValueError("an agent has exactly one of command, url, python")
        if any(each and each.count(":") != 1 for each in (self.python, self.streams)):
            raise ValueError("python and streams are written module:name")
        if self.streams and not self.python:
            raise ValueError("streams are served by an agent in Python")
        if (self.topics or self.broadcasts) and not (self.inbox or self.answers):
            raise ValueError("topics and broadcasts are for tools that take messages: name one as its inbox, or in answers")
        if self.url and not self.url.startswith(("http://", "https://", "ws://", "wss://")):
            raise ValueError("url begins with http://, https://, ws:// or wss://")
        if self.transport and not self.url:
            raise ValueError("transport says how a url is spoken to, and there is none")
        if self.transport and (self.transport == "ws") != self.url.startswith(("ws://", "wss://")):
            raise ValueError(
                f"transport {self.transport!r} does not go with this url: ws:// and wss:// are for a WebSocket, and for it alone"
            )
        if self.ca is not None and not self.url.startswith(("https://", "wss://")):
            raise ValueError("ca says whom to trust at an https:// or wss:// url")
        if CONTROL_PLANE in (self.name, *self.roles):
            raise ValueError(f"{CONTROL_PLANE!r} is the control plane's name")
        return self

    @property
    def speaks(self) -> Literal["http", "sse", "ws"]:
        """How its URL is spoken to."""
        return self.transport or ("ws" if self.url.startswith(("ws://", "wss://")) else "http")

    @property
    def journal_policy(self) -> JournalPolicy:
        return JournalPolicy(default=self.journal, tools={name: tool.journal for name, tool in self.tools.items()})

    @property
    def limits(self) -> Limits | None:
        """How often it may be called; None without any limit."""
        tools = {name: tool.rate for name, tool in self.tools.items() if tool.rate is not None}
        return Limits(self.rate, tools) if tools or self.rate is not None else None

    def argv(self) -> list[str]:
        """The command with its program looked up: beside the running Python first, then on PATH. Raises ConfigError."""
        program = self.command[0]
        beside = Path(sys.executable).parent
        found = shutil.which(program, path=str(beside)) or shutil.which(program)
        if found is None:
            raise ConfigError(f"{self.name}: there is no program {program!r}", hint="install it, or give its full path")
        return [found, *self.command[1:]]


class MeshFile(BaseModel):
    """What a file says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agents: tuple[AgentSpec, ...] = ()
    http: HttpSpec | None = None
    rate: RateText | None = None
    """What one caller may ask of an agent that says nothing else."""
    roles: tuple[Role, ...] = ()
    """What the holders of a role may do, beside the ready-made roles."""


class HostFile(MeshFile):
    """What a host's file says."""

    left_out: tuple[str, ...] = ()
    """Entries that are the host's way onto the mesh: served there, they would show the mesh inside itself."""


def read_file(path: Path) -> MeshFile:
    """Read `mesh.toml` or `mcpServers` JSON. Raises ConfigError that names the file, the place and what is expected there."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint="give a mesh.toml, or an mcpServers JSON file") from None
    try:
        if path.suffix == ".json":
            return _from_hosts(json.loads(text))
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", hint=_HINT) from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep") from None
    agents = found.pop("agents", {})
    roles = read_roles(found.pop("roles", {}), str(path))
    if not isinstance(agents, dict) or not all(isinstance(each, dict) for each in agents.values()):
        raise ConfigError(f"{path}: agents are tables", hint="[agents.NAME], then command, url or python")
    try:
        common = {"rate": found["rate"]} if "rate" in found else {}
        return MeshFile(agents=tuple(_agent(name, {**common, **entry}) for name, entry in agents.items()), roles=roles, **found)
    except ValidationError as error:
        raise ConfigError(f"{path}: {mistake(error, MeshFile)}", hint=_HINT) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", hint=_HINT) from None


def _from_hosts(found: Any) -> HostFile:
    """The servers of a host's file: `mcpServers` (Claude, Cursor) or `servers` (VS Code)."""
    servers = (found.get("mcpServers") or found.get("servers")) if isinstance(found, dict) else None
    if not isinstance(servers, dict):
        raise ValueError('an object "mcpServers" is expected')
    agents, left_out = [], []
    for name, entry in servers.items():
        if not isinstance(entry, dict):
            raise ValueError(f"mcpServers.{name} is not an object")
        if _is_this_mesh(entry):
            left_out.append(name)
            continue
        known = {key: entry[key] for key in ("command", "args", "env", "cwd", "url", "headers") if key in entry}
        if "url" in entry and "type" in entry:
            if entry["type"] not in _TYPES:
                raise ValueError(f"mcpServers.{name}: a url of type {entry['type']!r} is not known; http, sse and ws are")
            known["transport"] = _TYPES[entry["type"]]
        if isinstance(known.get("command"), str):
            known["command"] = [known["command"]]  # a host never splits it
        agents.append(_agent(name, known))
    return HostFile(agents=tuple(agents), left_out=tuple(left_out))


def _is_this_mesh(entry: dict[str, Any]) -> bool:
    """Whether it is what `mesh-bridge connect --print-config` writes."""
    command, args, headers = entry.get("command"), entry.get("args"), entry.get("headers")
    if isinstance(command, str) and isinstance(args, list):
        return (Path(command).stem == "mesh-bridge" and args[:1] == ["connect"]) or args[:3] == ["-m", "bridge", "connect"]
    return isinstance(headers, dict) and "MESH_TOKEN}" in str(headers.get("Authorization"))


def _agent(name: str, entry: dict[str, Any]) -> AgentSpec:
    args = entry.pop("args", [])
    if args:
        command = entry.get("command", [])
        entry["command"] = [*(shlex.split(command) if isinstance(command, str) else command), *args]
    try:
        return AgentSpec(name=name, **entry)
    except ValidationError as error:
        raise ValueError(f"agent {name!r}: {mistake(error, AgentSpec)}") from None
