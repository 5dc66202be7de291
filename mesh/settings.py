"""Where the mesh is and who we are on it: the only reader of the environment.

Each setting can be an argument of `Mesh(...)`, an option of a command, or a variable `MESH_…`; the first that says something counts.
A running `mesh up` leaves its address in `mesh.json` in its state directory, and everybody else finds it there.
"""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from mesh.errors import BrokerUnavailable, ConfigError

STATE_DIR: Final = Path(".mesh")
RUNTIME_FILE: Final = "mesh.json"


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
        None, description="Address of the broker, nats://host:port, several with commas. Without it: the one of the state directory."
    )
    state_dir: Path = Field(STATE_DIR, description="State directory of the mesh on this machine.")
    name: str = Field("local", description="The name that this process has on the mesh as a caller.")
    prefix: str = Field("mesh", description="First token of every subject.", pattern=r"^[A-Za-z0-9_-]+$")
    credentials: Path | None = Field(None, description="A NATS .creds file.")
    timeout: float = Field(60.0, gt=0, description="Seconds that a call may take, if the call does not say it.")

    def broker_url(self) -> str:
        """The address of the broker. Raises BrokerUnavailable where no mesh runs on the state directory."""
        if self.broker:
            return self.broker
        return str(read_runtime(self.state_dir)["broker"])


def make_settings(**given: Any) -> Settings:
    """Settings from arguments (None: not given) and the environment. Raises ConfigError that names the setting."""
    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})
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
        raise BrokerUnavailable(
            f"no mesh runs on {state_dir}", hint="start one with `mesh up`, or say where it is with --state-dir DIR or --broker URL"
        ) from None
    except (OSError, ValueError) as error:
        raise BrokerUnavailable(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("broker"), str):
        raise BrokerUnavailable(f"{path} does not say where the broker is", hint="remove it and start `mesh up` again")
    return found


def write_runtime(state_dir: Path, facts: dict[str, Any]) -> None:
    """Leave word of a running mesh, whole or not at all."""
    path = state_dir / RUNTIME_FILE
    new = path.with_suffix(".new")
    new.write_text(json.dumps(facts, indent=2) + "\n")
    new.replace(path)
