"""Searching the tools of all agents and of the mesh itself, and the two tools that a host gets for it: `find_tools` and `call_tool`. Pure.

A model that is shown two thousand tools chooses badly, and pays for each of them in every turn. So it may search: `find_tools` ranks by the
words of names, titles and descriptions, rare words counting more. With `only_find` a host is shown these two alone.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bridge.gathered.catalog import TOOLS, Catalog, Item
from bridge.tasks.words import SUPPORT
from mesh.subjects import CONTROL_PLANE
from mesh.wire.jsonrpc import dumps

FIND_TOOLS: Final = "find_tools"
CALL_TOOL: Final = "call_tool"
"""Names without `__`, so they are no agent's."""

USUAL: Final = 10
MOST: Final = 50
"""Results of a search."""

MOST_WORDS: Final = 32
"""Of a query that are looked at."""

IN_NAME: Final = 4.0
IN_AGENT: Final = 3.0
IN_TITLE: Final = 3.0
IN_TEXT: Final = 1.0
"""What a word counts, by where it stands; a beginning of a word counts half."""

_word: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")

_FIND: Final = {
    "name": FIND_TOOLS,
    "title": "Find tools",
    "description": "Search the tools of all agents on the mesh, and those of the mesh itself (agent mesh: messages, events, jobs), by the "
    "words of their names and descriptions. Returns the best first, each with its name, agent, description and input schema.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "Words to look for. Empty: all tools, by name."},
            "agent": {"type": "string", "description": "Only tools of this agent."},
            "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "default": USUAL, "description": "How many at most."},
        },
        "required": ["query"],
    },
    "annotations": {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False},
}

_CALL: Final = {
    "name": CALL_TOOL,
    "title": "Call a tool",
    "description": f"Call a tool that {FIND_TOOLS} found, with arguments that fit its input schema. The result is the tool's own.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "agent_tool": {
                "type": "string",
                "description": f"The tool's name as {FIND_TOOLS} gave it: agent__tool, or one of the mesh's own.",
            },
            "arguments": {"type": "object", "description": "The tool's own arguments."},
        },
        "required": ["agent_tool"],
    },
}

FIND_RAW: Final = dumps(_FIND)
BOTH_RAW: Final = FIND_RAW + b"," + dumps(_CALL)
BOTH_TASKED: Final = BOTH_RAW[:-1] + b"," + SUPPORT + b"}"
"""For hosts that may call as a task what `call_tool` calls."""


class Index:
    """The words of a catalogue's tools, and of `own`, the definitions of the mesh's own. Made once for each catalogue, when somebody
    searches first."""

    def __init__(self, catalog: Catalog, own: Iterable[bytes] = ()) -> None:
        self._items = (*catalog[TOOLS].items, *map(_own_item, own))
        self._words: dict[str, dict[int, float]] = defaultdict(dict)
        """Word → item's number → what the word counts there."""
        for number, item in enumerate(self._items):
            for words, weight in _fields(item):
                for word in words:
                    self._words[word][number] = max(weight, self._words[word].get(number, 0.0))

    def search(self, query: str, *, agent: str | None = None, limit: int = USUAL) -> tuple[Item, ...]:
        """The tools that fit best; those with more of the query's words first. Without any word all, by name."""
        wanted = list(dict.fromkeys(_words_of(query)))[:MOST_WORDS]
        scores: dict[int, float] = {} if wanted else dict.fromkeys(range(len(self._items)), 0.0)
        for word in wanted:
            for number, score in self._scores(word).items():
                scores[number] = scores.get(number, 0.0) + score
        fitting = [number for number in scores if agent is None or self._items[number].agent == agent]
        fitting.sort(key=lambda number: (-scores[number], self._items[number].name))
        return tuple(self._items[number] for number in fitting[: max(0, limit)])

    def _scores(self, wanted: str) -> dict[int, float]:
        found: dict[int, float] = {}
        for word, weights in self._words.items():
            if word == wanted or (len(wanted) > 1 and word.startswith(wanted)) or _bent(wanted, word):
                factor = 1.0 if word == wanted else 0.5
                for number, weight in weights.items():
                    found[number] = max(found.get(number, 0.0), weight * factor)
        rarity = math.log(1 + len(self._items) / len(found)) if found else 0.0
        return {number: score * rarity for number, score in found.items()}


def answer(index: Index, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `find_tools`, as MCP's CallToolResult."""
    query, agent, limit = arguments.get("query", ""), arguments.get("agent"), arguments.get("limit", USUAL)
    if not isinstance(query, str) or not (agent is None or isinstance(agent, str)) or isinstance(limit, bool) or not isinstance(limit, int):
        text = "find_tools takes a query (a string), and may take an agent (a string) and a limit (an integer)"
        return {"content": [{"type": "text", "text": text}], "isError": True}
    found = {"tools": [_told(item) for item in index.search(query, agent=agent or None, limit=min(MOST, max(1, limit)))]}
    return {"content": [{"type": "text", "text": json.dumps(found, ensure_ascii=False)}], "structuredContent": found, "isError": False}


def _bent(wanted: str, word: str) -> bool:
    """Whether `wanted` is a longer form of `word`: logs, records, listing."""
    return len(word) > 2 and 0 < len(wanted) - len(word) <= 3 and wanted.startswith(word)


def _own_item(raw: bytes) -> Item:
    said = json.loads(raw)
    return Item(said["name"], CONTROL_PLANE, said["name"], said, raw)


def _told(item: Item) -> dict[str, Any]:
    kept: dict[str, Any] = {
        key: item.definition[key] for key in ("title", "description", "inputSchema", "annotations") if key in item.definition
    }
    return {"name": item.name, "agent": item.agent, **kept}


def _fields(item: Item) -> tuple[tuple[set[str], float], ...]:
    """The words of each part of a definition, and what they count. Annotations' titles are titles too (MCP 2025-03-26)."""
    said = item.definition
    notes = said.get("annotations")
    titles = (said.get("title"), notes.get("title") if isinstance(notes, dict) else None)
    return (
        (set(_words_of(item.own)), IN_NAME),
        (set(_words_of(item.agent)), IN_AGENT),
        ({word for title in titles if isinstance(title, str) for word in _words_of(title)}, IN_TITLE),
        (set(_words_of(said["description"])) if isinstance(said.get("description"), str) else set(), IN_TEXT),
    )


def _words_of(text: str) -> list[str]:
    """Words in small letters; `getHTTPStatus` and `get_http_status` have the same ones."""
    return [word.casefold() for word in _word.findall(text)]
