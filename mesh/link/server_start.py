"""The text that starts the embedded broker, and what its text says when it did not start. Pure but for the paths.

The start file includes nats-server.conf and sets on top of it what differs for this mesh: state directory, log, ports that were asked for.
In a NATS configuration the later of two top-level keys counts. Flags would not do: there is none for the WebSocket port, and `-sd` is
refused where a file names a store.

`include` joins every path to the directory of the file that includes, absolute paths too; hence a relative one. A block is replaced as
a whole, so `websocket` is written only if another port, another address or TLS was asked for, and nothing in `jetstream` is overridden.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mesh.errors import BrokerError, BrokerUnavailable, PortTaken
from mesh.link.launcher import ending_with_us
from mesh.link.state_dir import StateDir
from mesh.link.tls import ServerTls

_LISTENERS: Final = (
    ("Error listening on port", "clients", "--port"),
    ("Can't start monitoring", "monitoring", "--monitor-port"),
    ("Unable to listen for websocket", "WebSocket clients", "--websocket-port"),
)
"""How the server's message begins when it cannot listen, for whom it meant to, and the option of `mesh up` for another port."""


def command(binary: Path, state: StateDir) -> list[str]:
    """How the server is started. Its streams, logs and ports are its owner's alone."""
    return ending_with_us([str(binary), "-c", str(state.broker_config)], umask=0o077)


def processors() -> str:
    """How many processors the embedded broker takes at once, for `GOMAXPROCS`: half of them.

    The agents it serves are on the same machine. On two processors a broker that takes both stands in their way: with one, a call takes 5 %
    less time and the journal a third less of the rate (`scripts/bench`, interleaved).
    """
    return str(max(1, (os.cpu_count() or 2) // 2))


LOOPBACK: Final = "127.0.0.1"

WEBSOCKET_PORT: Final = 8080
"""That of nats-server.conf."""

TLS_SECONDS: Final = 5
"""For a client's handshake. The server's own two are little for a busy Python process."""


def start_file(
    config: Path, state: StateDir, ports: Mapping[str, int | None], host: str | None = None, tls: ServerTls | None = None
) -> str:
    """The text of `broker.conf`. `ports`: "port", "http", "websocket"; None leaves the configuration's own, 0 takes a free one. `host`: the
    address for clients and WebSocket; monitoring stays on loopback."""
    lines = [
        "# Written anew at each start of the mesh. Change the included file instead.",
        f"include {_quoted(os.path.relpath(config, state.path))}",
        f"store_dir: {_quoted(state.path)}",
        f"log_file: {_quoted(state.broker_log)}",
        f"pid_file: {_quoted(state.broker_pid_file)}",
        f"ports_file_dir: {_quoted(state.path)}",
    ]
    asked = {key: port or -1 for key, port in ports.items() if port is not None}
    if "port" in asked:
        lines.append(f"port: {asked['port']}")
    if "http" in asked:
        lines.append(f'http: "127.0.0.1:{asked["http"]}"')
    if host is not None:
        lines.append(f"host: {_quoted(host)}")
    if tls is not None:
        lines.append(f"tls {{ {_tls(tls)} }}")
    if "websocket" in asked or host is not None or tls is not None:
        secure = "no_tls: true" if tls is None else f"tls {{ {_tls(tls)} }}"
        where = f"host: {_quoted(host or LOOPBACK)}, port: {asked.get('websocket', WEBSOCKET_PORT)}"
        lines.append(f'websocket {{ {where}, {secure}, allowed_origins: ["http{"" if tls is None else "s"}://localhost"] }}')
    return "\n".join([*lines, ""])


def failure(what: str, lines: list[str], config: Path, state: StateDir) -> BrokerError:
    """The error for a start that failed: `what` happened, and the `lines` that the server wrote meanwhile."""
    for line in lines:
        for beginning, listener, option in _LISTENERS:
            if beginning in line and (at := re.search(r"listen tcp (\S*:(\d+)): bind: (.*?)\"?$", line)):
                return PortTaken(
                    f"the broker cannot listen for {listener} on {at[1]}: {at[3]}",
                    hint="Stop what listens there, or let all ports be free ones: `mesh up --port 0`. "
                    f"Another one for this: `mesh up {option} PORT`, or in {config}.",
                    port=int(at[2]),
                    listener=listener,
                )
    said = [line.partition("[FTL] ")[2] or line for line in lines if "[FTL]" in line or line.startswith("nats-server:")]
    because = f": {said[-1]}" if said else ""
    return BrokerUnavailable(f"{what}{because}", hint=f"Read {state.broker_log}.", log=lines[-20:])


def _tls(tls: ServerTls) -> str:
    said = f"cert_file: {_quoted(tls.cert)}, key_file: {_quoted(tls.key)}, timeout: {TLS_SECONDS}"
    return said if tls.client_ca is None else f"{said}, ca_file: {_quoted(tls.client_ca)}, verify: true"


def loopback(urls: list[str]) -> str:
    """Of the addresses of one listener (all of this machine's, where it listens on every interface) the one for this machine."""
    return next((url for url in urls if "127.0.0.1" in url), urls[0] if urls else "")


def _quoted(value: object) -> str:
    """A string of a NATS configuration. Its escapes are those of JSON, as far as paths need them."""
    return json.dumps(str(value), ensure_ascii=False)
