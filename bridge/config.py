"""The file that says which agents there are: `mesh.toml`, or the `mcpServers` JSON that MCP hosts already have.

[agents.time]
command = "mcp-server-time"             # a stdio server: a command line, or a list; or with `args` as hosts write it
roles = ["clock"]

[agents.vault]
url = "https://vault.example:9000/mcp"  # a server over streamable HTTP; ws:// and wss:// are a WebSocket
ca = "certs/vault-ca.pem"               # whom to trust there, where this machine does not know its authority
journal = "metadata"                    # full (the default), metadata, none
at_once = 8                             # calls that run at once; the others wait, and callers take turns
tools.read_secret.journal = "none"
sessions = "shared"                     # one child for all sessions of the handshake era; "own" (the default): one for each

[agents.attic]
url = "http://127.0.0.1:9001/sse"
transport = "sse"                       # HTTP+SSE, the transport of 2024-11-05 ("type" in mcpServers JSON)

[agents.notes]
python = "examples.notes:server"        # an MCPServer object of the SDK, served in a process of its own

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

from mesh.errors import ConfigError
from mesh.identity.issuers import Issuer
from mesh.identity.policy_file import read_roles
from mesh.link.address import is_loopback
from mesh.policy.admission import AT_ONCE
from mesh.policy.rate import Rate
from mesh.policy.rights import Role
from mesh.subjects import CONTROL_PLANE
from mesh.wire.entries import JournalMode, JournalPolicy

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


def read_rate(value: Any) -> Any:
    """`5/min` as a Rate."""
    try:
        return Rate.parse(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(f"{error}: {error.hint}") from None


class ToolSpec(BaseModel):
    """What is said of one tool of an agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    journal: JournalMode = "full"


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
    journal: JournalMode = "full"
    tools: dict[str, ToolSpec] = {}

    @field_validator("command", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_server(self) -> Self:
        if sum(map(bool, (self.command, self.url, self.python))) != 1:
            raise ValueError("an agent has exactly one of command, url, python")
        if self.python and self.python.count(":") != 1:
            raise ValueError("python is written module:name")
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

    def argv(self) -> list[str]:
        """The command with its program looked up: beside the running Python first, then on PATH. Raises ConfigError."""
        program = self.command[0]
        beside = Path(sys.executable).parent
        found = shutil.which(program, path=str(beside)) or shutil.which(program)
        if found is None:
            raise ConfigError(f"{self.name}: there is no program {program!r}", hint="install it, or give its full path")
        return [found, *self.command[1:]]


class HttpTls(BaseModel):
    """The files that HTTP is served with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert: Path
    key: Path
    client_ca: Path | None = None
    """Clients must show a certificate of this authority."""


class IssuerSpec(BaseModel):
    """An outside identity provider whose tokens are taken (`mesh.identity.issuers`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(min_length=1)
    """Its `iss`, and where clients ask for a token."""
    jwks: str = Field(min_length=1)
    """Its keys: an https URL, or a file."""
    audience: str = ""
    """What its tokens are for, where that is not the URL of this front."""
    algorithms: tuple[Literal["EdDSA", "RS256", "ES256"], ...] = Field(default=("EdDSA", "RS256", "ES256"), min_length=1)
    claim: str = Field(default="sub", min_length=1)
    """The claim that names a mesh user."""

    def as_issuer(self) -> Issuer:
        """Raises ConfigError."""
        return Issuer(self.issuer, self.jwks, self.algorithms, self.claim, self.audience)


class HttpSpec(BaseModel):
    """How the agents are served over HTTP and WebSocket."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(default=0, ge=0, le=65535)
    """0 takes a free one."""
    host: str = "127.0.0.1"
    tls: bool | HttpTls = False
    """True: with the certificate of `mesh auth tls`. Beyond loopback nothing is served without it."""
    behind_proxy: bool = False
    """Served without TLS beyond loopback all the same, because a proxy stands before it that has TLS."""
    hosts: tuple[str, ...] = ()
    """Names that may stand in `Host` besides those of loopback: `mesh.example.com`, or with a port."""
    origins: tuple[str, ...] = ()
    """Origins that pages may come from besides loopback: `https://app.example.com`."""
    url: str = Field(default="", pattern=r"^(https?://[^/\s]+)?$")
    """Where clients reach it, if that is not the address that it listens on: `https://mesh.example.com`. Tokens are made for it."""
    auth: Literal["token", "none"] = "token"
    """Whether each request brings a token. `none`, on loopback only: whoever reaches the port is `caller`."""
    caller: str = Field(default="local", min_length=1)
    """The name on the mesh of everybody, where nobody brings a token."""
    credentials: Path | None = None
    """A directory with the `.creds` files of those whose tokens are taken. Default: the users of the state directory."""
    issuers: tuple[IssuerSpec, ...] = ()
    """Outside identity providers, as [[http.issuers]]."""
    rate: Rate | None = None
    """Requests of one caller: `100/s`, `5/min`, `20/h`."""
    most_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    """Of one body, or one message of a WebSocket."""
    most_sessions: int = Field(default=1_000, gt=0)
    """Sessions of the handshake era at once, and as many WebSockets."""
    idle: float = Field(default=1800.0, gt=0)
    """Seconds without a word after which a session or a WebSocket is ended. The SDK's server has the same."""

    @field_validator("rate", mode="before")
    @classmethod
    def _read_rate(cls, value: Any) -> Any:
        return read_rate(value)

    def placed(self, listen: str | None, *, tls: bool, behind_proxy: bool) -> "HttpSpec":
        """As it is said on a command line: on another address, there with TLS unless a proxy has it."""
        proxied = self.behind_proxy or behind_proxy
        wanted = tls or (listen is not None and not proxied and not is_loopback(listen))
        return self.model_copy(update={"host": listen or self.host, "tls": self.tls or wanted, "behind_proxy": proxied})


class MeshFile(BaseModel):
    """What a file says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agents: tuple[AgentSpec, ...] = ()
    http: HttpSpec | None = None
    roles: tuple[Role, ...] = ()
    """What the holders of a role may do, beside the ready-made roles."""


def read_file(path: Path) -> MeshFile:
    """Read `mesh.toml` or `mcpServers` JSON. Raises ConfigError that names the file, the place and what is expected there."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint="give a mesh.toml, or an mcpServers JSON file") from None
    try:
        if path.suffix == ".json":
            return MeshFile(agents=_from_hosts(json.loads(text)))
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    except ValidationError as error:
        raise _explain(path, error) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep") from None
    agents = found.pop("agents", {})
    roles = read_roles(found.pop("roles", {}), str(path))
    if not isinstance(agents, dict) or not all(isinstance(each, dict) for each in agents.values()):
        raise ConfigError(f"{path}: agents are tables", hint="[agents.NAME], then command, url or python")
    try:
        return MeshFile(agents=tuple(_agent(name, dict(entry)) for name, entry in agents.items()), roles=roles, **found)
    except ValidationError as error:
        raise _explain(path, error) from None


def make_http(**fields: Any) -> HttpSpec:
    """An HttpSpec from arguments. Raises ConfigError."""
    try:
        return HttpSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _from_hosts(found: Any) -> tuple[AgentSpec, ...]:
    """The servers of a host's file: `mcpServers` (Claude, Cursor) or `servers` (VS Code)."""
    servers = (found.get("mcpServers") or found.get("servers")) if isinstance(found, dict) else None
    if not isinstance(servers, dict):
        raise ValueError('an object "mcpServers" is expected')
    agents = []
    for name, entry in servers.items():
        if not isinstance(entry, dict):
            raise ValueError(f"mcpServers.{name} is not an object")
        known = {key: entry[key] for key in ("command", "args", "env", "cwd", "url", "headers") if key in entry}
        if "url" in entry and "type" in entry:
            if entry["type"] not in _TYPES:
                raise ValueError(f"mcpServers.{name}: a url of type {entry['type']!r} is not known; http, sse and ws are")
            known["transport"] = _TYPES[entry["type"]]
        if isinstance(known.get("command"), str):
            known["command"] = [known["command"]]  # a host never splits it
        agents.append(_agent(name, known))
    return tuple(agents)


def _agent(name: str, entry: dict[str, Any]) -> AgentSpec:
    args = entry.pop("args", [])
    if args:
        command = entry.get("command", [])
        entry["command"] = [*(shlex.split(command) if isinstance(command, str) else command), *args]
    return AgentSpec(name=name, **entry)


def _explain(path: Path, error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    who = f" (agent {first['input']['name']!r})" if isinstance(first.get("input"), dict) and "name" in first["input"] else ""
    return ConfigError(
        f"{path}{who}: {where + ': ' if where else ''}{first['msg']}", hint="examples/quickstart.toml shows what an agent may have"
    )
