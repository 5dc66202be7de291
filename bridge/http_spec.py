"""How the agents are served over HTTP and WebSocket: the table [http] of mesh.toml (`bridge.config` shows one)."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mesh.errors import ConfigError
from mesh.identity.issuers import Issuer
from mesh.link.address import is_loopback
from mesh.policy.rate import Rate


def _read_rate(value: Any) -> Any:
    try:
        return Rate.parse(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(f"{error}: {error.hint}") from None


RateText = Annotated[Rate, BeforeValidator(_read_rate)]
"""A rate as it is written: `100/s`, `5/min`, `20/h`."""


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
    rate: RateText | None = None
    """Requests of one caller: `100/s`, `5/min`, `20/h`."""
    most_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    """Of one body, or one message of a WebSocket."""
    most_sessions: int = Field(default=1_000, gt=0)
    """Sessions of the handshake era at once, and as many WebSockets."""
    idle: float = Field(default=1800.0, gt=0)
    """Seconds without a word after which a session or a WebSocket is ended. The SDK's server has the same."""

    def placed(self, listen: str | None, *, tls: bool, behind_proxy: bool) -> "HttpSpec":
        """As it is said on a command line: on another address, there with TLS unless a proxy has it."""
        proxied = self.behind_proxy or behind_proxy
        wanted = tls or (listen is not None and not proxied and not is_loopback(listen))
        return self.model_copy(update={"host": listen or self.host, "tls": self.tls or wanted, "behind_proxy": proxied})


def make_http(**fields: Any) -> HttpSpec:
    """An HttpSpec from arguments. Raises ConfigError."""
    try:
        return HttpSpec(**fields)
    except ValidationError as error:
        raise ConfigError(mistake(error, HttpSpec)) from None


def mistake(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, and where, for a person who wrote it; for a key that is not known the one that was probably meant."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        close = get_close_matches(str(first["loc"][-1]), model.model_fields, 1) if len(first["loc"]) == 1 else []
        return f"there is no {where!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    why = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"]
    return f"{where}: {why}" if where else why
