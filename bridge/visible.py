"""What of an agent's lists its host gets to see: what the host may call (`mesh.link.reach`).

An answer in which nothing is hidden passes as it came. From any other the hidden entries are cut, and the rest stays as the server wrote
it; since others see more, it is then for this host alone (`cacheScope`). A template stands for many URIs, so it is shown to those who may
read all of an agent's resources, or whose rule names the template itself.

When a host's rights change, so do its lists, though no server says so. So the host is told here, if it was promised such a word: by the
capabilities of its session, or by the acknowledgement of its listen.

Source: MCP 2025-11-25 and 2026-07-28, server/tools, server/prompts, server/resources; 2026-07-28, subscriptions/listen, caching.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from bridge.eras.edit import elements, find_result, find_text, parts
from bridge.eras.words import ACKNOWLEDGED, CAPABILITY_OF, CHANGES, SUBSCRIPTION_ID
from mesh import Mesh
from mesh.wire.jsonrpc import Frame, Kind, Span, dumps

Sink = Callable[[bytes, bool], None]
"""Takes the frames of one request, `(raw, final)`. Nothing comes after the final one; after a cancellation nothing comes at all."""

LISTEN: Final = "subscriptions/listen"


class Listed(NamedTuple):
    """A list: the member of the result that holds it, what names an entry, and the method that takes such a name."""

    member: str
    key: str
    method: str


LISTS: Final = {
    "tools/list": Listed("tools", "name", "tools/call"),
    "prompts/list": Listed("prompts", "name", "prompts/get"),
    "resources/list": Listed("resources", "uri", "resources/read"),
    "resources/templates/list": Listed("resourceTemplates", "uriTemplate", "resources/read"),
}


class Visible:
    """The lists of one agent (or role), as one host sees them."""

    def __init__(self, mesh: Mesh, agent: str, send: Callable[[bytes], None]) -> None:
        """`send` takes what belongs to no request of the host."""
        self._mesh = mesh
        self._agent = agent
        self._send = send
        self._promised: dict[str | int | None, tuple[frozenset[str], Callable[[bytes], None]]] = {}
        """Who waits for a word: the session (None), or a listen by its id; which notifications, and where they go."""
        self._detach: Callable[[], None] | None = None

    def through(self, request: Frame, to: Sink) -> Sink:
        """Where the frames of a request of the host go, on their way to `to`."""
        method = request.method or ""
        if method in LISTS:
            listed = LISTS[method]
            return lambda raw, final: to(self._seen(raw, listed) if final else raw, final)
        if method == LISTEN:
            return lambda raw, final: self._on_listen(request, to, raw, final)
        if method == "initialize":
            return lambda raw, final: self._on_initialize(to, raw, final)
        return to

    def forget(self, id: str | int | None) -> None:
        """The host has cancelled this request."""
        self._promised.pop(id, None)

    def close(self) -> None:
        self._promised.clear()
        if self._detach is not None:
            self._detach()
            self._detach = None

    def _seen(self, raw: bytes, listed: Listed) -> bytes:
        reach = self._mesh.reach
        if reach.all_of(self._agent, listed.method):
            return raw
        return without(raw, listed, lambda name: reach.may_call(self._agent, listed.method, name))

    def _on_listen(self, request: Frame, to: Sink, raw: bytes, final: bool) -> None:
        if final:
            self.forget(request.id)
        elif request.id_span is not None and ACKNOWLEDGED.encode() in raw and find_text(raw, "method") == ACKNOWLEDGED:
            granted = _object(_read(raw, "params"), "notifications")
            stamp = b',"params":{"_meta":{' + dumps(SUBSCRIPTION_ID) + b":" + request.raw[slice(*request.id_span)] + b"}}}"
            promised = (said for said, flag in CHANGES.items() if granted.get(flag) is True)
            self._promise(request.id, promised, lambda note: to(note[:-1] + stamp, False))
        to(raw, final)

    def _on_initialize(self, to: Sink, raw: bytes, final: bool) -> None:
        if final and find_result(raw) is not None:
            has = _object(_read(raw, "result"), "capabilities")
            promised = (said for said, flag in CHANGES.items() if _object(has, CAPABILITY_OF[flag]).get("listChanged") is True)
            self._promise(None, promised, self._send)
        to(raw, final)

    def _promise(self, id: str | int | None, methods: Iterable[str], say: Callable[[bytes], None]) -> None:
        self._promised[id] = frozenset(methods), say
        if self._detach is None:  # not before: over HTTP most hosts ask once and are gone
            self._detach = self._mesh.connection.on_renewed(self._on_renewed)

    def _on_renewed(self) -> None:
        for methods, say in list(self._promised.values()):
            for method in sorted(methods):
                say(dumps({"jsonrpc": "2.0", "method": method}))


def without(raw: bytes, listed: Listed, shown: Callable[[str], bool]) -> bytes:
    """The answer to a request for a list without the entries that are not `shown`. An entry without a name can be nobody's."""
    start = find_result(raw)
    if start is None:
        return raw
    result = parts(raw, start)
    cuts: list[tuple[Span | None, bytes]] = []
    for part in result:
        if part.key == listed.member:
            entries = elements(raw, part.start)
            names = [find_text(raw[slice(*entry)], listed.key) for entry in entries]
            cuts += [(span, b"") for span in spans_of(entries, [name is not None and shown(name) for name in names])]
    if not cuts:
        return raw
    cuts += [((part.start, part.end), b'"private"') for part in result if part.key == "cacheScope"]
    return Frame(raw, Kind.RESULT).splice(cuts)


def spans_of(entries: list[Span], kept: list[bool]) -> list[Span]:
    """What to cut from an array so that only the entries that are `kept` stay: each other one, and the comma that parts it from those."""
    spans: list[Span] = []
    some = False
    for at, (start, end) in enumerate(entries):
        if kept[at]:
            some = True
        elif some:
            spans.append((entries[at - 1][1], end))
        else:
            spans.append((start, entries[at + 1][0] if at + 1 < len(entries) else end))
    return spans


def _read(raw: bytes, key: str) -> Any:
    try:
        return json.loads(raw)[key]
    except (ValueError, KeyError, RecursionError):
        return None


def _object(said: Any, key: str) -> dict[str, Any]:
    found = said.get(key) if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}
