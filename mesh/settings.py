"""Where the mesh is and who we are on it: the only reader of the environment.

Each setting can be an argument of `Mesh(...)`, an option of a command, or a variable `MESH_…`; the first that says something counts.
A running `mesh up` leaves its address in `mesh.json` in its state directory, and everybody else finds it there.
"""

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from mesh.crypto.creds import read_credentials
from mesh.errors import BrokerUnavailable, ConfigError
from mesh.link.address import is_secure, without_userinfo
from mesh.link.tls import ClientTls
from mesh.subjects import unescape

STATE_DIR: Final = Path(".mesh")
RUNTIME_FILE: Final = "mesh.json"

_WHOSE: Final = frozenset(f"MESH_{each}" for each in ("BROKER", "STATE_DIR", "NAME", "PREFIX", "CREDENTIALS", "CA", "CLIENT_CERT", "TOKEN"))
"""Variables that say who somebody is, and where."""


def installed_version() -> str:
    """The version of this installation; 0.0.0 for a source tree that is not installed."""
    try:
        return version("mesh-for-agents")
    except PackageNotFoundError:
        return "0.0.0"


class Settings(BaseSettings):
    """All settings of a participant."""

    model_config = SettingsConfigDict(env_prefix="MESH_", extra="ignore", frozen=True)

    broker: str | None = Field(
        None,
        description="Address of the broker, nats://, tls:// or wss://host:port, several with commas. "
        "Without it: the one of the state directory.",
    )
    state_dir: Path = Field(STATE_DIR, description="State directory of the mesh on this machine.")
    name: str = Field("local", description="The name that this process has on the mesh as a caller.")
    prefix: str = Field("mesh", description="First token of every subject.", pattern=r"^[A-Za-z0-9_-]+$")
    credentials: Path | None = Field(None, description="A NATS .creds file.")
    ca: Path | None = Field(None, description="The authority whose certificate the broker must have, PEM.")
    client_cert: Path | None = Field(None, description="Our own certificate with its key, PEM, for a broker that asks for one.")
    timeout: float = Field(60.0, gt=0, description="Seconds that a call may take, if the call does not say it.")

    health_period: float = Field(15.0, ge=0, description="Seconds between two events on agent.health of each agent that we are; 0: none.")

    def broker_url(self) -> str:
        """The address of the broker. Raises BrokerUnavailable where no mesh runs on the state directory."""
        if self.broker:
            return self.broker
        return str(read_runtime(self.state_dir)["broker"])

    def broker_tls(self) -> ClientTls | None:
        """Whom to trust there: as the settings say, or as `mesh up` said where the broker is its own, or the authority of the state
        directory. None: whom this machine trusts. Raises as `broker_url`."""
        said = {} if self.broker else read_runtime(self.state_dir)
        ca, cert = self.ca or _path(said.get("ca")), self.client_cert or _path(said.get("client_cert"))
        own = self.state_dir / "auth" / "tls" / "ca.pem"
        if ca is None and is_secure(self.broker_url()) and os.access(own, os.R_OK):
            ca = own
        return ClientTls(ca, cert) if ca or cert else None

    def environment(self, credentials: Path | None) -> dict[str, str]:
        """The environment for a process that is to be this participant, whose credentials are in that file: ours, but a plain `Mesh()`
        there is this participant. It leads to nothing of others: no state directory, where the credentials of all are, no token, no
        password in the broker's address. Raises as `broker_url`."""
        tls = self.broker_tls() or ClientTls()
        files = {"MESH_CREDENTIALS": credentials, "MESH_CA": tls.ca, "MESH_CLIENT_CERT": tls.cert}
        said = {"MESH_NAME": self.name, "MESH_PREFIX": self.prefix, "MESH_BROKER": without_userinfo(self.broker_url())}
        said |= {variable: str(file.absolute()) for variable, file in files.items() if file is not None}
        return {variable: value for variable, value in os.environ.items() if variable.upper() not in _WHOSE} | said


def _path(said: Any) -> Path | None:
    return Path(said) if isinstance(said, str) else None


def make_settings(usually: str | None = None, /, **given: Any) -> Settings:
    """Settings from arguments (None: not given) and the environment. Raises ConfigError that names the setting.

    Where no name is given it is the one in the credentials, then `usually`, then the default. Credentials that are given as an argument
    say the name before the environment does.
    """
    try:
        given = {key: value for key, value in given.items() if value is not None}
        settings = Settings(**given)
        if "name" in given or ("name" in settings.model_fields_set and "credentials" not in given):
            return settings
        if settings.credentials is not None:
            usually = unescape(read_credentials(settings.credentials).name)
        return settings if usually is None else settings.model_copy(update={"name": usually})
    except ValueError as error:
        details: list[Any] = getattr(error, "errors", list)()
        where = ", ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details) or str(error)
        raise ConfigError(f"a setting cannot be used: {where}", hint="options and MESH_ variables are listed by --help") from None


def read_runtime(state_dir: Path) -> dict[str, Any]:
    """What the running `mesh up` says of itself: `{"broker", "pid", "monitor"?, …}`. Raises BrokerUnavailable."""
    path = state_dir / RUNTIME_FILE
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        problem = BrokerUnavailable(
            f"no mesh runs on {state_dir.absolute()}",
            hint="start one with `mesh up`, or say where it is with --state-dir DIR or --broker URL; in Python: Mesh(state_dir=…)",
        )
        problem.add_note(f"hint: {problem.hint}")  # in another directory, a program's first traceback
        raise problem from None
    except (OSError, ValueError) as error:
        raise BrokerUnavailable(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("broker"), str):
        raise BrokerUnavailable(f"{path} does not say where the broker is", hint="remove it and start `mesh up` again")
    return found


def write_runtime(state_dir: Path, facts: dict[str, Any]) -> None:
    """Leave word of a running mesh, whole or not at all."""
    path = state_dir / RUNTIME_FILE
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(facts, indent=2) + "\n")
    new.replace(path)
