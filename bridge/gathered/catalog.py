"""All agents as one: what they offer, under names that are valid everywhere, and the way back from a name. Pure.

Theory of operation
-------------------
A catalogue is a value: made from what the agents said, never changed, compared with its successor. Definitions pass as the agents gave
them; only the member that names them is replaced, and each is encoded once and kept over successors, so a list is a join of bytes.

Pages are cut by size, not by number: many hosts read the first page only. A cursor says after which name to go on, not where in which
snapshot: so it holds over changes and restarts, a page never repeats what another had, and whatever was there all the time is listed.

Names: `bridge.gathered.names`. URIs: `bridge.gathered.uris`.
"""

import base64
import binascii
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.gathered import names, uris
from bridge.gathered.names import Collision, Pair
from bridge.tasks.words import SUPPORT
from mesh.wire.jsonrpc import dumps

TOOLS: Final = "tools"
PROMPTS: Final = "prompts"
RESOURCES: Final = "resources"
TEMPLATES: Final = "templates"

NAMED_BY: Final = {TOOLS: "name", PROMPTS: "name", RESOURCES: "uri", TEMPLATES: "uriTemplate"}
"""The kinds, and the member of a definition that names it."""

TAKEN_BY: Final = {TOOLS: "tools/call", PROMPTS: "prompts/get", RESOURCES: "resources/read", TEMPLATES: "resources/read"}
"""And the method that takes such a name."""

PAGE_BYTES: Final = 1024 * 1024
"""Of definitions in a page: some thousand tools. Large, since hosts that do not page see the first one only."""

MOST_NAMED: Final = 100
"""Agents that the instructions name."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one agent has, as its newest instance said. Compared by identity: the same offer again costs nothing."""

    agent: str
    title: str = ""
    description: str = ""
    lists: Mapping[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)
    """Kind → definitions."""


@dataclass(frozen=True, slots=True)
class Item:
    """One tool, prompt, resource or template: its name here, whose it is and its name there, and its definition as listed here."""

    name: str
    agent: str
    own: str
    definition: dict[str, Any]
    raw: bytes

    @property
    def tasked(self) -> bytes:
        """`raw` of a tool, for hosts that may call it as a task (MCP 2025-11-25, basic/utilities/tasks, tool-level negotiation)."""
        return self.raw if "execution" in self.definition else self.raw[:-1] + b"," + SUPPORT + b"}"


class BadCursor(ValueError):
    """A cursor that no page of ours has ended with."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The items of one kind, by name."""

    kind: str
    items: tuple[Item, ...]
    by_name: Mapping[str, Item]
    by_pair: Mapping[Pair, Item]

    def page(self, cursor: str | None = None, most: int = PAGE_BYTES, *, tasks: bool = False) -> tuple[bytes, str | None]:
        """A JSON array of definitions, at least one if any is left, and the cursor of the next page. Raises BadCursor.

        `tasks`: tools that say nothing of tasks say that they may be called as such.
        """
        at = 0 if cursor is None else self._after(_read_cursor(self.kind, cursor))
        start, size = at, 0
        while at < len(self.items) and (at == start or size + len(self.items[at].raw) <= most):
            size += len(self.items[at].raw)
            at += 1
        body = b"[" + b",".join([item.tasked if tasks else item.raw for item in self.items[start:at]]) + b"]"
        return body, _cursor(self.kind, self.items[at - 1].name) if at < len(self.items) else None

    def _after(self, name: str) -> int:
        low, high = 0, len(self.items)
        while low < high:
            middle = (low + high) // 2
            if self.items[middle].name <= name:
                low = middle + 1
            else:
                high = middle
        return low


@dataclass(frozen=True, slots=True)
class Catalog:
    """What all agents offer. Made by `build`."""

    offers: Mapping[str, Offer]
    listings: Mapping[str, Listing]
    collisions: tuple[Collision, ...] = ()

    def __getitem__(self, kind: str) -> Listing:
        return self.listings[kind]

    def changed(self, before: "Catalog") -> frozenset[str]:
        """The kinds whose lists differ."""
        return frozenset(
            kind
            for kind, listing in self.listings.items()
            if [(each.name, each.raw) for each in listing.items] != [(each.name, each.raw) for each in before[kind].items]
        )

    def find(self, kind: str, name: str) -> Pair | None:
        """Whose `name` is, and its name there. One that can be read as it is needs no entry: its agent knows best what it has."""
        item = self.listings[kind].by_name.get(name)
        if item is not None:
            return item.agent, item.own
        pair = names.read(name)
        return pair if pair is not None and pair[0] in self.offers else None

    def find_uri(self, uri: str) -> tuple[Pair, ...]:
        """Whose resource `uri` may be: one pair if that is known, several if it is not, none if nobody offers any such."""
        if (item := self.listings[RESOURCES].by_name.get(uri)) is not None:
            return ((item.agent, item.own),)
        if (long := uris.split(uri)) is not None:
            return (long,) if long[0] in self.offers else ()
        ways: tuple[Callable[[], Iterable[str]], ...] = (
            lambda: (each.agent for each in self.listings[RESOURCES].items if each.own == uri),
            lambda: (each.agent for each in self.listings[TEMPLATES].items if uris.matches(each.own, uri)),
            lambda: (
                each.agent
                for kind in (RESOURCES, TEMPLATES)
                for each in self.listings[kind].items
                if uris.scheme(each.own) == uris.scheme(uri) != ""
            ),
        )
        for way in ways:
            if agents := sorted(set(way())):
                return tuple((agent, uri) for agent in agents)
        return ()

    def find_template(self, template: str) -> tuple[Pair, ...]:
        """Whose template it is, as `find_uri`. A client may also complete a resource that it has filled in already."""
        item = self.listings[TEMPLATES].by_name.get(template)
        return ((item.agent, item.own),) if item is not None else self.find_uri(template)

    def uri_of(self, agent: str, own: str) -> str:
        """What an agent's resource is called here."""
        item = self.listings[RESOURCES].by_pair.get((agent, own))
        if item is not None:
            return item.name
        return own if self.find_uri(own) == ((agent, own),) else uris.qualify(agent, own)

    @property
    def instructions(self) -> str:
        """A short text for the model: who is there, and how names are made."""
        if not self.offers:
            return "A mesh of agents. None is there at the moment; the lists change as agents come."
        lines = [f"A mesh of {len(self.offers)} agents. Tools and prompts are named agent{names.JOINT}name; find_tools searches the tools."]
        for agent in list(self.offers)[:MOST_NAMED]:
            said = _line(self.offers[agent])
            lines.append(f"- {agent}: {said}" if said else f"- {agent}")
        if len(self.offers) > MOST_NAMED:
            lines.append(f"and {len(self.offers) - MOST_NAMED} more")
        return "\n".join(lines)


def build(offers: Iterable[Offer], before: Catalog | None = None) -> Catalog:
    """A catalogue. With `before`, what did not change is taken from there."""
    by_agent = {offer.agent: offer for offer in sorted(offers, key=lambda each: each.agent)}
    listings: dict[str, Listing] = {}
    collisions: list[Collision] = []
    for kind, key in NAMED_BY.items():
        found: dict[Pair, dict[str, Any]] = {}
        for offer in by_agent.values():
            for definition in offer.lists.get(kind, ()):
                own = definition.get(key)
                if isinstance(own, str):
                    found.setdefault((offer.agent, own), definition)  # listed twice: the first counts, as for a client that looks it up
        given, met = _uris(found) if kind in (RESOURCES, TEMPLATES) else names.give(found)
        collisions += met
        old = before[kind].by_pair if before is not None else {}
        items = [_item(pair, given[pair], key, definition, old.get(pair)) for pair, definition in found.items()]
        items.sort(key=lambda each: each.name)
        by_name, by_pair = {each.name: each for each in items}, {(each.agent, each.own): each for each in items}
        listings[kind] = Listing(kind, tuple(items), by_name, by_pair)
    return Catalog(by_agent, listings, tuple(collisions))


def _item(pair: Pair, name: str, key: str, definition: dict[str, Any], old: Item | None) -> Item:
    if old is not None and old.name == name and old.definition is definition:
        return old
    raw = dumps(definition if name == pair[1] else {**definition, key: name})
    return Item(name, *pair, definition, raw)


def _uris(pairs: Iterable[Pair]) -> tuple[dict[Pair, str], tuple[Collision, ...]]:
    """As `names.give`, for URIs and templates."""
    holders: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        holders[pair[1]].append(pair)
    given: dict[Pair, str] = {}
    collisions = []
    for uri, group in sorted(holders.items()):
        long = len(group) > 1 or uri.startswith(uris.SCHEME)
        given.update({pair: uris.qualify(*pair) if long else uri for pair in group})
        if len(group) > 1:
            collisions.append(Collision(uri, tuple(sorted((pair, given[pair]) for pair in group))))
    return given, tuple(collisions)


def _line(offer: Offer) -> str:
    words = " ".join((offer.title if offer.title != offer.agent else "", offer.description)).split()
    text = " ".join(words)
    return text if len(text) <= 100 else text[:99].rsplit(" ", 1)[0] + "…"


def _cursor(kind: str, name: str) -> str:
    return base64.urlsafe_b64encode(f"{kind}:{name}".encode("utf-8", "surrogatepass")).decode()


def _read_cursor(kind: str, cursor: str) -> str:
    try:
        said, colon, name = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("utf-8", "surrogatepass").partition(":")
    except (binascii.Error, ValueError):
        raise BadCursor("this cursor is none of ours") from None
    if said != kind or not colon:
        raise BadCursor("this cursor is none of this list's")
    return name
