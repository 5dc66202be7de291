"""What `mesh up` shows.

With `--json` each event is one line on stdout:

| event | when |
|---|---|
| `{"event": "agent", "agent", "state", "detail"}` | an agent is starting, ready, failed (it is tried again), restarting, stopped |
| `{"event": "broker", "state", "detail"}` | the embedded broker died, was restarted, dropped something, has found something in its store |
| `{"event": "ready", "broker", "agents", …}` | once, when every agent answers |
| `{"event": "stopping"}`, `{"event": "stopped"}` | somebody asked for the end; all has ended |

A person is told each change once: what fails again in the same words is counted.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from mesh import admin
from mesh.admin import ToolView
from mesh.cli.house import House
from mesh.cli.output import Output
from mesh.cli.render import plain


class Report:
    """What is told of a mesh while it runs. Nothing, here."""

    def __init__(self, out: Output) -> None:
        self._out = out

    def event(self, kind: str, who: str, detail: str) -> None:
        """`who` is an agent, or empty for the broker."""

    def started(self, mesh: House) -> None:
        """Each agent came up or failed to."""

    def ready(self, mesh: House, names: Sequence[str]) -> None:
        """Every agent is there."""

    def stopping(self) -> None:
        """Somebody asked for the end."""

    def stopped(self) -> None:
        """All has ended."""


class JsonReport(Report):
    """One line of JSON an event."""

    def event(self, kind: str, who: str, detail: str) -> None:
        if who:
            self._say("agent", agent=who, state=kind, detail=detail)
        else:
            self._say("broker", state=kind, detail=detail)

    def ready(self, mesh: House, names: Sequence[str]) -> None:
        rest = {key: value for key, value in mesh.facts.items() if key != "broker"}
        self._say("ready", broker=mesh.facts["broker"], agents=list(names), state_dir=str(mesh.state.path), **rest)

    def stopping(self) -> None:
        self._say("stopping")

    def stopped(self) -> None:
        self._say("stopped")

    def _say(self, event: str, **said: Any) -> None:
        self._out.write(json.dumps({"event": event, **said}, default=str) + "\n")


class TextReport(Report):
    """Lines as things happen, and once a table with what to type next."""

    def __init__(self, out: Output, names: Sequence[str], *, option: str, open_to: str | None) -> None:
        """`open_to`: who everybody is that comes over HTTP; None where they bring tokens."""
        super().__init__(out)
        self._open_to = open_to
        self._names = names
        self._option = option
        """What the commands need to find this mesh from here: `` or ` --state-dir DIR`."""
        self._last: dict[str, tuple[str, str]] = {}
        self._times: dict[str, int] = {}
        """Who → what was said of it last, and how often in a row."""

    def event(self, kind: str, who: str, detail: str) -> None:
        """Once for each change: what tries again and again fails in the same words each time."""
        if kind in ("starting", "stopped"):
            return
        times = self._times.get(who, 0)
        if self._last.get(who) == (kind, detail):
            self._times[who] = times + 1
            return
        if times > 1:
            self._line(who, self._last[who][0], f"{times} times in all")
        self._last[who], self._times[who] = (kind, detail), 1
        self._line(who, kind, detail)

    def started(self, mesh: House) -> None:
        facts = mesh.facts
        self._print("")
        for what, where in (
            ("broker", facts["broker"]),
            ("monitoring", facts.get("monitor")),
            ("WebSocket", facts.get("websocket")),
            *(_front(facts["http"], self._names) if "http" in facts else ()),
            ("state", mesh.state.path),
        ):
            if where:
                self._print(f"{what:<16} {where}")
        tools = admin.tools(mesh.directory)
        lines = ["agents --watch", "tools", *([_example(tools[0])] if tools else []), "journal --follow", "doctor"]
        self._print("\nIn another terminal:")
        for line in lines:
            name, _, rest = line.partition(" ")
            self._print(f"  mesh {name}{self._option}{' ' if rest else ''}{rest}")
        for name in mesh.hosted.ready[:1]:
            self._print(f"  mesh-bridge connect {shlex.quote(name)}{self._option}    (the command that an MCP host starts)")
        if "http" in facts and self._open_to is None:
            self._print(f"  mesh auth token local{self._option}    (for HTTP: Authorization: Bearer TOKEN)")
        elif "http" in facts:
            self._print(f"\nWARNING: HTTP asks for no token. Every program of this machine may call every agent, as {self._open_to!r}.")
        self._print("\nCtrl-C ends it.\n")

    def ready(self, mesh: House, names: Sequence[str]) -> None:
        if names:
            self._print(f"All of {', '.join(names)} answer.")

    def stopping(self) -> None:
        self._print("Ending in order; Ctrl-C once more ends at once.")

    def _line(self, who: str, kind: str, detail: str) -> None:
        self._print(f"{who or 'broker':<16} {kind:<12} {detail}".rstrip())

    def _print(self, text: str) -> None:
        self._out.write(plain(text, lines=True) + "\n")


def _front(url: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Where hosts reach the agents over HTTP: all as one, and each alone."""
    yield "HTTP", f"{url}/mcp    (all agents as one)"
    yield "", f"ws{url.removeprefix('http')}/ws    (the same over WebSocket)"
    for name in names:
        yield "", f"{url}/agents/{quote(name, safe='')}/mcp"


def _example(tool: ToolView) -> str:
    """A call to try, with the arguments that it needs."""
    required = tool.input_schema.get("required")
    words = [shlex.quote(tool.agent), shlex.quote(tool.name)]
    return " ".join(["call", *words, *(f"{name}=…" for name in (required if isinstance(required, list) else []))])
